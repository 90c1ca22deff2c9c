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
  const [codes, visit] = dtype === "int8" ? inBytes(rows * columns) : inNibbles(rows * columns);
  // An even number of rows, so that a part of 4-bit codes starts with a byte.
  await eachRows(source, (part, row) => visit(part, columns, row, scales.subarray(row * blocks)), 2);
  return {
    codes: { dtype, shape: [rows, columns], data: codes },
    scales: { dtype: "float32", shape: [rows, blocks], data: scales },
  };
}

type Visit = (part: Float32Array, columns: number, row: number, scales: Float32Array) => void;

function inBytes(elements: number): readonly [Int8Array, Visit] {
  const codes = new Int8Array(elements);
  return [
    codes,
    (part, columns, row, scales) =>
      roundRows(part, { columns, least: -127, most: 127, signed: false, codes: codes.subarray(row * columns), scales }),
  ];
}

function inNibbles(elements: number): readonly [Uint8Array, Visit] {
  const codes = new Uint8Array(Math.ceil(elements / 2));
  let wide = new Int8Array(0);
  return [
    codes,
    (part, columns, row, scales) => {
      // One more for the half of a byte that nothing fills, which stays 0.
      if (wide.length <= part.length) wide = new Int8Array(part.length + 1);
      wide.fill(0);
      roundRows(part, { columns, least: -8, most: 7, signed: true, codes: wide, scales });
      packNibbles(wide, codes.subarray((row * columns) / 2, Math.ceil((row * columns + part.length) / 2)));
    },
  ];
}

/** Two codes to a byte, the first in its low half. */
function packNibbles(wide: Int8Array, codes: Uint8Array): void {
  for (let i = 0; i < codes.length; i++) codes[i] = ((wide[2 * i] ?? 0) & 15) | ((wide[2 * i + 1] ?? 0) << 4);
}

/** Round rows to a code for each element, which is 0 before. Where scales are signed, the largest of a block is `least`, else ±`most`. */
function roundRows(
  data: Float32Array,
  {
    columns,
    least,
    most,
    signed,
    codes,
    scales,
  }: {
    readonly columns: number;
    readonly least: number;
    readonly most: number;
    readonly signed: boolean;
    readonly codes: Int8Array;
    readonly scales: Float32Array;
  },
): void {
  // What is not negative is rounded down by becoming an integer. A quotient of two float32 is not so near a half that adding
  // this moves it there: halves go up, as Math.round takes them, which is several times slower.
  const lift = 0.5 - least;
  const span = most - least;
  let at = 0;
  for (let start = 0; start < data.length; start += columns) {
    for (let from = start; from < start + columns; from += blockSize) {
      const to = Math.min(from + blockSize, start + columns);
      let largest = 0;
      let size = 0;
      for (let i = from; i < to; i++) {
        const value = data[i] ?? 0;
        if (Math.abs(value) > size) {
          largest = value;
          size = Math.abs(value);
        }
      }
      const scale = Math.fround(signed ? largest / least : size / most);
      scales[at++] = scale;
      if (scale === 0) continue;
      for (let i = from; i < to; i++) {
        const lifted = ((data[i] ?? 0) / scale + lift) | 0;
        codes[i] = Math.min(span, Math.max(0, lifted)) + least;
      }
    }
  }
}
