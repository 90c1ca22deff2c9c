import type { Basis } from "./basis.ts";
import { eigh } from "./eigh.ts";
import { besides, columnsOf, type Matrix, toFloat64, transposed, zeroMatrix } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import type { LinearOperator } from "./operator.ts";
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

/**
 * The best approximations to the first `wanted` singular triplets that a basis holds (Rayleigh–Ritz on W·Wᵀ). `images` are
 * Wᵀ of the basis' vectors [cols, any], in order and together as many as the basis has.
 */
export async function rayleighRitz(
  operator: LinearOperator,
  basis: Basis,
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
  const first = Math.min(wanted, kept);
  let converged = 0;
  for (; converged < first; converged++) {
    const gap = Math.min(
      (S[converged - 1] ?? Number.POSITIVE_INFINITY) - (S[converged] ?? 0),
      (S[converged] ?? 0) - (S[converged + 1] ?? 0),
    );
    // Roundings of a product of thousands of terms, and of squares that are added up in float64.
    const floor = (S[0] ?? 0) * Math.max(32 * operator.precision, (1e-14 * (S[0] ?? 0)) / (S[converged] || 1));
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
