import { assert } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import { eachDequantisedRow, type PackedMatrix, transposed } from "../io/packed/index.ts";
import type { BlockSite } from "./blocks.ts";
import type { MatrixReport } from "./quantise-model.ts";

/** The weight that a site reads. */
export function weightOf({ weight: value }: BlockSite): Extract<Value, { readonly kind: "weight" }> {
  assert(value.kind === "weight", "a linear map has a pretrained weight");
  return value;
}

/** The name of the weight that a site reads. */
export function nameOf(site: BlockSite): string {
  return weightOf(site).name;
}

/** Modules that share a weight are quantised once, by the first. */
export function distinctSites(sites: readonly BlockSite[]): readonly BlockSite[] {
  return sites.filter((site, i) => sites.findIndex(({ weight: other }) => other === site.weight) === i);
}

/**
 * A site's weight [out, in], whichever way it is stored.
 * @param into is filled, where the weight has to be converted and fits: fresh memory takes longer than the work.
 * @throws {TuneError} `not-finite-weight`.
 */
export async function uprightWeight(site: BlockSite, into?: Float32Array<ArrayBuffer>): Promise<Float32Array> {
  const { data } = await toFloat32(weightOf(site).source, into?.buffer);
  return site.layout === "out,in" ? data : transposed(data, site.inFeatures, site.outFeatures);
}

/** ‖W − Ŵ‖²/‖W‖² of a weight [out, in] and what it is stored as; 0 for a weight of zeros. */
export function weightError(weight: Float32Array, packed: PackedMatrix): number {
  let [error, whole] = [0, 0];
  eachDequantisedRow(packed, (row, values) => {
    const start = row * values.length;
    for (let k = 0; k < values.length; k++) {
      const w = weight[start + k] ?? 0;
      const difference = w - (values[k] ?? 0);
      error += difference * difference;
      whole += w * w;
    }
  });
  return whole > 0 ? error / whole : 0;
}

/** Let timers and signals have their turn: quantising blocks the thread. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Tells the time left from what is done, in milliseconds. */
export interface Meter {
  /** A part is done that was expected to cost so much. */
  tick(cost: number): number;
  /** Parts were done by an earlier run. */
  skip(cost: number): void;
}

/** Time left of `total`, in whatever unit costs are. */
export function startMeter(total: number): Meter {
  let left = total;
  let done = 0;
  let started = performance.now();
  return {
    tick: (cost) => {
      done += cost;
      left -= cost;
      return ((performance.now() - started) / done) * Math.max(0, left);
    },
    skip: (cost) => {
      left -= cost;
      started = performance.now();
    },
  };
}

/** What a report of a matrix says, however it was quantised. */
export function reportOf(
  site: BlockSite,
  weight: Float32Array,
  matrix: PackedMatrix,
  deadInputs: number,
): MatrixReport {
  return {
    name: nameOf(site),
    module: site.module,
    bits: matrix.bits,
    rows: matrix.rows,
    columns: matrix.columns,
    weightError: weightError(weight, matrix),
    deadInputs,
  };
}
