import {
  besides,
  boundWeights,
  columnsOf,
  createRng,
  diagonalPlus,
  gram,
  isPositiveDefinite,
  isPositiveDefiniteByPanels,
  type LeadingTriplets,
  type LinearOperator,
  leadingBySquare,
  leadingOfUpdatedDiagonal,
  lowRankPlus,
  type Matrix,
  matmul,
  qr,
  type Svd,
  type SymmetricOperator,
  svd,
  toFloat64,
  transposed,
  type UpdatedDiagonal,
  zeroMatrix,
} from "../linalg/index.ts";
import type { BaseCache } from "./base-svd.ts";
import type { LowRank } from "./pairs.ts";
import { type PlacedMatrix, type PlacedSquare, type Products, sum } from "./products.ts";

/** The leading singular vectors of a tuned matrix, and how they lie among those of its base. */
export interface Spectrum {
  readonly method: "exact" | "rotated" | "certified";
  /** Leading singular values of the tuned matrix. */
  readonly sigma: readonly number[];
  /** Leading singular values of the base. */
  readonly sigmaBase: readonly number[];
  /** Largest absolute cosine of each leading vector with any vector of the base; where not `exact`, the largest known. */
  readonly maxCos: readonly number[];
  /** No vector of the base has a larger absolute cosine. Equal to `maxCos` where that is known. */
  readonly bound: readonly number[];
  /** |U0ᵀU|: leading vectors of the base (rows) and of the tuned matrix (columns). */
  readonly similarity: readonly (readonly number[])[];
  /** The leading vectors themselves: U [rows, k], Vt [k, cols]. */
  vectors(): { readonly U: Matrix<Float64Array>; readonly Vt: Matrix<Float64Array> };
}

/** How many leading vectors, and where large products are computed. */
export interface SpectrumOptions {
  readonly k: number;
  readonly eps: number;
  readonly products: Products;
  /** What is known of the base from before. */
  readonly cache?: Pick<BaseCache, "leading" | "keepLeading">;
  /** Called now and then. */
  readonly onWork?: () => void;
}

/** By two whole decompositions. W [rows, cols] is the tuned matrix. */
export function exactSpectrum(base: Svd, tuned: Matrix, { k }: Pick<SpectrumOptions, "k">): Spectrum {
  const { U, S, Vt } = svd(toFloat64(tuned));
  const leading = columnsOf(U, 0, Math.min(k, U.cols));
  const cosines = matmul(toFloat64(base.U), leading, { transA: true });
  const maxCos = columnMaxima(cosines);
  return {
    method: "exact",
    sigma: [...S.subarray(0, k)],
    sigmaBase: [...base.S.subarray(0, k)],
    maxCos,
    bound: maxCos,
    similarity: absoluteRows(cosines, k),
    vectors: () => ({
      U: leading,
      Vt: { rows: leading.cols, cols: Vt.cols, data: Vt.data.slice(0, leading.cols * Vt.cols) },
    }),
  };
}

/**
 * In the base's own coordinates: U0ᵀ(W0 + BA)V0 = diag(S0) + (U0ᵀB)(A·V0) has W's singular values, and the components of
 * its left vectors are the cosines. What B (or A) has outside a thin U0 (or V0) becomes further rows (columns).
 * Undefined when the leading vectors do not settle.
 */
