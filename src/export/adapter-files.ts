import { TuneError } from "../errors.ts";
import { isFloat, type LazyTensor, type Tensor } from "../graph/index.ts";
import { isAdapterHub } from "../io/adapterhub.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import { isMlxAdapter } from "../io/mlx.ts";
import { type PeftLayout, type PeftWholeWeights, readPeftAdapter, writePeftAdapter } from "../io/peft.ts";
import { targetedByPeft } from "../io/peft-targets.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptableModules,
  adaptedModules,
  attach,
  besideWholeWeights,
  chooseModules,
  embeddingModules,
  type InPlace,
  isInPlace,
  linearModules,
  methods,
  mismatches,
  parameterName,
  type TokenRows,
  throwMismatch,
  tokenRowsKey,
  type WeightInPlace,
  weightsInPlace,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { taskFiles } from "./adapter-task.ts";
import { tokenizerFiles } from "./adapter-tokens.ts";
import { readAdapterHubFolder } from "./adapterhub-files.ts";
import { changedRows } from "./changed-rows.ts";
import { readMlx } from "./mlx-files.ts";
import { type CardOptions, cardFiles, readRunRecord, titleOf } from "./model-card.ts";
import { isScales, readScales } from "./packed-folder.ts";
import { translations } from "./peft-translations.ts";

/**
 * Write an adapter as the folder that PEFT's `PeftModel.from_pretrained` loads.
 * @throws {TuneError} `no-adapter-form` for a method that leaves no adapter (full tuning), and `write-failed`.
 */
export async function writeAdapter(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  adapter: Adapter,
  options: CardOptions,
): Promise<void> {
  const { method } = adapter.choice;
  const translation = method.peft && translations[method.peft.type];
  if (!method.peft || !translation) {
    throw new TuneError(
      "no-adapter-form",
      `${method.name} tuning leaves no adapter: it changes the weights themselves.`,
      {
        at: folder,
        fix: "export merged weights instead (safetensors or transformers.js)",
      },
    );
  }
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const sites = adaptableModules(outputs, method);
  const embeddings = new Set(embeddingModules(outputs).keys());
  const modules = adaptedModules(outputs, { ...adapter, outputModule });
  const tensors = new Map<string, Record<string, Tensor>>();
  for (const module of modules) {
    const parts = Object.keys(method.peft.tensors).map((key): [string, Tensor | undefined] => [
      key,
      adapter.parameters.get(parameterName(module, method.name, key)),
    ]);
    tensors.set(module, Object.fromEntries(parts.filter((part): part is [string, Tensor] => part[1] !== undefined)));
  }
  const written = translation.write(adapter, tensors, {
    targetModules: shortNames(modules, [...sites.keys()], { outputModule, embeddings }),
    fanInFanOut: modules.some((module) => sites.get(module)?.layout === "in,out" && !embeddings.has(module)),
    baseModel: options.baseModel,
  });
  const { inPlace } = adapter.choice;
  const { all } = weightsInPlace(outputs, inPlace, new Set(modules));
  const valuesOf = ({ value: { name } }: WeightInPlace): Tensor => adapter.parameters.get(name) as Tensor; // attached, so there
  const whole = new Map(all.filter(({ rows }) => !rows).map((own) => [own.value.name, valuesOf(own)]));
  const ofTokens = all.filter(({ rows }) => rows);
  const tokens = {
    indices: Object.fromEntries(ofTokens.map(({ module, rows = [] }) => [module.split(".").at(-1) ?? module, rows])),
    rows: new Map(ofTokens.map((own) => [own.module, valuesOf(own)])),
  };
  const about = { adapter, ...options, title: titleOf(folder), library: "peft", task: model.task };
  await writePeftAdapter(storage, folder, {
    ...written,
    embeddings,
    layout: method.peft,
    beside: {
      ...(await cardFiles(storage, model.folder, about)),
      ...taskFiles(model),
      ...(ofTokens.length > 0 || options.withTokenizer ? await tokenizerFiles(storage, model.folder) : {}),
    },
    ...(inPlace ? { whole: { ...inPlace, tensors: whole, tokens } } : {}),
    task: model.task,
  });
}

/** PEFT's own spelling of targets, the last parts of module names, when it chooses the same modules. */
function shortNames(
  chosen: readonly string[],
  all: readonly string[],
  { outputModule, embeddings }: { readonly outputModule: string; readonly embeddings: ReadonlySet<string> },
): readonly string[] {
  const short = [...new Set(chosen.map((module) => module.split(".").at(-1) ?? module))];
  return chooseModules(short, all, outputModule, embeddings).join() === chosen.join() ? short : chosen;
}

