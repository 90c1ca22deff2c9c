import { assert, TuneError } from "../errors.ts";
import { rdpEpsilon } from "./rdp.ts";
import { problems, refuse, type Spend } from "./spend.ts";

/** A budget, and what is to be done within it. */
export interface Calibration {
  /** The budget: a number above 0. */
  readonly epsilon: number;
  readonly delta: number;
  readonly samplingRate: number;
  /** Steps in all, at least 1. */
  readonly steps: number;
  /** Which accountant is believed. */
  readonly accountant: "rdp";
}

/** What an accountant says that spends cost in all, as a function of them and of delta. */
export type SpentEpsilon = (spends: readonly Spend[], delta: number) => { readonly epsilon: number };

const accountants: Readonly<Record<Calibration["accountant"], SpentEpsilon>> = { rdp: rdpEpsilon };

const largestNoise = 1e6;
const leastNoise = 1e-6;
const precision = 1e-5; // relative

/**
 * The least noise multiplier with which the steps stay within the budget, to five digits, rounded to more noise.
 * @throws {TuneError} `bad-option` for numbers that are no budget; `budget-too-small` when no noise up to 1e6 is enough.
 */
export function calibrateNoise({ epsilon, delta, samplingRate, steps, accountant }: Calibration): number {
  refuse([
    problems.epsilon(epsilon),
    problems.delta(delta),
    problems.samplingRate(samplingRate),
    steps >= 1 ? problems.steps(steps) : `steps must be an integer that is at least 1, not ${steps}.`,
  ]);
  const epsilonOf = accountants[accountant];
  assert(epsilonOf !== undefined, `there is no accountant ${accountant}`);
  const enough = (noiseMultiplier: number): boolean =>
    epsilonOf([{ samplingRate, noiseMultiplier, steps }], delta).epsilon <= epsilon;
  let [low, high] = [0, 1];
  while (!enough(high)) {
    if (high >= largestNoise) throw budgetTooSmall(epsilon, delta);
    [low, high] = [high, Math.min(2 * high, largestNoise)];
  }
  while (high - low > precision * high && high > leastNoise) {
    const middle = (low + high) / 2;
    if (enough(middle)) high = middle;
    else low = middle;
  }
  return high;
}

function budgetTooSmall(epsilon: number, delta: number): TuneError {
  return new TuneError(
    "budget-too-small",
    `No noise up to ${largestNoise} keeps to epsilon ${epsilon} at delta ${delta}.`,
    {
      fix: "allow a larger epsilon or delta, take fewer steps, or sample fewer examples for each",
    },
  );
}
