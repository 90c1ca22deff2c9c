import { logErfc } from "./erfc.ts";
import { checkSpends, composed, type Spend } from "./spend.ts";

/** The orders at which Rényi divergence is taken: Opacus's, 1.1 to 10.9 by tenths and 12 to 63. */
export const rdpOrders: readonly number[] = [
  ...Array.from({ length: 99 }, (_, i) => 1 + (i + 1) / 10),
  ...Array.from({ length: 52 }, (_, i) => i + 12),
];

/**
 * What steps of DP-SGD cost in all, by Rényi differential privacy. Mironov, Talwar and Zhang 2019 (arXiv 1908.10530) for a step,
 * Balle et al. 2020 (arXiv 1905.09982, theorem 21) from Rényi divergence to (epsilon, delta): as Opacus computes it.
 * @returns epsilon, and the order at which it is least. Infinite where a step has no noise.
 * @throws {TuneError} `bad-option` for numbers that are no mechanism.
 */
export function rdpEpsilon(
  spends: readonly Spend[],
  delta: number,
): { readonly epsilon: number; readonly order: number } {
  checkSpends(spends, delta);
  const steps = composed(spends);
  let best = { epsilon: Infinity, order: Number.NaN };
  for (const order of rdpOrders) {
    const spent = steps.reduce((sum, spend) => sum + spend.steps * rdpOfStep(spend, order), 0);
    const epsilon = spent - (Math.log(delta) + Math.log(order)) / (order - 1) + Math.log1p(-1 / order); // theorem 21
    if (epsilon < best.epsilon) best = { epsilon, order };
  }
  return { epsilon: steps.length === 0 ? 0 : Math.max(0, best.epsilon), order: best.order };
}

/** Rényi divergence of an order that one step costs at most. */
export function rdpOfStep({ samplingRate: q, noiseMultiplier: sigma }: Omit<Spend, "steps">, order: number): number {
  if (sigma === 0) return Infinity;
  if (q === 1) return order / (2 * sigma * sigma);
  const logA = Number.isInteger(order) ? logMoment(q, sigma, order) : logFractionalMoment(q, sigma, order);
  // A is at least 1. Rounding makes it a little less; an order whose series has lost its digits says nothing.
  return logA > -1e-12 ? Math.max(0, logA) / (order - 1) : Infinity;
}

/** ln A for an integer order: the binomial sum. */
function logMoment(q: number, sigma: number, order: number): number {
  let logBinomial = 0;
  let sum = -Infinity;
  for (let i = 0; i <= order; i++) {
    const power = (i * i - i) / (2 * sigma * sigma);
    sum = logAdd(sum, logBinomial + (order - i) * Math.log1p(-q) + i * Math.log(q) + power);
    logBinomial += Math.log((order - i) / (i + 1));
  }
  return sum;
}

/** ln A for any order above 1: two alternating series (section 3.3), until their terms are below exp(−30). */
function logFractionalMoment(q: number, sigma: number, order: number): number {
  const z0 = sigma * sigma * Math.log(1 / q - 1) + 0.5;
  const [logQ, logRest] = [Math.log(q), Math.log1p(-q)];
  const spread = Math.SQRT2 * sigma;
  let [low, high] = [-Infinity, -Infinity];
  let binomial = order;
  for (let i = 0, coefficient = 1; ; i++) {
    const j = order - i;
    const logCoefficient = Math.log(Math.abs(coefficient)) - Math.LN2;
    const lowTerm =
      logCoefficient + i * logQ + j * logRest + (i * i - i) / (2 * sigma * sigma) + logErfc((i - z0) / spread);
    const highTerm =
      logCoefficient + j * logQ + i * logRest + (j * j - j) / (2 * sigma * sigma) + logErfc((z0 - j) / spread);
    const combine = coefficient > 0 ? logAdd : logSubtract;
    low = combine(low, lowTerm);
    high = combine(high, highTerm);
    if (Math.max(lowTerm, highTerm) < -30) return logAdd(low, high);
    coefficient *= binomial / (i + 1);
    binomial -= 1;
  }
}

/** ln(eᵃ + eᵇ). */
function logAdd(a: number, b: number): number {
  const [less, more] = a < b ? [a, b] : [b, a];
  return less === -Infinity ? more : more + Math.log1p(Math.exp(less - more));
}

/** ln(eᵃ − eᵇ), where b is at most a but for rounding; the larger one where the smaller does not count. */
function logSubtract(a: number, b: number): number {
  if (b === -Infinity) return a;
  const difference = Math.expm1(a - b);
  if (difference === Infinity) return a;
  return difference > 0 ? Math.log(difference) + b : -Infinity;
}
