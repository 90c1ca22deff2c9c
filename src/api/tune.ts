import { memoryCache } from "../diagnose/index.ts";
import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { checkNames, checkWord, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import { attendingBy } from "../train/attending.ts";
import { batchesByLength, layoutOf, type TokenizedExample } from "../train/data/index.ts";
import { type RateSearch, type RateSearchOptions, searchLearningRate } from "../train/learning-rate.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import type { PlanOptions } from "../train/plan.ts";
import { type PrivacySettings, refusePlanned } from "../train/privacy.ts";
import { type Observed, type RunEvent, type RunResult, refuseOtherRun, train } from "../train/run.ts";
import { type AttentionPlan, checkPlan, keptPlan, typicalLength } from "./attention.ts";
import { describeRun, insideTuning, refuseIdle, type TuningChoice, tuningNames } from "./describe-run.ts";
import { checkDevice } from "./device-names.ts";
import { diagnose } from "./diagnose.ts";
import { diagnoseAttention } from "./diagnose-attention.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";
import { admission, settingsText } from "./memory.ts";
import { planTuning } from "./plan.ts";
import { evaluate } from "./run-model.ts";
import type { OutputOptions } from "./save.ts";

/** How to tune, where to, and from what. */
export interface TuneOptions extends TuningChoice, OutputOptions {
  /** Folder for checkpoints and metrics; nothing is written without it. */
  readonly output?: string;
  /** Write events for TensorBoard into the output folder too. */
  readonly tensorboard?: boolean;
  /** Go on from the output folder's checkpoint, when it has one. */
  readonly resume?: boolean;
  /** Start from these trained tensors instead of the method's initial ones. */
  readonly initial?: ReadonlyMap<string, Tensor>;
  /** A device to run on; one is opened, and closed again, when it is not given. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Texts that the base is good at: how much the model forgets of them is measured whenever an evaluation is due. */
  readonly baseText?: readonly TokenizedExample[];
  /** Count intruder dimensions whenever an evaluation is due. */
  readonly trackIntruders?: boolean;
  /**
   * How heads attend while the model is trained: exactly (the default); by the polynomials of a plan, or of one that is made of
   * the data (`auto`, see {@link diagnoseAttention}), where it is certified and faster. Heads whose scores outgrow the plan go on
   * exactly. What is saved attends exactly.
   */
  readonly attention?: "exact" | "auto" | AttentionPlan;
  /** With `attention: "auto"`: let heads qualify by the error of outputs on sampled queries too, up to this share. */
  readonly attentionError?: number;
  /** Go on although the run would take more memory than is free. */
  readonly ignoreMemory?: boolean;
  /** Saves and stops after the current update when aborted. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: RunEvent) => void;
}

/** Every name of what {@link tune} takes. */
export const tuneNames: NamesOf<TuneOptions> = {
  ...tuningNames,
  output: true,
  replace: true,
  inputs: true,
  tensorboard: true,
  resume: true,
  initial: true,
  device: true,
  deviceOptions: true,
  baseText: true,
  trackIntruders: true,
  attention: true,
  attentionError: true,
  ignoreMemory: true,
  signal: true,
  onEvent: true,
};

/**
 * Tune a model on data.
 * Data may be in memory or streamed.
 * @returns the trained adapter (of the best evaluation when rows were held back) and how the run ended.
 * @throws {TuneError} for options that do not fit or would do nothing, a folder that holds another run, a loss that is not
 * finite.
 */
export async function tune(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  options: TuneOptions = {},
): Promise<RunResult> {
  checkNames(options, tuneNames, "tune", insideTuning());
  checkDevice(options);
  const { output, tensorboard, resume, initial, device, deviceOptions, signal, onEvent, ...others } = options;
  const { baseText = [], trackIntruders = false, ignoreMemory = false, replace, inputs = [], ...rest } = others;
  const { attention = "exact", attentionError, ...choice } = rest;
  if (attentionError !== undefined && attention !== "auto")
    refuseIdle([`attentionError: attention is ${typeof attention === "string" ? attention : "a plan"}, not auto`]);
  if (typeof attention === "string") checkWord("attention", attention, ["exact", "auto"], "tune");
  if (output === undefined) {
    refuseIdle([
      ...(tensorboard ? ["tensorboard: there is no output folder to write events to"] : []),
      ...(resume ? ["resume: there is no output folder to go on from"] : []),
      ...(choice.checkpointEvery ? ["checkpointEvery: there is no output folder to write checkpoints to"] : []),
    ]);
  }
  if (output !== undefined && !resume && !replace) await refuseOtherRun(model.platform.storage, output);
  const observes = baseText.length > 0 || trackIntruders;
  const run = await describeRun(model, data, choice, { observes, device, deviceOptions });
  if (attention !== "exact") refusePlanned(run.settings);
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...(data.files ?? []), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const observe = await observer(model, run, { device: opened, baseText, trackIntruders });
    const plan = await planFor(model, data, { attention, attentionError, device: opened, output, resume, initial });
    if (attention !== "exact") onEvent?.({ kind: "attention", step: 0, left: [], remaining: plan?.heads.length ?? 0 });
    const attending = { ...run, model: attendingBy(run.model, plan).model };
    const admit = ignoreMemory ? undefined : admission(model, attending, opened);
    return await train({
      ...(plan ? { attention: plan } : {}),
      ...(admit ? { admit } : {}),
      ...(observe ? { observe } : {}),
      device: opened,
      ...run,
      train: "store" in data ? data.store : data.train,
      ...(output === undefined ? {} : { folder: { storage, path: output } }),
      ...(tensorboard === undefined ? {} : { tensorboard }),
      ...(resume === undefined ? {} : { resume }),
      ...(initial === undefined ? {} : { initial }),
      ...(signal === undefined ? {} : { signal }),
      ...(onEvent === undefined ? {} : { onEvent }),
    });
  } catch (error) {
    throw await withAdvice(error, { model, data, choice, device: opened });
  } finally {
    if (!device) await opened.close();
  }
}

/** The plan of a run: the one given, the one that its folder keeps, or one made of its data; undefined for exact attention. */
async function planFor(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  options: {
    readonly attention: NonNullable<TuneOptions["attention"]>;
    readonly attentionError: number | undefined;
    readonly device: Device;
    readonly output: string | undefined;
    readonly resume: boolean | undefined;
    readonly initial: TuneOptions["initial"];
  },
): Promise<AttentionPlan | undefined> {
  const { attention, attentionError, device, output, resume, initial } = options;
  if (attention === "exact") return undefined;
  const use = { examples: data.train, starts: initial !== undefined };
  if (attention !== "auto") {
    checkPlan(model, attention, use);
    return attention;
  }
  const kept = resume ? await keptPlan(model, output) : undefined;
  if (kept) return kept;
  const length = Math.max(4, typicalLength(data.train));
  const { plan } = await diagnoseAttention(model, data.train, {
    length,
    device,
    ...(attentionError === undefined ? {} : { attentionError }),
  });
  return plan.heads.length > 0 ? plan : undefined;
}

/** Where memory ran out: what a plan would have said, with what it takes as the most that there is. */
async function withAdvice(error: unknown, { model, data, choice, device }: AdviceOptions): Promise<unknown> {
  if (!(error instanceof TuneError) || error.code !== "out-of-memory") return error;
  const plan = await planTuning(model, data, { ...choice, device, availableBytes: Number.MAX_VALUE }).catch(
    () => undefined,
  );
  if (plan === undefined) return error;
  const { processBytes, availableBytes } = model.platform.memory();
  const least = 0.9 * (plan.memory.peakBytes - processBytes); // it did not fit, whatever was free
  const { remedy } = await planTuning(model, data, {
    ...choice,
    device,
    availableBytes: Math.max(0, Math.min(availableBytes, least)),
  });
  return new TuneError(error.code, error.what.split("\n"), {
    ...(error.at === undefined ? {} : { at: error.at }),
    fix: remedy
      ? `use ${settingsText(remedy.settings)}: about ${(remedy.plan.memory.peakBytes / 1e9).toFixed(2)} GB instead of ${(plan.memory.peakBytes / 1e9).toFixed(2)} (scion plan says more)`
      : "choose a smaller model: with no setting would this one fit (scion plan says more)",
    cause: error,
  });
}

interface AdviceOptions {
  readonly model: LoadedModel;
  readonly data: LoadedData | StreamedData;
  readonly choice: TuningChoice;
  readonly device: Device;
}

/** Settings that a search decides itself, or never comes to. */
type SearchSets =
  | "learningRate"
  | "schedule"
  | "warmup"
  | "epochs"
  | "maxSteps"
  | "evaluateEvery"
  | "patience"
  | "checkpointEvery"
  | keyof PrivacySettings;

/** What is searched, and on what device. */
export interface FindLearningRateOptions
  extends Omit<TuningChoice, SearchSets>,
    Partial<Pick<RateSearchOptions, "from" | "to" | "steps" | "onPoint" | "signal">> {
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Go on although the search would take more memory than is free. */
  readonly ignoreMemory?: boolean;
}

const searchNames: NamesOf<FindLearningRateOptions> = (() => {
  const { learningRate, schedule, warmup, epochs, maxSteps, evaluateEvery, patience, checkpointEvery, ...others } =
    tuningNames;
  const { dpEpsilon, dpDelta, dpClip, dpNoise, dpAccountant, ...own } = others; // losses of a search are not private
  return {
    ...own,
    from: true,
    to: true,
    steps: true,
    onPoint: true,
    ignoreMemory: true,
    signal: true,
    device: true,
    deviceOptions: true,
  } as const;
})();

/**
 * Find a learning rate for a run: a hundred updates unless told otherwise, with rates from 1e-7 to 1. Nothing is written.
 * @throws {TuneError} for options that do not fit.
 */
export async function findLearningRate(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  options: FindLearningRateOptions = {},
): Promise<RateSearch> {
  checkNames(options, searchNames, "findLearningRate", insideTuning());
  checkDevice(options);
  const { from = 1e-7, to = 1, steps = 100, onPoint, signal, device, deviceOptions, ...others } = options;
  const { ignoreMemory = false, ...choice } = others;
  const run = await describeRun(model, data, choice, { device, deviceOptions });
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const admit = ignoreMemory ? undefined : admission(model, run, opened);
    return await searchLearningRate({
      ...(admit ? { admit } : {}),
      device: opened,
      ...run,
      train: "store" in data ? data.store : data.train,
      from,
      to,
      steps,
      ...(onPoint === undefined ? {} : { onPoint }),
      ...(signal === undefined ? {} : { signal }),
    });
  } finally {
    if (!device) await opened.close();
  }
}

