import { roundToPowers } from "../io/packed/index.ts";
import { eigh } from "../linalg/index.ts";
import { type Codebook, createCodebook, fillCodebook, nearestIndex } from "./codebook.ts";

/** How the scales of a group are found. */
export interface BinaryCodeOptions {
  readonly bits: number;
  /** Rounds of alternating optimisation; they stop early when the codes no longer change. */
  readonly rounds: number;
  /** Powers of two in a scale; 0 leaves scales as they are. */
  readonly terms: number;
  /** Which iterate is given: the one with the smallest error, or the last. Rounding makes errors rise now and then. */
  readonly iterate?: "best" | "last";
}

/** Planes and scales of a group of weights: w ≈ Σ αᵢ·sᵢ. */
export interface BinaryCode {
  /** [bits], each ≥ 0, in descending order. */
  readonly alpha: Float64Array;
  /** [weights]: bit i is set where sᵢ = +1. */
  readonly codes: Uint8Array;
  /** Σ (w − Σ αᵢ·sᵢ)². */
  readonly error: number;
}

/** Finds binary codes, with the room it needs kept between calls. */
export type BinaryCoder = (weights: Float64Array) => BinaryCode;

/**
 * Binary-coding quantisation by alternating optimisation: scales by least squares for fixed signs, then the nearest
 * code of every weight for fixed scales. You et al. 2024 (arXiv 2406.05981), Algorithm 1, with the rounding of scales
 * to powers of two inside; the greedy start is Xu et al. 2018 (arXiv 1802.00150), eq. (4). Without rounding no round
 * raises the error.
 */
export function createBinaryCoder({ bits, rounds, terms, iterate = "best" }: BinaryCodeOptions): BinaryCoder {
  const book = createCodebook(bits);
  const gram = new Float64Array(bits * bits);
  const right = new Float64Array(bits);
  const round = (value: number): number => (terms === 0 ? value : roundToPowers(value, terms));

  return (weights) => {
    const codes = new Uint8Array(weights.length);
    let alpha = greedy(weights, bits, codes);
    if (bits === 1) {
      alpha[0] = round(alpha[0] ?? 0);
      return { alpha, codes, error: squaredError(weights, alpha, codes) };
    }
    // The start counts as an iterate where its scales could be stored.
    let best: BinaryCode | undefined;
    if (terms === 0 || rounds === 0) {
      alpha = alpha.map(round).sort((a, b) => b - a);
      const fitted = new Uint8Array(weights.length);
      const error = assign(book, weights, alpha, fitted);
      best = { alpha, codes: fitted, error };
      if (rounds === 0) return best;
    }
    for (let step = 0; step < rounds; step++) {
      normalEquations(weights, codes, bits, gram, right);
      const solved = solve(gram, right, alpha, bits);
      alpha = solved.map((value) => round(Math.abs(value))).sort((a, b) => b - a);
      const before = best?.error;
      const next = new Uint8Array(weights.length);
      const error = assign(book, weights, alpha, next);
      const unchanged = next.every((code, i) => code === codes[i]);
      codes.set(next);
      if (before === undefined || error < before || iterate === "last") best = { alpha, codes: next, error };
      if (unchanged) break;
    }
    return best as BinaryCode; // at least one round was made
  };
}

/** Signs and mean magnitudes of what is left, plane by plane. Fills codes; the scales may be in any order. */
function greedy(weights: Float64Array, bits: number, codes: Uint8Array): Float64Array {
  const alpha = new Float64Array(bits);
  const rest = Float64Array.from(weights);
  for (let i = 0; i < bits; i++) {
    const scale = rest.length === 0 ? 0 : sumOfMagnitudes(rest) / rest.length;
    alpha[i] = scale;
    for (let j = 0; j < rest.length; j++) {
      const positive = (rest[j] ?? 0) >= 0; // sign(0) is +1: every code is ±1
      if (positive) codes[j] = (codes[j] ?? 0) | (1 << i);
      rest[j] = (rest[j] ?? 0) + (positive ? -scale : scale);
    }
  }
  return alpha;
}

/** Σ |x| as eight partial sums that are added in pairs, so that little is rounded off. */
function sumOfMagnitudes(values: Float64Array): number {
  const sums = new Float64Array(8);
  for (let i = 0; i < values.length; i++) sums[i & 7] = (sums[i & 7] ?? 0) + Math.abs(values[i] ?? 0);
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = sums;
  return a + b + (c + d) + (e + f + (g + h));
}

/** G = SᵀS and c = Sᵀw of the planes in `codes`. */
function normalEquations(
  weights: Float64Array,
  codes: Uint8Array,
  bits: number,
  gram: Float64Array,
  right: Float64Array,
): void {
  gram.fill(0);
  right.fill(0);
  if (bits === 2) {
    normalEquationsOfTwo(weights, codes, gram, right);
    return;
  }
  for (let j = 0; j < weights.length; j++) {
    const code = codes[j] ?? 0;
    const w = weights[j] ?? 0;
    for (let a = 0; a < bits; a++) {
      const positive = (code >> a) & 1;
      right[a] = (right[a] ?? 0) + (positive ? w : -w);
      for (let b = a + 1; b < bits; b++) {
        gram[a * bits + b] = (gram[a * bits + b] ?? 0) + (positive === ((code >> b) & 1) ? 1 : -1);
      }
    }
  }
  for (let a = 0; a < bits; a++) {
    gram[a * bits + a] = weights.length;
    for (let b = 0; b < a; b++) gram[a * bits + b] = gram[b * bits + a] ?? 0;
  }
}

