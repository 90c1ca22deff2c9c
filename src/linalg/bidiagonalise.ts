import { reflectorOf } from "./householder.ts";
import { identityMatrix, type Matrix } from "./matrix.ts";
import { unfoldReflectors } from "./qr.ts";
import { axpy, axpy2, dot } from "./vectors.ts";

/** A = U·B·Vt with B upper bidiagonal; singular vectors to be are rows. */
export interface Bidiagonal {
  /** [cols] */
  readonly diagonal: Float64Array;
  /** [cols − 1] */
  readonly above: Float64Array;
  /** Uᵀ [cols, rows] */
  readonly Ut: Matrix<Float64Array>;
  /** Vᵀ [cols, cols] */
  readonly Vt: Matrix<Float64Array>;
}

/**
 * Reduce a matrix with at least as many rows as columns to bidiagonal form by reflections from both sides; the matrix is
 * used up. One step reads the rest of the matrix twice: the reflection from the left waits until the one from the right
 * is known, and both are applied to a row while it is in the cache.
 */
export function bidiagonalise({ rows, cols, data }: Matrix<Float64Array>): Bidiagonal {
  const diagonal = new Float64Array(cols);
  const above = new Float64Array(Math.max(0, cols - 1));
  const lefts = new Float64Array(cols * rows); // reflector k is row k, from entry k on
  const rights = new Float64Array(cols * cols); // reflector k is row k, from entry k + 1 on
  const leftTaus = new Float64Array(cols);
  const rightTaus = new Float64Array(Math.max(0, cols - 1));
  const combined = new Float64Array(cols);
  for (let k = 0; k < cols; k++) {
    const left = k * rows;
    for (let i = k; i < rows; i++) lefts[left + i] = data[i * cols + k] ?? 0;
    const { tau, beta } = reflectorOf(lefts, left + k, rows - k);
    leftTaus[k] = tau;
    diagonal[k] = beta;
    const width = cols - k - 1;
    if (width === 0) break;
    combined.fill(0); // vᵀ·A over the columns to the right
    for (let i = k; i < rows; i++) axpy(lefts[left + i] ?? 0, data, i * cols + k + 1, combined, k + 1, width);
    axpy(-tau, combined, k + 1, data, k * cols + k + 1, width); // row k, where v is 1
    const right = k * cols + k + 1;
    rights.set(data.subarray(right, right + width), right);
    const next = reflectorOf(rights, right, width);
    rightTaus[k] = next.tau;
    above[k] = next.beta;
    const between = dot(combined, k + 1, rights, right, width);
    for (let i = k + 1; i < rows; i++) {
      const row = i * cols + k + 1;
      const weight = -tau * (lefts[left + i] ?? 0);
      const along = dot(data, row, rights, right, width) + weight * between; // of the row once reflected from the left
      axpy2(weight, combined, k + 1, -next.tau * along, rights, right, data, row, width);
    }
  }
  return {
    diagonal,
    above,
    Ut: unfoldReflectors(lefts, leftTaus, cols, rows),
    Vt: cols === 1 ? identityMatrix(1) : unfoldReflectors(rights, rightTaus, cols, cols, 1),
  };
}
