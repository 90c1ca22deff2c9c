import { constant, sizeOf, type Value } from "../graph/index.ts";
import { abs, add, cast, concat, div, gather, greater, max, mul, reduceMax, reshape, slice } from "../ops/index.ts";
import type { StateSpec } from "./optimizer.ts";

/** Values that share a scale: bitsandbytes' block size. */
export const blockSize = 256;

/**
 * The 256 values between −1 and 1 (or 0 and 1) that 8 bits stand for: dynamic tree quantisation (Dettmers 2016,
 * arXiv 1511.04561, §3; Dettmers et al. 2022, arXiv 2110.02861, §1.3), as bitsandbytes' `create_dynamic_map` lays it out.
 * The decade from 10⁻ᵏ⁻¹ to 10⁻ᵏ has the middles of 2⁶⁻ᵏ equal parts (twice as many without signs), k = 0 … 6; then 0
 * and 1. Ascending.
 */
export function dynamicMap({ signed }: { readonly signed: boolean }): readonly number[] {
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const parts = 2 ** (6 - decade) * (signed ? 1 : 2);
    for (let part = 0; part < parts; part++) {
      const value = 10 ** -decade * (0.1 + (0.9 * (part + 0.5)) / parts);
      values.push(value, ...(signed ? [-value] : []));
    }
  }
  return values.sort((a, b) => a - b);
}

/** A tensor in 8 bits: codes, and the largest size of each block, which its values are multiples of. */
export interface Blocks {
  /** uint8 [blocks, blockSize]. */
  readonly codes: Value;
  /** float32 [blocks, 1]. */
  readonly scales: Value;
}

/** What keeping {@link Blocks} of a tensor takes. */
export function blocksSpec(shape: readonly number[]): Readonly<Record<keyof Blocks, StateSpec>> {
  const blocks = Math.ceil(sizeOf(shape) / blockSize);
  return { codes: { dtype: "uint8", shape: [blocks, blockSize] }, scales: { dtype: "float32", shape: [blocks, 1] } };
}

/** The values that blocks stand for, in a shape. */
export function fromBlocks({ codes, scales }: Blocks, shape: readonly number[], map: readonly number[]): Value {
  const values = mul(gather(constant(map), cast(codes, "int32")), scales);
  const flat = reshape(values, [sizeOf(codes.shape.map(Number))]);
  const size = sizeOf(shape);
  return reshape(size === sizeOf(codes.shape.map(Number)) ? flat : slice(flat, [0], [size], [0]), shape);
}

/** The nearest blocks to some values. */
export function toBlocks(values: Value, map: readonly number[]): Blocks {
  const size = sizeOf(values.shape.map(Number));
  const filling = (blockSize - (size % blockSize)) % blockSize;
  const flat = reshape(values, [size]);
  const whole = filling === 0 ? flat : concat([flat, constant(Array.from({ length: filling }, () => 0))], 0);
  const rows = reshape(whole, [(size + filling) / blockSize, blockSize]);
  const scales = reduceMax(abs(rows), [1]);
  const shares = div(rows, max(scales, 1e-38)); // 0 of 0 stays 0
  return { codes: cast(nearest(shares, map), "uint8"), scales };
}

/** int32: where in an ascending map of 256 values the nearest one stands, by bisection of the middles between them. */
function nearest(x: Value, map: readonly number[]): Value {
  const middles = constant(map.slice(1).map((value, i) => (value + (map[i] as number)) / 2)); // one less than values
  let below: Value = cast(greater(x, constant((map[127] as number) / 2 + (map[128] as number) / 2)), "int32");
  below = mul(below, constant(128, "int32"));
  for (let step = 64; step >= 1; step /= 2) {
    const beyond = greater(x, gather(middles, add(below, constant(step - 1, "int32"))));
    below = add(below, mul(cast(beyond, "int32"), constant(step, "int32")));
  }
  return below;
}
