import { TuneError } from "../errors.ts";
import {
  type Dim,
  type DType,
  type LazyTensor,
  sizeOf,
  type Tensor,
  tensor,
  type Value,
  type WeightValue,
  weight,
} from "../graph/index.ts";
import { allFinite, assertFinite, partToFloat32, sameValues, scanFinite, toFloat32 } from "../io/convert.ts";
import { readJsonObject } from "../io/json.ts";
import { openModelWeights } from "../io/model-weights.ts";
import { dequantised, openPacked, type PackedFile, packedFileName } from "../io/packed/index.ts";
import { openQuantised, type Quantisation, readSaidQuantisation, withoutQuantisation } from "../io/quantised/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { createRng } from "../linalg/index.ts";
import type {
  DecodeOptions,
  Family,
  Form,
  FusedPart,
  ModelSizes,
  OpenGraph,
  SequenceAttention,
  TaskName,
  TensorSpec,
  Weights,
} from "./architecture.ts";
import { exactAttention, exactAttentionFor } from "./attention.ts";
import type { ConfigJson } from "./config.ts";
import type { GgufForm } from "./gguf.ts";
import { sharedHarmless } from "./harmless.ts";
import type { InputForm } from "./inputs.ts";
import { checkLabels, type Labels, labelConfig, labelsOf, namedLabels } from "./labels.ts";
import type { ConfigWarning } from "./ledger.ts";
import { matchTensors, storedKey } from "./match.ts";
import type { DecodeRecipe } from "./recipe.ts";
import { readSentenceModules, type SentenceModules } from "./sentence.ts";
import { readGeneral } from "./shared-ledger.ts";
import { checkSizes } from "./sizes.ts";
import { findArchitecture } from "./table.ts";
import { explainUnused, type UnusedTensor } from "./unused.ts";

/** A pretrained model made for a task: what its folder says, with its weights still unread. */
export interface PretrainedModel {
  readonly folder: string;
  readonly modelType: string;
  readonly architecture: Family & Form;
  readonly task: TaskName;
  /** `config.json` as it was read, with the labels of a head that starts anew, for exports. */
  readonly json: ConfigJson;
  readonly sizes: ModelSizes;
  /** How texts or images become what it reads. */
  readonly reads: InputForm;
  /** Names of the head's outputs, where the task has labels. */
  readonly labels: Labels | undefined;
  /** Modules that are trained whole beside an adapter: a head, and whatever else starts anew. */
  readonly headModules: readonly string[];
  /** Every tensor of the model by the name transformers gives it, read as float32 and refused if it is not finite. */
  readonly weights: ReadonlyMap<string, WeightValue>;
  /** What the files hold its tensors in. */
  readonly storedAs: ReadonlySet<DType>;
  /** Tensors that the files hold and the model does not use: harmless ones, where {@link openModel} has opened it. */
  readonly unused: readonly string[];
  /** The token that a decoder beside an encoder begins with; the one that fills rows up where this is undefined. */
  readonly startId: number | undefined;
  /** Keys of `config.json` that nobody knows, so that they have no effect. */
  readonly warnings: readonly ConfigWarning[];
  /** Where the weights are packed: their planes and scales. `weights` gives the same ones dequantised. */
  readonly packed?: PackedFile;
  /** Why nothing is lost without those tensors. */
  readonly leftOut: readonly UnusedTensor[];
  /** How another tool quantised the weights of its files, which are read dequantised; empty for plain weights. */
  readonly quantised: readonly Quantisation[];
  /** What sentence-transformers' files say of its embeddings, where they are there. */
  readonly sentence: SentenceModules | undefined;
  /** Parameters of the model; tied tensors count once. */
  readonly parameterCount: number;
  /** The linear maps that a module holds as one; none for a module that is a single map. */
  fusedParts(module: string): readonly FusedPart[];
  /** What it says of its inputs: logits, or hidden states; see {@link ModelGraphs}. */
  predict(rows?: Dim): OpenGraph;
  /** The training objective of models that continue a text. @throws {TuneError} `task-mismatch` for all others. */
  loss(): OpenGraph;
  /** The log-likelihood of every label, likewise. */
  likelihood(rows?: Dim): OpenGraph;
  /** The log-probability of every token at every target, likewise. */
  distribution(): OpenGraph;
  /** The states that the output layer reads, with attention of the caller's, likewise. Output: hidden [batch·seq, hidden]. */
  hidden(attention: SequenceAttention): OpenGraph;
  /** How `loss`, `likelihood` and `distribution` attend: exactly unless {@link withAttention} said otherwise. */
  readonly attention: SequenceAttention;
  /** Those graphs with other attention. @throws {TuneError} `task-mismatch` likewise. */
  attending(attention: SequenceAttention): Pick<PretrainedModel, "attention" | "loss" | "likelihood" | "distribution">;
  /** One decoding step of models that continue a text. @throws {TuneError} `task-mismatch` for all others. */
  decode(options: DecodeOptions): OpenGraph;
  /** The decoding step as plain data, for engines that need no graph; undefined where it cannot be said so. */
  recipe(): DecodeRecipe | undefined;
  /** The graphs that make an exported model, by file name. */
  parts(): Readonly<Record<string, OpenGraph>>;
  /** What llama.cpp makes of it, if it knows the family. */
  gguf(): GgufForm | undefined;
  /** `config.json` of the same model with an output layer of its own, apart from the embeddings. */
  untied(): ConfigJson;
  /** The same model of other tensors, and of another configuration where they ask for one. */
  withTensors(files: ReadonlyMap<string, LazyTensor>, json: ConfigJson): PretrainedModel;
}

