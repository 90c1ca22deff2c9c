import { TuneError } from "../errors.ts";
import { commonRates } from "../methods/index.ts";
import { chooseOptimizer, type OptimizerConfig, type Schedule, schedules } from "../optim/index.ts";
import { type Accountant, accountants } from "../privacy/index.ts";
import { type BaseWeightsName, baseWeights } from "./base-weights.ts";
import { type MemoryChoiceName, memoryChoices } from "./memory.ts";

/** How a run trains, whatever the model, the method and the data. */
export interface TrainSettings {
  readonly learningRate: number;
  readonly schedule: Schedule;
  /** Updates over which the learning rate rises to its peak; a number below 1 is a share of all updates. */
  readonly warmup: number;
  /** Passes over the data; `maxSteps` stands in their place. */
  readonly epochs: number;
  /** Updates to make; 0 goes by `epochs`. */
  readonly maxSteps: number;
  /** Sequences in a batch. */
  readonly batchSize: number;
  /** Batches in an update. */
  readonly accumulationSteps: number;
  /** `adamw`, `sgd`, …: a name in `optimizers`. */
  readonly optimizer: string;
  /** The optimizer's own options, such as `{ weightDecay: 0.01 }`. */
  readonly optimizerOptions: OptimizerConfig;
  /** Gradients are scaled down to this global norm; 0 leaves them. */
  readonly maxGradNorm: number;
  /** Private training (DP-SGD): a budget of epsilon for the whole run, which decides the noise; 0 is none. */
  readonly dpEpsilon: number;
  /** The probability with which the guarantee may fail; below one over the number of examples. */
  readonly dpDelta: number;
  /** An example's gradient is scaled down to this length. */
  readonly dpClip: number;
  /** The noise's standard deviation over the clip, where it is chosen instead of a budget; 0 goes by `dpEpsilon`. */
  readonly dpNoise: number;
  /** Which accountant the budget goes by. */
  readonly dpAccountant: Accountant;
  /** What to spend for less memory; see {@link memoryChoices}. */
  readonly memory: MemoryChoiceName;
  /**
   * How pretrained weights that stay frozen are held; see {@link baseWeights}. Of a model that is tuned, `defaultBaseWeights` is
   * the default.
   */
  readonly baseWeights: BaseWeightsName;
  /** Updates between evaluations; 0 evaluates at the end of each epoch. */
  readonly evaluateEvery: number;
  /** Evaluations without a lower loss after which training stops; 0 never stops early. */
  readonly patience: number;
  /** Updates between checkpoints; 0 saves at evaluations and at the end only. */
  readonly checkpointEvery: number;
  /** Decides initial values, the order of examples and dropout. */
  readonly seed: number;
}

/** What a run does unless told otherwise. The learning rate is LoRA's: other methods and objectives have their own. */
export const trainDefaults: TrainSettings = {
  learningRate: commonRates[1],
  schedule: "linear",
  warmup: 0.03,
  epochs: 3,
  maxSteps: 0,
  batchSize: 8,
  accumulationSteps: 1,
  optimizer: "adamw",
  optimizerOptions: {},
  maxGradNorm: 1,
  dpEpsilon: 0,
  dpDelta: 1e-5,
  dpClip: 1,
  dpNoise: 0,
  dpAccountant: "prv",
  memory: "balanced",
  baseWeights: "f32",
  evaluateEvery: 0,
  patience: 0,
  checkpointEvery: 50,
  seed: 0,
};

/**
 * Fill in defaults and check.
 * @param defaults where they are others than {@link trainDefaults}.
 * @throws {TuneError} `bad-option` listing every problem; `unknown-optimizer`.
 */
