import { toFloat32 } from "../../src/io/convert.ts";
import {
  type PackedMatrix,
  type PackedToWrite,
  packedFileName,
  packPlanes,
  transposed,
  writePacked,
} from "../../src/io/packed/index.ts";
import { joinPath, type Storage } from "../../src/io/storage.ts";
import { type LinearRecipe, openModel } from "../../src/models/index.ts";

/** Scales: down whole columns, in blocks of 8 columns and an eighth of the rows, or along rows. */
export type Scales = "columns" | "blocks" | "rows";

/** Binary planes by greedy rounding: plain, and good enough for a model to stay itself at 4 bits. */
export function packGreedily(
  weight: Float32Array,
  rows: number,
  columns: number,
  { bits, scales }: { bits: number; scales: Scales },
): PackedMatrix {
  const rowGroup = scales === "rows" ? 1 : scales === "blocks" ? Math.ceil(rows / 8) : rows;
  const columnGroup = scales === "rows" ? columns : scales === "blocks" ? 8 : 1;
  const rowGroups = Math.ceil(rows / rowGroup);
  const columnGroups = Math.ceil(columns / columnGroup);
  const rest = weight.slice();
  const codes = new Uint8Array(rows * columns);
  const alpha = new Float32Array(bits * rowGroups * columnGroups);
  for (let plane = 0; plane < bits; plane++) {
    const counts = new Float32Array(rowGroups * columnGroups);
    const first = plane * rowGroups * columnGroups;
    const groupOf = (at: number): number =>
      Math.floor(Math.floor(at / columns) / rowGroup) * columnGroups + Math.floor((at % columns) / columnGroup);
    rest.forEach((value, at) => {
      const group = groupOf(at);
      counts[group] = (counts[group] ?? 0) + 1;
      alpha[first + group] = (alpha[first + group] ?? 0) + Math.abs(value);
    });
    counts.forEach((count, group) => {
      alpha[first + group] = (alpha[first + group] ?? 0) / count;
    });
    for (let at = 0; at < rest.length; at++) {
      const scale = alpha[first + groupOf(at)] ?? 0;
      const positive = (rest[at] ?? 0) >= 0;
      if (positive) codes[at] = (codes[at] ?? 0) | (1 << plane);
      rest[at] = (rest[at] ?? 0) - (positive ? scale : -scale);
    }
  }
  const shape = { rows, columns, bits, coding: "binary", rowGroup, columnGroup, scaleKind: "float32" } as const;
  return { ...shape, planes: packPlanes(codes, shape), scales: alpha };
}

/** Pack the linear maps of a model's folder into another folder, beside its other files. */
export async function packFolder(
  storage: Storage,
  from: string,
  to: { readonly storage: Storage; readonly folder: string },
  options: { bits: number; scales: Scales },
): Promise<void> {
  const model = await openModel(storage, from);
  const recipe = model.recipe();
  if (recipe === undefined) throw new Error(`${model.modelType} has no recipe`);
  const maps = recipe.layers.flatMap(({ attention, feedForward }): readonly LinearRecipe[] => [
    ...attention.projections,
    attention.output,
    ...feedForward.inner,
    feedForward.down,
  ]);
  const byName = new Map(maps.map((map) => [`${map.module}.weight`, map]));
  const matrices: PackedToWrite[] = [];
  const tensors: { name: string; tensor: Awaited<ReturnType<typeof toFloat32>> }[] = [];
  for (const [name, { source }] of model.weights) {
    const tensor = await toFloat32(source);
    const map = byName.get(name);
    if (map === undefined) {
      tensors.push({ name, tensor });
      continue;
    }
    const { inputs, outputs, layout } = map;
    const weight = layout === "out,in" ? tensor.data : transposed(tensor.data, inputs, outputs);
    matrices.push({ name, stored: layout, matrix: packGreedily(weight, outputs, inputs, options) });
  }
  await writePacked(to.storage, joinPath(to.folder, packedFileName), { info: { method: "greedy" }, matrices, tensors });
  for (const file of await storage.list(from)) {
    if (!file.endsWith(".json")) continue;
    if (file.endsWith(".index.json")) continue;
    await to.storage.write(joinPath(to.folder, file), await storage.read(joinPath(from, file)));
  }
}