export async function rotatedSpectrum(
  base: Svd,
  { left, right }: LowRank,
  options: SpectrumOptions,
): Promise<Spectrum | undefined> {
  const { k, products } = options;
  const q = base.S.length;
  const [U0, Vt0] = [await products.place(base.U), await products.place(base.Vt)];
  try {
    const B = toFloat64(await U0.applyTransposed(left)); // [q, r]
    const A = transposed(toFloat64(await Vt0.apply(transposed(right)))); // [r, q]
    const beyondLeft = await outside(left, B, U0);
    const beyondRight = await outside(transposed(right), transposed(A), {
      ...Vt0,
      apply: (X: Matrix) => Vt0.applyTransposed(X),
    });
    const core: UpdatedDiagonal = {
      values: Float64Array.from(base.S),
      B: stacked(B, beyondLeft?.R),
      A: transposed(stacked(transposed(A), beyondRight?.R)),
    };
    const small = Math.min(core.B.rows, core.A.cols);
    const found =
      small <= 4 * k
        ? await wholeOf(core, k)
        : await leadingOfUpdatedDiagonal(core, k, { rng: createRng(7, "rotated") });
    if (found.converged < Math.min(k, found.U.cols)) return undefined;
    const turnedU = found.U; // [q + r', k]
    const count = Math.min(k, turnedU.cols);
    const inside = topRows(turnedU, q);
    const maxCos = columnMaxima(columnsOf(inside, 0, count));
    // Turned back at once: the placed matrices are released when this returns.
    const U = back(await U0.apply(inside), beyondLeft?.Q, turnedU, q);
    const turnedV = transposed(found.Vt);
    const V = back(await Vt0.applyTransposed(topRows(turnedV, q)), beyondRight?.Q, turnedV, q);
    return {
      method: "rotated",
      sigma: [...found.S.subarray(0, k)],
      sigmaBase: [...base.S.subarray(0, k)],
      maxCos,
      bound: maxCos,
      similarity: absoluteRows(inside, k),
      vectors: () => ({ U, Vt: transposed(V) }),
    };
  } finally {
    await U0.release();
    await Vt0.release();
  }
}

/** What columns X have outside the columns of a thin basis: Q·R; undefined when that is nothing but rounding. */
async function outside(
  X: Matrix<Float64Array>,
  coordinates: Matrix<Float64Array>,
  basis: Pick<LinearOperator, "rows" | "cols" | "apply">,
): Promise<{ Q: Matrix<Float64Array>; R: Matrix<Float64Array> } | undefined> {
  if (X.cols === 0 || X.rows <= coordinates.rows) return undefined;
  const spanned = await basis.apply(coordinates);
  const rest = toFloat64(X);
  for (let i = 0; i < rest.data.length; i++) rest.data[i] = (rest.data[i] ?? 0) - (spanned.data[i] ?? 0);
  const { Q, R } = qr(rest);
  return { Q, R };
}

function stacked(top: Matrix<Float64Array>, bottom: Matrix<Float64Array> | undefined): Matrix<Float64Array> {
  if (bottom === undefined) return top;
  const data = new Float64Array(top.data.length + bottom.data.length);
  data.set(top.data);
  data.set(bottom.data, top.data.length);
  return { rows: top.rows + bottom.rows, cols: top.cols, data };
}

function topRows({ rows, cols, data }: Matrix<Float64Array>, count: number): Matrix<Float64Array> {
  return { rows: Math.min(rows, count), cols, data: data.subarray(0, Math.min(rows, count) * cols) };
}

/** U0·top + Q·rest. */
function back(
  spanned: Matrix,
  Q: Matrix<Float64Array> | undefined,
  turned: Matrix<Float64Array>,
  q: number,
): Matrix<Float64Array> {
  const result = toFloat64(spanned);
  if (Q === undefined) return result;
  const rest = { rows: turned.rows - q, cols: turned.cols, data: turned.data.subarray(q * turned.cols) };
  const beyond = matmul(Q, rest);
  for (let i = 0; i < result.data.length; i++) result.data[i] = (result.data[i] ?? 0) + (beyond.data[i] ?? 0);
  return result;
}

/** By a whole decomposition of a small core. */
async function wholeOf(core: UpdatedDiagonal, k: number): Promise<Omit<LeadingTriplets, "residuals">> {
  const operator = diagonalPlus(core.values, core.B, core.A);
  const identity = zeroMatrix(operator.cols, operator.cols);
  for (let i = 0; i < operator.cols; i++) identity.data[i * operator.cols + i] = 1;
  const { U, S, Vt } = svd(toFloat64(await operator.apply(identity)));
  const count = Math.min(k, S.length);
  return {
    U: columnsOf(U, 0, count),
    S,
    converged: count,
    Vt: { rows: count, cols: Vt.cols, data: Vt.data.slice(0, count * Vt.cols) },
  };
}

/**
 * Without any whole decomposition: leading vectors of both matrices by block Krylov iteration, and for those that are
 * like none of the base's leading ones a bound on their cosines with all the others. Undefined when that does not
 * decide every vector.
 */
