import { assert, TuneError } from "../errors.ts";
import { emptyLike, type Floats } from "../linalg/index.ts";
import { need, type Piece, type Pieces } from "./factors.ts";

/** What one client changed in one round. */
export interface Change<T extends Floats = Float32Array> {
  readonly client: string;
  /** Number of its examples, as it says itself. */
  readonly examples: number;
  /** What it trained, less what it started from. */
  readonly delta: Pieces<T>;
}

/** How changes become one. */
export type AggregationRule = "mean" | "median" | "trimmed-mean";

/** The rules by name. */
export const aggregationRules: readonly AggregationRule[] = ["mean", "median", "trimmed-mean"];

/** How changes become one, and what a client counts. */
export interface AggregationOptions {
  readonly rule: AggregationRule;
  /** What a client counts in a mean: its examples, or the same as any other. */
  readonly weighting: "examples" | "equal";
  /** The largest share of a mean that one client may have, from above 0 to 1; 1 leaves them. */
  readonly maxWeight: number;
  /** The share of values that a trimmed mean leaves out on each side, below 0.5. */
  readonly trim: number;
}

/** A mean weighted by examples. */
export const aggregationDefaults: AggregationOptions = { rule: "mean", weighting: "examples", maxWeight: 1, trim: 0.2 };

/**
 * Shares that add up to 1, none above `most`: what is cut from one goes to the others in proportion. Where so few take part
 * that some must have more, all have the same.
 * @param counts one number above 0 for each.
 * @throws {TuneError} `bad-upload` for counts that are no such numbers.
 */
export function sharesOf(counts: readonly number[], most = 1): readonly number[] {
  if (counts.some((count) => !(count > 0 && Number.isFinite(count)))) {
    throw new TuneError("bad-upload", `The numbers of examples are ${counts.join(", ")}.`, {
      at: "weights of clients",
      fix: "every client that takes part has one example at least",
    });
  }
  const equal = 1 / counts.length;
  if (most <= equal) return counts.map(() => equal);
  const capped = new Set<number>();
  for (;;) {
    const free = counts.reduce((sum, count, i) => (capped.has(i) ? sum : sum + count), 0);
    const left = 1 - most * capped.size;
    const shares = counts.map((count, i) => (capped.has(i) ? most : (left * count) / free));
    const over = shares.flatMap((share, i) => (!capped.has(i) && share > most * (1 + 1e-12) ? [i] : []));
    if (over.length === 0) return shares;
    for (const i of over) capped.add(i);
  }
}

/**
 * Changes of clients as one change, tensor by tensor, computed in float64. The order in which they came does not matter.
 * @param changes of one base, one a client, at least one.
 * @throws {TuneError} `bad-upload` where a client is there twice.
 */
export function aggregate<T extends Floats>(
  changes: readonly Change<T>[],
  options: AggregationOptions = aggregationDefaults,
): Pieces<T> {
  const sorted = inOrderOfClients(changes);
  const [first] = sorted as [Change<T>]; // one at least
  const shares = weightsOf(sorted, options);
  return new Map(
    [...first.delta].map(([name, { shape }]) => {
      const all = sorted.map(({ delta }) => need(delta, name).data);
      return [name, { shape, data: combined(all, shares, options) } satisfies Piece<T>];
    }),
  );
}

/** A mean that is added up while changes come. */
export interface RunningMean<T extends Floats = Float32Array> {
  /** Whether it is of these clients, with these numbers of examples, in any order. */
  isOf(changes: readonly Pick<Change, "client" | "examples">[]): boolean;
  /** A change has come; of a client that is not expected, or twice, it is a mistake of the caller's. */
  add(change: Change<T>): void;
  /** The mean, once all have come: the bits of {@link aggregate}. */
  result(): Pieces<T> | undefined;
}

/**
 * A mean over clients that are known beforehand. Sums go by the names of clients, so that they do not depend on who was first: a
 * change waits for those before it, and is let go once it is added.
 * @param expected one at least.
 */