/** Likewise, of two planes. */
function normalEquationsOfTwo(weights: Float64Array, codes: Uint8Array, gram: Float64Array, right: Float64Array): void {
  let [first, second, alike] = [0, 0, 0];
  for (let j = 0; j < weights.length; j++) {
    const code = codes[j] ?? 0;
    const w = weights[j] ?? 0;
    const [a, b] = [2 * (code & 1) - 1, (code & 2) - 1];
    first += a * w;
    second += b * w;
    alike += a * b;
  }
  right[0] = first;
  right[1] = second;
  gram[0] = gram[3] = weights.length;
  gram[1] = gram[2] = alike;
}

/**
 * The scales of least squared error. Planes that are alike (or opposite) make G singular; then the step of least norm
 * from the scales at hand is taken.
 */
function solve(gram: Float64Array, right: Float64Array, from: Float64Array, n: number): Float64Array {
  const a = Float64Array.from(gram);
  const x = Float64Array.from(right);
  for (let i = 0; i < n; i++) {
    // G is positive semidefinite, so elimination needs no pivoting; its entries are whole numbers up to the group size.
    const pivot = a[i * n + i] ?? 0;
    if (pivot <= 1e-8 * (gram[i * n + i] ?? 0)) return leastStep(gram, right, from, n);
    for (let j = i + 1; j < n; j++) {
      const factor = (a[j * n + i] ?? 0) / pivot;
      if (factor === 0) continue;
      for (let k = i; k < n; k++) a[j * n + k] = (a[j * n + k] ?? 0) - factor * (a[i * n + k] ?? 0);
      x[j] = (x[j] ?? 0) - factor * (x[i] ?? 0);
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    let sum = x[i] ?? 0;
    for (let k = i + 1; k < n; k++) sum -= (a[i * n + k] ?? 0) * (x[k] ?? 0);
    x[i] = sum / (a[i * n + i] ?? 1);
  }
  return x;
}

/** from + G⁺·(right − G·from). */
function leastStep(gram: Float64Array, right: Float64Array, from: Float64Array, n: number): Float64Array {
  const residual = right.map((value, i) => {
    let sum = value;
    for (let k = 0; k < n; k++) sum -= (gram[i * n + k] ?? 0) * (from[k] ?? 0);
    return sum;
  });
  const { values, vectors } = eigh({ rows: n, cols: n, data: gram });
  const result = Float64Array.from(from);
  const largest = values[n - 1] ?? 0;
  for (let v = 0; v < n; v++) {
    const value = values[v] ?? 0;
    if (value <= 1e-8 * largest) continue;
    let along = 0;
    for (let i = 0; i < n; i++) along += (vectors.data[i * n + v] ?? 0) * (residual[i] ?? 0);
    for (let i = 0; i < n; i++) result[i] = (result[i] ?? 0) + ((vectors.data[i * n + v] ?? 0) * along) / value;
  }
  return result;
}

/** The nearest code of every weight; the squared error is the result. */
export function assign(book: Codebook, weights: Float64Array, alpha: ArrayLike<number>, codes: Uint8Array): number {
  fillCodebook(book, alpha);
  return book.values.length === 4 ? assignOfFour(book, weights, codes) : assignOfAny(book, weights, codes);
}

function assignOfAny(book: Codebook, weights: Float64Array, codes: Uint8Array): number {
  let error = 0;
  for (let j = 0; j < weights.length; j++) {
    const w = weights[j] ?? 0;
    const index = nearestIndex(book, w);
    codes[j] = book.codes[index] ?? 0;
    const rest = w - (book.values[index] ?? 0);
    error += rest * rest;
  }
  return error;
}

/** Two planes, which is where the time goes: the search written out. */
function assignOfFour({ values, codes: all, borders }: Codebook, weights: Float64Array, codes: Uint8Array): number {
  const [low = 0, middle = 0, high = 0] = borders;
  const [v0 = 0, v1 = 0, v2 = 0, v3 = 0] = values;
  const [c0 = 0, c1 = 0, c2 = 0, c3 = 0] = all;
  let error = 0;
  for (let j = 0; j < weights.length; j++) {
    const w = weights[j] ?? 0;
    let [value, code] = [v0, c0];
    if (w >= middle) {
      value = w >= high ? v3 : v2;
      code = w >= high ? c3 : c2;
    } else if (w >= low) {
      value = v1;
      code = c1;
    }
    codes[j] = code;
    const rest = w - value;
    error += rest * rest;
  }
  return error;
}

function squaredError(weights: Float64Array, alpha: Float64Array, codes: Uint8Array): number {
  let error = 0;
  for (let j = 0; j < weights.length; j++) {
    let value = weights[j] ?? 0;
    for (let i = 0; i < alpha.length; i++) value -= ((codes[j] ?? 0) >> i) & 1 ? (alpha[i] ?? 0) : -(alpha[i] ?? 0);
    error += value * value;
  }
  return error;
}