/** What a model is made for, where its files leave it open; labels may depend on the task. */
export interface OpenChoice extends Omit<ModelChoice, "labels"> {
  readonly labels?: Labels | ((task: TaskName) => Promise<Labels | undefined>);
}

/** What a model is made for, where its files leave it open. */
export interface ModelChoice {
  /** What `config.json` says unless given. */
  readonly task?: TaskName;
  /** Names of the labels, in the order of the outputs; those that `config.json` names unless given. */
  readonly labels?: Labels;
  /** Let the head start anew, whatever the files hold. */
  readonly newHead?: boolean;
  /** Draws what starts anew. */
  readonly seed?: number;
}

/**
 * Open a model folder in the Hugging Face layout: `config.json` and safetensors, or a packed file in their place.
 * Weights that another tool quantised are read dequantised, and the configuration is then that of plain weights.
 * @throws {TuneError} `unknown-architecture`, `unknown-task`, `bad-config`, `weights-mismatch` (every missing and
 * misshapen tensor at once), `unused-tensors` (likewise), `label-mismatch`, `labels-needed`, what {@link openQuantised} and reading the files throw.
 */
export async function openModel(storage: Storage, folder: string, options: OpenChoice = {}): Promise<PretrainedModel> {
  const config = await readJsonObject(storage, joinPath(folder, "config.json"));
  const architecture = await findArchitecture(config, folder);
  const beside = await storage.list(folder);
  const preprocessor = "preprocessor_config.json";
  const json = beside.includes(preprocessor)
    ? { ...config, preprocessor: await readJsonObject(storage, joinPath(folder, preprocessor)) }
    : config;
  const { labels: named, ...rest } = options;
  const task = chooseForm(architecture, { json, folder, ...rest }).task;
  const labels = typeof named === "function" ? await named(task) : named;
  const sentence =
    task === "sentence-embedding"
      ? await readSentenceModules(storage, folder, architecture.sizes(architecture.configure(json)).hiddenSize)
      : undefined;
  const choice = { ...rest, task, ...(labels ? { labels } : {}), ...(sentence ? { sentence } : {}) };
  if (!beside.includes(packedFileName)) {
    const said = await readSaidQuantisation(storage, folder, config);
    const { inOut } = architecture;
    const held = await openModelWeights(storage, folder);
    const { tensors: files, quantised } = await openQuantised(held, said, folder, inOut ? { inOut } : {});
    const asked = { folder, json: withoutQuantisation(json), architecture, files, quantised, ...choice };
    refuseSizes(asked);
    const { json: settled, copies } = await settleOutput(architecture, asked.json, files);
    return withKnownTensors(assembleModel({ ...asked, json: settled }), files, copies);
  }
  const packed = await openPacked(storage, joinPath(folder, packedFileName));
  const matrices = [...packed.matrices].map(([name, entry]) => [name, dequantised(entry)] as const);
  const files = new Map([...packed.tensors, ...matrices]);
  return {
    ...(await withKnownTensors(assembleModel({ folder, json, architecture, files, ...choice }), files)),
    packed,
  };
}

