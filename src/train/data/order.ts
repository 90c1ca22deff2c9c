import { assert } from "../../errors.ts";
import { createRng } from "../../linalg/index.ts";

/** The order of examples in one epoch: a permutation of 0 … count − 1 that depends on the seed and the epoch alone. */
export function epochOrder(
  count: number,
  { seed, epoch }: { readonly seed: number; readonly epoch: number },
): number[] {
  return createRng(seed, "order", epoch).shuffle(Array.from({ length: count }, (_, i) => i));
}

/** Which examples make up a batch. */
export interface BatchPlan {
  /** From 0. */
  readonly epoch: number;
  /** Examples of the batch; the last batch of an epoch may be smaller. */
  readonly indices: readonly number[];
}

/** The batches of a run, addressed by number: nothing has to be saved but the number of the next batch. */
export interface BatchSchedule {
  readonly batchesPerEpoch: number;
  /** Batch `index` of the run, counted from 0 through all epochs. */
  at(index: number): BatchPlan;
}

/** Plan batches of `batchSize` out of `count` examples, in a new order each epoch. */
export function planBatches(
  count: number,
  { batchSize, seed }: { readonly batchSize: number; readonly seed: number },
): BatchSchedule {
  assert(count > 0 && batchSize > 0, () => `cannot plan batches of ${batchSize} from ${count} examples`);
  const batchesPerEpoch = Math.ceil(count / batchSize);
  let current: { epoch: number; order: number[] } | undefined; // the epoch in use, kept because runs go in sequence
  return {
    batchesPerEpoch,
    at: (index) => {
      const epoch = Math.floor(index / batchesPerEpoch);
      if (current?.epoch !== epoch) current = { epoch, order: epochOrder(count, { seed, epoch }) };
      const start = (index % batchesPerEpoch) * batchSize;
      return { epoch, indices: current.order.slice(start, start + batchSize) };
    },
  };
}
