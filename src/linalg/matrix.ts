/** The arrays that a matrix may live in. */
export type Floats = Float32Array | Float64Array;

/**
 * A dense row-major matrix. Functions of this room compute in float64 and give their results in the array type they
 * were given, so float32 matrices lose nothing but their last rounding.
 */
export interface Matrix<T extends Floats = Floats> {
  readonly rows: number;
  readonly cols: number;
  readonly data: T;
}

/** Make a matrix of rows, in float64 unless told. @throws {RangeError} when the rows differ in length. */
export function matrix(rows: readonly (readonly number[])[]): Matrix<Float64Array> {
  const cols = rows[0]?.length ?? 0;
  if (rows.some((row) => row.length !== cols)) throw new RangeError("Rows of a matrix have one length.");
  return { rows: rows.length, cols, data: Float64Array.from(rows.flat()) };
}

/** A float64 matrix of zeros. */
export function zeroMatrix(rows: number, cols: number): Matrix<Float64Array> {
  return { rows, cols, data: new Float64Array(rows * cols) };
}

/** The first `cols` columns of the identity [rows, cols], in float64. */
export function identityMatrix(rows: number, cols: number = rows): Matrix<Float64Array> {
  const result = zeroMatrix(rows, cols);
  for (let i = 0; i < Math.min(rows, cols); i++) result.data[i * cols + i] = 1;
  return result;
}

/** The same numbers in an array of their own, in float64. */
export function toFloat64({ rows, cols, data }: Matrix): Matrix<Float64Array> {
  return { rows, cols, data: new Float64Array(data) };
}

/** Float64 results in the array type of `like`: float32 is rounded to, float64 stays as it is. */
export function inTypeOf<T extends Floats>(like: T, data: Float64Array): T {
  // The condition decides what T is; TypeScript cannot follow that.
  return (like instanceof Float32Array ? new Float32Array(data) : data) as T;
}

/** A matrix of another array type, the values those of `matrix`. */
export function matrixLike<T extends Floats>(like: T, { rows, cols, data }: Matrix<Float64Array>): Matrix<T> {
  return { rows, cols, data: inTypeOf(like, data) };
}

/** Rows as columns. In tiles, so that neither side is walked through with strides longer than the cache. */
export function transposed<T extends Floats>({ rows, cols, data }: Matrix<T>): Matrix<T> {
  const result = emptyLike(data, rows * cols);
  const tile = 32;
  for (let top = 0; top < rows; top += tile) {
    for (let left = 0; left < cols; left += tile) {
      const bottom = Math.min(rows, top + tile);
      const right = Math.min(cols, left + tile);
      for (let i = top; i < bottom; i++) {
        for (let j = left; j < right; j++) result[j * rows + i] = data[i * cols + j] ?? 0;
      }
    }
  }
  return { rows: cols, cols: rows, data: result };
}

/** Rows [from, to), a view of the same memory. */
export function rowsOf<T extends Floats>({ cols, data }: Matrix<T>, from: number, to: number): Matrix<T> {
  return { rows: to - from, cols, data: data.subarray(from * cols, to * cols) as T }; // subarray keeps the type
}

/** Columns [from, to), copied. */
export function columnsOf<T extends Floats>({ rows, cols, data }: Matrix<T>, from: number, to: number): Matrix<T> {
  const width = to - from;
  const result = emptyLike(data, rows * width);
  for (let i = 0; i < rows; i++) result.set(data.subarray(i * cols + from, i * cols + to), i * width);
  return { rows, cols: width, data: result };
}

/** Matrices of the same number of rows side by side, in the array type of the first. */
export function besides<T extends Floats>(first: Matrix<T>, ...others: readonly Matrix[]): Matrix<T> {
  const all = [first, ...others];
  const cols = all.reduce((sum, part) => sum + part.cols, 0);
  const data = emptyLike(first.data, first.rows * cols);
  let left = 0;
  for (const part of all) {
    for (let i = 0; i < first.rows; i++)
      data.set(part.data.subarray(i * part.cols, (i + 1) * part.cols), i * cols + left);
    left += part.cols;
  }
  return { rows: first.rows, cols, data };
}

/** Euclidean length of all entries. */
export function frobeniusNorm({ data }: Matrix): number {
  let largest = 0;
  for (let i = 0; i < data.length; i++) largest = Math.max(largest, Math.abs(data[i] ?? 0));
  if (largest === 0 || !Number.isFinite(largest)) return largest;
  let sum = 0; // of values up to one, so that no square over- or underflows
  for (let i = 0; i < data.length; i++) {
    const value = (data[i] ?? 0) / largest;
    sum += value * value;
  }
  return largest * Math.sqrt(sum);
}

/**
 * A matrix divided by a power of two that makes its largest entry about 1, in float64, and that power: decompositions of
 * the scaled matrix neither over- nor underflow, and scaling back is exact. A zero matrix has unit 1.
 * @throws {RangeError} when the matrix holds NaN or infinity.
 */
export function scaledToUnit({ rows, cols, data }: Matrix): { scaled: Matrix<Float64Array>; unit: number } {
  let largest = 0;
  for (let i = 0; i < data.length; i++) {
    const size = Math.abs(data[i] ?? 0);
    if (!(size <= Number.MAX_VALUE)) throw new RangeError("The matrix holds NaN or infinity; it cannot be decomposed.");
    if (size > largest) largest = size;
  }
  const unit = largest === 0 ? 1 : 2 ** Math.max(-1000, Math.floor(Math.log2(largest)));
  return { scaled: { rows, cols, data: Float64Array.from(data, (value) => value / unit) }, unit };
}

/** A zero-filled array of the type of `like`. */
export function emptyLike<T extends Floats>(like: T, length: number): T {
  return (like instanceof Float32Array ? new Float32Array(length) : new Float64Array(length)) as T; // as in `inTypeOf`
}
