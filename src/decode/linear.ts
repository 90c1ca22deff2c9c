import { assert } from "../errors.ts";
import { type LazyTensor, sizeOf, type Tensor } from "../graph/index.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import { dequantise, type PackedEntry, type PackedFile, transposed } from "../io/packed/index.ts";
import {
  type Arena,
  type EntryBytes,
  layOutPacked,
  type ProductPlaces,
  type RowsAt,
  type Step,
  step,
  type Views,
} from "../kernels/index.ts";
import type { LinearRecipe } from "../models/index.ts";
import type { LowRankUpdate } from "./updates.ts";

/** Something that is read from the file into kernel memory. */
export interface Loading {
  readonly sizeBytes: number;
  /** @returns what was read and has been copied, so that its memory can be given back. */
  load(views: Views): Promise<readonly ArrayBufferView[]>;
}

/** A linear map in kernel memory. */
export interface Linear {
  readonly outputs: number;
  readonly outputBytes: number;
  /** Bytes of tables for so many rows; 0 where it needs none. */
  scratchBytes(rows: number): number;
  /** Steps before the product; threads must meet after them. */
  prepare(x: RowsAt, places: ProductPlaces): readonly Step[];
  /** y = Wx + bias, or y += Wx + bias, with the adapter's update. */
  multiply(x: RowsAt, y: Pick<RowsAt, "at" | "rowBytes">, adds: boolean, places: LinearPlaces): readonly Step[];
}

/** What products need beside the map. */
export interface LinearPlaces extends ProductPlaces {
  /** Room for a rank of numbers for each thread, and how far apart. */
  readonly inner: number;
  readonly innerBytes: number;
}

/** What is laid out where. */
export interface Layout {
  readonly arena: Arena;
  readonly packed: PackedFile;
  readonly entryBytes: EntryBytes;
  readonly updates: ReadonlyMap<string, LowRankUpdate>;
  readonly loadings: Loading[];
}

/** Lay a linear map out: packed where the file has it packed, as it is stored elsewhere. */
export function layOutLinear(layout: Layout, recipe: LinearRecipe): Linear {
  const { arena, packed, loadings } = layout;
  const { module, inputs, outputs } = recipe;
  const outputBytes = 256 * Math.ceil(outputs / 64);
  const bias = recipe.bias ? layOutVector(layout, `${module}.bias`, outputBytes) : 0;
  const name = `${module}.weight`;
  const entry = packed.matrices.get(name);
  const product = entry && layOutPacked(arena, entry.shape, { entryBytes: layout.entryBytes });
  const update = layOutUpdate(layout, module);
  if (entry && product) {
    const load = async (views: Views): Promise<readonly ArrayBufferView[]> => {
      const matrix = await entry.read();
      product.load(views, matrix);
      return [matrix.planes, matrix.scales];
    };
    loadings.push({ sizeBytes: entry.sizeBytes, load });
    return {
      outputs,
      outputBytes,
      scratchBytes: (rows) => product.scratchBytes(rows),
      prepare: (x, places) => product.tables(x, places),
      multiply: (x, y, adds, places) => [
        ...product.product(y, { bias, adds }, places),
        ...update(x, y, outputs, 64, places),
      ],
    };
  }
  // A layout that no kernel takes is dequantised; a tensor that is not packed stays as it is.
  const weight = entry
    ? layOutDequantised(layout, entry)
    : layOutTensor(layout, name, recipe.layout === "in,out" ? [inputs, outputs] : undefined);
  return {
    outputs,
    outputBytes,
    scratchBytes: () => 0,
    prepare: () => [],
    multiply: (x, y, adds, places) => [
      denseStep({ rows: places.rows, picks: 0, x, weight, outputs, inputs, y, bias, adds, cap: 0 }),
      ...update(x, y, outputs, 1, places),
    ],
  };
}

/** A tensor in kernel memory, and how its numbers are stored there. */
export interface Placed {
  readonly at: number;
  /** 0 float32, 1 float16, 2 bfloat16, as in `assembly/ops.ts`. */
  readonly kind: 0 | 1 | 2;
}

const kinds: Readonly<Record<string, 0 | 1 | 2>> = { float32: 0, float16: 1, bfloat16: 2 };

/** Lay the output layer's weight out; it is dequantised where the file has it packed. */
export function layOutOutput(layout: Layout, name: string): Placed {
  const entry = layout.packed.matrices.get(name);
  return entry ? layOutDequantised(layout, entry) : layOutTensor(layout, name);
}

