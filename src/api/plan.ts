import type { MethodConfig } from "../methods/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Machine } from "../plan/cost.ts";
import { measureMachine } from "../plan/machine.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { type BaseWeightsName, baseWeights } from "../train/base-weights.ts";
import { type Sequence, sequencesOf, type TokenizedExample } from "../train/data/index.ts";
import { type MemoryChoiceName, memoryChoices } from "../train/memory.ts";
import { type PlanOptions, planRun, type RunPlan } from "../train/plan.ts";
import { describeRun, insideTuning, type TuningChoice, tuningNames } from "./describe-run.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";

/** What tuning would take here, said before any weight is read. */
export interface TuningPlan extends RunPlan {
  /** Bytes that are free for the run. */
  readonly availableBytes: number;
  readonly fits: boolean;
  /** The same run with each choice of what to spend for less memory. */
  readonly choices: Readonly<Record<MemoryChoiceName, RunPlan>>;
  /** The same run with each way of holding frozen weights. */
  readonly baseWeights: Readonly<Record<BaseWeightsName, RunPlan>>;
  /** Where it does not fit: the nearest settings that do; absent when none does, or when nothing is amiss. */
  readonly remedy?: Remedy;
}

/** Settings with which a run fits: those that differ from the ones that were asked for. */
export interface Remedy {
  readonly settings: Readonly<{
    memory?: MemoryChoiceName;
    baseWeights?: BaseWeightsName;
    batchSize?: number;
    accumulationSteps?: number;
    /** Examples cut at this many tokens. */
    maxLength?: number;
    /** A lower rank, in the method's own options. */
    methodOptions?: MethodConfig;
  }>;
  readonly plan: RunPlan;
}

/** What is planned, for which device. */
export interface PlanTuningOptions extends TuningChoice {
  /** A device to measure; one is opened, and closed again, when it is not given. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Bytes that the run may take; what the platform says is free unless given. */
  readonly availableBytes?: number;
}

const planNames: NamesOf<PlanTuningOptions> = {
  ...tuningNames,
  device: true,
  deviceOptions: true,
  availableBytes: true,
};

/** Shorter than this, examples are not worth training on. */
const shortest = 32;

/**
 * Say what tuning a model on data would take: trained parameters, peak memory, time of an update and of an epoch on
 * this machine, whether it fits, and what would make it fit. Reads the model's configuration and the data, no weights.
 * @throws {TuneError} for options that do not fit.
 */
export async function planTuning(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  options: PlanTuningOptions = {},
): Promise<TuningPlan> {
  checkNames(options, planNames, "planTuning", insideTuning());
  checkDevice(options);
  const { device, deviceOptions, availableBytes: given, ...choice } = options;
  // What watches a run is not planned: evaluations may be due for it.
  const run = await describeRun(model, data, choice, { observes: true, device, deviceOptions });
  const { processBytes, availableBytes: free } = model.platform.memory();
  const availableBytes = given ?? free;
  const machine = await measure(model, device, deviceOptions);
  const plan = (changed: PlanOptions): RunPlan => planRun(changed, { machine, processBytes });
  const fits = ({ memory }: RunPlan): boolean => memory.peakBytes - processBytes <= availableBytes;
  const each = <T extends string>(records: Readonly<Record<T, unknown>>, key: string): Readonly<Record<T, RunPlan>> => {
    const plans = Object.keys(records).map((name) => [
      name,
      plan({ ...run, settings: { ...run.settings, [key]: name } }),
    ]);
    return Object.fromEntries(plans) as Record<T, RunPlan>; // the records' own names
  };
  const choices = each(memoryChoices, "memory");
  const held = each(baseWeights, "baseWeights");
  const chosen = choices[run.settings.memory];
  const remedy = fits(chosen) ? undefined : findRemedy(run, plan, fits);
  return { ...chosen, availableBytes, fits: fits(chosen), choices, baseWeights: held, ...(remedy ? { remedy } : {}) };
}

async function measure(model: LoadedModel, device?: Device, options?: DeviceOptions): Promise<Machine> {
  if (device) return measureMachine(device);
  const opened = await model.platform.openDevice(options);
  try {
    return await measureMachine(opened);
  } finally {
    await opened.close();
  }
}