export function resolveSettings(given: Partial<TrainSettings>, defaults: Partial<TrainSettings> = {}): TrainSettings {
  const asked = Object.entries(given).filter(([, value]) => value !== undefined);
  const filled: TrainSettings = { ...trainDefaults, ...defaults, ...Object.fromEntries(asked) };
  const isPrivate = given.dpEpsilon !== undefined || given.dpNoise !== undefined;
  // Examples are clipped one by one, and what is left of them as a whole is not clipped again.
  const settings = isPrivate ? { ...filled, maxGradNorm: 0 } : filled;
  const problems: string[] = [];
  if (given.epochs !== undefined && given.maxSteps !== undefined && given.maxSteps > 0)
    problems.push(`epochs is ${given.epochs}, which would do nothing: maxSteps is ${given.maxSteps}`);
  const check = (name: string, value: number, ok: boolean, rule: string): void => {
    if (!ok || !Number.isFinite(value)) problems.push(`${name} is ${value}, but it must be ${rule}`);
  };
  const whole = (name: keyof TrainSettings, least: number): void => {
    const value = Number(settings[name]);
    check(name, value, Number.isSafeInteger(value) && value >= least, `a whole number from ${least}`);
  };
  check("learningRate", settings.learningRate, settings.learningRate >= 0, "0 or more");
  check("warmup", settings.warmup, settings.warmup >= 0, "0 or more");
  check("maxGradNorm", settings.maxGradNorm, settings.maxGradNorm >= 0, "0 or more");
  problems.push(...privacyProblems(given, settings));
  check("epochs", settings.epochs, settings.epochs > 0, "more than 0");
  whole("batchSize", 1);
  whole("accumulationSteps", 1);
  for (const name of ["maxSteps", "evaluateEvery", "patience", "checkpointEvery", "seed"] as const) whole(name, 0);
  const words = { schedule: schedules, memory: memoryChoices, baseWeights, dpAccountant: accountants };
  for (const [name, records] of Object.entries(words)) {
    const value = String(settings[name as keyof typeof words]);
    if (Object.hasOwn(records, value)) continue;
    problems.push(`${name} is "${value}", but it must be one of ${Object.keys(records).join(", ")}`);
  }
  if (problems.length > 0)
    throw new TuneError("bad-option", problems, {
      at: "training settings",
      fix: "change the values named above",
    });
  const { config } = chooseOptimizer(settings.optimizer, settings.optimizerOptions);
  return { ...settings, optimizerOptions: config };
}

/** What is wrong with the settings of private training. */
function privacyProblems(given: Partial<TrainSettings>, settings: TrainSettings): readonly string[] {
  const { dpEpsilon, dpNoise, dpDelta, dpClip } = settings;
  const rules: readonly (readonly [name: keyof TrainSettings, fits: boolean, rule: string])[] = [
    ["dpEpsilon", dpEpsilon > 0 && dpEpsilon < Infinity, "a number above 0"],
    ["dpNoise", dpNoise > 0 && dpNoise < Infinity, "a number above 0: without noise nothing is private"],
    ["dpDelta", dpDelta > 0 && dpDelta < 1, "between 0 and 1, and below one over the number of examples"],
    ["dpClip", dpClip > 0 && dpClip < Infinity, "a number above 0"],
  ];
  const asked = (name: keyof TrainSettings): boolean => given[name] !== undefined;
  const idle = (name: keyof TrainSettings, why: string): readonly string[] =>
    asked(name) ? [`${name} is ${given[name]}, which would do nothing: ${why}`] : [];
  const byBudget = asked("dpEpsilon");
  const byNoise = asked("dpNoise");
  return [
    ...rules.flatMap(([name, fits, rule]) =>
      asked(name) && !fits ? [`${name} is ${given[name]}, but it must be ${rule}`] : [],
    ),
    ...(byBudget && byNoise ? ["dpEpsilon and dpNoise are both given: a budget decides the noise"] : []),
    ...(byBudget || byNoise
      ? []
      : (["dpDelta", "dpClip", "dpAccountant"] as const).flatMap((name) =>
          idle(name, "neither dpEpsilon nor dpNoise is given, so nothing is private"),
        )),
    ...(byNoise && !byBudget
      ? idle("dpAccountant", "dpNoise decides the noise, and both accountants say what it costs")
      : []),
    ...((byBudget || byNoise) && given.maxGradNorm !== undefined && given.maxGradNorm > 0
      ? idle("maxGradNorm", "private training clips examples one by one (dpClip)")
      : []),
  ];
}
