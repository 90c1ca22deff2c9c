import { makeBasis } from "./basis.ts";
import { eigh } from "./eigh.ts";
import { besides, columnsOf, type Matrix, toFloat64, transposed, zeroMatrix } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import type { LinearOperator } from "./operator.ts";
import type { Rng } from "./rng.ts";
import { dot, dot4 } from "./vectors.ts";

/** The leading singular triplets of an operator: U [rows, count], S [count] from the largest down, Vt [count, cols]. */
export interface LeadingTriplets {
  readonly U: Matrix<Float64Array>;
  readonly S: Float64Array;
  readonly Vt: Matrix<Float64Array>;
  /** ‖W·v − S·u‖ of each; Wᵀ·u = S·v holds by construction. */
  readonly residuals: Float64Array;
  /** How many, from the first on, are known to about 1e-6 of the distance to their neighbours, or as well as products are. */
  readonly converged: number;
}

/** How far to go; see {@link leadingTriplets}. */
export interface LeadingOptions {
  /** Draws the start. */
  readonly rng: Rng;
  /** Directions that are likely in it, [rows, any]: the outer factor of an update, vectors of a matrix nearby. */
  readonly near?: Matrix;
  /** Vectors that are multiplied at a time; 16 and those of `near` unless given. */
  readonly block?: number;
  /** Products with W·Wᵀ before the first look. */
  readonly iterations?: number;
  /** Looks; each goes on from the best vectors of the last. */
  readonly restarts?: number;
  /** Called after each pair of products. */
  readonly onProduct?: () => void;
}

/**
 * The first `count` singular triplets by block Krylov iteration on W·Wᵀ with full reorthogonalisation and
 * Rayleigh–Ritz, restarted from its best vectors until they are settled. Musco and Musco 2015 (arXiv 1504.05477),
 * algorithm 2. The start is random, with `near` beside it: starting at exact singular vectors of a matrix nearby alone
 * would be an invariant space, where nothing is found. Values below 1e-8 of the largest are roundings, and so are their
 * vectors.
 */
export async function leadingTriplets(
  operator: LinearOperator,
  count: number,
  options: LeadingOptions,
): Promise<LeadingTriplets> {
  const { rows, cols } = operator;
  const { rng, near, iterations = 8, restarts = 5, onProduct } = options;
  const wanted = Math.min(count, rows, cols);
  const width = Math.min(rows, options.block ?? Math.max(16, Math.ceil(wanted / 2)) + (near?.cols ?? 0));
  const random = (n: number): Matrix<Float64Array> => ({
    rows,
    cols: n,
    data: Float64Array.from({ length: rows * n }, () => rng.normal()),
  });
  let start: Matrix = near ? besides(random(Math.max(1, width - near.cols)), near) : random(width);
  // Products with WᵀW span the rows of the smaller side; more would be rounding.
  const capacity = Math.min(rows, Math.max(width * (iterations + 1), wanted + 2 * width));
  let best: LeadingTriplets | undefined;
  for (let look = 0; look < restarts; look++) {
    const basis = makeBasis(rows, capacity);
    const images: Matrix[] = []; // Wᵀ of each block of the basis
    let block = start;
    while (basis.count < capacity) {
      const first = basis.add(block);
      const added = basis.count - first;
      if (added === 0) break; // the basis is invariant: nothing is left to find
      const image = await operator.applyTransposed(basis.columns(first));
      images.push(image);
      if (basis.count >= capacity) break;
      block = await operator.apply(image);
      onProduct?.();
    }
    best = await rayleighRitz(operator, basis, images, wanted);
    if (best.converged >= wanted || basis.count >= rows) break;
    // The best vectors go on, and some new randomness, for what the start may have missed.
    const kept = columnsOf(best.U, 0, Math.min(best.U.cols, Math.max(wanted, width)));
    start = besides(kept, random(4));
  }
  if (best === undefined) throw new RangeError("leadingTriplets needs at least one look.");
  return best;
}

async function rayleighRitz(
  operator: LinearOperator,
  basis: ReturnType<typeof makeBasis>,
  images: readonly Matrix[],
  wanted: number,
): Promise<LeadingTriplets> {
  const [head, ...tail] = images;
  if (head === undefined) {
    const none = zeroMatrix(operator.rows, 0);
    return {
      U: none,
      S: new Float64Array(),
      Vt: zeroMatrix(0, operator.cols),
      residuals: new Float64Array(),
      converged: 0,
    };
  }
  const H = besides(toFloat64(head), ...tail); // Wᵀ·Q [cols, p]
  const p = H.cols;
  const { values, vectors } = eigh(gram(transposed(H)));
  // One more than is wanted, where there is one: the gap of the last is to it.
  const kept = Math.min(p, wanted + 1);
  const S = Float64Array.from({ length: kept }, (_, i) => Math.sqrt(Math.max(0, values[p - 1 - i] ?? 0)));
  const P = zeroMatrix(p, kept);
  for (let i = 0; i < p; i++)
    for (let j = 0; j < kept; j++) P.data[i * kept + j] = vectors.data[i * p + p - 1 - j] ?? 0;
  const U = basis.combine(P);
  const V = matmul(H, P);
  for (let i = 0; i < V.data.length; i++) V.data[i] = (V.data[i] ?? 0) / (S[i % kept] || 1);
  const WV = await operator.apply(V);
  const residuals = new Float64Array(kept);
  for (let j = 0; j < kept; j++) {
    let sum = 0;
    for (let i = 0; i < U.rows; i++) {
      sum += ((WV.data[i * kept + j] ?? 0) - (S[j] ?? 0) * (U.data[i * kept + j] ?? 0)) ** 2;
    }
    residuals[j] = Math.sqrt(sum);
  }
  const complete = p >= Math.min(operator.rows, operator.cols);
  const floor = 16 * operator.precision * (S[0] ?? 0); // roundings of a product of thousands of terms
  const first = Math.min(wanted, kept);
  let converged = 0;
  for (; converged < first; converged++) {
    const gap = Math.min(
      (S[converged - 1] ?? Number.POSITIVE_INFINITY) - (S[converged] ?? 0),
      (S[converged] ?? 0) - (S[converged + 1] ?? 0),
    );
    if (!complete && (residuals[converged] ?? 0) > Math.max(1e-6 * gap, floor)) break;
  }
  return {
    U: columnsOf(U, 0, first),
    S: S.subarray(0, first),
    Vt: transposed(columnsOf(V, 0, first)),
    residuals: residuals.subarray(0, first),
    converged,
  };
}

/** R·Rᵀ of rows R [n, length]; one triangle is computed, both are given. */
export function gram({ rows, cols, data }: Matrix<Float64Array>): Matrix<Float64Array> {
  const result = zeroMatrix(rows, rows);
  const four = new Float64Array(4);
  for (let i = 0; i < rows; i++) {
    let j = 0;
    for (; j + 3 <= i; j += 4) {
      dot4(data, j * cols, cols, data, i * cols, cols, four);
      result.data.set(four, i * rows + j);
    }
    for (; j <= i; j++) result.data[i * rows + j] = dot(data, i * cols, data, j * cols, cols);
    for (j = 0; j < i; j++) result.data[j * rows + i] = result.data[i * rows + j] ?? 0;
  }
  return result;
}
