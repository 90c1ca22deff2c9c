/**
 * How far weights of attention are off when exp(s) is computed as its Taylor polynomial P of a degree: with
 * h(s) = P(s)·e^−s − 1, a weight is 1 + h times what it should be.
 */

/** P(s)·e^−s − 1 at one score. */
function relativeError(degree: number, score: number): number {
  let [sum, term] = [1, 1];
  for (let t = 1; t <= degree; t++) {
    term *= score / t;
    sum += term;
  }
  return sum * Math.exp(-score) - 1;
}

/**
 * The largest |P(s)/e^s − 1| of scores in [from, to], an interval that holds 0. As its slope is −s^degree/degree!·e^−s, that is
 * at one of the ends.
 */
export function taylorError(degree: number, from: number, to: number): number {
  return Math.max(Math.abs(relativeError(degree, from)), Math.abs(relativeError(degree, to)));
}

/** The largest R at which {@link taylorError} of scores in [−R, R] is no more than `error`. */
export function taylorRange(degree: number, error: number): number {
  let [low, high] = [0, 64];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (taylorError(degree, -middle, middle) <= error) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * A bound on what an output is off: this times the range (largest − smallest) of its column of values. Infinite where the error
 * of the weights reaches 1. Spec of "Computational limits of LoRA" (arXiv 2406.03136), certificate: |Õ − O| ≤ ρ/(1−ρ)·range(V).
 */
export function outputBound(weightError: number): number {
  return weightError < 1 ? weightError / (1 - weightError) : Number.POSITIVE_INFINITY;
}

/** The even degrees that are built: their polynomials are positive everywhere, so that no denominator vanishes. */
export const taylorDegrees = [2, 4] as const;

/** One of {@link taylorDegrees}. */
export type TaylorDegree = (typeof taylorDegrees)[number];
