import { assert } from "../errors.ts";
import type { Value } from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import { transposed } from "../io/packed/index.ts";
import type { BlockSite } from "./blocks.ts";

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

/** A site's weight [out, in], whichever way it is stored. @throws {TuneError} `not-finite-weight`. */
export async function uprightWeight(site: BlockSite): Promise<Float32Array> {
  const { data } = await toFloat32(weightOf(site).source);
  return site.layout === "out,in" ? data : transposed(data, site.inFeatures, site.outFeatures);
}

/** ‖W − Ŵ‖²/‖W‖²; 0 for a weight of zeros. */
export function weightError(weight: Float32Array, quantised: Float32Array): number {
  let [error, whole] = [0, 0];
  for (let i = 0; i < weight.length; i++) {
    const w = weight[i] ?? 0;
    const difference = w - (quantised[i] ?? 0);
    error += difference * difference;
    whole += w * w;
  }
  return whole > 0 ? error / whole : 0;
}

/** Let timers and signals have their turn: quantising blocks the thread. */
export function breathe(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Tells the time left from what is done, in milliseconds. */
export interface Meter {
  /** A site is done. */
  tick(site: BlockSite): number;
  /** Sites were done by an earlier run. */
  skip(sites: readonly BlockSite[]): void;
}

/** Time left over sites, by what each costs. */
export function startMeter(sites: readonly BlockSite[], cost: (site: BlockSite) => number): Meter {
  let left = distinctSites(sites).reduce((sum, site) => sum + cost(site), 0);
  let done = 0;
  let started = performance.now();
  return {
    tick: (site) => {
      done += cost(site);
      left -= cost(site);
      return ((performance.now() - started) / done) * left;
    },
    skip: (skipped) => {
      for (const site of skipped) left -= cost(site);
      started = performance.now();
    },
  };
}
