import type { LazyTensor, Tensor } from "../graph/index.ts";
import { eachRows } from "../io/convert.ts";
import type { CodeType } from "../ops/index.ts";

/** Elements of a row that share a scale; 64, as QLoRA's (Dettmers et al. 2023, arXiv 2305.14314, §3). */
export const blockSize = 64;

/** A matrix [rows, columns] in whole numbers of few bits, with a scale for each block of a row. */
export interface BlockCodes {
  readonly codes: Tensor;
  /** float32 [rows, ⌈columns / blockSize⌉]. */
  readonly scales: Tensor;
}

/**
 * Round a matrix to codes times scales, some rows at a time. 8 bits: the largest of a block is ±127. 4 bits: it is −8,
 * whichever its sign (the scale takes that), so that all sixteen codes are used; what rounds past +7 stays there.
 * @throws what reading the matrix throws.
 */
export async function toBlockCodes(source: LazyTensor, dtype: CodeType): Promise<BlockCodes> {
  const [rows = 0, columns = 0] = source.shape;
  const blocks = Math.ceil(columns / blockSize);
  const scales = new Float32Array(rows * blocks);
  const codes = dtype === "int8" ? new Int8Array(rows * columns) : new Uint8Array(Math.ceil((rows * columns) / 2));
  // An even number of rows, so that a part of 4-bit codes starts with a byte.
  await eachRows(source, (part, row) => roundRows(part, { columns, dtype, codes, scales, row }), 2);
  return {
    codes: { dtype, shape: [rows, columns], data: codes },
    scales: { dtype: "float32", shape: [rows, blocks], data: scales },
  };
}

/** Round rows, the first of which is `row` of the matrix. */
function roundRows(
  data: Float32Array,
  {
    columns,
    dtype,
    codes,
    scales,
    row,
  }: {
    readonly columns: number;
    readonly dtype: CodeType;
    readonly codes: Int8Array | Uint8Array;
    readonly scales: Float32Array;
    readonly row: number;
  },
): void {
  const blocks = Math.ceil(columns / blockSize);
  const [least, most] = dtype === "int8" ? [-127, 127] : [-8, 7];
  const offset = row * columns;
  for (let start = 0; start < data.length; start += columns) {
    for (let block = 0; block < blocks; block++) {
      const from = start + block * blockSize;
      const to = Math.min(from + blockSize, start + columns);
      let largest = 0;
      for (let i = from; i < to; i++) {
        const value = data[i] ?? 0;
        if (Math.abs(value) > Math.abs(largest)) largest = value;
      }
      const scale = Math.fround(dtype === "int8" ? Math.abs(largest) / most : largest / least);
      scales[((offset + start) / columns) * blocks + block] = scale;
      if (scale === 0) continue;
      for (let i = from; i < to; i++) {
        const code = Math.min(most, Math.max(least, Math.round((data[i] ?? 0) / scale)));
        const at = offset + i;
        if (dtype === "int8") codes[at] = code;
        else codes[at >> 1] = (codes[at >> 1] ?? 0) | ((code & 15) << (4 * (at & 1)));
      }
    }
  }
}