/** Check sizes before anything is made of them; where they are out of proportion, with what else does not fit. */
function refuseSizes(parts: ModelParts): void {
  const rest = (json: ConfigJson): readonly string[] => {
    try {
      assembleModel({ ...parts, json });
      return [];
    } catch (error) {
      if (error instanceof TuneError) return error.what.split("\n  ").slice(1);
      throw error;
    }
  };
  checkSizes(parts.architecture.sizeKeys, parts.json, parts.files, { at: parts.folder, rest });
}

/**
 * Refuse files that hold more than the model uses, but for what is known to be harmless: the tensors of heads for other tasks,
 * and those of {@link Harmless} records.
 */
async function withKnownTensors(
  model: PretrainedModel,
  files: ReadonlyMap<string, LazyTensor>,
  copies: readonly string[] = [],
): Promise<PretrainedModel> {
  const { architecture, folder, modelType, json, task, weights } = model;
  const { basePrefix, forms } = architecture;
  const bare = (name: string): string => (name.startsWith(basePrefix) ? name.slice(basePrefix.length) : name);
  const config = architecture.configure(json);
  const own = new Set([...weights.keys()].map(bare));
  const others = forms.filter((form) => form.task !== task);
  const tensors = others.flatMap((form) => [...form.tensors(config), ...(form.head?.tensors(config, 1) ?? [])]);
  const heads = new Set(tensors.map(({ name }) => bare(name)).filter((name) => !own.has(name)));
  const ofHeads = model.unused.filter((name) => heads.has(bare(name)));
  const rest = model.unused.filter((name) => !heads.has(bare(name)) && !copies.includes(name));
  const known = [...sharedHarmless, ...architecture.harmless];
  const explained = await explainUnused(rest, files, weights, known, { at: folder, modelType });
  const leftOut = [
    ...ofHeads.map((name) => ({ name, why: "heads for other tasks" })),
    ...copies.map((name) => ({ name, why: "the output layer, which is the table of embeddings" })),
    ...explained,
  ];
  return { ...model, leftOut };
}

/**
 * `config.json` as transformers 5 takes it: an output layer that the files hold is one of its own where it differs from
 * the embeddings, whatever the configuration says. `copies` are output layers that do not differ. One that the files lack is
 * the table of embeddings where transformers ties it all the same.
 */
async function settleOutput(
  family: Family,
  json: ConfigJson,
  files: ReadonlyMap<string, LazyTensor>,
): Promise<{ readonly json: ConfigJson; readonly copies: readonly string[] }> {
  const config = family.configure(json);
  const tied = family.tied?.(config);
  const [form] = family.forms;
  const keyOf = (name: string): string | undefined => form && storedKey(name, { ...family, ...form }, files);
  if (tied === undefined) {
    const always = family.tiedUnlessHeld?.(config);
    const lacks = always !== undefined && keyOf(always.output) === undefined;
    return { json: lacks ? { ...json, ...always.json } : json, copies: [] };
  }
  const [own, shared] = [keyOf(tied.output), keyOf(tied.embeddings)];
  const [output, embeddings] = [files.get(own ?? ""), files.get(shared ?? "")];
  if (own === undefined || output === undefined || embeddings === undefined) return { json, copies: [] };
  if (await sameValues(output, embeddings)) return { json, copies: [own] };
  return { json: { ...json, ...family.untied?.(config) }, copies: [] };
}

