/**
 * The inner loops of this room, over contiguous stretches of float64. Everything above them is written so that what they
 * walk over is contiguous: singular vectors, reflectors and eigenvectors are rows while they are worked on.
 */

/** Σ a[ia + i]·b[ib + i] over `length` values; four sums, which a processor adds at once. */
export function dot(a: Float64Array, ia: number, b: Float64Array, ib: number, length: number): number {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  let i = 0;
  for (; i + 3 < length; i += 4) {
    s0 += (a[ia + i] ?? 0) * (b[ib + i] ?? 0);
    s1 += (a[ia + i + 1] ?? 0) * (b[ib + i + 1] ?? 0);
    s2 += (a[ia + i + 2] ?? 0) * (b[ib + i + 2] ?? 0);
    s3 += (a[ia + i + 3] ?? 0) * (b[ib + i + 3] ?? 0);
  }
  for (; i < length; i++) s0 += (a[ia + i] ?? 0) * (b[ib + i] ?? 0);
  return s0 + s1 + (s2 + s3);
}

/** y[iy + i] += factor·x[ix + i] over `length` values. */
export function axpy(factor: number, x: Float64Array, ix: number, y: Float64Array, iy: number, length: number): void {
  if (factor === 0) return;
  for (let i = 0; i < length; i++) y[iy + i] = (y[iy + i] ?? 0) + factor * (x[ix + i] ?? 0);
}

/** y[iy + i] += f·x[ix + i] + g·z[iz + i] over `length` values. */
export function axpy2(
  f: number,
  x: Float64Array,
  ix: number,
  g: number,
  z: Float64Array,
  iz: number,
  y: Float64Array,
  iy: number,
  length: number,
): void {
  for (let i = 0; i < length; i++) y[iy + i] = (y[iy + i] ?? 0) + (f * (x[ix + i] ?? 0) + g * (z[iz + i] ?? 0));
}

/** (x, y) <- (c·x + s·y, c·y − s·x) over `length` values of two stretches of one array. */
export function rotate(data: Float64Array, ix: number, iy: number, c: number, s: number, length: number): void {
  for (let i = 0; i < length; i++) {
    const x = data[ix + i] ?? 0;
    const y = data[iy + i] ?? 0;
    data[ix + i] = c * x + s * y;
    data[iy + i] = c * y - s * x;
  }
}

/** Euclidean length of a stretch, without over- or underflow. */
export function norm(a: Float64Array, ia: number, length: number): number {
  const plain = dot(a, ia, a, ia, length);
  if (plain > 1e-200 && plain < 1e200) return Math.sqrt(plain);
  let largest = 0;
  for (let i = 0; i < length; i++) largest = Math.max(largest, Math.abs(a[ia + i] ?? 0));
  if (largest === 0 || !Number.isFinite(largest)) return largest;
  let sum = 0;
  for (let i = 0; i < length; i++) sum += ((a[ia + i] ?? 0) / largest) ** 2;
  return largest * Math.sqrt(sum);
}

/** Multiply a stretch by a factor. */
export function scale(a: Float64Array, ia: number, factor: number, length: number): void {
  for (let i = 0; i < length; i++) a[ia + i] = (a[ia + i] ?? 0) * factor;
}

/** Four products at once, of b with the stretches of a that are `stride` apart: b is read once for all of them. */
export function dot4(
  a: Float64Array,
  ia: number,
  stride: number,
  b: Float64Array,
  ib: number,
  length: number,
  into: Float64Array,
): void {
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  const [i1, i2, i3] = [ia + stride, ia + 2 * stride, ia + 3 * stride];
  for (let i = 0; i < length; i++) {
    const value = b[ib + i] ?? 0;
    s0 += (a[ia + i] ?? 0) * value;
    s1 += (a[i1 + i] ?? 0) * value;
    s2 += (a[i2 + i] ?? 0) * value;
    s3 += (a[i3 + i] ?? 0) * value;
  }
  into[0] = s0;
  into[1] = s1;
  into[2] = s2;
  into[3] = s3;
}
