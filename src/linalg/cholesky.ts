import { type Matrix, rowsOf } from "./matrix.ts";
import { dot, dot4 } from "./vectors.ts";

/**
 * The upper factor R of a symmetric positive definite A = R·Rᵀ [n, n] (row-major), or undefined when A is not positive
 * definite to working precision. Reads the upper triangle alone. The plain recurrence (Golub and Van Loan, §4.2), run
 * from the last row up.
 */
export function upperFactor(a: Float64Array, n: number): Float64Array | undefined {
  const r = new Float64Array(n * n);
  for (let i = n - 1; i >= 0; i--) {
    const row = r.subarray(i * n, (i + 1) * n);
    // r[i, j] for j > i, then the diagonal; rows below are done.
    for (let j = n - 1; j > i; j--) {
      const other = r.subarray(j * n, (j + 1) * n);
      let sum = a[i * n + j] ?? 0;
      for (let k = j + 1; k < n; k++) sum -= (row[k] ?? 0) * (other[k] ?? 0);
      row[j] = sum / (other[j] ?? 1);
    }
    let pivot = a[i * n + i] ?? 0;
    for (let k = i + 1; k < n; k++) pivot -= (row[k] ?? 0) ** 2;
    if (!(pivot > 1e-14 * Math.abs(a[i * n + i] ?? 0)) || !Number.isFinite(pivot)) return undefined;
    row[i] = Math.sqrt(pivot);
  }
  return r;
}

/** The inverse of an upper triangular matrix [n, n], upper triangular again. */
export function invertUpper(r: Float64Array, n: number): Float64Array {
  const inverse = new Float64Array(n * n);
  for (let i = n - 1; i >= 0; i--) {
    const row = inverse.subarray(i * n, (i + 1) * n);
    const scale = 1 / (r[i * n + i] ?? 1);
    for (let k = i + 1; k < n; k++) {
      const factor = -(r[i * n + k] ?? 0) * scale;
      if (factor === 0) continue;
      const below = inverse.subarray(k * n, (k + 1) * n);
      for (let j = k; j < n; j++) row[j] = (row[j] ?? 0) + factor * (below[j] ?? 0);
    }
    row[i] = scale;
  }
  return inverse;
}

/**
 * Whether a symmetric matrix minus `shift`·I is positive definite: whether its Cholesky factor exists, and so whether
 * every eigenvalue is above `shift`. Reads the lower triangle. n³/6 multiplications.
 */
export function isPositiveDefinite({ rows: size, data }: Matrix, shift = 0): boolean {
  const factor = new Float64Array(data); // row i of the factor in place of row i
  const sums = new Float64Array(4);
  // Four rows at a time: a row above is read once for all of them, and is in the cache when they come to it.
  for (let top = 0; top < size; top += 4) {
    const bottom = Math.min(size, top + 4);
    for (let j = 0; j < bottom; j++) {
      if (j < top && bottom === top + 4) dot4(factor, top * size, size, factor, j * size, j, sums);
      for (let i = Math.max(top, j); i < bottom; i++) {
        const sum = j < top && bottom === top + 4 ? (sums[i - top] ?? 0) : dot(factor, i * size, factor, j * size, j);
        if (i > j) factor[i * size + j] = ((factor[i * size + j] ?? 0) - sum) / (factor[j * size + j] ?? 1);
        else {
          const pivot = (data[i * size + i] ?? 0) - shift - sum;
          if (!(pivot > 0)) return false;
          factor[i * size + i] = Math.sqrt(pivot);
        }
      }
    }
  }
  return true;
}

/** Columns of a factor that are computed together. */
const panel = 64;

/**
 * The same of a large matrix, its factor in float32 and most of the work products A·Bᵀ that are computed elsewhere. Rounding
 * moves an eigenvalue by about √size times float32's precision of the largest entry, so `shift` must be well above that.
 */
export async function isPositiveDefiniteByPanels(
  { rows: size, data }: Matrix,
  shift: number,
  productOfRows: (a: Matrix<Float32Array>, b: Matrix<Float32Array>) => Promise<Matrix>,
): Promise<boolean> {
  const factor: Matrix<Float32Array> = { rows: size, cols: size, data: new Float32Array(size * size) };
  const row = new Float64Array(panel);
  for (let left = 0; left < size; left += panel) {
    const width = Math.min(panel, size - left);
    const done =
      left === 0
        ? undefined
        : (await productOfRows(rowsOf(factor, left, size), rowsOf(factor, left, left + width))).data;
    const head = new Float64Array(width * width); // the factor of the panel's first rows
    for (let i = left; i < size; i++) {
      const inside = i - left;
      const until = Math.min(width, inside + 1);
      for (let j = 0; j < until; j++) {
        let sum = (data[i * size + left + j] ?? 0) - (done?.[inside * width + j] ?? 0);
        for (let k = 0; k < j; k++) sum -= (row[k] ?? 0) * (head[j * width + k] ?? 0);
        if (inside === j) {
          const pivot = sum - shift;
          if (!(pivot > 0)) return false;
          row[j] = Math.sqrt(pivot);
        } else row[j] = sum / (head[j * width + j] ?? 1);
        if (inside < width) head[inside * width + j] = row[j] ?? 0;
      }
      factor.data.set(row.subarray(0, until), i * size + left);
    }
  }
  return true;
}