/**
 * Read an adapter that PEFT, mlx-lm, AdapterHub or Scion wrote (scales of a packed model among them), and check it against the model it is to be used with.
 * @throws {TuneError} `adapter-mismatch` listing every difference, `not-finite-weight`, and what reading PEFT's or
 * mlx-lm's files throws.
 */
export async function readAdapter(storage: Storage, folder: string, model: PretrainedModel): Promise<Adapter> {
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const embeddings = new Set(embeddingModules(outputs).keys());
  const { targeted, embeddings: named, ...read } = await readAny(storage, folder, model);
  const able = [...adaptableModules(outputs, read.choice.method).keys()];
  const modules = read.targets as readonly string[]; // as both read them
  const known = modules.filter((module) => able.includes(module));
  const unknown = modules.filter((module) => !able.includes(module));
  const asked = targeted(outputModule, embeddings);
  const kindOf = (embedding: boolean): string => (embedding ? "an embedding" : "a linear layer");
  const misnamed = named ? known.filter((module) => named.has(module) !== embeddings.has(module)) : [];
  const problems = [
    ...unknown.map((module) =>
      embeddings.has(module)
        ? `${module} is an embedding, which ${read.choice.method.name} does not adapt`
        : `the model has no linear layer called ${module}`,
    ),
    ...misnamed.map(
      (module) =>
        `${module} is ${kindOf(embeddings.has(module))}, but its tensors are named as those of ${kindOf(!embeddings.has(module))}`,
    ),
    // PEFT would make an adapter of zeros for the first, and pass over the others, without a word.
    ...(asked ? able.filter((module) => asked(module) && !modules.includes(module) && !isSaved(read, module)) : []).map(
      (module) => `the adapter's config targets ${module}, but there are no tensors of it`,
    ),
    ...(asked ? known.filter((module) => !asked(module)) : []).map(
      (module) => `there are tensors of ${module}, which the adapter's config does not target`,
    ),
  ];
  if (known.length > 0) {
    const ofUnknown = unknown.map((module) => parameterName(module, read.choice.method.name, ""));
    const parameters = [...read.parameters].filter(([name]) => !ofUnknown.some((start) => name.startsWith(start)));
    const { trainables } = attach(outputs, { ...read, targets: known, outputModule, training: false });
    problems.push(...mismatches(trainables, new Map(parameters)));
  }
  throwMismatch(problems, folder);
  const run = await readRunRecord(storage, folder);
  return { ...(await besideWholeWeights(outputs, read, outputModule)), ...(run ? { run } : {}) };
}

/** Whether a module was trained whole instead. */
function isSaved({ choice: { inPlace } }: Pick<Adapter, "choice">, module: string): boolean {
  return inPlace !== undefined && isInPlace(inPlace, module);
}

/** An adapter, and which modules its config asks for. */
interface ReadAdapter extends Adapter {
  readonly targeted: (
    outputModule: string,
    embeddings: ReadonlySet<string>,
  ) => ((module: string) => boolean) | undefined;
  /** Those of its modules whose tensors are named as an embedding's, where the two are named apart. */
  readonly embeddings?: ReadonlySet<string>;
}

async function readAny(storage: Storage, folder: string, model: PretrainedModel): Promise<ReadAdapter> {
  const targeted = (): undefined => undefined;
  if (await isMlxAdapter(storage, folder)) return { ...(await readMlx(storage, folder, model)), targeted };
  if (await isScales(storage, folder)) return { ...(await readScales(storage, folder)), targeted };
  if (await isAdapterHub(storage, folder)) return { ...(await readAdapterHubFolder(storage, folder, model)), targeted };
  return readPeft(storage, folder, model);
}

async function readPeft(storage: Storage, folder: string, model: PretrainedModel): Promise<ReadAdapter> {
  const layouts = [...methods.values()].flatMap(({ peft }): PeftLayout[] => (peft ? [peft] : []));
  const { config, layout, tensors, embeddings, whole, untrained } = await readPeftAdapter(storage, folder, layouts);
  const translation = translations[layout.type];
  if (!translation) throw new Error(`${layout.type} has a layout and no translation`);
  const stored = new Map<string, Readonly<Record<string, Tensor>>>();
  for (const [module, parts] of tensors) {
    const read: Record<string, Tensor> = {};
    for (const [key, lazy] of Object.entries(parts)) read[key] = await readChecked(`${module}.${key}`, lazy);
    stored.set(module, read);
  }
  const {
    tensors: own,
    steps,
    ...read
  } = await translation.read(config, stored, {
    at: joinPath(folder, "adapter_config.json"),
    weight: (module) => uprightWeight(model, module, folder),
  });
  const {
    tensors: inWhole,
    rows,
    indices,
  } = layout.tokenRows === true
    ? await changedRows(model, whole)
    : { tensors: whole.tensors, rows: new Map(), indices: {} };
  const inPlace = inPlaceOf({ ...whole, tensors: inWhole }, indices);
  const choice = { ...read.choice, ...(inPlace ? { inPlace } : {}) };
  const parameters = new Map<string, Tensor>();
  for (const [module, parts] of own) {
    for (const [key, values] of Object.entries(parts)) {
      parameters.set(parameterName(module, choice.method.name, key), values);
    }
  }
  for (const [name, lazy] of inWhole) parameters.set(name, await readChecked(name, lazy));
  for (const [module, values] of rows) parameters.set(`${module}.${tokenRowsKey}`, values);
  await checkUntrained(untrained, model, { replaced: whole.tensors, folder });
  return {
    choice,
    targets: [...own.keys()],
    parameters,
    ...(steps === undefined ? {} : { steps }),
    targeted: (outputModule, tables) =>
      targetedByPeft(config, outputModule, joinPath(folder, "adapter_config.json"), tables),
    embeddings,
  };
}

