import { withTunedScales } from "../export/index.ts";
import type { PackedToWrite } from "../io/packed/index.ts";
import type { Storage } from "../io/storage.ts";
import { chooseMethod } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import { type RunEvent, train } from "../train/run.ts";
import { resolveSettings, type TrainSettings } from "../train/settings.ts";
import { distillation } from "./distil.ts";

/** How scales are tuned, where it differs from the settings of every run. */
export const scaleTuningDefaults: Partial<TrainSettings> = {
  learningRate: 1e-3,
  schedule: "linear",
  warmup: 0.05,
  maxSteps: 300,
  batchSize: 8,
  checkpointEvery: 50,
};

/** What is tuned on what. */
export interface TuneScalesOptions {
  readonly device: Device;
  /** The packed model. */
  readonly student: PretrainedModel;
  /** The model that it was made from. */
  readonly teacher: PretrainedModel;
  readonly examples: readonly TokenizedExample[];
  readonly padId: number;
  readonly settings?: Partial<TrainSettings>;
  /** Where checkpoints go; a run that was killed goes on from there. */
  readonly folder?: { readonly storage: Storage; readonly path: string };
  readonly signal?: StopSignal;
  readonly onEvent?: (event: RunEvent) => void;
}

/**
 * Train the scales of a packed model towards the outputs of the model that it was made from, its codes unchanged; then
 * round them to what is stored. Not in the paper: Scion's extension of it, through the training graph that adapters use.
 * @returns the matrices with their new scales, or undefined when it was aborted.
 */
export async function tuneScales(options: TuneScalesOptions): Promise<readonly PackedToWrite[] | undefined> {
  const { device, student, teacher, examples, padId, settings = {}, folder, signal, onEvent } = options;
  const { adapter, ended } = await train({
    device,
    model: student,
    choice: chooseMethod("alpha"),
    targets: "all-linear",
    objective: distillation(teacher),
    settings: resolveSettings(settings, {
      ...scaleTuningDefaults,
      ...(settings.epochs === undefined ? {} : { maxSteps: 0 }),
    }),
    train: examples,
    validation: [],
    padId,
    ...(folder ? { folder, resume: true } : {}),
    ...(signal ? { signal } : {}),
    ...(onEvent ? { onEvent } : {}),
  });
  return ended === "interrupted" ? undefined : withTunedScales(student, adapter);
}
