import { isJsonObject, type JsonObject } from "./json.ts";
import { loraFromPeft, loraToPeft } from "./peft-lora.ts";
import { type Problem, problemOf, throwProblems } from "./problems.ts";

/** What AdaLoRA needs to know, in our words; updates are counted. */
export interface AdaloraSettings {
  readonly initialRank: number;
  readonly targetRank: number;
  /** The update is scaled by alpha / (initialRank + 1e-5). */
  readonly alpha: number;
  readonly dropout: number;
  /** Updates of the run, of its phases before and after pruning, and between prunings. */
  readonly steps: number;
  readonly warmup: number;
  readonly final: number;
  readonly every: number;
  readonly sensitivityDecay: number;
  readonly uncertaintyDecay: number;
  readonly orthogonalWeight: number;
  /** By module, which of its `initialRank` triplets are left; all of them where a module is not named. */
  readonly kept: ReadonlyMap<string, readonly boolean[]>;
  readonly targetModules: readonly string[] | string;
  readonly fanInFanOut: boolean;
}

/** What PEFT 0.21's `AdaLoraConfig` adds to its `LoraConfig`, with its defaults. */
const defaults: JsonObject = {
  ...{ init_r: 12, target_r: 8, tinit: 0, tfinal: 0, deltaT: 1, total_step: null },
  ...{ beta1: 0.85, beta2: 0.85, orth_reg_weight: 0.5 },
};
/** Keys of `LoraConfig` that AdaLoRA ignores, as PEFT does. */
const ignored: ReadonlySet<string> = new Set(["r", "use_rslora", "alpha_pattern", "rank_pattern"]);
const ending = ".lora_E";

/**
 * Translate a PEFT AdaLoRA config. Keys it lacks take PEFT's defaults.
 * @throws {TuneError} `peft-unsupported-option` and `peft-bad-config`, as {@link loraFromPeft}, all in one error.
 */
export function adaloraFromPeft(config: JsonObject, at: string): AdaloraSettings {
  const problems: Problem[] = [];
  const number = (key: string, least: number, whole: boolean): number => {
    const value = config[key] ?? defaults[key];
    if (Number.isFinite(value) && Number(value) >= least && (!whole || Number.isSafeInteger(value)))
      return Number(value);
    const expected = `a ${whole ? "whole " : ""}number from ${least}`;
    problems.push({
      code: "peft-bad-config",
      what: `${key} = ${JSON.stringify(value)} is not ${expected}.`,
      fix: `set ${key} to ${expected}`,
    });
    return least;
  };
  const initialRank = number("init_r", 1, true);
  const own = {
    initialRank,
    targetRank: number("target_r", 0, true),
    steps: config["total_step"] === null || config["total_step"] === undefined ? 0 : number("total_step", 0, true),
    warmup: number("tinit", 0, true),
    final: number("tfinal", 0, true),
    every: number("deltaT", 1, true),
    sensitivityDecay: number("beta1", 0, false),
    uncertaintyDecay: number("beta2", 0, false),
    orthogonalWeight: number("orth_reg_weight", 0, false),
    kept: patternsOf(config["rank_pattern"], initialRank, problems),
  };
  const shared = Object.entries(config).filter(([key]) => !(key in defaults) && !ignored.has(key));
  try {
    const { alpha, dropout, targetModules, fanInFanOut } = loraFromPeft(Object.fromEntries(shared), at);
    throwProblems(problems, at);
    // PEFT takes the rank itself for an alpha that is not above zero.
    return { ...own, alpha: alpha > 0 ? alpha : initialRank, dropout, targetModules, fanInFanOut };
  } catch (error) {
    if (problems.length === 0) throw error;
    throwProblems([...problems, problemOf(error)], at);
    throw error;
  }
}

/** Booleans by module; hand-made files nest them or write 0 and 1. */
function patternsOf(value: unknown, initialRank: number, problems: Problem[]): ReadonlyMap<string, readonly boolean[]> {
  const kept = new Map<string, readonly boolean[]>();
  for (const [name, pattern] of Object.entries(isJsonObject(value) ? value : {})) {
    const flat: unknown[] = Array.isArray(pattern) ? pattern.flat() : [];
    const fits = flat.length === initialRank && flat.every((one) => typeof one === "boolean" || one === 0 || one === 1);
    if (fits && name.endsWith(ending)) kept.set(name.slice(0, -ending.length), flat.map(Boolean));
    else {
      problems.push({
        code: "peft-bad-config",
        what: `rank_pattern of ${name} is no list of ${initialRank} times true or false.`,
        fix: "save the adapter again with PEFT's save_pretrained",
      });
    }
  }
  return kept;
}

/** The config PEFT 0.21 would have saved for these settings. */
export function adaloraToPeft(settings: AdaloraSettings, options: { readonly baseModel?: string }): JsonObject {
  const { alpha, dropout, targetModules, fanInFanOut } = settings;
  const plain = { rank: 8, rslora: false, dora: false, rankPattern: {}, alphaPattern: {}, init: "kaiming" } as const;
  const patterns = [...settings.kept].map(([module, kept]) => [module + ending, [...kept]]);
  return {
    ...loraToPeft({ ...plain, alpha, dropout, targetModules, fanInFanOut }, options),
    peft_type: "ADALORA",
    init_r: settings.initialRank,
    target_r: settings.targetRank,
    tinit: settings.warmup,
    tfinal: settings.final,
    deltaT: settings.every,
    total_step: settings.steps,
    beta1: settings.sensitivityDecay,
    beta2: settings.uncertaintyDecay,
    orth_reg_weight: settings.orthogonalWeight,
    rank_pattern: patterns.length > 0 ? Object.fromEntries(patterns) : null,
  };
}
