import type { Tensor } from "../graph/index.ts";
import { chooseMethod, type TargetModules } from "../methods/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { type RunEvent, type RunResult, train } from "../train/run.ts";
import { resolveSettings, type TrainSettings } from "../train/settings.ts";
import type { LoadedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";

/** How to tune: training settings, the method with its own options, and where results go. */
export interface TuneOptions extends Partial<TrainSettings> {
  /** `lora`, `full`, …: a name in `methods`. */
  readonly method?: string;
  /** The method's options, such as `{ rank: 8, alpha: 16 }`. */
  readonly methodOptions?: Readonly<Record<string, number | boolean>>;
  /** As in PEFT: `"all-linear"`, names, or a regular expression; the architecture's own choice unless given. */
  readonly targetModules?: TargetModules;
  /** Folder for checkpoints and metrics; nothing is written without it. */
  readonly output?: string;
  /** Go on from the output folder's checkpoint, when it has one. */
  readonly resume?: boolean;
  /** Start from these trained tensors instead of the method's initial ones. */
  readonly initial?: ReadonlyMap<string, Tensor>;
  /** A device to run on; one is opened, and closed again, when it is not given. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Saves and stops after the current update when aborted. */
  readonly signal?: AbortSignal;
  readonly onEvent?: (event: RunEvent) => void;
}

/**
 * Tune a model on data.
 * @returns the trained adapter (of the best evaluation when rows were held back) and how the run ended.
 * @throws {TuneError} for options that do not fit, a folder that holds another run, a loss that is not finite.
 */
export async function tune(model: LoadedModel, data: LoadedData, options: TuneOptions = {}): Promise<RunResult> {
  const {
    method,
    methodOptions,
    targetModules,
    output,
    resume,
    initial,
    device,
    deviceOptions,
    signal,
    onEvent,
    ...rest
  } = options;
  const choice = chooseMethod(method ?? "lora", methodOptions);
  const settings = resolveSettings(rest);
  const tokenizer = await model.tokenizer();
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    return await train({
      device: opened,
      model: model.pretrained,
      choice,
      targets: targetModules ?? model.pretrained.architecture.defaultTargets,
      settings,
      train: data.train,
      validation: data.validation,
      padId: tokenizer.padId ?? tokenizer.eosId ?? 0,
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
