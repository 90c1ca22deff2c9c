import { sizeOf } from "../graph/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { blocksToQuantise } from "./quantise-model.ts";
import { distinctSites } from "./sites.ts";

/** Bytes that ONNX Runtime takes for a layer's values a token and a hidden unit, about; a batch has some 4096 tokens. */
const layerBytes = 4096 * 4 * 12;

/**
 * Bytes that quantising a model holds at once, about, beside what the process has: one weight and what becomes of it; with
 * calibration text also a block's weights, the Hessians of its inputs and the factor of one, and what is carried to the next
 * block for every token.
 * @throws {TuneError} `nothing-to-quantise`.
 */
export function quantisingBytes(model: PretrainedModel, tokens: number | undefined): number {
  const { blocks } = blocksToQuantise(model);
  let largest = 0;
  for (const { sites } of blocks) {
    const own = distinctSites(sites);
    const sizes = own.map(({ outFeatures, inFeatures }) => outFeatures * inFeatures);
    const weight = Math.max(0, ...sizes);
    // In float32, as codes, and as planes: of the block until it is written.
    const rounding = 5 * weight + sizes.reduce((sum, size) => sum + size, 0);
    largest = Math.max(largest, rounding);
    if (tokens === undefined) continue;
    const widths = [...new Map(own.map(({ x, inFeatures }) => [x, inFeatures])).values()];
    const widest = Math.max(0, ...widths);
    const hessians = widths.reduce((sum, n) => sum + 8 * n * n, 0);
    const factors = [...new Set(widths)].reduce((sum, n) => sum + 8 * n * n, 0);
    // Two operands of the factor, or the errors of a sweep.
    const scratch = Math.max(4 * widest * widest, 9 * weight);
    // While the model runs there is its block in float32, laid out once more, instead of a sweep.
    const running = 8 * sizes.reduce((sum, size) => sum + size, 0) + layerBytes * model.sizes.hiddenSize;
    const carried = 4 * tokens * model.sizes.hiddenSize;
    largest = Math.max(largest, hessians + factors + carried + Math.max(rounding + scratch, running));
  }
  return largest;
}

/**
 * Bytes that a disk needs at least to quantise a model: the packed matrices twice, as what is finished is kept until all of it is
 * written, and what stays as it is.
 * @throws {TuneError} `nothing-to-quantise`.
 */
export function packedBytes(model: PretrainedModel, bits: number, keepAs: "float16" | "float32"): number {
  const { blocks } = blocksToQuantise(model);
  const packed = distinctSites(blocks.flatMap(({ sites }) => sites));
  const values = packed.reduce((sum, { outFeatures, inFeatures }) => sum + outFeatures * inFeatures, 0);
  const all = [...model.weights.values()].filter(({ shape }) => shape.length > 1);
  const kept = all.reduce((sum, { source }) => sum + sizeOf(source.shape), 0) - values;
  return (2 * values * bits) / 8 + (keepAs === "float16" ? 2 : 4) * Math.max(0, kept);
}
