import { assert } from "../../errors.ts";

/** Rows in a tile, columns in a table, and what both are padded to. */
export const planeTile = { rows: 64, halfRows: 32, tableColumns: 4, columnMultiple: 8, bytesPerTable: 32 } as const;

/** Sizes of packed planes. */
export interface PlaneShape {
  readonly bits: number;
  readonly rows: number;
  readonly columns: number;
}

/** [bits, tiles of 64 rows, tables of 4 columns (an even number), 2 halves, 16 bytes]. */
export function planesShape({ bits, rows, columns }: PlaneShape): readonly number[] {
  const tiles = Math.ceil(rows / planeTile.rows);
  const tables = 2 * Math.ceil(columns / planeTile.columnMultiple);
  return [bits, tiles, tables, 2, 16];
}

/** Bytes of packed planes. */
export function planesBytes(shape: PlaneShape): number {
  return planesShape(shape).reduce((product, size) => product * size, 1);
}

/**
 * Which of 16 rows byte j of a vector holds: even bytes the first eight, odd bytes the last eight, so that the even and
 * odd lanes of a 16-bit accumulator come out as consecutive rows.
 */
export function rowOfByte(byte: number): number {
  return (byte & 1) * 8 + (byte >> 1);
}

/** The inverse of {@link rowOfByte}. */
export function byteOfRow(row: number): number {
  return row < 8 ? 2 * row : 2 * (row - 8) + 1;
}

/**
 * Lay codes out as planes. codes [rows, columns]: bit i of a code says whether plane i has +1 there (0 is −1).
 *
 * Byte j of (plane, tile, table t, half h) holds two nibbles: the low one of row 64·tile + 32·h + {@link rowOfByte}(j),
 * the high one of the row 16 further down. Bit g of a nibble is the sign of column 4·t + g. Padding is 0.
 */
export function packPlanes(codes: Uint8Array, shape: PlaneShape): Uint8Array {
  const { bits, rows, columns } = shape;
  assert(codes.length === rows * columns, "one code a weight");
  const planes = new Uint8Array(planesBytes(shape));
  const [, tiles = 0, tables = 0] = planesShape(shape);
  for (let row = 0; row < rows; row++) {
    const { offset, shift } = placeOfRow(row, tables);
    for (let column = 0; column < columns; column++) {
      const code = codes[row * columns + column] ?? 0;
      const at = offset + (column >> 2) * planeTile.bytesPerTable;
      const bit = shift + (column & 3);
      for (let plane = 0; plane < bits; plane++) {
        const index = plane * tiles * tables * planeTile.bytesPerTable + at;
        planes[index] = (planes[index] ?? 0) | (((code >> plane) & 1) << bit);
      }
    }
  }
  return planes;
}

/** The codes [rows, columns] of planes: the inverse of {@link packPlanes}. */
export function unpackPlanes(planes: Uint8Array, shape: PlaneShape): Uint8Array {
  const codes = new Uint8Array(shape.rows * shape.columns);
  for (let row = 0; row < shape.rows; row++) {
    unpackRow(planes, shape, row, codes.subarray(row * shape.columns, (row + 1) * shape.columns));
  }
  return codes;
}

/** The codes of one row, into `codes` [columns]. */
export function unpackRow(planes: Uint8Array, shape: PlaneShape, row: number, codes: Uint8Array): void {
  const [, tiles = 0, tables = 0] = planesShape(shape);
  const { offset, shift } = placeOfRow(row, tables);
  codes.fill(0);
  for (let plane = 0; plane < shape.bits; plane++) {
    const start = plane * tiles * tables * planeTile.bytesPerTable + offset;
    for (let column = 0; column < shape.columns; column++) {
      const byte = planes[start + (column >> 2) * planeTile.bytesPerTable] ?? 0;
      codes[column] = (codes[column] ?? 0) | (((byte >> (shift + (column & 3))) & 1) << plane);
    }
  }
}

/** Where the first nibble of a row lies in its plane, and by how many bits it is shifted there. */
function placeOfRow(row: number, tables: number): { readonly offset: number; readonly shift: number } {
  const tile = Math.floor(row / planeTile.rows);
  const half = (row >> 5) & 1;
  const high = (row >> 4) & 1;
  const offset = tile * tables * planeTile.bytesPerTable + half * 16 + byteOfRow(row & 15);
  return { offset, shift: high * 4 };
}
