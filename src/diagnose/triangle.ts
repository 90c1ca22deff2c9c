import type { Matrix } from "../linalg/index.ts";

/** The lower triangle of a symmetric matrix [n, n] row by row, into an array of n·(n + 1) / 2. */
export function packedTriangle({ rows, data }: Matrix, into: Float32Array): Float32Array {
  for (let i = 0; i < rows; i++) into.set(data.subarray(i * rows, i * rows + i + 1), (i * (i + 1)) / 2);
  return into;
}

/** The symmetric matrix of a triangle, in memory of `size`² values. */
export function unpackTriangle(packed: Float32Array, size: number, into: Float32Array): Matrix<Float32Array> {
  for (let i = 0; i < size; i++) {
    const start = (i * (i + 1)) / 2;
    into.set(packed.subarray(start, start + i + 1), i * size);
  }
  const tile = 32; // so that neither side is walked through with strides longer than the cache
  for (let top = 0; top < size; top += tile) {
    for (let left = 0; left <= top; left += tile) {
      for (let i = top; i < Math.min(size, top + tile); i++) {
        for (let j = left; j < Math.min(i, left + tile); j++) into[j * size + i] = into[i * size + j] ?? 0;
      }
    }
  }
  return { rows: size, cols: size, data: into };
}
