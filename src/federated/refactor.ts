import { TuneError } from "../errors.ts";
import {
  type Floats,
  jacobiSvd,
  type Matrix,
  matmul,
  matrixLike,
  qr,
  toFloat64,
  transposed,
  zeroMatrix,
} from "../linalg/index.ts";
import type { Factors } from "./factors.ts";

/** The same product from other factors. */
export interface Refactored<T extends Floats = Float32Array> extends Factors<T> {
  /** Singular values of the product, largest first. */
  readonly S: Float64Array;
  /** [rank, rank], with A' = M·A; undefined where the rows of A depend on each other. */
  readonly M: Matrix<Float64Array> | undefined;
}

/**
 * The thin singular value decomposition of a product: B'·A' = B·A, where the rows of A' are orthonormal and the columns of
 * B' are orthogonal with the singular values as lengths. The dense product is never made. Computed in float64, in about
 * 4(out + in)·rank² operations; what is not the largest entry of a row decides no sign. FedSVD, Lee et al. 2025
 * (arXiv 2505.12805), §3.
 * @throws {TuneError} `rank-too-large` where the rank exceeds a side of the product.
 */
export function refactor<T extends Floats>(factors: Factors<T>): Refactored<T> {
  const { B, A } = factors;
  checkRank(factors);
  const [m, r, n] = [B.rows, A.rows, A.cols];
  const wideA = toFloat64(A);
  const flat = furthestFromOrthonormal(wideA) > orthonormalWithin ? qr(transposed(wideA)) : undefined;
  const rowsOfA = flat ? transposed(flat.Q) : wideA;
  const right = qr(toFloat64(B));
  const core = flat ? matmul(right.R, flat.R, { transB: true }) : right.R;
  const { scaledU, S, Vt } = jacobiSvd(core);
  const least = Math.max(m, n) * 2 ** -52 * (S[0] ?? 0);
  for (let i = 0; i < r; i++) {
    if ((S[i] ?? 0) > least) continue;
    S[i] = 0;
    for (let j = 0; j < r; j++) scaledU.data[j * r + i] = 0;
  }
  const newB = matmul(right.Q, scaledU);
  const newA = matmul(Vt, rowsOfA);
  const turn = flat ? solvedOnRight(Vt, flat.R) : Vt;
  settleSigns({ A: newA, B: newB }, turn);
  return { B: matrixLike(B.data, newB), A: matrixLike(A.data, newA), S, M: turn };
}

/** The largest entry of |A·Aᵀ − I| that counts as orthonormal rows. */
const orthonormalWithin = 1e-5;

/** The largest entry of |A·Aᵀ − I|. */
export function furthestFromOrthonormal(A: Matrix): number {
  const gram = matmul(toFloat64(A), A, { transB: true });
  return gram.data.reduce((most, value, i) => Math.max(most, Math.abs(value - Number(i % (gram.cols + 1) === 0))), 0);
}

/**
 * A' = M·A for whoever was sent M, in float64 with sums in one order, so that every party gets the same bits.
 * @param M [rank, rank]
 */
export function turnedBy<T extends Floats>(M: Matrix, A: Matrix<T>): Matrix<T> {
  return matrixLike(A.data, matmul(toFloat64(M), A));
}

function checkRank({ B, A }: Factors<Floats>): void {
  const least = Math.min(B.rows, A.cols);
  if (B.cols === A.rows && A.rows <= least) return;
  throw new TuneError("rank-too-large", `The factors are [${B.rows}, ${B.cols}] and [${A.rows}, ${A.cols}].`, {
    at: "refactor",
    fix: `use a rank of ${least} or less`,
  });
}

/** The largest entry of each row of A is positive; of entries of one size (1e-12) the first decides. No zero gets a sign. */
function settleSigns({ A, B }: Factors<Float64Array>, M: Matrix<Float64Array> | undefined): void {
  for (let i = 0; i < A.rows; i++) {
    const row = A.data.subarray(i * A.cols, (i + 1) * A.cols);
    const largest = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const first = row.find((value) => Math.abs(value) >= largest * (1 - 1e-12)) ?? 0;
    if (first >= 0) continue;
    for (let j = 0; j < A.cols; j++) row[j] = 0 - (row[j] ?? 0);
    for (let k = 0; k < B.rows; k++) B.data[k * B.cols + i] = 0 - (B.data[k * B.cols + i] ?? 0);
    if (M) for (let j = 0; j < M.cols; j++) M.data[i * M.cols + j] = 0 - (M.data[i * M.cols + j] ?? 0);
  }
}

/** X with X·Rᵀ = V for an upper triangular R; undefined where R has no inverse. */
function solvedOnRight(V: Matrix<Float64Array>, R: Matrix<Float64Array>): Matrix<Float64Array> | undefined {
  const r = R.rows;
  const pivots = Array.from({ length: r }, (_, i) => R.data[i * r + i] ?? 0);
  const largest = Math.max(...pivots.map(Math.abs));
  if (pivots.some((pivot) => !(Math.abs(pivot) > r * Number.EPSILON * largest))) return undefined;
  const X = zeroMatrix(r, r);
  for (let i = 0; i < r; i++) {
    // Row i: Σ_j x_j R[k, j] = v_k, from the last column back.
    for (let k = r - 1; k >= 0; k--) {
      let sum = V.data[i * r + k] ?? 0;
      for (let j = k + 1; j < r; j++) sum -= (X.data[i * r + j] ?? 0) * (R.data[k * r + j] ?? 0);
      X.data[i * r + k] = sum / (pivots[k] ?? 1);
    }
  }
  return X;
}
