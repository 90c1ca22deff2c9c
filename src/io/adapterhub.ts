import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "./json.ts";
import { pickleRefused } from "./pickle.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage, writeFolder } from "./storage.ts";

/*
 * Adapters as AdapterHub's `adapters` (1.2) keeps them: `adapter_config.json` with the adapter's own config inside, and
 * `adapter.safetensors`. The name of the config is PEFT's too, but a PEFT config has a `peft_type`.
 */

/** What the config says, in our words. */
export interface AdapterHubSettings {
  /** Kronecker products with one shared slow rule, with rules of their own, or dense. */
  readonly kind: "compacter" | "phm" | "dense";
  readonly attention: boolean;
  readonly feedForward: boolean;
  readonly reduction: number;
  readonly terms: number;
  readonly fastRank: number;
  /** Reads the residual stream (in BERT, what the block's norm makes of it) instead of the sublayer's output. */
  readonly readsResidual: boolean;
  readonly activation: "gelu_new" | "gelu";
  readonly frozenRule: boolean;
}

/** Module that ends a sublayer -> our names of the adapter's tensors. */
export type AdapterHubTensors<T> = ReadonlyMap<string, Readonly<Record<string, T>>>;

/** The modules that end a model's sublayers. */
export interface SublayerEnds {
  readonly attention: readonly string[];
  readonly feedForward: readonly string[];
}

/** An adapter folder's contents. */
export interface AdapterHubAdapter<T> {
  readonly settings: AdapterHubSettings;
  readonly tensors: AdapterHubTensors<T>;
  /** The slow rule that all share. */
  readonly rule?: T;
  /** Weights of the base model that were trained beside it, in a file of our own: the format has no place for them. */
  readonly base: ReadonlyMap<string, T>;
}

const configFile = "adapter_config.json";
const weightsFile = "adapter.safetensors";
const baseFile = "base_weights.safetensors";
const name = "scion";

/** Our names of an adapter's tensors -> theirs behind `adapter_down.0.` and `adapter_up.`. */
const spellings: Readonly<Record<AdapterHubSettings["kind"], Readonly<Record<string, string>>>> = {
  compacter: { left: "W_left", right: "W_right", bias: "b" },
  phm: { rule: "phm_rule", fast: "W", bias: "b" },
  dense: { weight: "weight", bias: "bias" },
};
const sides = { down: "adapter_down.0", up: "adapter_up" } as const;

/** Whether a folder holds an adapter of AdapterHub. */
export async function isAdapterHub(storage: Storage, folder: string): Promise<boolean> {
  if (!(await storage.list(folder)).includes(configFile)) return false;
  const config = await readJsonObject(storage, joinPath(folder, configFile));
  return isJsonObject(config["config"]) && config["peft_type"] === undefined;
}

/** Where the adapter behind a module hangs. */
function placeOf(module: string, kind: keyof SublayerEnds): string {
  if (module.endsWith(".output.dense")) return `${module.slice(0, -".dense".length)}.adapters`; // BERT and its kind
  const t5 = /^(encoder|decoder)\.block\.\d+\.layer\.\d+/.exec(module)?.[0];
  if (t5 !== undefined) return `transformer.${t5}.adapters`;
  const block = /^.*?\.\d+/.exec(module)?.[0] ?? module;
  return `${block}.${kind === "attention" ? "attention" : "output"}_adapters.adapters`;
}

function placesOf(ends: SublayerEnds): ReadonlyMap<string, string> {
  const kinds = ["attention", "feedForward"] as const;
  return new Map(kinds.flatMap((kind) => ends[kind].map((module) => [placeOf(module, kind), module] as const)));
}

/**
 * Open an adapter folder, given where the model's sublayers end.
 * @throws {TuneError} `adapterhub-bad-adapter` with everything that is wrong, a shared rule that is missing among it (which
 * AdapterHub draws anew, so that the adapter does nothing); `pickle-refused`; what `openSafetensors` throws.
 */
