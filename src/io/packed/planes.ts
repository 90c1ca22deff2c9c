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
  const planeBytes = tiles * tables * planeTile.bytesPerTable;
  for (let row = 0; row < rows; row++) {
    const { offset, shift } = placeOfRow(row, tables);
    const own = codes.subarray(row * columns, (row + 1) * columns);
    for (let column = 0, at = offset; column < columns; column += 4, at += planeTile.bytesPerTable) {
      // Four codes at once, each in a byte; past the end of the row there is padding.
      const four =
        (own[column] ?? 0) |
        ((own[column + 1] ?? 0) << 8) |
        ((own[column + 2] ?? 0) << 16) |
        ((own[column + 3] ?? 0) << 24);
      for (let plane = 0, index = at; plane < bits; plane++, index += planeBytes) {
        const signs = (four >>> plane) & 0x01010101;
        const nibble = (signs | (signs >>> 7) | (signs >>> 14) | (signs >>> 21)) & 15;
        planes[index] = (planes[index] ?? 0) | (nibble << shift);
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
  const planeBytes = tiles * tables * planeTile.bytesPerTable;
  for (let column = 0, at = offset; column < shape.columns; column += 4, at += planeTile.bytesPerTable) {
    let four = 0; // codes, each in a byte
    for (let plane = 0, index = at; plane < shape.bits; plane++, index += planeBytes) {
      const nibble = ((planes[index] ?? 0) >> shift) & 15;
      four |= ((nibble | (nibble << 7) | (nibble << 14) | (nibble << 21)) & 0x01010101) << plane;
    }
    // What is past the end of a typed array is not written.
    codes[column] = four & 255;
    codes[column + 1] = (four >>> 8) & 255;
    codes[column + 2] = (four >>> 16) & 255;
    codes[column + 3] = four >>> 24;
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
