import { reflectorOf } from "./householder.ts";
import { type Floats, inTypeOf, type Matrix, matrixLike, scaledToUnit, transposed } from "./matrix.ts";
import { unfoldReflectors } from "./qr.ts";
import { givens, rotationQueue } from "./rotations.ts";
import { axpy, axpy2, dot } from "./vectors.ts";

/** A = vectors·diag(values)·vectorsᵀ: values from the smallest up, as numpy's, and their vectors as columns. */
export interface Eigh<T extends Floats = Floats> {
  readonly values: T;
  readonly vectors: Matrix<T>;
}

/**
 * Eigenvalues and eigenvectors of a symmetric matrix: Householder tridiagonalisation and implicit QR steps (Golub and
 * Van Loan, §8.3). Reads both triangles.
 * @throws {RangeError} when the matrix is not square, or holds NaN or infinity.
 */
export function eigh<T extends Floats>(matrix: Matrix<T>): Eigh<T> {
  const { rows: size, cols, data } = matrix;
  if (size !== cols) throw new RangeError(`A symmetric matrix is square, not [${size}, ${cols}].`);
  const { scaled, unit } = scaledToUnit(matrix);
  const { d, e, vectors } = tridiagonalise(scaled);
  diagonalise(d, e, vectors);
  const order = Array.from(d.keys()).sort((a, b) => (d[a] ?? 0) - (d[b] ?? 0));
  const sorted = new Float64Array(size * size);
  for (const [to, from] of order.entries()) {
    sorted.set(vectors.data.subarray(from * size, (from + 1) * size), to * size);
  }
  return {
    values: inTypeOf(
      data,
      Float64Array.from(order, (i) => unit * (d[i] ?? 0)),
    ),
    vectors: matrixLike(data, transposed({ rows: size, cols: size, data: sorted })),
  };
}

/** A = Q·T·Qᵀ; the matrix is used up. `vectors` are the columns of Q, as rows. */
function tridiagonalise({ rows: size, data }: Matrix<Float64Array>): {
  d: Float64Array;
  e: Float64Array;
  vectors: Matrix<Float64Array>;
} {
  const d = new Float64Array(size);
  const e = new Float64Array(Math.max(0, size - 1));
  const taus = new Float64Array(Math.max(0, size - 1));
  const reflectors = new Float64Array(size * size); // reflector k is row k, from entry k + 1 on
  const product = new Float64Array(size);
  for (let k = 0; k < size; k++) {
    d[k] = data[k * size + k] ?? 0;
    const width = size - k - 1;
    if (width === 0) break;
    const v = k * size + k + 1;
    reflectors.set(data.subarray(v, v + width), v);
    const { tau, beta } = reflectorOf(reflectors, v, width);
    taus[k] = tau;
    e[k] = beta;
    if (tau === 0) continue;
    for (let i = k + 1; i < size; i++) product[i] = tau * dot(data, i * size + k + 1, reflectors, v, width);
    axpy(-0.5 * tau * dot(product, k + 1, reflectors, v, width), reflectors, v, product, k + 1, width);
    for (let i = k + 1; i < size; i++) {
      const [x, y] = [reflectors[k * size + i] ?? 0, product[i] ?? 0];
      axpy2(-x, product, k + 1, -y, reflectors, v, data, i * size + k + 1, width);
    }
  }
  return { d, e, vectors: unfoldReflectors(reflectors, taus, size, size, 1) };
}

/** Make a symmetric tridiagonal matrix diagonal, turning the rows of `vectors` along. In place. */
function diagonalise(d: Float64Array, e: Float64Array, vectors: Matrix<Float64Array>): void {
  const at = (values: Float64Array, i: number): number => values[i] ?? 0;
  const queue = rotationQueue(vectors.data, vectors.cols);
  let largest = 0;
  for (let i = 0; i < d.length; i++) largest = Math.max(largest, Math.abs(at(d, i)) + Math.abs(at(e, i)));
  let steps = 0;
  for (let end = d.length - 1; end > 0; ) {
    for (let i = 0; i < end; i++) {
      const near = Number.EPSILON * (Math.abs(at(d, i)) + Math.abs(at(d, i + 1)));
      if (Math.abs(at(e, i)) <= Math.max(near, Number.EPSILON ** 2 * largest)) e[i] = 0;
    }
    if (at(e, end - 1) === 0) {
      end -= 1;
      continue;
    }
    let start = end - 1;
    while (start > 0 && at(e, start - 1) !== 0) start -= 1;
    const beside = at(e, end - 1);
    const half = (at(d, end - 1) - at(d, end)) / 2;
    const shift = at(d, end) - (beside * beside) / (half + (half < 0 ? -1 : 1) * Math.hypot(half, beside));
    let x = at(d, start) - shift;
    let z = at(e, start);
    for (let k = start; k < end; k++) {
      const [c, s, r] = givens(x, z);
      if (k > start) e[k - 1] = r;
      const [a, b, g] = [at(d, k), at(e, k), at(d, k + 1)];
      const shared = 2 * c * s * b;
      d[k] = c * c * a + shared + s * s * g;
      d[k + 1] = s * s * a - shared + c * c * g;
      e[k] = c * s * (g - a) + (c * c - s * s) * b;
      queue.push(k, k + 1, c, s);
      if (k + 1 === end) break;
      x = at(e, k);
      z = s * at(e, k + 1);
      e[k + 1] = c * at(e, k + 1);
    }
    steps += 1;
    if (steps > 60 * d.length) throw new RangeError("Eigenvalues do not converge; the matrix holds NaN or infinity.");
  }
  queue.flush();
}
