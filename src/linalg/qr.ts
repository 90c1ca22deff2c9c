import { reflectorOf } from "./householder.ts";
import { type Floats, type Matrix, matrixLike, scaledToUnit, transposed, zeroMatrix } from "./matrix.ts";
import { axpy, dot } from "./vectors.ts";

/** Q [rows, q] with orthonormal columns and R [q, cols], upper triangular, where q is the smaller side. */
export interface Qr<T extends Floats = Floats> {
  readonly Q: Matrix<T>;
  readonly R: Matrix<T>;
}

/**
 * The thin QR decomposition A = Q·R by Householder reflections. Signs are LAPACK's (and so numpy's and PyTorch's): R's
 * diagonal may be negative. Q is orthonormal whatever the rank of A.
 * @throws {RangeError} when the matrix holds NaN or infinity.
 */
export function qr<T extends Floats>(matrix: Matrix<T>): Qr<T> {
  const { rows, cols } = matrix;
  const q = Math.min(rows, cols);
  // Columns lie contiguous while they are reflected.
  const { scaled, unit } = scaledToUnit(matrix);
  const columns = transposed(scaled).data;
  const taus = new Float64Array(q);
  const R = zeroMatrix(q, cols);
  for (let k = 0; k < q; k++) {
    const v = k * rows + k;
    const length = rows - k;
    const { tau, beta } = reflectorOf(columns, v, length);
    taus[k] = tau;
    R.data[k * cols + k] = unit * beta;
    for (let j = k + 1; j < cols; j++) {
      const at = j * rows + k;
      axpy(-tau * dot(columns, v, columns, at, length), columns, v, columns, at, length);
      R.data[k * cols + j] = unit * (columns[at] ?? 0);
    }
  }
  const rowsOfQ = unfoldReflectors(columns, taus, q, rows);
  return { Q: matrixLike(matrix.data, transposed(rowsOfQ)), R: matrixLike(matrix.data, R) };
}

/**
 * The first `count` columns of H₀·H₁·…, as rows [count, size]. Reflector k is row k of `reflectors`, which are `size`
 * apart, from its entry k + `shift` on.
 */
export function unfoldReflectors(
  reflectors: Float64Array,
  taus: Float64Array,
  count: number,
  size: number,
  shift = 0,
): Matrix<Float64Array> {
  const result = zeroMatrix(count, size);
  for (let k = 0; k < count; k++) result.data[k * size + k] = 1;
  for (let k = taus.length - 1; k >= 0; k--) {
    const tau = taus[k] ?? 0;
    const from = k + shift;
    const v = k * size + from;
    // Columns before this one are still those of the identity, and zero where v is not.
    for (let j = Math.min(from, count); j < count; j++) {
      const at = j * size + from;
      axpy(-tau * dot(reflectors, v, result.data, at, size - from), reflectors, v, result.data, at, size - from);
    }
  }
  return result;
}
