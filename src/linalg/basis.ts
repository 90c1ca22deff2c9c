import { type Matrix, zeroMatrix } from "./matrix.ts";
import { axpy, dot, dot4, norm, scale } from "./vectors.ts";

/** Orthonormal vectors of one length, kept as rows; a list that grows. */
export interface Basis {
  /** Vectors so far. */
  readonly count: number;
  /**
   * Add what the columns of X [length, n] have that the basis has not, orthonormal; columns that lie in it are left
   * out. A vector that loses much is made orthogonal twice: once leaves roundings of the size of what was taken away.
   * @returns the number of the first vector that is new.
   */
  add(X: Matrix): number;
  /** Take out of each column of X what it has along the basis. X [length, n] as rows [n, length], in place. */
  removeFrom(rows: Float64Array, n: number): void;
  /** Vectors [from, to) as columns [length, to − from]. */
  columns(from?: number, to?: number): Matrix<Float64Array>;
  /** Coefficients of the columns X = basis·coefficients that the basis spans: [count, n] -> [length, n]. */
  combine(coefficients: Matrix<Float64Array>): Matrix<Float64Array>;
}

/** An empty basis of vectors of `length` values, with room for `capacity` of them. */
export function makeBasis(length: number, capacity: number): Basis {
  const data = new Float64Array(length * Math.min(capacity, length));
  const room = Math.min(capacity, length);
  let count = 0;
  const removeFromOne = (vector: Float64Array, at: number): void => {
    let i = 0;
    const weights = new Float64Array(4);
    for (; i + 3 < count; i += 4) {
      dot4(data, i * length, length, vector, at, length, weights);
      for (let j = 0; j < 4; j++) axpy(-(weights[j] ?? 0), data, (i + j) * length, vector, at, length);
    }
    for (; i < count; i++) axpy(-dot(data, i * length, vector, at, length), data, i * length, vector, at, length);
  };
  return {
    get count() {
      return count;
    },
    add: (X) => {
      const first = count;
      const vector = new Float64Array(length);
      for (let j = 0; j < X.cols && count < room; j++) {
        for (let i = 0; i < length; i++) vector[i] = X.data[i * X.cols + j] ?? 0;
        const before = norm(vector, 0, length);
        if (before === 0) continue;
        scale(vector, 0, 1 / before, length);
        removeFromOne(vector, 0);
        const left = norm(vector, 0, length);
        if (left < 1e-10) continue;
        scale(vector, 0, 1 / left, length);
        if (left < 0.7) {
          removeFromOne(vector, 0);
          scale(vector, 0, 1 / norm(vector, 0, length), length);
        }
        data.set(vector, count * length);
        count += 1;
      }
      return first;
    },
    removeFrom: (rows, n) => {
      for (let j = 0; j < n; j++) removeFromOne(rows, j * length);
    },
    columns: (from = 0, to = count) => {
      const result = zeroMatrix(length, to - from);
      for (let j = from; j < to; j++) {
        for (let i = 0; i < length; i++) result.data[i * result.cols + j - from] = data[j * length + i] ?? 0;
      }
      return result;
    },
    combine: ({ rows, cols, data: weights }) => {
      const result = zeroMatrix(length, cols);
      const vector = new Float64Array(length);
      for (let j = 0; j < cols; j++) {
        vector.fill(0);
        for (let i = 0; i < rows; i++) axpy(weights[i * cols + j] ?? 0, data, i * length, vector, 0, length);
        for (let i = 0; i < length; i++) result.data[i * cols + j] = vector[i] ?? 0;
      }
      return result;
    },
  };
}
