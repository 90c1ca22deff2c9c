import type { Adapter } from "../methods/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { BaseWeightsName } from "../train/base-weights.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedModel } from "./load-model.ts";
import { evaluate } from "./run-model.ts";

/** What a tuned model lost of what its base was good at. */
export interface Forgetting {
  /** Loss of the base on the texts, in nats a token. */
  readonly baseLoss: number;
  /** Loss of the tuned model on the same tokens. */
  readonly tunedLoss: number;
  /** The second less the first; below zero the tuned model is the better one. */
  readonly forgetting: number;
}

/** Whose forgetting is measured, and where. */
export interface ForgettingOptions {
  /** An adapter of the base, or of `tuned` where that is given. */
  readonly adapter?: Adapter;
  /** A tuned model of its own. */
  readonly tuned?: LoadedModel;
  /** The base's loss on these very examples, when it is known. */
  readonly baseLoss?: number;
  readonly batchSize?: number;
  /** How frozen weights are held; as `evaluate` has it unless given. */
  readonly baseWeights?: BaseWeightsName;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  readonly onProgress?: (done: number, total: number) => void;
}

const forgettingNames: NamesOf<ForgettingOptions> = {
  adapter: true,
  tuned: true,
  baseLoss: true,
  batchSize: true,
  baseWeights: true,
  device: true,
  deviceOptions: true,
  onProgress: true,
};

/**
 * Forgetting: the loss of a tuned model above its base's, on texts like those the base was trained on. Both are measured
 * on the same tokens; labels are shifted as in training. Shuttleworth et al. 2024 (arXiv 2410.21228), §4.
 */
export async function measureForgetting(
  base: LoadedModel,
  examples: readonly TokenizedExample[],
  options: ForgettingOptions,
): Promise<Forgetting> {
  checkNames(options, forgettingNames, "measureForgetting");
  checkDevice(options);
  const { adapter, tuned, batchSize, baseWeights, device, deviceOptions, onProgress } = options;
  const rest = {
    ...(batchSize === undefined ? {} : { batchSize }),
    ...(baseWeights ? { baseWeights } : {}),
    ...(device ? { device } : {}),
    ...(deviceOptions ? { deviceOptions } : {}),
  };
  const passes = options.baseLoss === undefined ? 2 : 1;
  const measure = async (model: LoadedModel, pass: number, own?: Adapter): Promise<number> => {
    const { loss } = await evaluate(model, examples, {
      ...rest,
      ...(own ? { adapter: own } : {}),
      onProgress: (_stage, done, total) => onProgress?.(pass * total + done, passes * total),
    });
    return loss;
  };
  const baseLoss = options.baseLoss ?? (await measure(base, 0));
  const tunedLoss = await measure(tuned ?? base, passes - 1, adapter);
  return { baseLoss, tunedLoss, forgetting: tunedLoss - baseLoss };
}
