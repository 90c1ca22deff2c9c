import { type AllocationItem, allocate, allocateByRule, importance } from "../quant/index.ts";
import type { BlockedModel, BlockSite } from "./blocks.ts";
import type { Calibration } from "./calibration.ts";
import { advance, carriedFeeds, firstCarried } from "./carry.ts";
import { collectGrams } from "./grams.ts";
import { relativeError } from "./output-error.ts";
import type { BitPlan, MixedBits, QuantiseModelOptions, QuantiseTools } from "./quantise-model.ts";
import { breathe, distinctSites, nameOf, startMeter, uprightWeight } from "./sites.ts";

/**
 * Measure what every number of planes costs each matrix, with the inputs that the unquantised model gives it, and spend
 * the average.
 */
export async function planBits(
  { device, choice, signal, onEvent }: QuantiseModelOptions,
  cut: BlockedModel,
  calibration: Calibration,
  { average, choices = [2, 3, 4], by = "programme" }: MixedBits,
  { algebra, grams, costs }: QuantiseTools,
): Promise<BitPlan | undefined> {
  const sorted = [...choices].sort((a, b) => a - b);
  const items: (AllocationItem & { readonly importance: number })[] = [];
  const total = distinctSites(cut.blocks.flatMap(({ sites }) => sites)).length;
  const meter = startMeter(costs.plan(sorted.length));
  const carried = await firstCarried(device, cut, calibration);
  for (const [index, block] of cut.blocks.entries()) {
    const feedsOf = (batch: number) => carriedFeeds(carried[batch] ?? []);
    const hessians = await collectGrams(device, cut, block, calibration.batches, feedsOf, grams);
    meter.tick(costs.grams(block));
    const weightOf = (site: BlockSite): Promise<Float32Array> =>
      uprightWeight(site, algebra.rooms.float32("weight", site.outFeatures * site.inFeatures));
    // All of a block before its sweeps: they prepare Hessians otherwise, and each is prepared once in each way.
    const importances = new Map<BlockSite, number>();
    for (const site of distinctSites(block.sites)) {
      const prepared = await algebra.prepare(hessians(site), { damping: 0.01, activationOrder: false });
      importances.set(site, importance(await weightOf(site), site.outFeatures, prepared));
    }
    for (const site of distinctSites(block.sites)) {
      if (signal?.aborted) return undefined;
      const name = nameOf(site);
      const hessian = hessians(site);
      const upright = await weightOf(site);
      const shape = { name, rows: site.outFeatures, columns: site.inFeatures };
      const errors: number[] = [];
      for (const bits of sorted) {
        const whole = { ...shape, weight: upright, hessian };
        const { matrix } = await choice.scheme.quantise(whole, bits, choice.config, algebra);
        errors.push(await relativeError(upright, matrix, hessian, algebra));
        await breathe();
      }
      items.push({
        name,
        size: shape.rows * shape.columns,
        costs: errors,
        importance: importances.get(site) ?? 0,
      });
      onEvent?.({
        kind: "measured",
        name,
        done: items.length,
        total,
        remainingMs: meter.tick(costs.site(site, sorted.length)),
      });
    }
    if (index === cut.blocks.length - 1) break;
    await advance(device, cut, block, calibration, carried, []);
    meter.tick(costs.advance(block));
  }
  const allocation = by === "rule" ? allocateByRule(items, sorted, average) : allocate(items, sorted, average);
  return {
    matrices: items.map((item, i) => ({ ...item, bits: allocation.bits[i] ?? 2 })),
    choices: sorted,
    averageBits: allocation.averageBits,
    cost: allocation.cost,
    exact: allocation.exact,
  };
}
