import { TuneError } from "../errors.ts";
import { invertUpper, upperFactor } from "../linalg/index.ts";

/** What the inputs of a linear map say about how its errors count. */
export interface Hessian {
  readonly columns: number;
  /** Σ x·xᵀ over calibration tokens [columns, columns], symmetric. Its scale does not matter. */
  readonly values: Float64Array;
}

/** A Hessian made ready for a sweep, with its columns in the order they are quantised in. */
export interface PreparedHessian {
  /** The column of the weight that is quantised k-th. */
  readonly order: Uint32Array;
  /** Upper triangular with inverse(H) = UᵀU, in that order, row-major. */
  readonly upper: Float64Array;
  /** The damped H in that order. */
  readonly damped: Float64Array;
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

/**
 * Damp, order and factor a Hessian. Frantar et al. 2022 (arXiv 2210.17323), §3.3 step 3; order of activations as in
 * their code. Columns that are never active get a unit diagonal.
 * @throws {TuneError} `bad-calibration` when H holds NaN or infinity.
 */
export function prepareHessian(hessian: Hessian, options: PrepareOptions): PreparedHessian {
  const { columns: n, values } = hessian;
  if (!values.every(Number.isFinite)) {
    throw new TuneError("bad-calibration", "The inputs of the layer hold NaN or infinity.", {
      fix: "check that the model computes finite losses on the calibration text (scion eval)",
    });
  }
  const dead = deadInputs({ columns: n, hessian });
  let mean = 0;
  for (let i = 0; i < n; i++) mean += (dead[i] === 1 ? 1 : (values[i * n + i] ?? 0)) / n;
  const order = columnOrder(values, n, options);
  const plain = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = order[i] ?? 0;
    for (let j = 0; j < n; j++) {
      const column = order[j] ?? 0;
      // Symmetrised: sums of float32 products need not be, to the last bit.
      plain[i * n + j] = ((values[row * n + column] ?? 0) + (values[column * n + row] ?? 0)) / 2;
    }
    if (dead[row] === 1) plain[i * n + i] = 1;
  }
  for (let damping = options.damping; damping <= Math.max(1, options.damping); damping = 10 * (damping || 1e-3)) {
    const damped = Float64Array.from(plain);
    for (let i = 0; i < n; i++) damped[i * n + i] = (damped[i * n + i] ?? 0) + damping * mean;
    const factor = upperFactor(damped, n);
    if (factor) {
      // H = R·Rᵀ, so inverse(H) = R⁻ᵀ·R⁻¹ and U = R⁻¹.
      return { order, upper: invertUpper(factor, n), damped, dead, damping, diagonalOnly: false };
    }
  }
  const damped = new Float64Array(n * n);
  const upper = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    damped[i * n + i] = (plain[i * n + i] ?? 0) + mean;
    upper[i * n + i] = 1 / Math.sqrt(damped[i * n + i] ?? 1);
  }
  return { order, upper, damped, dead, damping: 1, diagonalOnly: true };
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