/** The same model attending otherwise to what it is trained on. @throws {TuneError} `task-mismatch` where it does not continue texts. */
export function withAttention(model: PretrainedModel, attention: SequenceAttention): PretrainedModel {
  return { ...model, ...model.attending(attention) };
}

/** The same model attending exactly, in the way that suits sequences of up to `length` tokens. */
export function attendingExactly(model: PretrainedModel, length: number): PretrainedModel {
  const attention = exactAttentionFor(length);
  return model.task === "causal-lm" && attention !== model.attention ? withAttention(model, attention) : model;
}

/** What a model is put together from. */
export interface ModelParts extends ModelChoice {
  readonly folder: string;
  readonly json: ConfigJson;
  readonly architecture: Family;
  readonly files: ReadonlyMap<string, LazyTensor>;
  /** How the matrices of the files were quantised. */
  readonly quantised?: readonly Quantisation[];
  /** What sentence-transformers' files say. */
  readonly sentence?: SentenceModules;
}

/** Every tensor that a model of a `config.json` holds. */
export function tensorsOf(family: Family, json: ConfigJson, choice: ModelChoice = {}): readonly TensorSpec[] {
  const config = family.configure(json);
  const form = chooseForm(family, { folder: "config.json", json, ...choice });
  const labels = (choice.labels ?? namedLabels(json) ?? (form.head?.problem === "regression" ? ["score"] : [])).length;
  return [...form.tensors(config), ...(form.head?.tensors(config, labels) ?? [])];
}

/** Put a model together from its parts: the tensors may come from files or from memory. */
export function assembleModel(parts: ModelParts): PretrainedModel {
  const { folder, architecture: family, files } = parts;
  const warnings: ConfigWarning[] = [];
  const config = family.configure(parts.json, { unknown: (warning) => void warnings.push(warning) });
  const form = chooseForm(family, parts);
  const fused = family.fused?.(config) ?? {};
  const { labels, fresh } = settleHead(form, config, parts);
  const specs = [...form.tensors(config), ...(form.head?.tensors(config, labels?.length ?? 0) ?? [])];
  const matched = matchTensors(specs, { ...family, ...form }, new Map([...files, ...fresh]), folder);
  const weights = new Map(matched.map(({ name, tensor }) => [name, weight(name, checkedFloat32(name, tensor))]));
  const used = new Set(matched.map(({ key }) => key));
  const read: Weights = (name): Value => {
    const found = weights.get(name);
    if (found === undefined) throw new Error(`${family.modelType} reads ${name}, which its tensors() do not list`);
    return found;
  };
  const graphs = form.graphs(config, read, labels?.length ?? 0, exactAttention);
  const json = labels ? { ...parts.json, ...describeHead(form, labels, parts.json) } : parts.json;
  const modules = [...(form.head ? [form.head.module] : []), ...[...fresh.keys()].map(moduleOf)];
  const headModules = [...new Set(modules)].filter(
    (module, _, all) => !all.some((outer) => module.startsWith(`${outer}.`)),
  );
  return {
    folder,
    modelType: family.modelType,
    architecture: { ...family, ...form },
    task: form.task,
    json,
    sizes: family.sizes(config),
    reads: family.reads(config),
    labels,
    headModules,
    weights,
    storedAs: new Set(matched.map(({ tensor }) => tensor.dtype)),
    unused: [...files.keys()].filter((name) => !used.has(name)),
    leftOut: [],
    startId: family.startId?.(config),
    warnings,
    quantised: parts.quantised ?? [],
    sentence: parts.sentence,
    parameterCount: [...weights.values()].reduce((sum, { source }) => sum + sizeOf(source.shape), 0),
    fusedParts: (module) => fused[module.split(".").at(-1) ?? module] ?? [],
    predict: graphs.predict,
    loss: graphs.loss ?? (() => refuse("continue texts")),
    likelihood: graphs.likelihood ?? (() => refuse("continue texts")),
    distribution: graphs.distribution ?? (() => refuse("continue texts")),
    hidden: graphs.hidden ?? (() => refuse("continue texts")),
    attention: exactAttention,
    attending: (other) => {
      const { loss, likelihood, distribution } = form.graphs(config, read, labels?.length ?? 0, other);
      if (!loss || !likelihood || !distribution) return refuse("continue texts");
      return { attention: other, loss, likelihood, distribution };
    },
    decode: graphs.decode ?? (() => refuse("continue texts")),
    recipe: () => graphs.recipe?.(),
    parts: graphs.parts ?? (() => ({ model: graphs.predict() })),
    gguf: () => form.gguf?.(config),
    untied: () => ({ ...json, ...family.untied?.(config) }),
    withTensors: (others, changed) =>
      assembleModel({ ...parts, json: changed, task: form.task, newHead: false, files: others }),
  };

  function refuse(what: string): never {
    throw new TuneError("task-mismatch", `A ${family.modelType} model made for ${form.task} does not ${what}.`, {
      at: folder,
      fix: "use a causal language model, or a command for what this one does",
    });
  }
}

