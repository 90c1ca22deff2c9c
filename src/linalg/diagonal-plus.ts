import { makeBasis } from "./basis.ts";
import { eigh } from "./eigh.ts";
import { besides, columnsOf, frobeniusNorm, type Matrix, toFloat64, transposed, zeroMatrix } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import { diagonalPlus } from "./operator.ts";
import { gram, type LeadingTriplets, rayleighRitz } from "./ritz.ts";
import type { Rng } from "./rng.ts";

/** A diagonal of singular values and an update of it; see {@link diagonalPlus}. */
export interface UpdatedDiagonal {
  /** [q], from the largest down. */
  readonly values: Float64Array;
  /** [rows, r] */
  readonly B: Matrix<Float64Array>;
  /** [r, cols] */
  readonly A: Matrix<Float64Array>;
}

/**
 * The first `count` singular triplets of W = diag(values) + B·A, in time that grows with the sides and not with their
 * product.
 *
 * W·Wᵀ is the diagonal of squares and 2r directions more, so (W·Wᵀ − x)⁻¹ is a diagonal and a system of 2r equations
 * (Woodbury), and the signs of that system's eigenvalues count the eigenvalues of W·Wᵀ above x (Sylvester's law of inertia;
 * Golub and Van Loan, §8.1 and §8.4). A few products with W say where x should be, products with the inverse there find
 * what is above however close values lie, and the count says when all of it is found.
 *
 * `converged` is below `count` when that did not happen.
 */
export async function leadingOfUpdatedDiagonal(
  { values, B, A }: UpdatedDiagonal,
  count: number,
  { rng, rounds = 6 }: { readonly rng: Rng; readonly rounds?: number },
): Promise<LeadingTriplets> {
  const operator = diagonalPlus(values, B, A);
  const { rows, cols } = operator;
  const wanted = Math.min(count, rows, cols);
  const width = Math.min(rows, 4);
  const capacity = Math.min(rows, 40 * (wanted + 8));
  const basis = makeBasis(rows, capacity);
  const images: Matrix[] = []; // Wᵀ of each block of the basis
  const random = (): Matrix => ({
    rows,
    cols: width,
    data: Float64Array.from({ length: rows * width }, () => rng.normal()),
  });
  const grow = async (by: number, next: (block: Matrix, image: Matrix) => Promise<Matrix>): Promise<void> => {
    let block = random();
    const until = Math.min(capacity, basis.count + by);
    while (basis.count < until) {
      const first = basis.add(block);
      if (basis.count === first)
        block = random(); // all of it was there already
      else {
        const added = basis.columns(first);
        const image = await operator.applyTransposed(added);
        images.push(image);
        block = await next(added, image);
      }
    }
  };
  await grow(6 * wanted + 16, (_, image) => operator.apply(image));
  let seen = wanted + 6; // some more than are wanted: the place of x is among them
  let best = await rayleighRitz(operator, basis, images, seen);
  for (let round = 0; ; round++) {
    const at = belowAll(best.S, wanted);
    if (at === undefined || basis.count >= rows) break; // every value, or all that are no rounding, are in the basis
    const { above, apply } = inverseAt(at, { values, B, A });
    if (best.converged >= wanted && best.S.filter((value) => value * value > at).length === above) break;
    if (round === rounds || basis.count >= capacity) {
      best = { ...best, converged: 0 };
      break;
    }
    await grow(Math.min(above, 120) + 24, apply);
    seen = Math.max(seen, above + 1);
    best = await rayleighRitz(operator, basis, images, seen);
  }
  return first(best, wanted);
}

/** The middle of the widest gap among squares of values beyond the first `wanted`; undefined where they are zero. */
function belowAll(S: Float64Array, wanted: number): number | undefined {
  let [widest, at]: [number, number | undefined] = [0, undefined];
  for (let i = wanted; i < S.length; i++) {
    const [high, low] = [(S[i - 1] ?? 0) ** 2, (S[i] ?? 0) ** 2];
    if (low <= 1e-14 * (S[0] ?? 0) ** 2 || high - low <= widest) continue;
    [widest, at] = [high - low, (high + low) / 2];
  }
  return at;
}

/** Products with (W·Wᵀ − x)⁻¹, and how many eigenvalues of W·Wᵀ are above x. */
function inverseAt(
  x: number,
  { values, B, A }: UpdatedDiagonal,
): { readonly above: number; apply(X: Matrix): Promise<Matrix> } {
  const { rows, cols: rank } = B;
  // W·Wᵀ = D² + Z·M·Zᵀ with Z = [B, D·Aᵀ] and M = [[A·Aᵀ, 1], [1, 0]]. Lengths of B and A are evened out first.
  const [sizeA, sizeB] = [frobeniusNorm(A), frobeniusNorm(B)];
  const even = sizeA > 0 && sizeB > 0 ? Math.sqrt(sizeA / sizeB) : 1;
  const inner = zeroMatrix(rows, rank);
  for (let i = 0; i < values.length; i++) {
    for (let j = 0; j < rank; j++) inner.data[i * rank + j] = ((values[i] ?? 0) * (A.data[j * A.cols + i] ?? 0)) / even;
  }
  const Z = besides({ ...B, data: B.data.map((value) => value * even) }, inner);
  const weights = new Float64Array(rows); // 1 / (D² − x)
  let over = 0;
  for (let i = 0; i < rows; i++) {
    const from = (values[i] ?? 0) ** 2 - x;
    if (from > 0) over += 1;
    weights[i] = 1 / (Math.abs(from) < 1e-14 * x ? 1e-14 * x : from);
  }
  const scaledRows = (X: Matrix<Float64Array>): Matrix<Float64Array> => {
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < X.cols; j++) X.data[i * X.cols + j] = (X.data[i * X.cols + j] ?? 0) * (weights[i] ?? 0);
    }
    return X;
  };
  const Zt = transposed(Z);
  const system = matmul(Zt, scaledRows(toFloat64(Z)));
  const AAt = gram({ ...A, data: A.data.map((value) => value / even) });
  for (let i = 0; i < rank; i++) {
    for (const at of [i * 2 * rank + rank + i, (rank + i) * 2 * rank + i]) system.data[at] = (system.data[at] ?? 0) + 1;
    for (let j = 0; j < rank; j++) {
      const at = (rank + i) * 2 * rank + rank + j;
      system.data[at] = (system.data[at] ?? 0) - (AAt.data[i * rank + j] ?? 0);
    }
  }
  const { values: turns, vectors } = eigh(system);
  return {
    above: over + turns.filter((value) => value < 0).length - rank,
    apply: async (X) => {
      const Y = scaledRows(toFloat64(X));
      const part = matmul(vectors, matmul(Zt, Y), { transA: true });
      for (let i = 0; i < part.data.length; i++)
        part.data[i] = (part.data[i] ?? 0) / (turns[Math.floor(i / X.cols)] || 1);
      const back = scaledRows(matmul(Z, matmul(vectors, part)));
      for (let i = 0; i < Y.data.length; i++) Y.data[i] = (Y.data[i] ?? 0) - (back.data[i] ?? 0);
      return Y;
    },
  };
}

function first({ U, S, Vt, residuals, converged }: LeadingTriplets, count: number): LeadingTriplets {
  return {
    U: columnsOf(U, 0, Math.min(U.cols, count)),
    S: S.subarray(0, count),
    Vt: { ...Vt, rows: Math.min(Vt.rows, count), data: Vt.data.slice(0, Math.min(Vt.rows, count) * Vt.cols) },
    residuals: residuals.subarray(0, count),
    converged: Math.min(converged, count),
  };
}
