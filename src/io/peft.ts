import { assert, nearest, TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { type JsonObject, parseJsonObject } from "./json.ts";
import { writeFolder } from "./outputs/index.ts";
import { peftTaskType } from "./peft-task.ts";
import { type PeftTokens, settleTokens, tokenRowsModule, tokenRowsSuffix, tokensConfig } from "./peft-tokens.ts";
import { pickleRefused } from "./pickle.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage } from "./storage.ts";
import { readBytes } from "./text.ts";

/** How PEFT stores one kind of adapter: its `peft_type`, and our name of each tensor of a module -> PEFT's suffix. */
export interface PeftLayout {
  readonly type: string;
  readonly tensors: Readonly<Record<string, string>>;
  /** The same beside an embedding, where the kind has a form for them. */
  readonly embedding?: Readonly<Record<string, string>>;
  /** The tensors of another program that writes the same `peft_type`; we read them, and write `tensors`. */
  readonly dialect?: Readonly<Record<string, string>>;
  /** The key of the config that is true for this layout, where several share a type. */
  readonly flag?: string;
  /** Whether its config has `trainable_token_indices`. */
  readonly tokenRows?: boolean;
}

/** Module name -> the tensors that adapt it, under our names (`A`, `B`). */
export type AdapterTensors<T extends Tensor | LazyTensor> = ReadonlyMap<string, Readonly<Record<string, T>>>;

/** Weights that PEFT trained whole beside an adapter. */
export interface PeftWholeWeights<T extends Tensor | LazyTensor> {
  /** `modules_to_save`: every module whose path ends so. */
  readonly modules: readonly string[];
  /** `bias`: of none, of the adapted modules (`lora_only`) or of all. */
  readonly biases: "none" | "adapted" | "all";
  /** By the name that the base model has for them. */
  readonly tensors: ReadonlyMap<string, T>;
  /** `trainable_token_indices`: rows of embeddings and output layers. */
  readonly tokens?: PeftTokens<T>;
}

/** A PEFT adapter folder, opened. */
export interface PeftAdapter {
  /** `adapter_config.json` as it stands, in PEFT's spelling; `peft-lora.ts` and its like translate it. */
  readonly config: JsonObject;
  /** The one among the layouts offered that the adapter has. */
  readonly layout: PeftLayout;
  /** The model it was made for: a hub id or a folder; undefined when the adapter does not say. */
  readonly baseModel: string | undefined;
  readonly tensors: AdapterTensors<LazyTensor>;
  /** Those modules whose tensors are named as an embedding's. */
  readonly embeddings: ReadonlySet<string>;
  readonly whole: PeftWholeWeights<LazyTensor>;
  /** The base model's own embeddings and output layers, which PEFT saves too where they are adapted or resized. */
  readonly untrained: ReadonlyMap<string, LazyTensor>;
}

const configFile = "adapter_config.json";
const weightsFile = "adapter_model.safetensors";
/** PEFT wraps the model twice, and its files keep the wrappers' names. */
const prefix = "base_model.model.";

/**
 * Open a folder written by PEFT's `save_pretrained` (0.21), knowing `layouts`.
 * @throws {TuneError} `file-not-found`; `pickle-refused` for `adapter_model.bin`; `peft-bad-config`;
 * `peft-unknown-type`; `peft-bad-tensors` with every tensor that has no place in the layout and every module that
 * lacks one; what `openSafetensors` throws.
 */
export async function readPeftAdapter(
  storage: Storage,
  folder: string,
  layouts: readonly PeftLayout[],
): Promise<PeftAdapter> {
  const configPath = joinPath(folder, configFile);
  const weightsPath = joinPath(folder, weightsFile);
  const names = await storage.list(folder);
  if (!names.includes(configFile)) throw missing(folder, configFile);
  const config = parseJsonObject(await readBytes(storage, configPath), "peft-bad-config", configPath);
  const layout = layoutOf(config, layouts, configPath);
  if (!names.includes(weightsFile)) {
    if (!names.includes("adapter_model.bin")) throw missing(folder, weightsFile);
    throw pickleRefused(
      folder,
      "adapter_model.bin",
      "load it in a current PEFT and save it again: it writes safetensors",
    );
  }
  const { tensors } = await openSafetensors(storage, weightsPath);
  const { base_model_name_or_path: base } = config;
  const sorted = sortTensors(tensors, layout, wholeSettings(config, configPath), weightsPath);
  if (sorted.tokenRows.size > 0 && layout.tokenRows !== true) {
    const what = `an adapter of type ${layout.type} has no rows of single tokens.`;
    throw new TuneError("peft-bad-tensors", what, { at: weightsPath, fix: "merge the adapter in PEFT instead" });
  }
  const tokens = await settleTokens(config, sorted.tokenRows, { configAt: configPath, weightsAt: weightsPath });
  return {
    config,
    layout,
    baseModel: typeof base === "string" && base !== "" ? base : undefined,
    tensors: sorted.tensors,
    embeddings: sorted.embeddings,
    whole: { ...sorted.whole, ...(tokens ? { tokens } : {}) },
    untrained: sorted.untrained,
  };
}

/**
 * Write a folder that PEFT's `from_pretrained` loads; it replaces what was at `folder` whole.
 * `config` is in PEFT's spelling (see `peft-lora.ts`); every module must have every tensor of the layout.
 * @throws {TuneError} `write-failed`; whatever reading a lazy tensor throws.
 */
export async function writePeftAdapter(
  storage: Storage,
  folder: string,
  adapter: {
    readonly config: JsonObject;
    readonly layout: PeftLayout;
    readonly tensors: AdapterTensors<Tensor | LazyTensor>;
    /** Those modules that are embeddings. */
    readonly embeddings?: ReadonlySet<string>;
    readonly whole?: PeftWholeWeights<Tensor | LazyTensor>;
    /** What the model is made for, in our words; what the config says unless given. */
    readonly task?: string;
    /** Further files, by name: JSON, or text as it is. */
    readonly beside?: Readonly<Record<string, JsonObject | string>>;
  },
): Promise<void> {
  const { layout, tensors, embeddings, whole, beside = {} } = adapter;
  const config: JsonObject = {
    ...adapter.config,
    ...(adapter.task === undefined ? {} : { task_type: peftTaskType(adapter.task) }),
    ...(whole ? wholeConfig(whole) : {}),
  };
  assert(config["peft_type"] === layout.type, `a ${config["peft_type"]} config with the layout of ${layout.type}`);
  const entries: NamedTensor[] = [];
  for (const [module, parts] of tensors) {
    const form = embeddings?.has(module) ? layout.embedding : layout.tensors;
    assert(form !== undefined, `${layout.type} has no form for the embedding ${module}`);
    for (const [key, suffix] of Object.entries(form)) {
      const tensor = parts[key];
      assert(tensor !== undefined, `${module} has no tensor ${key}`);
      entries.push({ name: `${prefix}${module}.${suffix}`, tensor });
    }
  }
  for (const [name, tensor] of whole?.tensors ?? []) {
    // PEFT hangs an adapted module's own tensors below its wrapper.
    const [module, own] = splitName(name);
    entries.push({ name: `${prefix}${module}.${tensors.has(module) ? "base_layer." : ""}${own}`, tensor });
  }
  for (const [module, tensor] of whole?.tokens?.rows ?? [])
    entries.push({ name: `${prefix}${module}.${tokenRowsSuffix}`, tensor });
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  await writeFolder(storage, folder, "peft", async (staging) => {
    await storage.write(joinPath(staging, configFile), JSON.stringify(sorted, null, 2));
    await writeSafetensors(storage, joinPath(staging, weightsFile), entries);
    for (const [name, content] of Object.entries(beside)) {
      const text = typeof content === "string" ? content : `${JSON.stringify(content, null, 2)}\n`;
      await storage.write(joinPath(staging, name), text);
    }
  });
}

function missing(folder: string, file: string): TuneError {
  return new TuneError("file-not-found", `${folder} has no ${file}.`, {
    at: folder,
    fix: `name a folder that PEFT or Scion wrote: it holds ${configFile} and ${weightsFile}`,
  });
}

function layoutOf(config: JsonObject, layouts: readonly PeftLayout[], at: string): PeftLayout {
  const { peft_type: type } = config;
  if (typeof type !== "string") {
    throw new TuneError("peft-bad-config", "it names no peft_type.", { at, fix: "save the adapter again with PEFT" });
  }
  const fitting = layouts.filter(
    (candidate) => candidate.type === type && (candidate.flag === undefined || config[candidate.flag] === true),
  );
  const layout = fitting.find(({ flag }) => flag !== undefined) ?? fitting[0];
  if (layout !== undefined) return layout;
  const known = layouts.map((candidate) => candidate.type);
  const [guess] = nearest(type, known, 1);
  throw new TuneError("peft-unknown-type", `peft_type "${type}" is not supported.`, {
    at,
    fix: `use an adapter of type ${known.join(", ")}${guess === undefined ? "" : ` (nearest: ${guess})`}, or merge it in PEFT and load the merged model`,
  });
}

/** Whether a tensor is named as in a PEFT model itself (`lora_A.default.weight`), where files leave the middle out. */
function adapterNamed(name: string, suffix: string): boolean {
  const [first = "", ...rest] = suffix.split(".");
  const parts = name.split(".");
  return parts.at(-2 - rest.length) === first && parts.slice(parts.length - rest.length).join() === rest.join();
}

function wholeConfig({ modules, biases, tokens }: PeftWholeWeights<Tensor | LazyTensor>): JsonObject {
  return {
    ...(tokens ? tokensConfig(tokens) : {}),
    modules_to_save: modules.length > 0 ? modules : null,
    bias: biases === "adapted" ? "lora_only" : biases,
  };
}

function wholeSettings(config: JsonObject, at: string): Omit<PeftWholeWeights<LazyTensor>, "tensors"> {
  const { modules_to_save: modules, bias = "none" } = config;
  const problems: Problem[] = [];
  if (modules !== undefined && modules !== null && !isNames(modules)) {
    const what = `modules_to_save = ${JSON.stringify(modules)} is not a list of module names.`;
    problems.push({ code: "peft-bad-config", what, fix: "set modules_to_save to a list of names, or null" });
  }
  if (bias !== "none" && bias !== "all" && !/^[a-z]+_only$/.test(String(bias))) {
    const what = `bias = ${JSON.stringify(bias)} is not none, all or lora_only.`;
    problems.push({ code: "peft-bad-config", what, fix: "set bias to none, all or lora_only" });
  }
  throwProblems(problems, at);
  return {
    modules: isNames(modules) ? modules : [],
    biases: bias === "none" || bias === "all" ? bias : "adapted",
  };
}

const isNames = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((name) => typeof name === "string" && name !== "");

/** `model.norm.weight` -> `model.norm` and `weight`. */
function splitName(name: string): readonly [string, string] {
  const dot = name.lastIndexOf(".");
  return [name.slice(0, Math.max(0, dot)), name.slice(dot + 1)];
}

/** The dialect that some tensor is of alone, or the layout's own. */
function spokenBy(
  tensors: ReadonlyMap<string, LazyTensor>,
  { tensors: own, dialect }: PeftLayout,
): PeftLayout["tensors"] {
  const foreign = Object.values(dialect ?? {}).filter((suffix) => !Object.values(own).includes(suffix));
  const speaks = [...tensors.keys()].some((name) => foreign.some((suffix) => name.endsWith(`.${suffix}`)));
  return dialect && speaks ? dialect : own;
}

/** Tensors of the adapter by module, and whole weights beside them. */
function sortTensors(
  tensors: ReadonlyMap<string, LazyTensor>,
  layout: PeftLayout,
  settings: Omit<PeftWholeWeights<LazyTensor>, "tensors">,
  at: string,
): Pick<PeftAdapter, "tensors" | "embeddings" | "whole" | "untrained"> & {
  readonly tokenRows: ReadonlyMap<string, LazyTensor>;
} {
  const linear = Object.entries(spokenBy(tensors, layout));
  const ofEmbeddings = Object.entries(layout.embedding ?? {});
  const suffixes = [...linear, ...ofEmbeddings];
  const embeddings = new Set<string>();
  const modules = new Map<string, Record<string, LazyTensor>>();
  const whole = new Map<string, LazyTensor>();
  const untrained = new Map<string, LazyTensor>();
  const tokenRows = new Map<string, LazyTensor>();
  const problems: Problem[] = [];
  const bad = (what: string, fix: string): void => {
    problems.push({ code: "peft-bad-tensors", what, fix });
  };
  for (const [name, tensor] of tensors) {
    const found = suffixes.find(([, suffix]) => name.endsWith(`.${suffix}`));
    const own = wholeName(name, settings);
    const ofTokens = tokenRowsModule(name);
    if (!name.startsWith(prefix)) {
      bad(
        `${name} does not start with "${prefix}": PEFT would pass over it and use zeros.`,
        "save the adapter with PEFT's save_pretrained",
      );
    } else if (found !== undefined) {
      const [key, suffix] = found;
      const module = name.slice(prefix.length, -(suffix.length + 1));
      const parts = modules.get(module) ?? {};
      if (ofEmbeddings.includes(found)) embeddings.add(module);
      parts[key] = tensor;
      modules.set(module, parts);
    } else if (ofTokens !== undefined) {
      tokenRows.set(ofTokens.slice(prefix.length), tensor);
    } else if (own !== undefined) {
      (/(?<!\.token_adapter)\.(base_layer\.weight|original_module\.\w+)$/.test(name) ? untrained : whole).set(
        own,
        tensor,
      );
    } else {
      const named = suffixes.some(([, suffix]) => adapterNamed(name, suffix));
      const expected = linear.map(([, suffix]) => suffix).join(" or ");
      bad(
        `${name} is not part of a ${layout.type} adapter (expected …${expected}${named ? ", without the adapter's name in it" : ""}).`,
        named
          ? "save the adapter with PEFT's save_pretrained, not its state_dict()"
          : "merge the adapter in PEFT instead",
      );
    }
  }
  for (const [module, parts] of modules) {
    const lacking = (embeddings.has(module) ? ofEmbeddings : linear)
      .filter(([key]) => parts[key] === undefined)
      .map(([, suffix]) => suffix);
    if (lacking.length > 0)
      bad(`${module} has no ${lacking.join(" and no ")}.`, "save the adapter again; it is incomplete");
  }
  const held = settings.modules.filter((saved) => [...whole.keys()].some((name) => isInModule(name, saved)));
  for (const saved of settings.modules.filter((module) => !held.includes(module))) {
    if (!headNames.includes(saved) || !held.some((module) => headNames.includes(module)))
      bad(`modules_to_save names ${saved}, but there is no tensor of it.`, "save the adapter again; it is incomplete");
  }
  if (tensors.size === 0) bad("it holds no tensor.", "save the adapter again; it is empty");
  throwProblems(problems, at);
  return { tensors: modules, embeddings, tokenRows, whole: { ...settings, modules: held, tensors: whole }, untrained };
}

/** Embeddings and output layers, which PEFT saves whole of its own accord (`save_embedding_layers`). */
const embeddingTensor = /(^|\.)(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings|shared)\.(weight|bias)$/;
/** For classifiers PEFT names both of these, of which a model has one. */
const headNames: readonly string[] = ["classifier", "score"];

/**
 * The base model's name of a tensor that is no adapter's own; undefined for any other tensor. PEFT's wrappers are in
 * the names of older versions (`.modules_to_save.default`), and of those that save embeddings of their own accord.
 */
function wholeName(
  name: string,
  { modules, biases }: Omit<PeftWholeWeights<LazyTensor>, "tensors">,
): string | undefined {
  const plain = name
    .slice(prefix.length)
    .replace(/\.(modules_to_save(\.default)?|original_module|(token_adapter\.)?base_layer)(?=\.)/g, "");
  const trained =
    embeddingTensor.test(plain) ||
    modules.some((saved) => isInModule(plain, saved)) ||
    (biases !== "none" && plain.endsWith(".bias"));
  return trained ? plain : undefined;
}

/** Whether a tensor belongs to a module of `modules_to_save`, which PEFT compares with the ends of paths, dots or not. */
function isInModule(name: string, saved: string): boolean {
  const parts = name.split(".").slice(0, -1);
  return parts.some((_, i) =>
    parts
      .slice(0, i + 1)
      .join(".")
      .endsWith(saved),
  );
}
