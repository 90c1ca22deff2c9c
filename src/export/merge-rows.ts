import { type LazyTensor, sizeOf, type Tensor } from "../graph/index.ts";
import { partToFloat32 } from "../io/convert.ts";
import { addProduct } from "../linalg/index.ts";
import type { LoraMatrices } from "../methods/index.ts";
import type { LinearSite } from "../ops/index.ts";

/** A weight that can be read in parts, and is no packed one's. */
type RowsSource = LazyTensor & Required<Pick<LazyTensor, "readPart">>;

/** Up to which rank a plain loop takes less time than handing weights to a device and back. */
const smallRank = 64;

/** Whether a weight and its update can be merged row by row. */
export function mergesByRows(source: LazyTensor, { A }: LoraMatrices): source is RowsSource {
  return (
    source.shape.length === 2 &&
    source.readPart !== undefined &&
    source.scaled === undefined &&
    (A.shape[0] ?? 0) <= smallRank
  );
}

/**
 * W + B·A as a tensor of which any part is computed when it is read, in the memory that it is read into: a model with an adapter
 * is then written as one without.
 */
export function mergedRows(source: RowsSource, layout: LinearSite["layout"], { A, B }: LoraMatrices): LazyTensor {
  const { shape } = source;
  const [rows = 0, columns = 0] = shape;
  const [rank = 0] = A.shape;
  let factors: { readonly left: Float32Array; readonly right: Float64Array } | undefined;
  const readPart = async (start: number, end: number, into?: ArrayBuffer): Promise<Float32Array> => {
    factors ??=
      layout === "out,in"
        ? { left: B.data as Float32Array, right: Float64Array.from(A.data as Float32Array) } // of an adapter
        : { left: turned(A, Float32Array), right: turned(B, Float64Array) };
    const { left, right } = factors;
    const [first, last] = [Math.floor(start / columns), Math.ceil(end / columns)];
    const part = await partToFloat32(source, first * columns, last * columns, into);
    addProduct(part, left.subarray(first * rank, last * rank), right, rank);
    return part.subarray(start - first * columns, end - first * columns);
  };
  const read = async (): Promise<Tensor> => ({ dtype: "float32", shape, data: await readPart(0, rows * columns) });
  return { dtype: "float32", shape, sizeBytes: 4 * sizeOf(shape), readPart, read };
}

function turned<T extends Float32Array | Float64Array>(
  { shape: [rows = 0, columns = 0], data }: Tensor,
  into: new (length: number) => T,
): T {
  const result = new into(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = Number(data[i * columns + j]);
  return result;
}
