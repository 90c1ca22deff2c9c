import {
  columnsOf,
  createRng,
  frobeniusNorm,
  leadingTriplets,
  type Matrix,
  matmul,
  qr,
  type Svd,
  svd,
  toFloat64,
  transposed,
} from "../linalg/index.ts";
import type { LowRank } from "./pairs.ts";
import type { Products } from "./products.ts";

/** How large an update is, and over how many directions it spreads. */
export interface UpdateMeasures {
  /** Its largest singular value. */
  readonly spectral: number;
  readonly frobenius: number;
  /** exp(−Σ p ln p) of its singular values over their sum; null where that would take a whole decomposition of a large matrix. */
  readonly effectiveRank: number | null;
  /** Directions that it has at all; null when it fills the matrix. */
  readonly rank: number | null;
}

/** exp(−Σ p ln p) with p = σ / Σσ. Roy and Vetterli 2007, "The effective rank". 0 for a zero matrix. */
export function effectiveRank(values: ArrayLike<number>): number {
  const total = Array.from(values).reduce((sum, value) => sum + value, 0);
  if (total === 0) return 0;
  const entropy = Array.from(values).reduce((sum, value) => {
    const p = value / total;
    return p > 0 ? sum - p * Math.log(p) : sum;
  }, 0);
  return Math.exp(entropy);
}

/** Measure an update given in factors: its singular values are those of R_left·R_rightᵀ, r × r. */
export function measureFactors({ left, right }: LowRank): UpdateMeasures {
  if (left.cols === 0) return { spectral: 0, frobenius: 0, effectiveRank: 0, rank: 0 };
  const core = matmul(qr(left).R, qr(transposed(right)).R, { transB: true });
  return measuresOf(svd(core).S);
}

function measuresOf(values: Float64Array): UpdateMeasures {
  const spectral = values[0] ?? 0;
  return {
    spectral,
    frobenius: Math.sqrt(values.reduce((sum, value) => sum + value * value, 0)),
    effectiveRank: effectiveRank(values),
    rank: values.filter((value) => value > 1e-7 * spectral).length,
  };
}

/** Measure an update that fills its matrix. Its effective rank is computed up to `wholeUpTo` columns of the smaller side. */
export async function measureDense(
  update: Matrix<Float64Array>,
  products: Products,
  wholeUpTo = 1024,
): Promise<UpdateMeasures> {
  if (Math.min(update.rows, update.cols) <= wholeUpTo) {
    const measures = measuresOf(svd(update).S);
    const full = (measures.rank ?? 0) > Math.min(update.rows, update.cols) / 2;
    return { ...measures, rank: full ? null : measures.rank };
  }
  const placed = await products.place(update);
  const { S } = await leadingTriplets(placed, 1, { rng: createRng(3, "update"), iterations: 8, looks: 2 });
  await placed.release();
  return { spectral: S[0] ?? 0, frobenius: frobeniusNorm(update), effectiveRank: null, rank: null };
}

/**
 * The factors of an update that has few directions, found from the update itself by a random range finder (Halko et al.
 * 2011, algorithm 4.1); undefined when it has more than `most`. Directions as small as the rounding of weights to
 * float32 are not counted: merged weights have them all. `size` is the largest entry of the weight.
 */
export async function factorise(
  update: Matrix<Float64Array>,
  products: Products,
  { size, most }: { readonly size: number; readonly most: number },
): Promise<LowRank | undefined> {
  const { rows, cols } = update;
  const count = Math.min(most + 8, rows, cols);
  const rng = createRng(5, "range");
  const random = { rows: cols, cols: count, data: Float64Array.from({ length: cols * count }, () => rng.normal()) };
  const placed = await products.place(update);
  try {
    const { Q } = qr(toFloat64(await placed.apply(random)));
    const image = toFloat64(await placed.applyTransposed(Q)); // (Qᵀ·update)ᵀ [cols, count]
    const { U, S, Vt } = svd(transposed(image));
    const rounding = 2 ** -24 * size * (Math.sqrt(rows) + Math.sqrt(cols));
    const rank = S.filter((value) => value > Math.max(2 * rounding, 1e-7 * (S[0] ?? 0))).length;
    if (rank > most || rank >= Math.min(rows, cols)) return undefined;
    const left = matmul(Q, columnsOf(U, 0, rank));
    const right = scaledRows(Vt, S, rank);
    // What the sample saw is small enough; the update itself must be as small beyond the factors.
    const energy = frobeniusNorm(update) ** 2 - S.subarray(0, rank).reduce((sum, value) => sum + value * value, 0);
    const allowed = (2 ** -24 * size) ** 2 * rows * cols + 1e-12 * frobeniusNorm(update) ** 2;
    return energy <= allowed ? { left, right } : undefined;
  } finally {
    await placed.release();
  }
}

function scaledRows({ cols, data }: Svd<Float64Array>["Vt"], S: Float64Array, rank: number): Matrix<Float64Array> {
  const result = data.slice(0, rank * cols);
  for (let i = 0; i < rank; i++)
    for (let j = 0; j < cols; j++) result[i * cols + j] = (result[i * cols + j] ?? 0) * (S[i] ?? 0);
  return { rows: rank, cols, data: result };
}
