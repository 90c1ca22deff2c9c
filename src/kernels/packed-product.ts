import { assert } from "../errors.ts";
import { groupsOf, type PackedMatrix, type PackedShape, planeScales, planesBytes } from "../io/packed/index.ts";
import type { Arena, Room, Views } from "./arena.ts";
import { type Step, step } from "./program.ts";

/** Where rows of float32 are: one row a token. */
export interface RowsAt {
  readonly at: number;
  readonly rowBytes: number;
  /** Every thread has a copy of its own, this far apart; 0 when they share one. */
  readonly threadBytes: number;
}

/** What steps of a packed product need beside the matrix. */
export interface ProductPlaces {
  /** Address of the number of rows. */
  readonly rows: number;
  /** Tables, at least {@link PackedProduct.scratchBytes}. */
  readonly tables: Room;
  /** {@link threadScratchBytes} for each thread. */
  readonly scratch: number;
}

/** Bytes of scratch that a thread needs. */
export const threadScratchBytes = 1024;

/** Bytes of a table's entry, each a look-up: 1 leaves an error below 1 %, 2 is 256 times finer, 3 is as fine as float32. */
export type EntryBytes = 1 | 2 | 3;

/** A packed matrix in kernel memory. */
export interface PackedProduct {
  readonly inputs: number;
  readonly outputs: number;
  /** Bytes of a row of outputs: they come in tiles of 64. */
  readonly outputBytes: number;
  /** Bytes of tables for so many rows. */
  scratchBytes(rows: number): number;
  /** Copy the matrix into memory; before it, no steps. */
  load(views: Views, matrix: PackedMatrix): void;
  /** Make the tables of x. The product may follow when threads have met. */
  tables(x: RowsAt, places: ProductPlaces): readonly Step[];
  /** y = Wx + bias, or y += Wx + bias. */
  product(
    y: Pick<RowsAt, "at" | "rowBytes">,
    options: { readonly bias: number; readonly adds: boolean },
    places: ProductPlaces,
  ): readonly Step[];
}

/** Groups of rows, each with tables of its own, beyond which a table a group costs more than it is worth. */
const mostTableSets = 64;
const tablesPerBlock = 32;

/**
 * Lay a packed matrix out in kernel memory. Scales down columns go into the tables, so that looked-up sums need no scale
 * afterwards; scales along rows multiply the sums of a group of columns.
 * Undefined when the layout suits neither: scales that differ by rows and by less than 32 or not a multiple of 8 columns.
 */
export function layOutPacked(
  arena: Arena,
  shape: PackedShape,
  { entryBytes }: { readonly entryBytes: EntryBytes },
): PackedProduct | undefined {
  const { rows: outputs, columns: inputs, bits, columnGroup, coding } = shape;
  const { rowGroups, columnGroups } = groupsOf(shape);
  const along = columnGroups === 1 || (columnGroup >= 32 && columnGroup % 8 === 0);
  if (!along && (coding === "uniform" || rowGroups > mostTableSets)) return undefined;
  const tiles = Math.ceil(outputs / 64);
  const tables = 2 * Math.ceil(inputs / 8);
  const blocks = Math.ceil(tables / tablesPerBlock);
  const planes = arena.reserve(planesBytes(shape));
  const orderRoom = arena.reserve(4 * inputs);
  const passes = along ? 1 : bits * rowGroups;
  // One alpha for each column, or for each run of whole tables.
  const share = columnGroup % 4 === 0 ? columnGroup : 1;
  const alphaColumns = share === 1 ? inputs : columnGroups;
  const scalePlanes = coding === "uniform" ? 1 : bits;
  const alpha = arena.reserve(4 * (along ? scalePlanes * columnGroups * tiles * 64 : passes * alphaColumns));
  const offsets = along && coding === "uniform" ? arena.reserve(4 * columnGroups * tiles * 64) : undefined;
  let order = 0;

  const sizes = (rows: number): { readonly tables: number; readonly scales: number; readonly sums: number } => ({
    tables: rows * passes * entryBytes * tables * 16,
    scales: rows * passes * entryBytes * blocks * 4,
    sums: along ? rows * columnGroups * 4 : 0,
  });
  let capacity = 0;
  const parts = ({ at }: Room): { readonly scales: number; readonly sums: number } => {
    const scales = at + sizes(capacity).tables;
    return { scales, sums: scales + sizes(capacity).scales };
  };

  return {
    inputs,
    outputs,
    outputBytes: 256 * tiles,
    scratchBytes: (rows) => {
      capacity = rows;
      const { tables: tableBytes, scales, sums } = sizes(rows);
      return tableBytes + scales + sums;
    },
    load: ({ bytes, words, floats }, matrix) => {
      assert(matrix.planes.length === planes.bytes, "the planes are those of the shape");
      bytes.set(matrix.planes, planes.at);
      if (matrix.order) {
        words.set(matrix.order, orderRoom.at / 4);
        order = orderRoom.at;
      }
      const values = planeScales(matrix);
      if (!along) {
        const expanded = floats.subarray(alpha.at / 4, alpha.at / 4 + passes * alphaColumns);
        for (let i = 0; i < expanded.length; i++) {
          const column = i % alphaColumns;
          const group = share === 1 ? Math.floor(column / columnGroup) : column;
          expanded[i] = values.alpha[Math.floor(i / alphaColumns) * columnGroups + group] ?? 0;
        }
        return;
      }
      const byRow = (to: number, from: Float32Array, count: number): void => {
        for (let i = 0; i < count * columnGroups; i++) {
          const [plane, group] = [Math.floor(i / columnGroups), i % columnGroups];
          for (let row = 0; row < outputs; row++) {
            const source = (plane * rowGroups + Math.floor(row / shape.rowGroup)) * columnGroups + group;
            floats[to / 4 + i * tiles * 64 + row] = from[source] ?? 0;
          }
        }
      };
      byRow(alpha.at, values.alpha, scalePlanes);
      if (offsets && values.offset) byRow(offsets.at, values.offset, 1);
    },
    tables: (x, { rows, tables: room, scratch }) => {
      const { scales, sums } = parts(room);
      const from = [x.at, x.rowBytes, x.threadBytes, order];
      const folded = along ? [0, 1] : [alpha.at, share];
      const made = [...folded, inputs, tables, passes, entryBytes, room.at, scales, scratch];
      const steps = [step("makeTables", [rows, ...from, ...made])];
      if (offsets) steps.push(step("groupSums", [rows, ...from, inputs, columnGroup, sums]));
      return steps;
    },
    product: (y, { bias, adds }, { rows, tables: room, scratch }) => {
      const { scales, sums } = parts(room);
      const what = [rows, planes.at, tiles, tables, bits, entryBytes];
      const to = [room.at, scales, y.at, y.rowBytes, bias, Number(adds), scratch];
      if (!along) return [step("product", [...what, rowGroups, shape.rowGroup, ...to])];
      const perGroup = columnGroups === 1 ? tables : columnGroup / 4;
      const rowScales = [alpha.at, offsets?.at ?? 0, sums, Number(coding === "uniform")];
      return [step("rowProduct", [...what, columnGroups, perGroup, ...to, ...rowScales])];
    },
  };
}
