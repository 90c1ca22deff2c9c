import { TuneError } from "../errors.ts";
import { commonRates } from "../methods/index.ts";
import { chooseOptimizer, type OptimizerConfig, type Schedule, schedules } from "../optim/index.ts";
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
  const settings: TrainSettings = { ...trainDefaults, ...defaults, ...Object.fromEntries(asked) };
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
  check("epochs", settings.epochs, settings.epochs > 0, "more than 0");
  whole("batchSize", 1);
  whole("accumulationSteps", 1);
  for (const name of ["maxSteps", "evaluateEvery", "patience", "checkpointEvery", "seed"] as const) whole(name, 0);
  for (const [name, records] of Object.entries({ schedule: schedules, memory: memoryChoices, baseWeights })) {
    const value = String(settings[name as "schedule" | "memory" | "baseWeights"]);
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
