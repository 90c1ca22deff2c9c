import { TuneError } from "../errors.ts";
import {
  createRooms,
  invertedUpperFactor,
  invertUpper,
  type Multiply,
  type Rooms,
  upperFactor,
} from "../linalg/index.ts";

/** What the inputs of a linear map say about how its errors count. */
export interface Hessian {
  readonly columns: number;
  /** Σ x·xᵀ over calibration tokens [columns, columns], symmetric. Its scale does not matter. */
  readonly values: Float64Array;
  /** Whether it is symmetric to the last bit; sums of float32 products need not be. No when absent. */
  readonly exact?: boolean;
}

/** A Hessian made ready for a sweep, with its columns in the order they are quantised in. */
export interface PreparedHessian {
  /** The column of the weight that is quantised k-th. */
  readonly order: Uint32Array;
  /** Upper triangular with inverse(H) = UᵀU, in that order, row-major. What is below the diagonal has no meaning. */
  readonly upper: Float64Array;
  /** Inputs that were 0 on every token: their weights become 0. By column of the weight. */
  readonly dead: Uint8Array;
  /** Share of the mean diagonal that was added to the diagonal. */
  readonly damping: number;
  /** Set when no damping up to 1 made H positive definite, and only its diagonal was used. */
  readonly diagonalOnly: boolean;
}

/** How a Hessian is prepared. */
export interface PrepareOptions {
  /** Share of the mean diagonal added to the diagonal; ten times as much while H is not positive definite. */
  readonly damping: number;
  /** Quantise the columns with the largest inputs first. */
  readonly activationOrder: boolean;
  /** Runs of this many columns stay together when columns are reordered. */
  readonly run?: number;
}

/** What large Hessians are prepared with. */
export interface PrepareTools {
  /** Computes large products; without it, Hessians of any size are factored here. */
  readonly multiply?: Multiply | undefined;
  /** Memory for what is prepared; the next of its size takes it again. */
  readonly rooms?: Rooms | undefined;
}

/** Hessians of fewer columns are factored here: their products are too small for a device. */
const worthwhile = 512;

/**
 * Damp, order and factor a Hessian. Frantar et al. 2022 (arXiv 2210.17323), §3.3 step 3; order of activations as in
 * their code. Columns that are never active get a unit diagonal.
 * @throws {TuneError} `bad-calibration` when H holds NaN or infinity.
 */
export async function prepareHessian(
  hessian: Hessian,
  options: PrepareOptions,
  { multiply, rooms = createRooms() }: PrepareTools = {},
): Promise<PreparedHessian> {
  const { columns: n, values } = hessian;
  if (!allFinite(values)) {
    throw new TuneError("bad-calibration", "The inputs of the layer hold NaN or infinity.", {
      fix: "check that the model computes finite losses on the calibration text (scion eval)",
    });
  }
  const dead = deadInputs({ columns: n, hessian });
  let mean = 0;
  for (let i = 0; i < n; i++) mean += (dead[i] === 1 ? 1 : (values[i * n + i] ?? 0)) / n;
  const order = columnOrder(values, n, options);
  const upper = rooms.float64(`factor of ${n}`, n * n);
  for (let damping = options.damping; damping <= Math.max(1, options.damping); damping = 10 * (damping || 1e-3)) {
    orderedUpper(hessian, order, dead, damping * mean, upper);
    const found = await factored(upper, n, multiply, rooms);
    if (found) return { order, upper: found, dead, damping, diagonalOnly: false };
  }
  upper.fill(0);
  for (let i = 0; i < n; i++) {
    const column = order[i] ?? 0;
    const own = dead[column] === 1 ? 1 : (values[column * n + column] ?? 0);
    upper[i * n + i] = 1 / Math.sqrt(own + mean || 1);
  }
  return { order, upper, dead, damping: 1, diagonalOnly: true };
}

/** H = R·Rᵀ, so inverse(H) = R⁻ᵀ·R⁻¹ and U = R⁻¹; in place where products are computed elsewhere. */
async function factored(
  h: Float64Array,
  n: number,
  multiply: Multiply | undefined,
  rooms: Rooms,
): Promise<Float64Array | undefined> {
  if (multiply && n >= worthwhile) return (await invertedUpperFactor(h, n, { multiply, rooms })) ? h : undefined;
  const factor = upperFactor(h, n);
  return factor && invertUpper(factor, n);
}

/** The upper triangle of H in an order, with something added to its diagonal, into `upper`. */
function orderedUpper(
  { columns: n, values, exact = false }: Hessian,
  order: Uint32Array,
  dead: Uint8Array,
  added: number,
  upper: Float64Array,
): void {
  for (let i = 0; i < n; i++) {
    const row = order[i] ?? 0;
    for (let j = i; j < n; j++) {
      const column = order[j] ?? 0;
      const value = values[row * n + column] ?? 0;
      upper[i * n + j] = exact ? value : (value + (values[column * n + row] ?? 0)) / 2;
    }
    upper[i * n + i] = (dead[row] === 1 ? 1 : (upper[i * n + i] ?? 0)) + added;
  }
}

/** Whether there is neither NaN nor infinity. */
export function allFinite(values: Float64Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i] ?? 0)) return false;
  return true;
}

/** Inputs of a site that were 0 on every token: 1 for each. None are known without calibration text. */
export function deadInputs({
  columns,
  hessian,
}: {
  readonly columns: number;
  readonly hessian?: Hessian | undefined;
}): Uint8Array {
  const dead = new Uint8Array(columns);
  if (hessian) for (let i = 0; i < columns; i++) dead[i] = (hessian.values[i * columns + i] ?? 0) <= 0 ? 1 : 0;
  return dead;
}

function columnOrder(values: Float64Array, n: number, { activationOrder, run = 1 }: PrepareOptions): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  if (!activationOrder) return order;
  const runs = Array.from({ length: Math.ceil(n / run) }, (_, i) => {
    let weight = 0;
    for (let j = i * run; j < Math.min(n, (i + 1) * run); j++) weight += values[j * n + j] ?? 0;
    return { start: i * run, weight };
  });
  // A short run at the end stays there, so that runs begin at multiples of their length.
  const last = n % run === 0 ? [] : runs.splice(-1);
  runs.sort((a, b) => b.weight - a.weight || a.start - b.start);
  runs.push(...last);
  return Uint32Array.from(
    runs.flatMap(({ start }) => Array.from({ length: Math.min(run, n - start) }, (_, i) => start + i)),
  );
}

/**
 * How much error a matrix is expected to make: ‖S‖_F/√numel · std(S)², S = W with column j divided by U[j, j].
 * You et al. 2024 (arXiv 2406.05981), §4.3, with the norm taken per weight, so that matrices of any size compare.
 */
export function importance(
  weight: Float32Array | Float64Array,
  rows: number,
  { order, upper }: PreparedHessian,
): number {
  const n = order.length;
  let sum = 0;
  let squares = 0;
  for (let k = 0; k < n; k++) {
    const diagonal = upper[k * n + k] ?? 1;
    const column = order[k] ?? 0;
    for (let row = 0; row < rows; row++) {
      const value = (weight[row * n + column] ?? 0) / diagonal;
      sum += value;
      squares += value * value;
    }
  }
  const count = rows * n;
  const variance = squares / count - (sum / count) ** 2;
  return Math.sqrt(squares / count) * Math.max(0, variance);
}