export async function readAdapterHub(
  storage: Storage,
  folder: string,
  ends: SublayerEnds,
): Promise<AdapterHubAdapter<LazyTensor>> {
  const configPath = joinPath(folder, configFile);
  const json = await readJsonObject(storage, configPath);
  const settings = readSettings(json, configPath);
  const names = await storage.list(folder);
  if (!names.includes(weightsFile)) {
    if (names.includes("pytorch_adapter.bin")) {
      throw pickleRefused(folder, "pytorch_adapter.bin", "save it with use_safetensors=True");
    }
    throw new TuneError("file-not-found", `${folder} has no ${weightsFile}.`, { at: folder, fix: "check the path" });
  }
  const path = joinPath(folder, weightsFile);
  const { tensors } = await openSafetensors(storage, path);
  const places = placesOf(ends);
  const modules = new Map<string, Record<string, LazyTensor>>();
  const problems: Problem[] = [];
  const bad = (what: string): void => {
    problems.push({ code: "adapterhub-bad-adapter", what, fix: "save the adapter again with AdapterHub's adapters" });
  };
  let rule: LazyTensor | undefined;
  for (const [key, tensor] of tensors) {
    if (/\.shared_parameters\.[^.]+\.phm_rule$/.test(key)) {
      rule = tensor;
      continue;
    }
    const [, place = "", side = "", part = ""] =
      /^(.*\.adapters)\.[^.]+\.(adapter_down\.\d|adapter_up)\.(.+)$/.exec(key) ?? [];
    const module = places.get(place);
    const own = Object.entries(spellings[settings.kind]).find(([, spelling]) => spelling === part)?.[0];
    if (module === undefined || own === undefined) {
      bad(`${key} belongs to nothing in the model.`);
      continue;
    }
    const parts = modules.get(module) ?? {};
    parts[`${own}_${side === "adapter_up" ? "up" : "down"}`] = tensor;
    modules.set(module, parts);
  }
  const expected = [...(settings.attention ? ends.attention : []), ...(settings.feedForward ? ends.feedForward : [])];
  for (const module of expected) if (!modules.has(module)) bad(`there is no adapter behind ${module}.`);
  for (const module of modules.keys()) {
    if (!expected.includes(module)) bad(`there is an adapter behind ${module}, where the config has none.`);
  }
  if (settings.kind === "compacter" && rule === undefined) bad("the shared phm_rule is missing.");
  throwProblems(problems, path);
  const base = names.includes(baseFile) ? (await openSafetensors(storage, joinPath(folder, baseFile))).tensors : [];
  return { settings, tensors: modules, ...(rule ? { rule } : {}), base: new Map(base) };
}

/** Write a folder that `model.load_adapter(folder)` of AdapterHub reads; it replaces what was there whole. */
export async function writeAdapterHub(
  storage: Storage,
  folder: string,
  adapter: AdapterHubAdapter<Tensor>,
  {
    ends,
    beside,
    ...model
  }: {
    readonly ends: SublayerEnds;
    readonly hiddenSize: number;
    readonly className: string;
    readonly modelType: string;
    readonly baseModel: string;
    /** Other JSON files of the folder, by name. */
    readonly beside: Readonly<Record<string, JsonObject>>;
  },
): Promise<void> {
  const { settings, tensors, rule, base } = adapter;
  const places = [...placesOf(ends)];
  const entries: NamedTensor[] = [];
  for (const [module, own] of tensors) {
    const place = places.find(([, end]) => end === module)?.[0];
    if (place === undefined) throw new Error(`${module} ends no sublayer`);
    for (const [side, prefix] of Object.entries(sides)) {
      for (const [key, spelling] of Object.entries(spellings[settings.kind])) {
        const tensor = own[`${key}_${side}`];
        if (!tensor) throw new Error(`${module} has no ${key}_${side}`);
        entries.push({ name: `${place}.${name}.${prefix}.${spelling}`, tensor });
      }
    }
  }
  const [root = ""] = (entries[0]?.name ?? "").split(".");
  if (rule) entries.push({ name: `${root}.shared_parameters.${name}.phm_rule`, tensor: rule });
  await writeFolder(storage, folder, async (staging) => {
    await storage.write(joinPath(staging, configFile), `${JSON.stringify(configOf(settings, model), null, 2)}\n`);
    await writeSafetensors(storage, joinPath(staging, weightsFile), entries);
    for (const [file, json] of Object.entries(beside)) {
      await storage.write(joinPath(staging, file), `${JSON.stringify(json, null, 2)}\n`);
    }
    const trained = [...base].map(([weight, tensor]) => ({ name: weight, tensor }));
    if (trained.length > 0) await writeSafetensors(storage, joinPath(staging, baseFile), trained);
  });
}