/** Measures forgetting and counts intruders of what is trained; nothing when neither is asked for. */
async function observer(
  model: LoadedModel,
  { objective, padId, settings }: Pick<PlanOptions, "objective" | "padId" | "settings">,
  options: {
    readonly device: Device;
    readonly baseText: readonly TokenizedExample[];
    readonly trackIntruders: boolean;
  },
): Promise<((trained: Observed) => Promise<Readonly<Record<string, number>>>) | undefined> {
  const { device, baseText, trackIntruders } = options;
  if (baseText.length === 0 && !trackIntruders) return undefined;
  const likelihood = chooseObjective(undefined, {}, "sequence");
  const layout = { batchSize: settings.batchSize, ...layoutOf(model.pretrained, padId) };
  const batches = batchesByLength(baseText, likelihood.objective.batch, layout);
  const baseLoss = baseText.length === 0 ? 0 : (await evaluate(model, baseText, { device })).loss;
  const cache = memoryCache();
  return async ({ evaluate: measure, adapter }) => {
    const measures: Record<string, number> = {};
    if (baseText.length > 0) {
      // The training program measures what it trains; another objective's loss says nothing of the texts.
      const own = (objective ?? likelihood).objective === likelihood.objective;
      const loss = own
        ? await measure(batches)
        : (await evaluate(model, baseText, { device, adapter: await adapter() })).loss;
      measures["forgetting"] = loss - baseLoss;
    }
    if (trackIntruders) {
      const { total } = await diagnose(model, { adapter: await adapter(), device, cache });
      measures["intruders"] = total;
    }
    return measures;
  };
}
