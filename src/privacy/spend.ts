import { listing, TuneError } from "../errors.ts";

/** Steps of DP-SGD that were made, or are to be, in one and the same way: the Poisson-subsampled Gaussian mechanism. */
export interface Spend {
  /** The probability with which each example is in a step's batch, in (0, 1]. */
  readonly samplingRate: number;
  /** Standard deviation of the noise over the clipping norm; 0 is no noise, and no privacy. */
  readonly noiseMultiplier: number;
  /** How many steps: an integer, at least 0. */
  readonly steps: number;
}

/** What is wrong with a number of a mechanism, for a list of problems; undefined where it is fine. */
export const problems: Readonly<
  Record<"samplingRate" | "noiseMultiplier" | "steps" | "delta" | "epsilon", (value: number) => string | undefined>
> = {
  samplingRate: (value: number): string | undefined =>
    value > 0 && value <= 1 ? undefined : `the sampling rate must be above 0 and at most 1, not ${value}.`,
  noiseMultiplier: (value: number): string | undefined =>
    value >= 0 && value < Infinity
      ? undefined
      : `the noise multiplier must be a number that is at least 0, not ${value}.`,
  steps: (value: number): string | undefined =>
    Number.isSafeInteger(value) && value >= 0
      ? undefined
      : `steps must be an integer that is at least 0, not ${value}.`,
  delta: (value: number): string | undefined =>
    value > 0 && value < 1
      ? undefined
      : `delta must be between 0 and 1, not ${value}; 1e-5 is usual, below one over the number of examples.`,
  epsilon: (value: number): string | undefined =>
    value > 0 && value < Infinity ? undefined : `epsilon must be a number above 0, not ${value}.`,
};

/** @throws {TuneError} `bad-option` with all that is wrong. */
export function refuse(found: readonly (string | undefined)[]): void {
  const wrong = [...new Set(found.filter((problem) => problem !== undefined))];
  if (wrong.length === 0) return;
  throw new TuneError("bad-option", wrong.length === 1 ? wrong : listing("These numbers of privacy cannot be:", wrong));
}

/** Check what an accountant is asked. @throws {TuneError} `bad-option` with all that is wrong. */
export function checkSpends(spends: readonly Spend[], delta: number): void {
  refuse([
    ...spends.flatMap((spend) => [
      problems.samplingRate(spend.samplingRate),
      problems.noiseMultiplier(spend.noiseMultiplier),
      problems.steps(spend.steps),
    ]),
    problems.delta(delta),
  ]);
}

/** Spends that are one mechanism are one entry; those of no step are none. */
export function composed(spends: readonly Spend[]): readonly Spend[] {
  const steps = new Map<string, Spend>();
  for (const spend of spends) {
    if (spend.steps === 0) continue;
    const key = `${spend.samplingRate} ${spend.noiseMultiplier}`;
    steps.set(key, { ...spend, steps: spend.steps + (steps.get(key)?.steps ?? 0) });
  }
  return [...steps.values()];
}
