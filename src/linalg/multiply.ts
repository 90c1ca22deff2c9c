import { type Floats, type Matrix, matrixLike, toFloat64, transposed } from "./matrix.ts";
import { axpy, axpy2 } from "./vectors.ts";

/** Which operands to take transposed. */
export interface MultiplyOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/**
 * The product of two matrices, in the array type of the first. Whoever has large products and a device takes another
 * function of this shape.
 */
export type Multiply = <T extends Floats>(a: Matrix<T>, b: Matrix, options?: MultiplyOptions) => Promise<Matrix<T>>;

/**
 * A·B, here and now: sums in float64, in the array type of A.
 * @throws {RangeError} when the sizes do not fit.
 */
export function matmul<T extends Floats>(a: Matrix<T>, b: Matrix, options: MultiplyOptions = {}): Matrix<T> {
  const left = options.transA ? transposed(a) : a;
  const right = options.transB ? transposed(b) : b;
  if (left.cols !== right.rows) {
    throw new RangeError(`[${left.rows}, ${left.cols}] times [${right.rows}, ${right.cols}] is no product.`);
  }
  const factors = right.data instanceof Float64Array ? right.data : toFloat64(right).data;
  const { rows, cols: inner } = left;
  const { cols } = right;
  const data = new Float64Array(rows * cols);
  const deep = 64; // rows of B that are used for every row of A before the next: they stay in the cache
  for (let from = 0; from < inner; from += deep) {
    const to = Math.min(inner, from + deep);
    for (let i = 0; i < rows; i++) {
      const weights = left.data.subarray(i * inner, (i + 1) * inner);
      let k = from;
      for (; k + 1 < to; k += 2) {
        axpy2(weights[k] ?? 0, factors, k * cols, weights[k + 1] ?? 0, factors, (k + 1) * cols, data, i * cols, cols);
      }
      if (k < to) axpy(weights[k] ?? 0, factors, k * cols, data, i * cols, cols);
    }
  }
  return matrixLike(a.data, { rows, cols, data });
}
