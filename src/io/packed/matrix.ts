import { assert } from "../../errors.ts";
import { float16ToFloat32, float32ToFloat16 } from "../convert.ts";
import { planesBytes, planesShape, unpackRow } from "./planes.ts";
import { decodePowers, encodePowers, maxTerms } from "./powers.ts";

/** How scales are stored: codes of additive powers of two, or floats. */
export type ScaleKind = "powers" | "float16" | "float32";

/**
 * What the planes of a weight mean.
 * `binary`: every plane has scales of its own, w = Σ αᵢ·sᵢ with sᵢ = ±1.
 * `uniform`: the planes are the bits of an integer c, w = step·(c − zero).
 */
export type Coding = "binary" | "uniform";

/** What a packed matrix is, without its bytes. */
export interface PackedShape {
  /** Outputs of the linear map, whichever way the model stores the weight. */
  readonly rows: number;
  /** Inputs. */
  readonly columns: number;
  /** Planes, 1 to 8. */
  readonly bits: number;
  readonly coding: Coding;
  /** Consecutive rows that share a scale; `rows` for a scale down the whole column. */
  readonly rowGroup: number;
  /** Consecutive columns that share a scale (in the stored order, see `order`); `columns` for one along the row. */
  readonly columnGroup: number;
  readonly scaleKind: ScaleKind;
  /** The most powers of two in a scale (`powers`). */
  readonly terms?: number;
}

/** A weight matrix as binary planes and shared scales. */
export interface PackedMatrix extends PackedShape {
  /** Laid out as `planes.ts` says. */
  readonly planes: Uint8Array;
  /** [bits, rowGroups, columnGroups] (`binary`) or [rowGroups, columnGroups] (`uniform`), as `scaleKind` says. */
  readonly scales: Uint16Array | Float32Array;
  /** `uniform`: zero points [rowGroups, columnGroups], each 0 to 2^bits − 1. */
  readonly zeros?: Uint8Array;
  /** Input that stored column k multiplies; the k-th when absent. A permutation of 0 to columns − 1. */
  readonly order?: Uint32Array;
}

/** How many groups of rows and of columns there are; the last of each may be short. */
export function groupsOf({ rows, columns, rowGroup, columnGroup }: PackedShape): {
  readonly rowGroups: number;
  readonly columnGroups: number;
} {
  return { rowGroups: Math.ceil(rows / rowGroup), columnGroups: Math.ceil(columns / columnGroup) };
}

/** Shape of the stored scales. */
export function scalesShape(shape: PackedShape): readonly number[] {
  const { rowGroups, columnGroups } = groupsOf(shape);
  return shape.coding === "binary" ? [shape.bits, rowGroups, columnGroups] : [rowGroups, columnGroups];
}

/** Stored scales as numbers, exactly. */
export function scaleValues(kind: ScaleKind, scales: Uint16Array | Float32Array): Float32Array {
  if (kind === "powers") return Float32Array.from(scales, decodePowers);
  return scales instanceof Float32Array ? scales : float16ToFloat32(scales);
}

/**
 * A matrix as what a kernel computes, whatever its coding:
 * w[row, k] = offset[row group, column group] + Σᵢ alpha[i, row group, column group]·sᵢ[row, k] with sᵢ = ±1.
 * alpha [bits, rowGroups, columnGroups]; offset [rowGroups, columnGroups], absent where it is 0.
 */
export function planeScales(matrix: PackedMatrix): { readonly alpha: Float32Array; readonly offset?: Float32Array } {
  const values = scaleValues(matrix.scaleKind, matrix.scales);
  if (matrix.coding === "binary") return { alpha: values };
  // c = Σ 2^i·(1 + sᵢ)/2, so step·(c − zero) = step·((2^bits − 1)/2 − zero) + Σ step·2^(i−1)·sᵢ.
  const groups = values.length;
  const alpha = new Float32Array(matrix.bits * groups);
  const offset = new Float32Array(groups);
  const middle = (2 ** matrix.bits - 1) / 2;
  for (let group = 0; group < groups; group++) {
    const step = values[group] ?? 0;
    for (let i = 0; i < matrix.bits; i++) alpha[i * groups + group] = step * 2 ** (i - 1);
    offset[group] = step * (middle - (matrix.zeros?.[group] ?? 0));
  }
  return { alpha, offset };
}

