import type { Matrix } from "./matrix.ts";
import { givens, type RotationQueue, rotationQueue } from "./rotations.ts";
import { scale } from "./vectors.ts";

/**
 * Make an upper bidiagonal matrix diagonal by implicit QR steps with Wilkinson's shift (Golub and Van Loan, algorithm
 * 8.6.2), turning the rows of Uᵀ and Vᵀ along. In place; values come out not negative and in no order.
 */
export function diagonalise(
  d: Float64Array,
  e: Float64Array,
  Ut: Matrix<Float64Array>,
  Vt: Matrix<Float64Array>,
): void {
  const left = rotationQueue(Ut.data, Ut.cols);
  const right = rotationQueue(Vt.data, Vt.cols);
  let largest = 0;
  for (let i = 0; i < d.length; i++) largest = Math.max(largest, Math.abs(d[i] ?? 0) + Math.abs(e[i] ?? 0));
  const negligible = Number.EPSILON * largest;
  let steps = 0;
  const limit = 60 * d.length; // two or three steps a value are usual
  for (let end = d.length - 1; end > 0; ) {
    for (let i = 0; i < end; i++) {
      const near = Number.EPSILON * (Math.abs(d[i] ?? 0) + Math.abs(d[i + 1] ?? 0));
      if (Math.abs(e[i] ?? 0) <= Math.max(near, Number.EPSILON * negligible)) e[i] = 0;
    }
    if (e[end - 1] === 0) {
      end -= 1;
      continue;
    }
    let start = end - 1;
    while (start > 0 && e[start - 1] !== 0) start -= 1;
    const zero = d.subarray(start, end + 1).findIndex((value) => Math.abs(value) <= negligible);
    if (zero >= 0) chaseZero(d, e, start, start + zero, end, left, right);
    else step(d, e, start, end, left, right);
    steps += 1;
    if (steps > limit) throw new RangeError("Singular values do not converge; the matrix holds NaN or infinity.");
  }
  left.flush();
  right.flush();
  for (let i = 0; i < d.length; i++) {
    const value = d[i] ?? 0;
    if (value >= 0) continue;
    d[i] = -value;
    scale(Vt.data, i * Vt.cols, -1, Vt.cols);
  }
}

/** A zero on the diagonal splits the matrix: rotate what stands beside it (or above it, at the end) away. */
function chaseZero(
  d: Float64Array,
  e: Float64Array,
  start: number,
  at: number,
  end: number,
  left: RotationQueue,
  right: RotationQueue,
): void {
  d[at] = 0;
  if (at < end) {
    let bulge = e[at] ?? 0;
    e[at] = 0;
    for (let k = at + 1; k <= end && bulge !== 0; k++) {
      const [c, s, r] = givens(d[k] ?? 0, bulge);
      d[k] = r;
      left.push(k, at, c, s);
      if (k === end) break;
      bulge = -s * (e[k] ?? 0);
      e[k] = c * (e[k] ?? 0);
    }
    return;
  }
  let bulge = e[end - 1] ?? 0;
  e[end - 1] = 0;
  for (let k = end - 1; k >= start && bulge !== 0; k--) {
    const [c, s, r] = givens(d[k] ?? 0, bulge);
    d[k] = r;
    right.push(k, end, c, s);
    if (k === start) break;
    bulge = -s * (e[k - 1] ?? 0);
    e[k - 1] = c * (e[k - 1] ?? 0);
  }
}

/** One implicit QR step on rows and columns start..end. */
function step(
  d: Float64Array,
  e: Float64Array,
  start: number,
  end: number,
  left: RotationQueue,
  right: RotationQueue,
): void {
  const at = (values: Float64Array, i: number): number => values[i] ?? 0;
  // The shift: the eigenvalue of the last 2×2 of BᵀB that is nearer to its last entry, in units that cannot overflow.
  const unit = Math.max(...[d[end], d[end - 1], e[end - 1], d[start], e[start]].map((value) => Math.abs(value ?? 0)));
  const [last, before, beside] = [at(d, end) / unit, at(d, end - 1) / unit, at(e, end - 1) / unit];
  const half = ((before + last) * (before - last) + beside * beside) / 2;
  const corner = (last * beside) ** 2;
  const root = Math.sqrt(half * half + corner) * (half < 0 ? -1 : 1);
  const shift = half === 0 && corner === 0 ? 0 : corner / (half + root);
  const first = at(d, start) / unit;
  let f = (first + last) * (first - last) + shift;
  let g = (first * at(e, start)) / unit;
  for (let k = start; k < end; k++) {
    const [c, s, r] = givens(f, g);
    if (k > start) e[k - 1] = r;
    f = c * at(d, k) + s * at(e, k);
    e[k] = c * at(e, k) - s * at(d, k);
    g = s * at(d, k + 1);
    d[k + 1] = c * at(d, k + 1);
    right.push(k, k + 1, c, s);
    const [c2, s2, r2] = givens(f, g);
    d[k] = r2;
    f = c2 * at(e, k) + s2 * at(d, k + 1);
    d[k + 1] = c2 * at(d, k + 1) - s2 * at(e, k);
    if (k + 1 < end) {
      g = s2 * at(e, k + 1);
      e[k + 1] = c2 * at(e, k + 1);
    }
    left.push(k, k + 1, c2, s2);
  }
  e[end - 1] = f;
}