function configOf(
  settings: AdapterHubSettings,
  model: { hiddenSize: number; className: string; modelType: string; baseModel: string },
): JsonObject {
  const { kind } = settings;
  return {
    config: {
      adapter_residual_before_ln: false,
      cross_adapter: false,
      dropout: 0,
      factorized_phm_W: kind !== "phm",
      factorized_phm_rule: false,
      hypercomplex_nonlinearity: "glorot-uniform",
      init_weights: "bert",
      init_weights_seed: null,
      inv_adapter: null,
      inv_adapter_reduction_factor: null,
      is_parallel: false,
      learn_phm: !settings.frozenRule,
      leave_out: [],
      ln_after: false,
      ln_before: false,
      mh_adapter: settings.attention,
      non_linearity: settings.activation,
      original_ln_after: true,
      original_ln_before: settings.readsResidual,
      output_adapter: settings.feedForward,
      phm_bias: true,
      phm_c_init: "normal",
      phm_dim: settings.terms,
      phm_init_range: 0.0001,
      phm_layer: kind !== "dense",
      phm_rank: settings.fastRank,
      reduction_factor: settings.reduction,
      residual_before_ln: true,
      scaling: 1,
      shared_W_phm: false,
      shared_phm_rule: kind === "compacter",
      stochastic_depth: 0,
      use_gating: false,
    },
    hidden_size: model.hiddenSize,
    model_class: `${model.className.replace(/(For|LMHead).*$/, "")}AdapterModel`,
    model_name: model.baseModel,
    model_type: model.modelType,
    name,
    version: "adapters.1.2.0",
  };
}

function readSettings(json: JsonObject, at: string): AdapterHubSettings {
  const config = isJsonObject(json["config"]) ? json["config"] : {};
  const problems: Problem[] = [];
  const bad = (key: string, expected: string): void => {
    const what = `${key} = ${JSON.stringify(config[key])} is not supported here (expected ${expected}).`;
    problems.push({ code: "adapterhub-bad-adapter", what, fix: "use an adapter of another configuration" });
  };
  const whole = (key: string, otherwise: number): number => {
    const value = config[key] ?? otherwise;
    if (!Number.isSafeInteger(value) || Number(value) < 1) bad(key, "a whole number above 0");
    return Number(value);
  };
  // What would change the computation, and the one value that is followed.
  const fixed: readonly (readonly [string, unknown])[] = [
    ["ln_before", false],
    ["ln_after", false],
    ["is_parallel", false],
    ["use_gating", false],
    ["scaling", 1],
    ["cross_adapter", false],
    ["shared_W_phm", false],
    ["factorized_phm_rule", false],
    ["phm_bias", true],
    ["residual_before_ln", true],
    ["adapter_residual_before_ln", false],
  ];
  for (const [key, value] of fixed) if ((config[key] ?? value) !== value) bad(key, JSON.stringify(value));
  if (Array.isArray(config["leave_out"]) && config["leave_out"].length > 0) bad("leave_out", "[]");
  if (config["inv_adapter"] !== undefined && config["inv_adapter"] !== null) bad("inv_adapter", "null");
  // Before there were versions, "gelu" was the approximation.
  const legacy =
    json["version"] === undefined ? { gelu: "gelu_new", gelu_orig: "gelu" } : { gelu: "gelu", gelu_new: "gelu_new" };
  const activation = Object.entries(legacy).find(([key]) => key === config["non_linearity"])?.[1];
  if (activation === undefined) bad("non_linearity", Object.keys(legacy).join(" or "));
  const phm = config["phm_layer"] === true;
  const shared = phm && config["shared_phm_rule"] !== false;
  if (phm && shared && config["factorized_phm_W"] === false) bad("factorized_phm_W", "true with a shared rule");
  if (phm && !shared && config["factorized_phm_W"] !== false) bad("factorized_phm_W", "false without a shared rule");
  const settings: AdapterHubSettings = {
    kind: shared ? "compacter" : phm ? "phm" : "dense",
    attention: config["mh_adapter"] === true,
    feedForward: config["output_adapter"] === true,
    reduction: whole("reduction_factor", 16),
    terms: whole("phm_dim", 4),
    fastRank: whole("phm_rank", 1),
    readsResidual: config["original_ln_before"] === true,
    activation: activation === "gelu" ? "gelu" : "gelu_new",
    frozenRule: config["learn_phm"] === false,
  };
  if (!settings.feedForward) bad("output_adapter", "true");
  throwProblems(problems, at);
  return settings;
}
