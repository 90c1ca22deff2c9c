import { eachDequantisedRow, type PackedMatrix } from "../io/packed/index.ts";
import type { Multiply, Rooms } from "../linalg/index.ts";
import type { Algebra, Hessian } from "../quant/index.ts";

/** Errors of fewer multiplications are added up here, in float64. */
const worthwhile = 2 ** 28;

/** Columns of H that are multiplied at once. */
const stripColumns = 1024;

/**
 * ‖X(W − Ŵ)ᵀ‖²/‖XWᵀ‖² = trace(D·H·Dᵀ)/trace(W·H·Wᵀ), D = W − Ŵ, of a weight [rows, columns] and what it is stored as;
 * 0 where the outputs are 0. With products at hand, those of large matrices are computed in float32, as H was.
 */
export async function relativeError(
  weight: Float32Array,
  packed: PackedMatrix,
  hessian: Hessian,
  { multiply, rooms }: Pick<Algebra, "multiply" | "rooms">,
): Promise<number> {
  const { rows, columns } = packed;
  if (multiply && rows * columns * columns >= worthwhile) return byProducts(weight, packed, hessian, multiply, rooms);
  let error = 0;
  let whole = 0;
  const difference = new Float64Array(columns);
  eachDequantisedRow(packed, (row, values) => {
    const w = weight.subarray(row * columns, (row + 1) * columns);
    for (let k = 0; k < columns; k++) difference[k] = (w[k] ?? 0) - (values[k] ?? 0);
    error += quadratic(difference, hessian.values, columns);
    whole += quadratic(w, hessian.values, columns);
  });
  return whole > 0 ? error / whole : 0;
}

function quadratic(x: Float32Array | Float64Array, h: Float64Array, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const own = x[i] ?? 0;
    if (own === 0) continue;
    let along = 0.5 * (h[i * n + i] ?? 0) * own;
    for (let j = i + 1; j < n; j++) along += (h[i * n + j] ?? 0) * (x[j] ?? 0);
    sum += 2 * own * along;
  }
  return sum;
}

async function byProducts(
  weight: Float32Array,
  packed: PackedMatrix,
  { columns: n, values }: Hessian,
  multiply: Multiply,
  rooms: Rooms,
): Promise<number> {
  const { rows } = packed;
  // H is of the order of tokens times squares of activations: in units of its largest, float32 holds every product.
  let largest = 0;
  for (let i = 0; i < n; i++) largest = Math.max(largest, values[i * n + i] ?? 0);
  const unit = largest > 0 ? 1 / largest : 1;
  const strip = rooms.float32("right operand", n * Math.min(n, stripColumns)); // no sweep is under way
  const turned = rooms.float32("left operand", rows * n);
  /** Σ of x·H·xᵀ over the rows of what is in `turned` [columns, rows]. */
  const trace = async (): Promise<number> => {
    let sum = 0;
    for (let from = 0; from < n; from += stripColumns) {
      const to = Math.min(n, from + stripColumns);
      const width = to - from;
      // H is symmetric: what is below the strip's own square counts twice, and what is above was counted there.
      for (let i = from; i < n; i++) {
        const factor = i < to ? unit : 2 * unit;
        const out = (i - from) * width;
        for (let j = 0; j < width; j++) strip[out + j] = factor * (values[i * n + from + j] ?? 0);
      }
      const part = { rows: n - from, cols: width, data: strip.subarray(0, (n - from) * width) };
      const x = { rows: n - from, cols: rows, data: turned.subarray(from * rows, n * rows) };
      const { data } = await multiply(part, x, { transA: true });
      sum += dot(data, turned, from * rows);
    }
    return sum;
  };
  eachDequantisedRow(packed, (row, decoded) => {
    for (let k = 0; k < n; k++) turned[k * rows + row] = (weight[row * n + k] ?? 0) - (decoded[k] ?? 0);
  });
  const error = await trace();
  turn(weight, rows, n, turned);
  const whole = await trace();
  return whole > 0 ? error / whole : 0;
}

function dot(a: Float32Array, b: Float32Array, from: number): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] ?? 0) * (b[from + i] ?? 0);
  return sum;
}

/** [rows, columns] -> [columns, rows], in tiles. */
function turn(values: Float32Array, rows: number, columns: number, into: Float32Array): void {
  const tile = 32;
  for (let top = 0; top < rows; top += tile) {
    const bottom = Math.min(rows, top + tile);
    for (let left = 0; left < columns; left += tile) {
      const right = Math.min(columns, left + tile);
      for (let i = top; i < bottom; i++)
        for (let j = left; j < right; j++) into[j * rows + i] = values[i * columns + j] ?? 0;
    }
  }
}
