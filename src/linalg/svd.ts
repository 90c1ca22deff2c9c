import { bidiagonalise } from "./bidiagonalise.ts";
import { diagonalise } from "./golub-kahan.ts";
import { type Floats, inTypeOf, type Matrix, matrixLike, scaledToUnit, transposed } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import { qr } from "./qr.ts";

/** A = U·diag(S)·Vt: U [rows, q], S [q] from the largest down, Vt [q, cols], where q is the smaller side. */
export interface Svd<T extends Floats = Floats> {
  readonly U: Matrix<T>;
  readonly S: T;
  readonly Vt: Matrix<T>;
}

/**
 * The thin singular value decomposition: Householder bidiagonalisation and implicit QR steps (Golub and Van Loan, Matrix
 * Computations, §5.4 and §8.6). U and V are orthonormal whatever the rank. A vector's sign is arbitrary, as is the
 * basis within equal singular values.
 * @throws {RangeError} when the matrix holds NaN or infinity.
 */
export function svd<T extends Floats>(matrix: Matrix<T>): Svd<T> {
  const { rows, cols, data } = matrix;
  if (rows < cols) {
    const { U, S, Vt } = svd(transposed(matrix));
    return { U: transposed(Vt), S, Vt: transposed(U) };
  }
  // A tall matrix first becomes a triangle: rotations then turn rows of `cols` values instead of `rows`.
  const tall = rows > 1.5 * cols;
  const { scaled, unit } = scaledToUnit(matrix);
  const { Q, R } = tall ? qr(scaled) : { Q: undefined, R: scaled };
  const { diagonal, above, Ut, Vt } = bidiagonalise(R);
  diagonalise(diagonal, above, Ut, Vt);
  const order = Array.from(diagonal.keys()).sort((a, b) => (diagonal[b] ?? 0) - (diagonal[a] ?? 0));
  const S = Float64Array.from(order, (i) => unit * (diagonal[i] ?? 0));
  const U = transposed(inOrder(Ut, order));
  return {
    U: matrixLike(data, Q ? matmul(Q, U) : U),
    S: inTypeOf(data, S),
    Vt: matrixLike(data, inOrder(Vt, order)),
  };
}

function inOrder({ rows, cols, data }: Matrix<Float64Array>, order: readonly number[]): Matrix<Float64Array> {
  const result = new Float64Array(rows * cols);
  for (const [to, from] of order.entries()) result.set(data.subarray(from * cols, (from + 1) * cols), to * cols);
  return { rows, cols, data: result };
}
