import { assert, TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import type { Rooms } from "../linalg/index.ts";
import { allFinite, type Hessian } from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { withShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import { type Block, type BlockedModel, type BlockSite, type GramStrip, gramGraph, tokenRows } from "./blocks.ts";
import type { CalibrationBatch } from "./calibration.ts";

/**
 * Σ x·xᵀ of the inputs of a block's maps over all calibration tokens, summed in float64 over batches. Sites that read the
 * same input have the same object. `feedsOf` gives what is carried into the block for a batch.
 * @param rooms holds the sums: they are there until those of the next block are collected.
 * @param halvedFrom columns from which only a half and the diagonal are computed.
 */
export async function collectGrams(
  device: Device,
  cut: BlockedModel,
  block: Block,
  batches: readonly CalibrationBatch[],
  feedsOf: (batch: number) => Readonly<Record<string, Tensor>>,
  rooms: Rooms,
  halvedFrom?: number,
): Promise<(site: BlockSite) => Hessian> {
  const { graph, gramOf, strips } = gramGraph(cut, block, halvedFrom);
  const sums = new Map<string, Float64Array>();
  for (const { gram, columns } of strips.values()) {
    if (!sums.has(gram)) sums.set(gram, rooms.float64(gram, columns * columns).fill(0));
  }
  await withShare(device, async (share) => {
    const program = await compileGraph(share, graph);
    for (const [i, batch] of batches.entries()) {
      const feeds = { ...batch.feeds, ...feedsOf(i), [tokenRows]: batch.rows };
      for (const [name, { data }] of Object.entries(await program.run({ feeds }))) {
        const strip = strips.get(name);
        assert(strip !== undefined && data instanceof Float32Array, () => `${name} is a float32 gram`);
        addStrip(sums.get(strip.gram) as Float64Array, data, strip); // made above
      }
    }
  });
  const hessians = new Map<string, Hessian>();
  for (const strip of strips.values()) {
    if (hessians.has(strip.gram)) continue;
    const values = sums.get(strip.gram) as Float64Array; // likewise
    const halves = strip.width < strip.columns;
    if (halves) mirror(values, strip.columns);
    hessians.set(strip.gram, { columns: strip.columns, values, exact: halves });
  }
  return ({ module }) => {
    const hessian = hessians.get(gramOf.get(module) ?? "");
    assert(hessian !== undefined, () => `${module} has its inputs measured`);
    if (!allFinite(hessian.values)) {
      throw new TuneError("bad-calibration", `The inputs of ${module} hold NaN or infinity on the calibration text.`, {
        at: module,
        fix: "check that the model computes finite losses on it (scion eval)",
      });
    }
    return hessian;
  };
}

/** Add a strip [columns − from, width] to the columns from `from` of a sum. */
function addStrip(sum: Float64Array, data: Float32Array, { columns, from, width }: GramStrip): void {
  for (let i = from; i < columns; i++) {
    const to = i * columns + from;
    const at = (i - from) * width;
    for (let j = 0; j < width; j++) sum[to + j] = (sum[to + j] ?? 0) + (data[at + j] ?? 0);
  }
}

/** Write what is below the diagonal above it, in tiles. */
function mirror(values: Float64Array, n: number): void {
  const tile = 64;
  for (let top = 0; top < n; top += tile) {
    const bottom = Math.min(n, top + tile);
    for (let left = 0; left <= top; left += tile) {
      for (let i = top; i < bottom; i++) {
        const right = Math.min(i, left + tile);
        for (let j = left; j < right; j++) values[j * n + i] = values[i * n + j] ?? 0;
      }
    }
  }
}