/**
 * What a family's model is made for: the task that is asked for, the class that `config.json` names, or the family's
 * first.
 */
function chooseForm(family: Family, { task, json, folder }: Pick<ModelParts, "task" | "json" | "folder">): Form {
  const { architectures, problem_type: said } = readGeneral(json);
  const ofClass = family.forms.filter(({ className }) => className === architectures?.[0]);
  const problem = said ?? (namedLabels(json)?.length === 1 ? "regression" : "single_label_classification");
  const problems = ofClass.flatMap(({ head }) => head?.problem ?? []);
  if (problems.length > 0 && !problems.includes(problem)) {
    throw new TuneError("bad-config", `"problem_type" is ${JSON.stringify(problem)}, not built here.`, {
      at: folder,
      fix: `use a model of another problem type; for ${architectures?.[0]} these are built: ${problems.join(", ")}`,
    });
  }
  const usual = ofClass.find(({ head }) => head?.problem === problem) ?? ofClass[0] ?? family.forms[0];
  const chosen = task === undefined ? usual : family.forms.find((form) => form.task === task);
  if (chosen) return chosen;
  const known = family.forms.map((form) => form.task).join(", ");
  throw new TuneError("unknown-task", `${family.modelType} models are not made for ${task}.`, {
    at: folder,
    fix: `choose among ${known}`,
  });
}

/** The labels of a head, and the tensors of it that start anew. */
function settleHead(
  form: Form,
  config: unknown,
  { architecture, json, files, labels: wanted, newHead, folder, seed = 0 }: ModelParts,
): { readonly labels: Labels | undefined; readonly fresh: ReadonlyMap<string, LazyTensor> } {
  const { head, task } = form;
  if (!head) {
    if (newHead === true) {
      throw new TuneError("bad-option", `A model for ${task} has no head of labels that a new head could replace.`, {
        at: folder,
        fix: "leave the new head out, or say which task the model is for",
      });
    }
    return { labels: undefined, fresh: new Map() };
  }
  const keyOf = (name: string): string | undefined => storedKey(name, { ...architecture, ...form }, files);
  const [one, two] = [head.tensors(config, 1), head.tensors(config, 2)];
  const output = one.find(({ shape }, i) => shape.join() !== two[i]?.shape.join());
  const held = newHead === true || output === undefined ? undefined : files.get(keyOf(output.name) ?? "")?.shape[0];
  const scores = head.problem === "regression";
  let labels = scores ? freshScores(json, wanted) : (wanted ?? namedLabels(json));
  if (held !== undefined) {
    labels = labelsOf(json, held, folder);
    if (wanted && !scores) checkLabels(labels, wanted, folder);
    if (wanted && scores && wanted.length > 0 && wanted.length !== held) {
      throw new TuneError("label-mismatch", `The head gives ${counted(held)}, the data ${counted(wanted.length)}.`, {
        at: folder,
        fix: "give data with as many scores as the head gives, or let the head start anew with the data's (new head)",
      });
    }
  }
  if (labels === undefined || labels.length === 0) {
    throw new TuneError("labels-needed", `The model has no head for ${task} yet, and no labels are named for one.`, {
      at: folder,
      fix: "give the names of the labels, or data that holds them",
    });
  }
  const fresh = head.tensors(config, labels.length).filter(({ name }) => newHead === true || keyOf(name) === undefined);
  const { initializer_range: deviation } = readGeneral(json);
  return { labels, fresh: new Map(fresh.map((spec) => [spec.name, drawn(spec, deviation, seed)])) };
}

