import { createRooms, type Multiply, type Rooms } from "../linalg/index.ts";
import type { PreparedHessian } from "./hessian.ts";

/** Weights while they are swept: column-major, in the order of the sweep, so that a column is one stretch of memory. */
export interface SweepState {
  readonly rows: number;
  readonly columns: number;
  /** Column k as errors of earlier columns have left it [rows]. Only those that are being quantised can be had. */
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
  /** Σ e² over the sweep, which is trace((W − Q)·H·(W − Q)ᵀ) for the damped H. */
  readonly error: number;
}

/** How a sweep is computed. */
export interface SweepOptions {
  /** Columns that are brought up to date together; 128 unless given. What comes out is the same. */
  readonly blockSize?: number;
  /** Computes large products, in float64. */
  readonly multiply?: Multiply | undefined;
  readonly rooms?: Rooms;
}

/** Columns that are brought up to date together inside a block. */
const innerBlock = 32;

/** Products of fewer multiplications are computed here. */
const worthwhile = 2 ** 21;

/**
 * The error-compensating sweep: quantise column by column and move each column's error onto those that follow,
 * W[:, j:] −= e·U[j, j:] with e = (w − q)/U[j, j]. Frantar et al. 2022 (arXiv 2210.17323), Algorithm 1. A column takes the
 * errors of all before it when it is its turn, in blocks within blocks: what is far off is one product for a whole block.
 * `weight` [rows, columns] is left as it is. Takes 8 bytes a weight.
 */
export async function sweep(
  weight: Float32Array | Float64Array,
  rows: number,
  { order, upper, dead }: PreparedHessian,
  quantiser: ColumnQuantiser,
  { blockSize = 128, multiply, rooms = createRooms() }: SweepOptions = {},
): Promise<Swept> {
  const n = order.length;
  const sizes = blockSizes(Math.min(quantiser.groupSize, n), blockSize);
  const errors = rooms.float64("left operand", rows * n); // no factor is made meanwhile
  const span = Math.min(n, sizes[0] ?? n);
  const panel = rooms.float64("right operand", rows * span);
  const at = (k: number): Float64Array => panel.subarray((k % span) * rows, ((k % span) + 1) * rows);
  const state: SweepState = { rows, columns: n, column: at };
  const q = new Float64Array(rows);
  let total = 0;

  /** Move the errors of columns [from, to) onto columns [first, last). */
  const apply = async (from: number, to: number, first: number, last: number): Promise<void> => {
    if (!multiply || (to - from) * (last - first) * rows < worthwhile) {
      for (let k = first; k < last; k++) subtractErrors(at(k), errors, rows, from, to, upper, n, k);
      return;
    }
    const factors = { rows: last - first, cols: to - from, data: new Float64Array((last - first) * (to - from)) };
    for (let j = from; j < to; j++) {
      const row = j * n;
      for (let k = first; k < last; k++) factors.data[(k - first) * factors.cols + j - from] = upper[row + k] ?? 0;
    }
    const moved = { rows: to - from, cols: rows, data: errors.subarray(from * rows, to * rows) };
    const { data } = await multiply(factors, moved);
    for (let k = first; k < last; k++) subtract(at(k), data, (k - first) * rows);
  };
  const quantise = (k: number): void => {
    const current = at(k);
    quantiser.quantise(k, state, q);
    total += divide(current, q, upper[k * n + k] ?? 1, errors, k * rows);
  };
  /** Columns [start, end) have taken the errors of all before `start`. */
  const run = async (start: number, end: number, level: number): Promise<void> => {
    const size = sizes[level];
    if (size === undefined) {
      for (let k = start; k < end; k++) {
        subtractErrors(at(k), errors, rows, start, k, upper, n, k);
        quantise(k);
      }
      return;
    }
    for (let first = start; first < end; first += size) {
      const last = Math.min(end, first + size);
      if (level === 0) {
        loadColumns(weight, rows, order, dead, first, last, panel);
        if (first > 0) await apply(0, first, first, last);
      } else if (first > start) await apply(start, first, first, last);
      await run(first, last, level + 1);
    }
  };
  await run(0, n, 0);
  return { error: total };
}

/** Sizes of blocks within blocks, the largest first. Each holds whole groups, or lies in one. */
function blockSizes(group: number, blockSize: number): readonly number[] {
  if (group > blockSize) return [group, blockSize, ...(innerBlock < blockSize ? [innerBlock] : [])];
  const whole = (size: number): number => Math.max(1, Math.floor(size / group)) * group;
  const sizes = [whole(blockSize), whole(Math.min(innerBlock, blockSize)), ...(group > 1 ? [group] : [])];
  return sizes.filter((size, i) => i === 0 || size < (sizes[i - 1] ?? 0));
}

/** target −= Σ e[j]·U[j, k] over j from `from` to `to`, one after the other. */
function subtractErrors(
  target: Float64Array,
  errors: Float64Array,
  rows: number,
  from: number,
  to: number,
  upper: Float64Array,
  n: number,
  k: number,
): void {
  let j = from;
  // Four at a time, each rounded as it would be alone: the column is read and written once for all of them.
  for (; j + 3 < to; j += 4) {
    const [a, b, c, d] = [j * rows, (j + 1) * rows, (j + 2) * rows, (j + 3) * rows];
    const u0 = upper[j * n + k] ?? 0;
    const u1 = upper[(j + 1) * n + k] ?? 0;
    const u2 = upper[(j + 2) * n + k] ?? 0;
    const u3 = upper[(j + 3) * n + k] ?? 0;
    for (let row = 0; row < rows; row++) {
      target[row] =
        (target[row] ?? 0) -
        u0 * (errors[a + row] ?? 0) -
        u1 * (errors[b + row] ?? 0) -
        u2 * (errors[c + row] ?? 0) -
        u3 * (errors[d + row] ?? 0);
    }
  }
  for (; j < to; j++) {
    const u = upper[j * n + k] ?? 0;
    const a = j * rows;
    for (let row = 0; row < rows; row++) target[row] = (target[row] ?? 0) - u * (errors[a + row] ?? 0);
  }
}

function subtract(target: Float64Array, values: Float64Array, from: number): void {
  for (let row = 0; row < target.length; row++) target[row] = (target[row] ?? 0) - (values[from + row] ?? 0);
}

/** errors = (w − q)/diagonal; the sum of their squares is the result. */
function divide(w: Float64Array, q: Float64Array, diagonal: number, errors: Float64Array, to: number): number {
  let sum = 0;
  for (let row = 0; row < w.length; row++) {
    const value = ((w[row] ?? 0) - (q[row] ?? 0)) / diagonal;
    errors[to + row] = value;
    sum += value * value;
  }
  return sum;
}

/** Columns `first` to `last`, in the order of the sweep, of W [rows, columns] as columns; those of dead inputs are 0. */
function loadColumns(
  weight: Float32Array | Float64Array,
  rows: number,
  order: Uint32Array,
  dead: Uint8Array,
  first: number,
  last: number,
  panel: Float64Array,
): void {
  const n = order.length;
  const tile = 64; // rows that are walked through for every column before the next: they stay in the cache
  for (let top = 0; top < rows; top += tile) {
    const bottom = Math.min(rows, top + tile);
    for (let k = first; k < last; k++) {
      const column = order[k] ?? 0;
      const to = (k - first) * rows;
      if (dead[column] === 1) panel.fill(0, to + top, to + bottom);
      else for (let row = top; row < bottom; row++) panel[to + row] = weight[row * n + column] ?? 0;
    }
  }
}