/** The weights [rows, columns] that a packed matrix stands for, in the model's order of inputs. */
export function dequantise(matrix: PackedMatrix): Float32Array {
  const { rows, columns } = matrix;
  const weights = new Float32Array(rows * columns);
  eachDequantisedRow(matrix, (row, values) => weights.set(values, row * columns));
  return weights;
}

/** Each row of {@link dequantise}, one after the other; `values` [columns] is used again for the next row. */
export function eachDequantisedRow(matrix: PackedMatrix, visit: (row: number, values: Float32Array) => void): void {
  const { columns, order } = matrix;
  const out = new Float32Array(columns);
  eachRow(matrix, (row, values) => {
    if (order) for (let k = 0; k < columns; k++) out[order[k] ?? k] = values[k] ?? 0;
    else out.set(values);
    visit(row, out);
  });
}

/** W·x for x [columns] -> [rows], from the packed form, in float64: what kernels are held against. */
export function matvec(matrix: PackedMatrix, x: ArrayLike<number>): Float64Array {
  const { rows, columns, order } = matrix;
  assert(x.length === columns, "one activation a column");
  const y = new Float64Array(rows);
  eachRow(matrix, (row, values) => {
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += (values[k] ?? 0) * (x[order?.[k] ?? k] ?? 0);
    y[row] = sum;
  });
  return y;
}

/** Rows as float64, stored column by stored column; `values` is used again for the next row. */
function eachRow(matrix: PackedMatrix, visit: (row: number, values: Float64Array) => void): void {
  const { rows, columns, coding } = matrix;
  const codes = new Uint8Array(columns);
  const values = new Float64Array(columns);
  const decode = coding === "uniform" ? uniformRows(matrix) : binaryRows(matrix);
  for (let row = 0; row < rows; row++) {
    unpackRow(matrix.planes, matrix, row, codes);
    decode(row, codes, values);
    visit(row, values);
  }
}

/** Fills the values of a row from its codes. */
type DecodeRow = (row: number, codes: Uint8Array, values: Float64Array) => void;

function uniformRows(matrix: PackedMatrix): DecodeRow {
  const { columns, rowGroup, columnGroup } = matrix;
  const { columnGroups } = groupsOf(matrix);
  const scales = scaleValues(matrix.scaleKind, matrix.scales);
  const zeros = matrix.zeros ?? new Uint8Array(scales.length);
  return (row, codes, values) => {
    let group = Math.floor(row / rowGroup) * columnGroups;
    for (let start = 0; start < columns; start += columnGroup, group++) {
      const [scale, zero] = [scales[group] ?? 0, zeros[group] ?? 0];
      const end = Math.min(columns, start + columnGroup);
      for (let k = start; k < end; k++) values[k] = scale * ((codes[k] ?? 0) - zero);
    }
  };
}

/** Each code's value is worked out once for all rows that share scales. */
function binaryRows(matrix: PackedMatrix): DecodeRow {
  const { columns, bits, rowGroup, columnGroup } = matrix;
  const { rowGroups, columnGroups } = groupsOf(matrix);
  const scales = scaleValues(matrix.scaleKind, matrix.scales);
  const size = 2 ** bits;
  const table = new Float64Array(columnGroups * size);
  let filled = -1;
  const fill = (rowGroupIndex: number): void => {
    for (let column = 0; column < columnGroups; column++) {
      const group = rowGroupIndex * columnGroups + column;
      for (let code = 0; code < size; code++) {
        let value = 0;
        for (let i = 0; i < bits; i++) {
          const alpha = scales[i * rowGroups * columnGroups + group] ?? 0;
          value += (code >> i) & 1 ? alpha : -alpha;
        }
        table[column * size + code] = value;
      }
    }
    filled = rowGroupIndex;
  };
  return (row, codes, values) => {
    const rowGroupIndex = Math.floor(row / rowGroup);
    if (rowGroupIndex !== filled) fill(rowGroupIndex);
    for (let start = 0, at = 0; start < columns; start += columnGroup, at += size) {
      const end = Math.min(columns, start + columnGroup);
      for (let k = start; k < end; k++) values[k] = table[at + (codes[k] ?? 0)] ?? 0;
    }
  };
}