export async function certifiedSpectrum(
  base: Matrix<Float32Array>,
  tuned: LowRank | Matrix<Float64Array>,
  options: SpectrumOptions,
): Promise<Spectrum | undefined> {
  const { k, eps, products, cache, onWork } = options;
  const onProduct = onWork ? { onProduct: onWork } : {};
  const W0 = await products.place(base);
  const dense = "left" in tuned ? undefined : await products.place(tuned);
  const squares: PlacedSquare[] = [];
  try {
    // The tuned vectors are near the base's, but where intruders are; more of the base's are wanted than of theirs.
    const wanted = Math.min(Math.max(32, 2 * k), base.rows, base.cols);
    const kept = await cache?.leading(base, { wanted, enough: Math.min(k, wanted) });
    const square = await (kept?.square ? products.placeSquare(kept.square) : W0.square());
    squares.push(square);
    const before =
      kept?.leading ??
      (await leadingBySquare(W0, square, wanted, { rng: createRng(7, "base"), enough: k, ...onProduct }));
    if (before.converged < Math.min(k, before.S.length)) return undefined;
    const known = columnsOf(before.U, 0, before.converged);
    const tall = base.rows > base.cols;
    const sides = "left" in tuned ? await sidesOf(W0, tuned) : undefined;
    const start = besides(
      tall ? transposed(before.Vt) : before.U,
      ...(sides ? sampled([sides.inner, sides.across]) : []),
    );
    let tunedSquare: SymmetricOperator;
    if (sides) tunedSquare = plusSides(square, sides);
    else {
      const own = await (dense ?? W0).square();
      squares.push(own);
      tunedSquare = own;
    }
    const W = "left" in tuned ? lowRankPlus(W0, tuned.left, tuned.right) : (dense ?? W0);
    const after = await leadingBySquare(W, tunedSquare, k, { rng: createRng(7, "tuned"), start, ...onProduct });
    if (after.converged < after.S.length) return undefined;
    const cosines = matmul(known, after.U, { transA: true });
    const maxCos = columnMaxima(cosines);
    const rest = remainders(cosines);
    // Beyond the known vectors a cosine is at most what is left of the vector's length.
    const bound = maxCos.map((value, j) => Math.max(value, rest[j] ?? 1));
    const open = maxCos.flatMap((value, j) => (value < eps && (bound[j] ?? 1) >= eps ? [j] : []));
    const largest = before.S[0] ?? 0;
    let lowest = tall ? kept?.lowest : 0;
    const searched = open.length > 0 && lowest === undefined;
    if (searched) lowest = (await smallestOfSquare(square, largest, products)) ?? smallestExactly(base, largest);
    if (!kept || searched) {
      await cache?.keepLeading(base, { leading: before, ...(lowest === undefined ? {} : { lowest }) }, () =>
        square.read(),
      );
    }
    if (open.length > 0) {
      if (lowest === undefined) return undefined;
      const chosen = pickColumns(after.U, open);
      const highest = (before.S[before.converged - 1] ?? 0) ** 2;
      const knownRight = transposed({
        ...before.Vt,
        rows: before.converged,
        data: before.Vt.data.subarray(0, before.converged * base.cols),
      });
      const limits = { known, knownRight, lowest, highest, decideAt: eps };
      const weights = await boundWeights(W0, chosen, { ...limits, square, ...onProduct });
      for (const [i, j] of open.entries()) {
        const { bound: high, found } = weights[i] ?? { bound: 1, found: 0 };
        maxCos[j] = Math.max(maxCos[j] ?? 0, found);
        bound[j] = Math.max(maxCos[j] ?? 0, Math.min(bound[j] ?? 1, high));
        if ((maxCos[j] ?? 0) < eps && (bound[j] ?? 1) >= eps) return undefined;
      }
    }
    return {
      method: "certified",
      sigma: [...after.S],
      sigmaBase: [...before.S.subarray(0, k)],
      maxCos,
      bound,
      similarity: absoluteRows(cosines, k),
      vectors: () => after,
    };
  } finally {
    for (const square of squares) await square.release();
    await W0.release();
    await dense?.release();
  }
}

/** An update's factors: on the smaller side of W0, and W0 times the other. */
interface Sides {
  readonly inner: Matrix<Float64Array>;
  readonly across: Matrix<Float64Array>;
  readonly outer: Matrix<Float64Array>;
}

