import { isJsonObject, type JsonObject } from "./json.ts";
import { type Problem, throwProblems } from "./problems.ts";

/** What LoRA needs to know, in our words. */
export interface LoraSettings {
  readonly rank: number;
  /** The update is scaled by alpha / rank. */
  readonly alpha: number;
  /** Scaled by alpha / √rank instead (rsLoRA). */
  readonly rslora: boolean;
  /** Rows have trained lengths besides (DoRA). */
  readonly dora: boolean;
  /** Ranks and alphas of modules that have others, by the ends of their names (regular expressions). */
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  /** Share of the adapter's inputs dropped while training, from 0 to below 1. */
  readonly dropout: number;
  /** Module names, the ends of module names, or one regular expression (or `all-linear`) as text. */
  readonly targetModules: readonly string[] | string;
  /** Whether the base weights are stored [in, out], as GPT-2's are. */
  readonly fanInFanOut: boolean;
  /** How A and B started. Of PiSSA and OLoRA the adapter fits what they left of the weights. */
  readonly init: "kaiming" | "gaussian" | "random" | "pissa" | "olora";
}

/** What PEFT 0.21's `LoraConfig.save_pretrained` writes when nothing is asked for: every key, with its default. */
const defaults: JsonObject = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: null,
  base_model_name_or_path: null,
  bias: "none",
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  fan_in_fan_out: false,
  inference_mode: true,
  init_lora_weights: true,
  kasa_config: null,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  loftq_config: {},
  lora_alpha: 8,
  lora_bias: false,
  lora_dropout: 0,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  modules_to_save: null,
  monteclora_config: null,
  peft_type: "LORA",
  peft_version: "0.21.0",
  qalora_group_size: 16,
  r: 8,
  rank_pattern: {},
  revision: null,
  target_modules: null,
  target_parameters: null,
  task_type: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
  velora_config: null,
};

/** Keys translated below, and keys that say nothing about what a finished adapter computes. */
const harmless: ReadonlySet<string> = new Set([
  ...["r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "peft_type", "use_rslora", "use_dora"],
  ...["rank_pattern", "alpha_pattern"],
  // Which modules there are, the tensors say.
  ...["exclude_modules", "layers_to_transform"],
  // Read by `peft.ts` for every kind of adapter.
  ...["modules_to_save", "bias", "trainable_token_indices"],
  ...["auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"],
  // Settings of options that are themselves off, or that only guide initialisation or the backward pass.
  ...["corda_config", "eva_config", "layers_pattern", "loftq_config", "lora_ga_config", "megatron_core"],
  ...["qalora_group_size", "runtime_config", "velora_config"],
  // Of versions before 0.3: whether weights were merged on the way to evaluation.
  ...["merge_weights"],
]);

/**
 * Initialisations, in our words. Those that are not here fit a base model that PEFT changed at random or by data (PiSSA by
 * random projections, CorDA, …), and what it took out of the weights is not in the file.
 */
const initialisations: ReadonlyMap<unknown, LoraSettings["init"]> = new Map<unknown, LoraSettings["init"]>([
  [true, "kaiming"],
  [false, "random"],
  ["gaussian", "gaussian"],
  ["pissa", "pissa"],
  ["olora", "olora"],
  ["orthogonal", "kaiming"],
  ["eva", "kaiming"],
]);

/**
 * Translate a PEFT LoRA config. Keys it lacks take PEFT's defaults.
 * @throws {TuneError} `peft-unsupported-option` for every option that would change what the adapter computes and that
 * we do not follow, `peft-bad-config` for values that are
 * not what PEFT writes; all in one error.
 */
export function loraFromPeft(config: JsonObject, at: string): LoraSettings {
  const problems: Problem[] = [];
  for (const [key, value] of Object.entries(config)) {
    if (harmless.has(key) || isNeutral(value) || value === defaults[key]) continue;
    if (key === "init_lora_weights" && initialisations.has(value)) continue;
    const what = `${key} = ${JSON.stringify(value)} is not supported: it changes what the adapter computes.`;
    const fix = "merge the adapter in PEFT (merge_and_unload) and load the merged model";
    problems.push({ code: "peft-unsupported-option", what, fix });
  }
  // The fallback is never seen: a value of the wrong kind throws below.
  const field = <T>(key: string, is: (value: unknown) => value is T, expected: string, fallback: T): T => {
    const value = config[key] ?? defaults[key];
    if (is(value)) return value;
    const what = `${key} = ${JSON.stringify(value)} is not ${expected}.`;
    problems.push({ code: "peft-bad-config", what, fix: `set ${key} to ${expected}` });
    return fallback;
  };
  const settings: LoraSettings = {
    rank: field("r", isRank, "a whole number above 0", 1),
    alpha: field("lora_alpha", isFiniteNumber, "a number", 1),
    rslora: field("use_rslora", isBoolean, "true or false", false),
    dora: field("use_dora", isBoolean, "true or false", false),
    rankPattern: field("rank_pattern", isPattern(isRank), "whole numbers above 0 by module", {}),
    alphaPattern: field("alpha_pattern", isPattern(isFiniteNumber), "numbers by module", {}),
    dropout: field("lora_dropout", isShare, "a number from 0 to below 1", 0),
    targetModules: field("target_modules", isTargets, "a list of module names or a regular expression", []),
    fanInFanOut: field("fan_in_fan_out", isBoolean, "true or false", false),
    init: initialisations.get(config["init_lora_weights"] ?? true) ?? "kaiming",
  };
  throwProblems(problems, at);
  return settings;
}

/** The config PEFT 0.21 would have saved for these settings: every key it writes, in PEFT's spelling. */
export function loraToPeft(
  settings: LoraSettings,
  options: { readonly baseModel?: string; readonly taskType?: string } = {},
): JsonObject {
  return {
    ...defaults,
    base_model_name_or_path: options.baseModel ?? null,
    fan_in_fan_out: settings.fanInFanOut,
    init_lora_weights: [...initialisations].find(([, init]) => init === settings.init)?.[0],
    lora_alpha: settings.alpha,
    lora_dropout: settings.dropout,
    r: settings.rank,
    target_modules: settings.targetModules,
    task_type: options.taskType ?? "CAUSAL_LM",
    alpha_pattern: settings.alphaPattern,
    rank_pattern: settings.rankPattern,
    use_dora: settings.dora,
    use_rslora: settings.rslora,
  };
}

/** Off: null, false, or nothing inside. */
function isNeutral(value: unknown): boolean {
  if (value === null || value === false) return true;
  return Array.isArray(value) ? value.length === 0 : isJsonObject(value) && Object.keys(value).length === 0;
}

const isFiniteNumber = (value: unknown): value is number => Number.isFinite(value);
const isRank = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) > 0;
const isPattern =
  (is: (value: unknown) => value is number) =>
  (value: unknown): value is Readonly<Record<string, number>> =>
    isJsonObject(value) && Object.values(value).every(is);
const isShare = (value: unknown): value is number => isFiniteNumber(value) && value >= 0 && value < 1;
const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";
const isName = (value: unknown): value is string => typeof value === "string" && value !== "";
const isTargets = (value: unknown): value is readonly string[] | string =>
  Array.isArray(value) ? value.length > 0 && value.every(isName) : isName(value);
