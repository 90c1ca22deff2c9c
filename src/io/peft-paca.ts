import { isJsonObject, type JsonObject } from "./json.ts";
import { type Problem, throwProblems } from "./problems.ts";

/** What PaCA needs to know, in our words. */
export interface PacaSettings {
  readonly rank: number;
  /** What is trained is scaled by alpha / rank. */
  readonly alpha: number;
  /** By the ends of module names (regular expressions): the authors' fork has them, PEFT does not. */
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
  readonly targetModules: readonly string[];
}

/** What `PacaConfig` of PEFT writes when nothing is asked for. */
const defaults: JsonObject = {
  auto_mapping: null,
  base_model_name_or_path: null,
  exclude_modules: null,
  inference_mode: true,
  init_weights: true,
  layers_pattern: null,
  layers_to_transform: null,
  modules_to_save: null,
  paca_alpha: 8,
  peft_type: "PACA",
  r: 8,
  random_seed: null,
  revision: null,
  target_modules: null,
  task_type: null,
};

/**
 * Translate a PaCA config of PEFT, or of the authors' fork of it. Which columns are trained, the tensors say.
 * @throws {TuneError} `peft-bad-config` for every value that is not what they write.
 */
export function pacaFromPeft(config: JsonObject, at: string): PacaSettings {
  const problems: Problem[] = [];
  const read = <T>(key: string, is: (value: unknown) => value is T, expected: string, fallback: T): T => {
    const value = config[key] ?? defaults[key] ?? fallback;
    if (is(value)) return value;
    const what = `${key} = ${JSON.stringify(value)} is not ${expected}.`;
    problems.push({ code: "peft-bad-config", what, fix: `set ${key} to ${expected}` });
    return fallback;
  };
  const settings: PacaSettings = {
    rank: read("r", isRank, "a whole number above 0", 1),
    alpha: read("paca_alpha", isPositive, "a number above 0", 1),
    rankPattern: read("rank_pattern", patternOf(isRank), "whole numbers above 0 by module", {}),
    alphaPattern: read("alpha_pattern", patternOf(isPositive), "numbers above 0 by module", {}),
    targetModules: [],
  };
  throwProblems(problems, at);
  return settings;
}

/** The config that PEFT would have saved for these settings. */
export function pacaToPeft(
  { rank, alpha, targetModules }: Omit<PacaSettings, "rankPattern" | "alphaPattern">,
  { baseModel }: { readonly baseModel?: string },
): JsonObject {
  return {
    ...defaults,
    base_model_name_or_path: baseModel ?? null,
    paca_alpha: alpha,
    r: rank,
    target_modules: targetModules,
    task_type: "CAUSAL_LM",
  };
}

const isRank = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) > 0;
const isPositive = (value: unknown): value is number => Number.isFinite(value) && Number(value) > 0;
const patternOf =
  (is: (value: unknown) => value is number) =>
  (value: unknown): value is Readonly<Record<string, number>> =>
    isJsonObject(value) && Object.values(value).every(is);