/** What the scores of a head that starts anew are called: one, unless several are named. */
function freshScores(json: ConfigJson, wanted: Labels | undefined): Labels {
  const { problem_type: said } = readGeneral(json);
  const names = wanted ?? (said === "regression" ? namedLabels(json) : undefined) ?? [];
  return names.length > 0 ? names : ["score"];
}

function counted(scores: number): string {
  return scores === 1 ? "1 score" : `${scores} scores`;
}

/** What transformers starts a linear layer with: a weight from N(0, deviation²), a bias of zeros. */
function drawn({ name, shape }: TensorSpec, deviation: number, seed: number): LazyTensor {
  const size = sizeOf(shape);
  const rng = createRng(seed, "head", name);
  const values = Float32Array.from({ length: size }, () => (shape.length > 1 ? deviation * rng.normal() : 0));
  return { dtype: "float32", shape, sizeBytes: 4 * size, read: async () => tensor("float32", shape, values) };
}

function describeHead({ className, head }: Form, labels: Labels, json: ConfigJson): ConfigJson {
  const { problem_type: said } = readGeneral(json);
  // Where nothing is said, transformers takes one output for a score, and several for those of one label.
  const unsaid = said === undefined && head?.problem === "single_label_classification" && labels.length > 1;
  return {
    architectures: [className],
    ...labelConfig(labels),
    ...(head?.problem === undefined || unsaid ? {} : { problem_type: head.problem }),
  };
}

function moduleOf(tensorName: string): string {
  return tensorName.replace(/\.[^.]*$/, "");
}

/** Reads as float32, whatever the file holds, and refuses NaN and infinity before anything computes with them. */
function checkedFloat32(name: string, tensor: LazyTensor): LazyTensor {
  const { dtype, shape, file, readPart } = tensor;
  let scanned: Promise<void> | undefined;
  const scan = (): Promise<void> => {
    scanned ??= scanFinite(name, tensor);
    return scanned;
  };
  const checked = (values: Tensor): Tensor => {
    assertFinite(name, values);
    return values;
  };
  const place = file && {
    file: {
      ...file,
      check: async () => {
        await scan();
        await file.check();
      },
    },
  };
  const wide: LazyTensor = {
    dtype: "float32",
    shape,
    sizeBytes: 4 * sizeOf(shape),
    read: async () => checked(await toFloat32(tensor)),
    ...(tensor.content ? { content: tensor.content } : {}),
    ...(tensor.scaled ? { scaled: tensor.scaled } : {}),
    ...(readPart && {
      readPart: async (start, end, into) => {
        const part = await partToFloat32({ ...tensor, readPart }, start, end, into);
        if (allFinite(part)) return part;
        await scan(); // of the whole, so that the place of a bad value is said right
        return checked({ dtype: "float32", shape: [part.length], data: part }).data as typeof part; // the same
      },
    }),
  };
  if (dtype === "float32") return { ...wide, ...place };
  return { ...wide, stored: { ...tensor, read: async () => checked(await tensor.read()), ...place } };
}
