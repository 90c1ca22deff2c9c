import { inScope, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  Cos,
  cast,
  concat,
  gemm,
  layerNorm,
  mul,
  reciprocal,
  reduceMean,
  reshapeTo,
  rotatedHalves,
  Sin,
  sqrt,
  tanh,
  transpose,
  unsqueeze,
} from "../ops/index.ts";
import type { KeyValue, Weights } from "./architecture.ts";

/** A linear layer in its module's scope: x [tokens, in] -> [tokens, out]. `layout` says how the weight is stored. */
export function dense(
  weights: Weights,
  module: string,
  x: Value,
  { bias, layout = "out,in" }: { bias: boolean; layout?: "out,in" | "in,out" },
): Value {
  return inScope(module, () =>
    gemm(x, weights(`${module}.weight`), {
      transB: layout === "out,in",
      ...(bias ? { c: weights(`${module}.bias`) } : {}),
    }),
  );
}

/**
 * x / √(mean x² + epsilon) · weight over the last axis, or · (1 + weight). Zhang & Sennrich 2019, eq. (4). x [..., d],
 * weight [d].
 */
export function rmsNorm(weights: Weights, module: string, x: Value, epsilon: number, addOne = false): Value {
  return inScope(module, () => {
    const inverse = reciprocal(sqrt(add(reduceMean(mul(x, x), [-1]), epsilon)));
    const scale = weights(`${module}.weight`);
    return mul(addOne ? add(scale, 1) : scale, mul(x, inverse));
  });
}

/** Layer normalisation in its module's scope, over the last axis: x [..., d]. Ba et al. 2016, eq. (4). */
export function layerNormed(weights: Weights, module: string, x: Value, epsilon: number): Value {
  return inScope(module, () => layerNorm(x, weights(`${module}.weight`), weights(`${module}.bias`), epsilon));
}

/** cap·tanh(x/cap); x itself without a cap. Bello et al. 2016 (arXiv 1611.09940), §4. */
export function softCap(x: Value, cap: number | undefined): Value {
  return cap === undefined ? x : mul(tanh(mul(x, 1 / cap)), cap);
}

/** Cosines and sines of rotary angles, each [batch, 1, seq, rotaryDim/2]. */
export interface RotaryTables {
  readonly cos: Value;
  readonly sin: Value;
}

/**
 * Rotary position tables: cos and sin of position · frequency, each [batch, 1, seq, headDim/2].
 * Su et al. 2021, eq. (34). `scale` multiplies both (YaRN's attention factor).
 */
export function rotaryTables(positionIds: Value, inverseFrequencies: Value, scale: number): RotaryTables {
  return inScope("rotary", () => {
    const angles = mul(unsqueeze(cast(positionIds, "float32"), [1, 3]), inverseFrequencies);
    const scaled = (table: Value): Value => (scale === 1 ? table : mul(table, scale));
    return { cos: scaled(apply(Cos, [angles])), sin: scaled(apply(Sin, [angles])) };
  });
}

/** Rotate pairs (i, i + rotaryDim/2) of the first `rotaryDim` elements of each head: x [batch, heads, seq, headDim]. */
export function rotate(x: Value, { cos, sin }: RotaryTables, rotaryDim: number): Value {
  return rotatedHalves(x, cos, sin, rotaryDim);
}

/** [batch·seq, heads·d] -> [batch, heads, seq, d]; the sizes are those of inputIds [batch, seq]. */
export function splitHeads(x: Value, inputIds: Value, heads: number, headDim: number): Value {
  const [batch = 1, seq = 1] = inputIds.shape;
  return transpose(reshapeTo(x, [batch, seq, heads, headDim], [inputIds]), [0, 2, 1, 3]);
}

/** Join the cache and this call's keys or values along the sequence. */
export function extend(past: KeyValue | undefined, { key, value }: KeyValue): KeyValue {
  return past ? { key: concat([past.key, key], 2), value: concat([past.value, value], 2) } : { key, value };
}
