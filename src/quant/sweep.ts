import type { PreparedHessian } from "./hessian.ts";

/** Weights while they are swept: column-major, in the order of the sweep, so that a column is one stretch of memory. */
export interface SweepState {
  readonly rows: number;
  readonly columns: number;
  /** Column k as errors of earlier columns have left it [rows]. */
  column(k: number): Float64Array;
}

/** Quantises columns one after the other. */
export interface ColumnQuantiser {
  /** Columns before which parameters are fitted to several columns at once: the sweep brings those up to date first. */
  readonly groupSize: number;
  /** Quantise column k: fill `quantised` [rows]. Columns of the group that k begins are up to date when it begins. */
  quantise(k: number, state: SweepState, quantised: Float64Array): void;
}

/** What a sweep leaves. */
export interface Swept {
  /** Quantised weights, column-major in the order of the sweep. */
  readonly quantised: Float64Array;
  /** Σ e² over the sweep, which is trace((W − Q)·H·(W − Q)ᵀ) for the damped H. */
  readonly error: number;
}

/**
 * The error-compensating sweep: quantise column by column and move each column's error onto those that follow,
 * W[:, j:] −= e·U[j, j:] with e = (w − q)/U[j, j]. Frantar et al. 2022 (arXiv 2210.17323), Algorithm 1. Columns further
 * off than a block are brought up to date when the block is done. `weight` [rows, columns] is left as it is.
 */
export function sweep(
  weight: Float32Array | Float64Array,
  rows: number,
  { order, upper, dead }: PreparedHessian,
  quantiser: ColumnQuantiser,
  blockSize = 128,
): Swept {
  const n = order.length;
  const work = columnsInOrder(weight, rows, order, dead);
  const quantised = new Float64Array(rows * n);
  const errors = new Float64Array(rows * n);
  const at = (k: number): Float64Array => work.subarray(k * rows, (k + 1) * rows);
  const state: SweepState = { rows, columns: n, column: at };
  let total = 0;
  const group = Math.min(quantiser.groupSize, n);
  for (let start = 0; start < n; ) {
    const end = blockEnd(start, n, group, blockSize);
    for (let j = start; j < end; j++) {
      const current = at(j);
      const q = quantised.subarray(j * rows, (j + 1) * rows);
      quantiser.quantise(j, state, q);
      const e = errors.subarray(j * rows, (j + 1) * rows);
      const diagonal = upper[j * n + j] ?? 1;
      for (let row = 0; row < rows; row++) {
        const value = ((current[row] ?? 0) - (q[row] ?? 0)) / diagonal;
        e[row] = value;
        total += value * value;
      }
      for (let k = j + 1; k < end; k++) subtract(at(k), e, upper[j * n + k] ?? 0);
    }
    for (let k = end; k < n; k++) {
      const target = at(k);
      for (let j = start; j < end; j++)
        subtract(target, errors.subarray(j * rows, (j + 1) * rows), upper[j * n + k] ?? 0);
    }
    start = end;
  }
  return { quantised, error: total };
}

/** Blocks hold whole groups where a group fits into one, and begin where a longer one begins. */
function blockEnd(start: number, n: number, group: number, blockSize: number): number {
  if (group <= blockSize) return Math.min(n, start + Math.max(1, Math.floor(blockSize / group)) * group);
  const groupEnd = (Math.floor(start / group) + 1) * group;
  return Math.min(n, start + blockSize, groupEnd);
}

function subtract(target: Float64Array, e: Float64Array, factor: number): void {
  if (factor === 0) return;
  for (let row = 0; row < target.length; row++) target[row] = (target[row] ?? 0) - factor * (e[row] ?? 0);
}

/** W [rows, columns] as columns in the order of the sweep; those of dead inputs are 0. */
export function columnsInOrder(
  weight: Float32Array | Float64Array,
  rows: number,
  order: Uint32Array,
  dead: Uint8Array,
): Float64Array {
  const n = order.length;
  const result = new Float64Array(rows * n);
  for (let k = 0; k < n; k++) {
    const column = order[k] ?? 0;
    if (dead[column] === 1) continue;
    for (let row = 0; row < rows; row++) result[k * rows + row] = weight[row * n + column] ?? 0;
  }
  return result;
}
