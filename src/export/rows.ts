import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";

/** Some rows of a matrix [rows, columns], in the order given. */
export function someRows({ shape, data }: Tensor, rows: readonly number[]): Tensor {
  const columns = shape[1] ?? 1;
  const taken = new Float32Array(rows.length * columns);
  rows.forEach((row, i) => {
    for (let j = 0; j < columns; j++) taken[i * columns + j] = Number(data[row * columns + j]);
  });
  return { dtype: "float32", shape: [rows.length, columns], data: taken };
}

/** Some columns of a matrix [rows, columns], in the order given. */
export function someColumns({ shape, data }: Tensor, columns: readonly number[]): Tensor {
  const [rows = 0, width = 0] = shape;
  const taken = new Float32Array(rows * columns.length);
  for (let i = 0; i < rows; i++) {
    columns.forEach((column, j) => {
      taken[i * columns.length + j] = Number(data[i * width + column]);
    });
  }
  return { dtype: "float32", shape: [rows, columns.length], data: taken };
}

/**
 * A larger matrix of zeros with a smaller one's rows (axis 0) or columns (axis 1) at the places given.
 * @throws {TuneError} `adapter-mismatch` when there are more or fewer of them than places.
 */
export function placed(
  { shape, data }: Tensor,
  places: readonly number[],
  axis: 0 | 1,
  { size, at }: { readonly size: number; readonly at: string },
): Tensor {
  const [rows = 0, columns = 0] = shape;
  if (shape.length !== 2 || shape[axis] !== places.length) {
    throw new TuneError(
      "adapter-mismatch",
      `A tensor is [${shape.join(", ")}], but ${places.length} of its ${axis === 0 ? "rows" : "columns"} are kept.`,
      { at, fix: "save the adapter again with PEFT's save_pretrained" },
    );
  }
  const whole = axis === 0 ? [size, columns] : [rows, size];
  const spread = new Float32Array((whole[0] ?? 0) * (whole[1] ?? 0));
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const [row, column] = axis === 0 ? [places[i] ?? 0, j] : [i, places[j] ?? 0];
      spread[row * (whole[1] ?? 0) + column] = Number(data[i * columns + j]);
    }
  }
  return { dtype: "float32", shape: whole, data: spread };
}
