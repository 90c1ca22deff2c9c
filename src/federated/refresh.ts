import { assert } from "../errors.ts";
import { columnsOf, type Floats, type Matrix, matrixLike, type Rng, rowsOf, zeroMatrix } from "../linalg/index.ts";
import type { Factors } from "./factors.ts";

/** Factors with some directions drawn anew, and what was taken out of them. */
export interface Refreshed<T extends Floats = Float32Array> extends Factors<T> {
  /** The directions that were taken out: their product belongs into the weight. */
  readonly folded: Factors<T>;
}

/**
 * Keep the strongest directions of refactored factors, and put new ones in the place of the others: orthonormal rows, drawn
 * by `rng` and orthogonal to those that are kept, with zeros in B. This lets A leave the row space that it started with, which
 * a refactor alone never does. It is an extension of ours and not in the FedSVD paper; it reads nothing but what is public
 * already, so that it costs no privacy.
 * @param keep how many directions stay, from 0 to rank − 1.
 * @param rng the same for every party: `createRng(seed, "refresh", round, module)`.
 */
export function refresh<T extends Floats>({ B, A }: Factors<T>, keep: number, rng: Rng): Refreshed<T> {
  const [rank, width] = [A.rows, A.cols];
  assert(Number.isSafeInteger(keep) && keep >= 0 && keep < rank, "a refresh keeps fewer directions than there are");
  const rows = zeroMatrix(rank, width);
  rows.data.set(A.data.subarray(0, keep * width));
  for (let i = keep; i < rank; i++) drawOrthogonal(rows, i, rng);
  const cleared = B.data.map((value, at) => (at % rank < keep ? value : 0)) as T; // its own type
  return {
    A: matrixLike(A.data, rows),
    B: { rows: B.rows, cols: rank, data: cleared },
    folded: { B: columnsOf(B, keep, rank), A: copied(rowsOf(A, keep, rank)) },
  };
}

/** Row i becomes a unit vector at right angles to the rows before it: Gram and Schmidt twice. Only + − × ÷ √ are used. */
function drawOrthogonal({ cols, data }: Matrix<Float64Array>, i: number, rng: Rng): void {
  for (;;) {
    const row = data.subarray(i * cols, (i + 1) * cols);
    for (let j = 0; j < cols; j++) row[j] = rng.normal();
    const before = lengthOf(row);
    for (let pass = 0; pass < 2; pass++) {
      for (let k = 0; k < i; k++) {
        const other = data.subarray(k * cols, (k + 1) * cols);
        const share = row.reduce((sum, value, j) => sum + value * (other[j] ?? 0), 0);
        for (let j = 0; j < cols; j++) row[j] = (row[j] ?? 0) - share * (other[j] ?? 0);
      }
    }
    const length = lengthOf(row);
    if (!(length > 1e-6 * before)) continue; // it lay among the others but for rounding: draw again
    for (let j = 0; j < cols; j++) row[j] = (row[j] ?? 0) / length;
    return;
  }
}

function lengthOf(row: Float64Array): number {
  return Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
}

function copied<T extends Floats>({ rows, cols, data }: Matrix<T>): Matrix<T> {
  return { rows, cols, data: data.slice() as T }; // slice keeps the type
}