async function sidesOf(W0: PlacedMatrix, { left, right }: LowRank): Promise<Sides> {
  const tall = W0.rows > W0.cols;
  const [inner, outer] = tall ? [transposed(right), left] : [left, transposed(right)];
  const across = toFloat64(await (tall ? W0.applyTransposed(outer) : W0.apply(outer)));
  return { inner, outer, across };
}

/** The square of W0 + left·right from that of W0: of the same side. */
function plusSides(square: PlacedSquare, { inner, outer, across }: Sides): SymmetricOperator {
  // (W0 + inner·outerᵀ)(…)ᵀ = W0·W0ᵀ + across·innerᵀ + inner·(across + inner·outerᵀ·outer)ᵀ
  const added = sum(across, matmul(inner, matmul(outer, outer, { transA: true })));
  return square.plus(besides(across, inner), transposed(besides(inner, added)));
}

/** At most 16 columns in the span of each. */
function sampled(blocks: readonly Matrix<Float64Array>[]): readonly Matrix<Float64Array>[] {
  const rng = createRng(7, "sample");
  return blocks.map((block) => {
    if (block.cols <= 16) return block;
    const weights = {
      rows: block.cols,
      cols: 16,
      data: Float64Array.from({ length: 16 * block.cols }, () => rng.normal()),
    };
    return matmul(block, weights);
  });
}

/** Shares of the largest value's square that the smallest value's square is held against. */
const shares = [1e-2, 1e-3, 1e-4, 1e-5];

/**
 * A lower bound on the square of a tall matrix's smallest singular value, proved by a Cholesky factor of the square; undefined
 * when it is too small to be told from rounding. What a vector has outside the matrix's range is no singular vector of it,
 * so weights are searched above this bound.
 */
async function smallestOfSquare(
  square: PlacedSquare,
  largest: number,
  products: Products,
): Promise<number | undefined> {
  const matrix = await square.read();
  let highest = 0;
  for (let i = 0; i < matrix.rows; i++) highest = Math.max(highest, matrix.data[i * matrix.rows + i] ?? 0);
  // Rounding moves an eigenvalue by about √size times that of the largest entry: what is proved is 64 times as far away.
  const rounding = 64 * square.precision * Math.sqrt(matrix.rows) * highest;
  for (const bound of shares.map((share) => share * largest * largest)) {
    if (bound <= rounding) break;
    if (matrix.data instanceof Float64Array || matrix.rows <= 256) {
      if (isPositiveDefinite(matrix, bound)) return bound;
    } else if (await isPositiveDefiniteByPanels(matrix, bound, products.productOfRows)) return bound;
  }
  return undefined;
}

/** The same in float64, which takes long. */
function smallestExactly(base: Matrix<Float32Array>, largest: number): number | undefined {
  const wide = gram(transposed(toFloat64(base)));
  return shares.map((share) => share * largest * largest).find((bound) => isPositiveDefinite(wide, bound));
}

function columnMaxima({ rows, cols, data }: Matrix): number[] {
  const result = Array<number>(cols).fill(0);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) result[j] = Math.max(result[j] ?? 0, Math.abs(data[i * cols + j] ?? 0));
  }
  return result.map((value) => Math.min(1, value)); // roundings may leave 1 + 1e-16
}

/** √(1 − Σ cos²) of each column. */
function remainders({ rows, cols, data }: Matrix): number[] {
  const sums = Array<number>(cols).fill(0);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < cols; j++) sums[j] = (sums[j] ?? 0) + (data[i * cols + j] ?? 0) ** 2;
  return sums.map((sum) => Math.sqrt(Math.max(0, 1 - sum)));
}

function absoluteRows({ rows, cols, data }: Matrix, k: number): readonly (readonly number[])[] {
  return Array.from({ length: Math.min(rows, k) }, (_, i) =>
    Array.from({ length: Math.min(cols, k) }, (_, j) => Math.abs(data[i * cols + j] ?? 0)),
  );
}

function pickColumns({ rows, cols, data }: Matrix<Float64Array>, columns: readonly number[]): Matrix<Float64Array> {
  const result = zeroMatrix(rows, columns.length);
  for (let i = 0; i < rows; i++) {
    for (const [to, from] of columns.entries()) result.data[i * columns.length + to] = data[i * cols + from] ?? 0;
  }
  return result;
}
