import { TuneError } from "../errors.ts";
import { prvEpsilon } from "./prv.ts";
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
  readonly accountant: Accountant;
  /** What the same examples have spent before; nothing unless given. */
  readonly before?: readonly Spend[];
}

/** Who says what was spent: by the distribution of the privacy loss, or by Rényi differential privacy. */
export type Accountant = "prv" | "rdp";

/** What an accountant says that spends cost in all, as a function of them and of delta. */
export type SpentEpsilon = (spends: readonly Spend[], delta: number) => { readonly epsilon: number };

/** The accountants by name. Both never say less than the truth; `prv` is tighter and takes longer. */
export const accountants: Readonly<Record<Accountant, SpentEpsilon>> = { prv: prvEpsilon, rdp: rdpEpsilon };

const largestNoise = 1e6;
const leastNoise = 1e-6;
const precision = 1e-5; // relative

/**
 * The least noise multiplier with which the steps stay within the budget, to five digits, rounded to more noise.
 * @throws {TuneError} `bad-option` for numbers that are no budget; `budget-too-small` when no noise up to 1e6 is enough.
 */
export function calibrateNoise(calibration: Calibration): number {
  const { epsilon, delta, samplingRate, steps, accountant, before = [] } = calibration;
  refuse([
    problems.epsilon(epsilon),
    problems.delta(delta),
    problems.samplingRate(samplingRate),
    steps >= 1 ? problems.steps(steps) : `steps must be an integer that is at least 1, not ${steps}.`,
  ]);
  const least = (spent: SpentEpsilon, start: number): number | undefined =>
    leastEnough(
      (noiseMultiplier) => spent([...before, { samplingRate, noiseMultiplier, steps }], delta).epsilon,
      epsilon,
      start,
    );
  const byRdp = least(rdpEpsilon, 1); // cheap, and near what other accountants give
  const found = accountant === "rdp" ? byRdp : least(accountants[accountant], byRdp ?? 1);
  if (found === undefined) throw budgetTooSmall(calibration);
  return found;
}

/** The least x, to the precision, at which a falling function is at most a target; undefined where it never is. */
function leastEnough(valueAt: (x: number) => number, target: number, start: number): number | undefined {
  let low = { x: 0, value: Infinity };
  let high = { x: start, value: valueAt(start) };
  while (high.value > target) {
    if (high.x >= largestNoise) return undefined;
    low = high;
    const x = Math.min(2 * high.x, largestNoise);
    high = { x, value: valueAt(x) };
  }
  for (let i = 0; high.x - low.x > precision * high.x && high.x > leastNoise; i++) {
    // Between the ends the function is nearly a power of x. Just above and just below the crossing in turn, so that both ends
    // close in; every third time the middle, in case it is no such function.
    const power = Math.log(low.value / high.value) / Math.log(low.x / high.x);
    let x = high.x * (target / high.value) ** (1 / power) * (1 + (i % 2 === 0 ? precision : -precision) / 3);
    if (low.x === 0) x = 0.8 * high.x;
    else if (i % 3 === 2 || !(x > low.x && x < high.x)) x = (low.x + high.x) / 2;
    const value = valueAt(x);
    if (value > target) low = { x, value };
    else high = { x, value };
  }
  return high.x;
}

function budgetTooSmall({ epsilon, delta, before = [] }: Calibration): TuneError {
  const besides = before.length === 0 ? "" : ", beside what was spent before,";
  const what = `No noise up to ${largestNoise}${besides} keeps to epsilon ${epsilon} at delta ${delta}.`;
  return new TuneError("budget-too-small", what, {
    fix: "allow a larger epsilon or delta, take fewer steps, or sample fewer examples for each",
  });
}