/** A run with other settings, and what it would take. */
export interface FoundRemedy<Planned> {
  readonly settings: Remedy["settings"];
  readonly plan: Planned;
}

/**
 * Try what costs least first: other memory choices, the base weights as the file holds them, smaller batches with as
 * many examples an update, the base weights rounded, shorter examples, lower ranks.
 */
export function findRemedy<Planned>(
  run: PlanOptions,
  plan: (changed: PlanOptions) => Planned,
  fits: (planned: Planned) => boolean,
): FoundRemedy<Planned> | undefined {
  const names = Object.keys(memoryChoices) as MemoryChoiceName[];
  let settings: Remedy["settings"] = {};
  const tried = (change: Remedy["settings"]): FoundRemedy<Planned> | undefined => {
    settings = { ...settings, ...change };
    const { maxLength = Number.POSITIVE_INFINITY, methodOptions = {}, ...others } = settings;
    const planned = plan({
      ...run,
      choice: { ...run.choice, config: { ...run.choice.config, ...methodOptions } },
      settings: { ...run.settings, ...others },
      train: shortened(run.train, maxLength),
      validation: shortened(run.validation, maxLength),
    });
    return fits(planned) ? { settings, plan: planned } : undefined;
  };
  for (const change of changes(run, names)) {
    const found = tried(change);
    if (found) return found;
  }
  return undefined;
}

function* changes(run: PlanOptions, names: readonly MemoryChoiceName[]): Generator<Remedy["settings"]> {
  for (const memory of names.slice(names.indexOf(run.settings.memory) + 1)) yield { memory };
  const [exact, rounded] = otherBaseWeights(run);
  for (const baseWeights of exact) yield { baseWeights };
  let { batchSize, accumulationSteps } = run.settings;
  while (batchSize > 1) {
    accumulationSteps *= Math.ceil(batchSize / Math.ceil(batchSize / 2));
    batchSize = Math.ceil(batchSize / 2);
    yield { batchSize, accumulationSteps };
  }
  for (const baseWeights of rounded) yield { baseWeights };
  const longest = run.train.flatMap(sequencesOf).reduce((length, { inputIds }) => Math.max(length, inputIds.length), 0);
  for (let maxLength = Math.floor(longest / 2); maxLength >= shortest; maxLength = Math.floor(maxLength / 2))
    yield { maxLength };
  yield* lowerRanks(run.choice);
}

/** Half the rank, and half of that, at the same scale: where the method says what options a rank is. */
function* lowerRanks({ method, config }: PlanOptions["choice"]): Generator<Remedy["settings"]> {
  const now = method.matched?.(2, 2) ?? {};
  const named = Object.keys(now).find((name) => name !== "alpha" && now[name] === 2);
  const rank = named === undefined ? 0 : Number(config[named]);
  const largest = Math.max(1, ...Object.keys(now).flatMap((name) => (name === "alpha" ? [] : [Number(config[name])])));
  const scale = Number(config["alpha"] ?? 0) / largest;
  for (let lower = Math.floor(rank / 2); lower >= 1; lower = Math.floor(lower / 2)) {
    const methodOptions = method.matched?.(lower, scale) as MethodConfig | undefined; // options of numbers
    if (methodOptions) yield { methodOptions };
  }
}

/** Other ways to hold the base weights than the run's: those that lose nothing of what the files hold, and smaller ones. */
function otherBaseWeights({ model, settings }: PlanOptions): readonly [BaseWeightsName[], BaseWeightsName[]] {
  const names = Object.keys(baseWeights) as BaseWeightsName[];
  const others = names.slice(names.indexOf(settings.baseWeights) + 1);
  const exact = others.filter((name) => [...model.storedAs].every((dtype) => baseWeights[name].keeps(dtype)));
  const least = Math.min(...[settings.baseWeights, ...exact].map((name) => baseWeights[name].bits));
  return [exact, others.filter((name) => baseWeights[name].bits < least)];
}

function shortened(examples: readonly TokenizedExample[], maxLength: number): readonly TokenizedExample[] {
  const short = ({ inputIds, trained }: Sequence): Sequence => ({
    inputIds: inputIds.slice(0, maxLength),
    trained: trained.slice(0, maxLength),
  });
  return examples.map((example) => ({
    ...example,
    ...short(example),
    ...(example.against ? { against: example.against.map(short) } : {}),
  }));
}
