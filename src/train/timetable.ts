import { type BatchSchedule, planBatches, type Share } from "./data/index.ts";
import type { TrainSettings } from "./settings.ts";

/** How long a run is. */
export interface Timetable {
  readonly schedule: BatchSchedule;
  readonly updatesPerEpoch: number;
  /** Updates of the whole run. */
  readonly steps: number;
}

/** The batches and updates that settings make of a mixture of examples. */
export function timetableOf(mixture: readonly Share[], settings: TrainSettings): Timetable {
  const { batchSize, accumulationSteps, seed, maxSteps, epochs } = settings;
  const schedule = planBatches(mixture, { batchSize, seed });
  const updatesPerEpoch = Math.ceil(schedule.batchesPerEpoch / accumulationSteps);
  return { schedule, updatesPerEpoch, steps: maxSteps > 0 ? maxSteps : Math.ceil(updatesPerEpoch * epochs) };
}