/**
 * The factors of scales: [bits, rows, columns] of ±1 (`binary`), or [1, rows, columns] of c − zero (`uniform`), in the
 * model's order of inputs.
 */
export function signedCodes(matrix: PackedMatrix): Int16Array {
  const { rows, columns, bits, rowGroup, columnGroup, coding, zeros, order } = matrix;
  const { columnGroups } = groupsOf(matrix);
  const planes = coding === "binary" ? bits : 1;
  const result = new Int16Array(planes * rows * columns);
  const codes = new Uint8Array(columns);
  for (let row = 0; row < rows; row++) {
    unpackRow(matrix.planes, matrix, row, codes);
    for (let k = 0; k < columns; k++) {
      const code = codes[k] ?? 0;
      const at = row * columns + (order?.[k] ?? k);
      if (coding === "uniform") {
        const group = Math.floor(row / rowGroup) * columnGroups + Math.floor(k / columnGroup);
        result[at] = code - (zeros?.[group] ?? 0);
        continue;
      }
      for (let i = 0; i < bits; i++) result[i * rows * columns + at] = (code >> i) & 1 ? 1 : -1;
    }
  }
  return result;
}

/** The group of columns that each input of the model belongs to. */
export function columnGroupOfInputs({ columns, columnGroup, order }: PackedMatrix): Int32Array {
  const groups = new Int32Array(columns);
  for (let k = 0; k < columns; k++) groups[order?.[k] ?? k] = Math.floor(k / columnGroup);
  return groups;
}

/**
 * The same codes with other scales [planes, row groups, column groups] (1 plane where `uniform`), rounded to what the
 * matrix stores: powers of two, float16 or float32.
 */
export function withScales(matrix: PackedMatrix, scales: ArrayLike<number>): PackedMatrix {
  const { scaleKind, terms = maxTerms } = matrix;
  const values = Float32Array.from(scales);
  if (scaleKind === "powers")
    return { ...matrix, scales: Uint16Array.from(values, (value) => encodePowers(value, terms)) };
  return { ...matrix, scales: scaleKind === "float16" ? float32ToFloat16(values) : values };
}

/** What a matrix takes, and what a weight of it costs. */
export interface PackedSize {
  readonly planesBytes: number;
  /** Scales, zero points and the order of columns. */
  readonly scalesBytes: number;
  /** Bits a weight with scales and zero points counted, and neither padding nor the order of columns. */
  readonly bitsPerWeight: number;
}

/** Bytes of zero points, each of `bits` bits, one after the other. */
export function zerosBytes(shape: PackedShape): number {
  if (shape.coding === "binary") return 0;
  const { rowGroups, columnGroups } = groupsOf(shape);
  return Math.ceil((rowGroups * columnGroups * shape.bits) / 8);
}

/** Sizes of a packed matrix. */
export function packedSize(shape: PackedShape, { ordered = false }: { readonly ordered?: boolean } = {}): PackedSize {
  const { rows, columns, bits, scaleKind, coding } = shape;
  const scales = scalesShape(shape).reduce((product, size) => product * size, 1);
  const scaleBits = scales * (scaleKind === "float32" ? 32 : 16);
  const zeroBits = coding === "uniform" ? scales * bits : 0;
  return {
    planesBytes: planesBytes(shape),
    scalesBytes: scaleBits / 8 + zerosBytes(shape) + (ordered ? 4 * columns : 0),
    bitsPerWeight: bits + (scaleBits + zeroBits) / (rows * columns),
  };
}

/** Check the invariants of a matrix made in memory. */
export function assertPacked(matrix: PackedMatrix): PackedMatrix {
  const count = scalesShape(matrix).reduce((product, size) => product * size, 1);
  assert(matrix.planes.length === planesBytes(matrix), () => `planes must fill [${planesShape(matrix).join(", ")}]`);
  assert(matrix.scales.length === count, () => `there must be ${count} scales`);
  assert((matrix.coding === "uniform") === (matrix.zeros !== undefined), "uniform codes have zero points, binary none");
  assert(matrix.order === undefined || matrix.order.length === matrix.columns, "the order names every column");
  return matrix;
}
