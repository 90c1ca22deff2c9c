import { assert } from "../../errors.ts";
import { createRng } from "../../linalg/index.ts";

/** Consecutive examples, and how often each comes in an epoch: 2 is twice, 0.5 every other epoch. */
export interface Share {
  readonly count: number;
  readonly weight: number;
}

/** How many examples an epoch has of a mixture. */
export function epochSize(mixture: readonly Share[]): number {
  return mixture.reduce((sum, { count, weight }) => sum + Math.round(count * weight), 0);
}

/**
 * The order of examples in one epoch: indices of a mixture that depend on the seed and the epoch alone. Of a share that
 * is not taken whole, the next part of one shuffled round comes in each epoch, so that all of it comes as often.
 */
export function epochOrder(
  mixture: readonly Share[],
  { seed, epoch }: { readonly seed: number; readonly epoch: number },
): Uint32Array {
  const order = new Uint32Array(epochSize(mixture));
  let [filled, first] = [0, 0];
  for (const [share, { count, weight }] of mixture.entries()) {
    const wanted = Math.round(count * weight);
    if (wanted % count === 0) {
      for (let i = 0; i < wanted; i++) order[filled++] = first + (i % count);
    } else {
      const round = createRng(seed, "share", share).shuffle(Uint32Array.from({ length: count }, (_, i) => i));
      for (let i = 0; i < wanted; i++) order[filled++] = first + (round[(epoch * wanted + i) % count] as number);
    }
    first += count;
  }
  return createRng(seed, "order", epoch).shuffle(order);
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

/** Plan batches of `batchSize` out of a mixture of examples, in a new order each epoch. */
export function planBatches(
  mixture: readonly Share[],
  { batchSize, seed }: { readonly batchSize: number; readonly seed: number },
): BatchSchedule {
  const count = epochSize(mixture);
  assert(count > 0 && batchSize > 0, () => `cannot plan batches of ${batchSize} from ${count} examples`);
  const batchesPerEpoch = Math.ceil(count / batchSize);
  let current: { epoch: number; order: Uint32Array } | undefined; // the epoch in use, kept because runs go in sequence
  return {
    batchesPerEpoch,
    at: (index) => {
      const epoch = Math.floor(index / batchesPerEpoch);
      if (current?.epoch !== epoch) current = { epoch, order: epochOrder(mixture, { seed, epoch }) };
      const start = (index % batchesPerEpoch) * batchSize;
      return { epoch, indices: [...current.order.subarray(start, start + batchSize)] };
    },
  };
}
