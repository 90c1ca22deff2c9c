import type { StrategyConfig } from "../../src/federated/index.ts";
import { type Source, sources } from "./sources.ts";

/** A federation of the experiment. */
export interface RealRun {
  readonly data: string;
  readonly method: string;
  /** Infinite without privacy. */
  readonly epsilon: number;
  readonly rate: number;
  readonly seed: number;
}

/** What a run came to: a line of `real.jsonl`. */
export interface RealLine extends Omit<RealRun, "epsilon"> {
  /** {@link sizeOf} its data set's federations, when it ran. */
  readonly size: string;
  readonly epsilon: number | "inf";
  /** Whether all rounds ran, with finite losses. */
  readonly finished: boolean;
  /** On the rows that choose the rate, and on those that the tables are of. */
  readonly choosing: Measures;
  readonly testing: Measures;
}

/** Null where it is not finite. */
export type Measures = Readonly<Record<string, number | null>>;

/** Methods by the names of the tables. */
export const methods: Readonly<
  Record<string, { readonly strategy: string; readonly strategyOptions?: Partial<StrategyConfig> }>
> = {
  fedsvd: { strategy: "fedsvd" },
  "ffa-orth": { strategy: "ffa-orth" },
  ffa: { strategy: "ffa" },
  refresh: { strategy: "fedsvd", strategyOptions: { refreshEvery: 1, refreshKeep: 4 } },
  fedavg: { strategy: "fedavg" },
  flora: { strategy: "flora" },
  fedex: { strategy: "fedex" },
};

/** The model before any round. */
export const untuned = "untuned";

/** The budgets of the tables. */
export const epsilons: readonly number[] = [Infinity, 6, 3, 1];

/** Rates that a data set's methods sweep at a budget. */
export function ratesAt({ rates }: Source, epsilon: number): readonly number[] {
  return epsilon === Infinity ? rates.plain : rates.private;
}

/** What tells a run from all others. */
export function keyOf({ data, method, epsilon, rate, seed }: RealRun | RealLine): string {
  return [data, method, epsilon === Infinity ? "inf" : epsilon, rate, seed].join(" ");
}

/** All runs, what bears most first. */
export function allRuns(seeds: readonly number[]): readonly RealRun[] {
  const names = Object.keys(sources);
  const runsOf = (
    data: string,
    of: readonly string[],
    budgets: readonly number[],
    seed: number,
  ): readonly RealRun[] => {
    const source = sources[data] as Source; // one of its names
    return budgets.flatMap((epsilon) =>
      ratesAt(source, epsilon).flatMap((rate) => of.map((method) => ({ data, method, epsilon, rate, seed }))),
    );
  };
  const [main, others] = [
    ["fedsvd", "ffa-orth", "ffa", "refresh"],
    ["fedavg", "flora", "fedex"],
  ];
  const quick = ["shakespeare", "clinc150"];
  const rest = names.filter((name) => !quick.includes(name));
  const [first = 0, ...later] = seeds;
  const all: readonly RealRun[] = [
    ...names.map((data) => ({ data, method: untuned, epsilon: Infinity, rate: 0, seed: first })),
    ...quick.flatMap((data) => runsOf(data, main, [3, Infinity], first)),
    ...runsOf("shakespeare", others, [3, Infinity], first),
    ...rest.flatMap((data) => runsOf(data, main, [3], first)),
    ...names.flatMap((data) => runsOf(data, ["fedavg"], [3], first)),
    ...quick.flatMap((data) => runsOf(data, ["fedavg"], [Infinity], first)),
    ...rest.flatMap((data) => runsOf(data, [...main, "fedavg"], [Infinity], first)),
    ...names.flatMap((data) => runsOf(data, ["flora", "fedex"], [3, Infinity], first)),
    ...names.flatMap((data) => runsOf(data, main, [6, 1], first)),
    ...names.flatMap((data) => runsOf(data, others, [6, 1], first)),
    ...later.flatMap((seed) => names.flatMap((data) => runsOf(data, Object.keys(methods), [3, Infinity, 6, 1], seed))),
  ];
  return [...new Map(all.map((run) => [keyOf(run), run])).values()];
}
