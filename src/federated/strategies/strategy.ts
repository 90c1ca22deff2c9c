import type { Fields } from "../../fields.ts";
import type { Floats } from "../../linalg/index.ts";
import type { Citation } from "../../methods/index.ts";
import { type AggregationOptions, type AggregationRule, aggregate, type Change } from "../aggregate.ts";
import { added, type Pieces, type Tuned, trainedPieces, withPieces } from "../factors.ts";

/** What everybody knows of the round that has just ended. */
export interface RoundContext {
  /** From 0. */
  readonly round: number;
  /** How many the federation has. */
  readonly rounds: number;
  /** What is drawn anew is drawn by it; public. */
  readonly seed: number;
}

/** The round that ended, as the coordinator sees it. */
export interface FinishContext extends RoundContext {
  readonly aggregation: AggregationOptions;
  /** The mean of the changes, where it was added up as they came; the bits of `aggregate`. */
  readonly mean?: Pieces<Floats>;
}

/**
 * A federated method: which factors clients train, what is made of their changes, and what is told to them. Adding one is
 * adding such a record and one line in `strategies/table.ts`.
 */
export interface Strategy<Config extends object = object> {
  readonly name: string;
  readonly summary: string;
  /** The paper that it is from; absent where it is ours. */
  readonly cite?: Citation;
  readonly fields: Fields<Config>;
  /** Options to test it with, one sample at least. */
  readonly samples: readonly Partial<Config>[];
  /** The factors that clients train and upload changes of; whole tensors are always trained. */
  readonly trains: readonly ("A" | "B")[];
  /** How changes may be aggregated. */
  readonly rules: readonly AggregationRule[];
  /** Whether something leaves the factors for the weights, so that clients need room for a residual. */
  readonly carries: (config: Config) => boolean;
  /** What is wrong with the options for factors of a rank, if anything. */
  readonly check?: (rank: number, config: Config) => string | undefined;
  /** What the first round starts from: the same weights, perhaps by other factors. */
  readonly start?: <T extends Floats>(initial: Tuned<T>, config: Config) => Tuned<T>;
  /** What is told to everybody after a round, from the changes of at least one client. */
  readonly finish: <T extends Floats>(
    base: Tuned<T>,
    changes: readonly Change<T>[],
    context: FinishContext,
    config: Config,
  ) => Pieces<T>;
  /**
   * What stands after a round, from what stood before and what was told. Coordinator and clients compute it alike, to the last
   * bit.
   */
  readonly follow: <T extends Floats>(
    base: Tuned<T>,
    news: Pieces<T>,
    context: RoundContext,
    config: Config,
  ) => Tuned<T>;
}

/** Declare a strategy; its own config type stays inside it. */
export function defineStrategy<Config extends object>(strategy: Strategy<Config>): Strategy<Config> {
  return Object.freeze(strategy);
}

/** Every way to aggregate. */
export const anyRule: readonly AggregationRule[] = ["mean", "median", "trimmed-mean"];

/** What was trained, with the aggregated change added: the pieces of `trains`, and whole tensors. */
export function moved<T extends Floats>(
  base: Tuned<T>,
  changes: readonly Change<T>[],
  { aggregation, mean }: FinishContext,
  trains: readonly ("A" | "B")[],
): Pieces<T> {
  return added(trainedPieces(base, trains), (mean as Pieces<T> | undefined) ?? aggregate(changes, aggregation)); // of the same numbers as the changes
}

/** What was told stands in place of what had its names. */
export function replaced<T extends Floats>(base: Tuned<T>, news: Pieces<T>): Tuned<T> {
  return withPieces(base, news);
}