/** Lay a tensor out as it is stored; `transpose` gives the sizes of one that is turned on the way (in float32). */
export function layOutTensor(layout: Layout, name: string, transpose?: readonly [number, number]): Placed {
  const source = tensorOf(layout, name);
  const kind = transpose ? 0 : (kinds[source.dtype] ?? 0);
  const bytes = sizeOf(source.shape) * (kind === 0 ? 4 : 2);
  const { at } = layout.arena.reserve(bytes);
  layout.loadings.push({
    sizeBytes: source.sizeBytes,
    load: async (views) => {
      if (kind === 0) {
        const values = await finite(name, source);
        views.floats.set(transpose ? transposed(values, ...transpose) : values, at / 4);
        return [values];
      }
      const stored = await source.read();
      assertFinite(name, stored);
      assert(stored.data instanceof Uint16Array, "two bytes a number");
      new Uint16Array(views.bytes.buffer).set(stored.data, at / 2);
      return [stored.data];
    },
  });
  return { at, kind };
}

/** Lay a vector out in float32, with zeros up to `bytes`; its address. `addsOne` adds 1 to each. */
export function layOutVector(layout: Layout, name: string, bytes?: number, addsOne = false): number {
  const source = tensorOf(layout, name);
  const { at } = layout.arena.reserve(bytes ?? 4 * sizeOf(source.shape));
  layout.loadings.push({
    sizeBytes: source.sizeBytes,
    load: async (views) => {
      const values = await finite(name, source);
      views.floats.set(addsOne ? values.map((value) => value + 1) : values, at / 4);
      return [values];
    },
  });
  return at;
}

/** The step of a product with a weight that is not packed. */
export function denseStep(options: {
  readonly rows: number;
  readonly picks: number;
  readonly x: RowsAt;
  readonly weight: Placed;
  readonly outputs: number;
  readonly inputs: number;
  readonly y: Pick<RowsAt, "at" | "rowBytes">;
  readonly bias: number;
  readonly adds: boolean;
  /** Bits of a float32; 0 for none. */
  readonly cap: number;
}): Step {
  const { rows, picks, x, weight, outputs, inputs, y, bias, adds, cap } = options;
  const from = [rows, picks, x.at, x.rowBytes, x.threadBytes];
  return step("dense", [
    ...from,
    ...[weight.at, weight.kind, outputs, inputs],
    ...[y.at, y.rowBytes, bias, Number(adds), cap],
  ]);
}

function tensorOf({ packed }: Layout, name: string): LazyTensor {
  const found = packed.tensors.get(name) ?? packed.tensors.get(name.replace(/^(model|transformer)\./, ""));
  assert(found !== undefined, () => `opening the model has found ${name}`);
  return found;
}

function layOutDequantised({ arena, loadings }: Layout, entry: PackedEntry): Placed {
  const { rows, columns } = entry.shape;
  const { at } = arena.reserve(4 * rows * columns);
  loadings.push({
    sizeBytes: entry.sizeBytes,
    load: async (views) => {
      const values = dequantise(await entry.read());
      views.floats.set(values, at / 4);
      return [values];
    },
  });
  return { at, kind: 0 };
}

type UpdateSteps = (
  x: RowsAt,
  y: Pick<RowsAt, "at" | "rowBytes">,
  outputs: number,
  share: number,
  places: LinearPlaces,
) => readonly Step[];

/** Steps of the adapter's update of a module; none where it has none. */
function layOutUpdate({ arena, updates, loadings }: Layout, module: string): UpdateSteps {
  const found = updates.get(module);
  if (found === undefined) return () => [];
  const place = ({ data, shape }: Tensor): number => {
    const { at } = arena.reserve(4 * sizeOf(shape));
    loadings.push({
      sizeBytes: 4 * sizeOf(shape),
      load: async ({ floats }) => {
        floats.set(data as Float32Array, at / 4); // adapters are float32
        return []; // whoever opened the adapter keeps it
      },
    });
    return at;
  };
  const [a, b] = [place(found.A), place(found.B)];
  const [rank = 0, inputs = 0] = found.A.shape;
  return (x, y, outputs, share, { rows, inner, innerBytes }) => {
    const from = [rows, x.at, x.rowBytes, x.threadBytes, a, rank, inputs, b];
    return [step("update", [...from, outputs, y.at, y.rowBytes, share, inner, innerBytes])];
  };
}

async function finite(name: string, source: LazyTensor): Promise<Float32Array> {
  const values = await toFloat32(source);
  assertFinite(name, values);
  return values.data;
}