/**
 * PEFT's names of modules may end inside a word of a path; where one does, the modules' whole names stand for it, as for
 * embeddings that PEFT saved without being asked.
 */
function inPlaceOf({ modules, biases, tensors }: PeftWholeWeights<LazyTensor>, tokens: TokenRows): InPlace | undefined {
  const ofTokens = Object.keys(tokens).length > 0;
  if (tensors.size === 0 && !ofTokens) return undefined;
  const owners = [...tensors.keys()].map((name) => name.slice(0, name.lastIndexOf(".")));
  const isWord = (owner: string, saved: string): boolean => `.${owner}.`.includes(`.${saved}.`);
  const named = modules.filter((saved) => owners.every((owner) => !owner.endsWith(saved) || isWord(owner, saved)));
  const others = [...tensors.keys()].flatMap((name, i) => {
    const owner = owners[i] ?? "";
    const known = named.some((saved) => isWord(owner, saved)) || (biases !== "none" && name.endsWith(".bias"));
    return known ? [] : [owner];
  });
  return { modules: [...new Set([...named, ...others])], biases, ...(ofTokens ? { tokens } : {}) };
}

/** Largest relative rounding of bfloat16, in which either side may have been held. */
const rounding = 2 ** -8;

/**
 * The weights that an adapter stands beside are the model's own.
 * @throws {TuneError} `adapter-mismatch` naming those that are not.
 */
async function checkUntrained(
  untrained: ReadonlyMap<string, LazyTensor>,
  model: PretrainedModel,
  { replaced, folder }: { readonly replaced: ReadonlyMap<string, LazyTensor>; readonly folder: string },
): Promise<void> {
  if (untrained.size === 0) return;
  const sites = linearModules(model.predict().outputs); // by module, for a weight that is tied has another's name
  const problems: string[] = [];
  for (const [name, lazy] of untrained) {
    const weight = model.weights.get(name) ?? sites.get(name.replace(/\.weight$/, ""))?.weight;
    if (weight?.kind !== "weight") continue; // its module is missed by name where the adapter is held against the model
    const [own, found] = [await weight.source.read(), await readChecked(name, lazy)];
    if (own.shape.join() !== found.shape.join()) continue; // nor does what was trained fit: see `mismatches`
    // Last rows may be those of new tokens, which start at random; what replaces them is what counts.
    const compared = replaced.has(name) ? own.data.length / 2 : own.data.length;
    const same = own.data.every((value, i) => {
      if (i >= compared) return true;
      const [ours, theirs] = [Number(value), Number(found.data[i])];
      return Math.abs(ours - theirs) <= 2 * rounding * Math.abs(ours);
    });
    if (!same) problems.push(`${name} beside the adapter is not the model's own`);
  }
  throwMismatch(problems, folder);
}

async function readChecked(name: string, lazy: LazyTensor): Promise<Tensor> {
  if (!isFloat(lazy.dtype)) return lazy.read();
  const values = await toFloat32(lazy);
  assertFinite(name, values);
  return values;
}

/** The pretrained weight of a linear module as [out, in]. */
async function uprightWeight(model: PretrainedModel, module: string, at: string): Promise<Tensor> {
  const site = linearModules(model.predict().outputs).get(module);
  if (site?.weight.kind !== "weight") {
    throw new TuneError("adapter-mismatch", `The model has no linear layer called ${module}.`, {
      at,
      fix: "use the adapter with the base model that it was trained on",
    });
  }
  const whole = await site.weight.source.read();
  const [rows = 0, columns = 0] = whole.shape;
  if (site.layout === "out,in") return whole;
  const data = new Float32Array(whole.data.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) data[j * rows + i] = Number(whole.data[i * columns + j]);
  return { dtype: "float32", shape: [columns, rows], data };
}