export function runningMean<T extends Floats>(
  expected: readonly Pick<Change, "client" | "examples">[],
  options: Pick<AggregationOptions, "weighting" | "maxWeight">,
): RunningMean<T> {
  const sorted = byClient(expected);
  const shares = weightsOf(sorted, options);
  const waiting = new Map<string, Change<T>>();
  const sums = new Map<string, Float64Array>();
  let first: Change<T> | undefined;
  let next = 0;
  return {
    isOf: (changes) =>
      changes.length === sorted.length &&
      byClient(changes).every(({ client, examples }, i) => {
        const own = sorted[i];
        return client === own?.client && examples === own.examples;
      }),
    add: (change) => {
      first ??= change; // its shapes and its kind of numbers are those of all
      waiting.set(change.client, change);
      for (;;) {
        const client = sorted[next]?.client ?? "";
        const due = waiting.get(client);
        if (due === undefined) return;
        waiting.delete(client);
        for (const [name, { data }] of due.delta) {
          const sum = sums.get(name) ?? new Float64Array(data.length);
          sums.set(name, sum);
          addTo(sum, shares[next] ?? 0, data);
        }
        next += 1;
      }
    },
    result: () => {
      if (first === undefined || next < sorted.length) return undefined;
      return new Map(
        [...first.delta].map(([name, { shape, data }]) => {
          const mean = emptyLike(data, data.length);
          mean.set(sums.get(name) ?? []);
          return [name, { shape, data: mean } satisfies Piece<T>];
        }),
      );
    },
  };
}

function addTo(sums: Float64Array, share: number, own: Floats): void {
  for (let i = 0; i < sums.length; i++) sums[i] = (sums[i] ?? 0) + share * (own[i] ?? 0);
}

function byClient<T extends Pick<Change, "client">>(changes: readonly T[]): readonly T[] {
  return changes.toSorted((a, b) => (a.client < b.client ? -1 : 1));
}

/** Changes by the names of their clients, so that sums do not depend on who was first. */
export function inOrderOfClients<T extends Floats>(changes: readonly Change<T>[]): readonly Change<T>[] {
  assert(changes.length > 0, "somebody changed something");
  const sorted = byClient(changes);
  const twice = sorted.find(({ client }, i) => sorted[i + 1]?.client === client);
  if (twice) {
    throw new TuneError("bad-upload", `${twice.client} has uploaded twice in one round.`, {
      at: "uploads",
      fix: "keep one upload of a client and round",
    });
  }
  return sorted;
}

/** The shares of changes in a mean. */
export function weightsOf(
  changes: readonly Pick<Change, "examples">[],
  { weighting, maxWeight }: Pick<AggregationOptions, "weighting" | "maxWeight">,
): readonly number[] {
  return sharesOf(
    changes.map(({ examples }) => (weighting === "equal" ? 1 : examples)),
    maxWeight,
  );
}

function combined<T extends Floats>(
  all: readonly T[],
  shares: readonly number[],
  { rule, trim }: Pick<AggregationOptions, "rule" | "trim">,
): T {
  const [first] = all as [T, ...T[]]; // one at least
  const result = emptyLike(first, first.length);
  if (rule === "mean") {
    const sums = new Float64Array(first.length);
    for (const [k, own] of all.entries()) addTo(sums, shares[k] ?? 0, own);
    result.set(sums);
    return result;
  }
  const values = new Float64Array(all.length);
  const half = all.length / 2;
  // A median is a mean of the one or two in the middle; a trimmed mean leaves out a share on each side.
  const cut = rule === "median" ? Math.ceil(half) - 1 : Math.min(Math.ceil(half) - 1, Math.floor(trim * all.length));
  for (let i = 0; i < result.length; i++) {
    for (let k = 0; k < all.length; k++) values[k] = all[k]?.[i] ?? 0;
    values.sort();
    let sum = 0;
    for (let k = cut; k < all.length - cut; k++) sum += values[k] ?? 0;
    result[i] = sum / (all.length - 2 * cut);
  }
  return result;
}
