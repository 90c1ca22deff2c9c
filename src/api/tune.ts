import { memoryCache } from "../diagnose/index.ts";
import type { Tensor } from "../graph/index.ts";
import {
  chooseMethod,
  type InPlace,
  type MethodConfig,
  methods,
  type Patterns,
  sublayerTargets,
  type TargetModules,
} from "../methods/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { batchesByLength, type TokenizedExample } from "../train/data/index.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import type { PlanOptions } from "../train/plan.ts";
import { type Observed, type RunEvent, type RunResult, train } from "../train/run.ts";
import { resolveSettings, type TrainSettings } from "../train/settings.ts";
import { diagnose } from "./diagnose.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import { type LoadedModel, padIdOf } from "./load-model.ts";
import { evaluate } from "./run-model.ts";

/** What is tuned how: training settings, and the method with its own options. */
export interface TuningChoice extends Partial<TrainSettings> {
  /** `lora`, `full`, …: a name in `methods`. */
  readonly method?: string;
  /** The method's options, such as `{ rank: 8, alpha: 16 }`. */
  readonly methodOptions?: Partial<MethodConfig>;
  /** As in PEFT: `"all-linear"`, names, or a regular expression; the architecture's own choice unless given. */
  readonly targetModules?: TargetModules;
  /** `causal-lm`, `dpo`, …: a name in `objectives`; what the data is for unless given. */
  readonly objective?: string;
  /** The objective's options, such as `{ beta: 0.1 }`. */
  readonly objectiveOptions?: Readonly<Record<string, number | boolean | string>>;
  /** Options that some modules have otherwise, such as `{ rank: { down_proj: 16 } }`. */
  readonly patterns?: Patterns;
  /** Modules and biases that are trained in place besides, such as `{ modules: ["lm_head"] }`. */
  readonly inPlace?: Partial<InPlace>;
}

/** How to tune, where to, and from what. */
export interface TuneOptions extends TuningChoice {
  /** Folder for checkpoints and metrics; nothing is written without it. */
  readonly output?: string;
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
  /** Saves and stops after the current update when aborted. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: RunEvent) => void;
}

/**
 * Tune a model on data.
 * Data may be in memory or streamed.
 * @returns the trained adapter (of the best evaluation when rows were held back) and how the run ended.
 * @throws {TuneError} for options that do not fit, a folder that holds another run, a loss that is not finite.
 */
export async function tune(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  options: TuneOptions = {},
): Promise<RunResult> {
  const { output, resume, initial, device, deviceOptions, signal, onEvent, ...others } = options;
  const { baseText = [], trackIntruders = false, ...choice } = others;
  const run = await describeRun(model, data, choice);
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const observe = await observer(model, run, { device: opened, baseText, trackIntruders });
    return await train({
      ...(observe ? { observe } : {}),
      device: opened,
      ...run,
      train: "store" in data ? data.store : data.train,
      ...(output === undefined ? {} : { folder: { storage: model.platform.storage, path: output } }),
      ...(resume === undefined ? {} : { resume }),
      ...(initial === undefined ? {} : { initial }),
      ...(signal === undefined ? {} : { signal }),
      ...(onEvent === undefined ? {} : { onEvent }),
    });
  } finally {
    if (!device) await opened.close();
  }
}

/**
 * The run that a choice makes of a model and data.
 * @throws {TuneError} for a method, options or settings that do not fit.
 */
export async function describeRun(
  model: LoadedModel,
  data: Pick<LoadedData, "train" | "validation"> & Partial<Pick<LoadedData, "kind" | "mixture">>,
  { method, methodOptions, objective, objectiveOptions, targetModules, patterns, inPlace, ...settings }: TuningChoice,
): Promise<PlanOptions> {
  const asked = chooseMethod(method ?? "lora", methodOptions, patterns, withHead(model, method ?? "lora", inPlace));
  const { choice, targets } = asked.method.sublayers
    ? sublayerTargets({ ...model.pretrained, sublayers: model.pretrained.architecture.sublayers }, asked)
    : { choice: asked, targets: targetModules ?? model.pretrained.architecture.defaultTargets };
  const minimised = chooseObjective(objective, objectiveOptions, data.kind);
  const resolved = resolveSettings(settings);
  return {
    model: model.pretrained,
    choice,
    objective: minimised,
    targets,
    settings: resolved,
    train: data.train,
    ...(data.mixture === undefined ? {} : { mixture: data.mixture }),
    validation: data.validation,
    padId: await padIdOf(model),
  };
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
  const layout = { batchSize: settings.batchSize, padId, hiddenSize: model.pretrained.sizes.hiddenSize };
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

/** Beside an adapter, a head is trained whole; a method in place of every weight trains it anyway. */
function withHead({ pretrained }: LoadedModel, method: string, inPlace: Partial<InPlace> = {}): Partial<InPlace> {
  if (methods.get(method)?.attaches === "weight") return inPlace;
  return { ...inPlace, modules: [...new Set([...pretrained.headModules, ...(inPlace.modules ?? [])])] };
}
