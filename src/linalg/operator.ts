import { type Matrix, toFloat64, zeroMatrix } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import { axpy } from "./vectors.ts";

/** A matrix [rows, cols] that is only known by its products, wherever they are computed. */
export interface LinearOperator {
  readonly rows: number;
  readonly cols: number;
  /** W·X: X [cols, n] -> [rows, n]. */
  apply(X: Matrix): Promise<Matrix>;
  /** Wᵀ·Y: Y [rows, n] -> [cols, n]. */
  applyTransposed(Y: Matrix): Promise<Matrix>;
  /** The size of rounding errors in a product, relative to the operator's norm. */
  readonly precision: number;
}

/** The operator of a matrix at hand, computed here in float64. */
export function operatorOf(matrix: Matrix): LinearOperator {
  const wide = matrix.data instanceof Float64Array ? (matrix as Matrix<Float64Array>) : toFloat64(matrix); // as asked
  return {
    rows: matrix.rows,
    cols: matrix.cols,
    precision: 1e-14,
    apply: async (X) => matmul(wide, X),
    applyTransposed: async (Y) => matmul(wide, Y, { transA: true }),
  };
}

/** diag(values) + B·A: values [q], B [rows, r] and A [r, cols] with q ≤ rows and cols; what lies beyond q is zero. */
export function diagonalPlus(values: Float64Array, B: Matrix<Float64Array>, A: Matrix<Float64Array>): LinearOperator {
  const scaledInto = (to: Matrix<Float64Array>, from: Matrix): Matrix<Float64Array> => {
    const width = from.cols;
    const wide = toFloat64(from).data;
    for (let i = 0; i < values.length; i++) axpy(values[i] ?? 0, wide, i * width, to.data, i * width, width);
    return to;
  };
  const none = B.cols === 0;
  return {
    rows: B.rows,
    cols: A.cols,
    precision: 1e-14,
    apply: async (X) => scaledInto(none ? zeroMatrix(B.rows, X.cols) : matmul(B, matmul(A, X)), X),
    applyTransposed: async (Y) =>
      scaledInto(none ? zeroMatrix(A.cols, Y.cols) : matmul(A, matmul(B, Y, { transA: true }), { transA: true }), Y),
  };
}

/** W + B·A, where W is an operator: B [rows, r], A [r, cols]. */
export function lowRankPlus(
  operator: LinearOperator,
  B: Matrix<Float64Array>,
  A: Matrix<Float64Array>,
): LinearOperator {
  const plus = (product: Matrix, update: Matrix<Float64Array>): Matrix<Float64Array> => {
    for (let i = 0; i < update.data.length; i++) update.data[i] = (update.data[i] ?? 0) + (product.data[i] ?? 0);
    return update;
  };
  if (B.cols === 0) return operator;
  return {
    ...operator,
    apply: async (X) => plus(await operator.apply(X), matmul(B, matmul(A, X))),
    applyTransposed: async (Y) =>
      plus(await operator.applyTransposed(Y), matmul(A, matmul(B, Y, { transA: true }), { transA: true })),
  };
}
