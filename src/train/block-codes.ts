import type { Tensor } from "../graph/index.ts";
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
 * Round a matrix to codes times scales. 8 bits: the largest of a block is ±127. 4 bits: it is −8, whichever its sign
 * (the scale takes that), so that all sixteen codes are used; what rounds past +7 stays there.
 */
export function toBlockCodes({ shape, data }: Tensor, dtype: CodeType): BlockCodes {
  const [rows = 0, columns = 0] = shape;
  const blocks = Math.ceil(columns / blockSize);
  const scales = new Float32Array(rows * blocks);
  const [least, most] = dtype === "int8" ? [-127, 127] : [-8, 7];
  const whole = dtype === "int8" ? new Int8Array(rows * columns) : new Uint8Array(Math.ceil((rows * columns) / 2));
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * columns + block * blockSize;
      const to = Math.min(from + blockSize, (row + 1) * columns);
      let largest = 0;
      for (let i = from; i < to; i++) {
        const value = Number(data[i]);
        if (Math.abs(value) > Math.abs(largest)) largest = value;
      }
      const scale = Math.fround(dtype === "int8" ? Math.abs(largest) / most : largest / least);
      scales[row * blocks + block] = scale;
      if (scale === 0) continue;
      for (let i = from; i < to; i++) {
        const code = Math.min(most, Math.max(least, Math.round(Number(data[i]) / scale)));
        if (dtype === "int8") whole[i] = code;
        else whole[i >> 1] = (whole[i >> 1] ?? 0) | ((code & 15) << (4 * (i & 1)));
      }
    }
  }
  return {
    codes: { dtype, shape, data: whole },
    scales: { dtype: "float32", shape: [rows, blocks], data: scales },
  };
}
