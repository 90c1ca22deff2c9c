import { constant, inScope, mulDims, type Value } from "../graph/index.ts";
import {
  add,
  and,
  apply,
  Cos,
  cast,
  concat,
  gemm,
  lessOrEqual,
  matmul,
  mul,
  not,
  Range,
  reciprocal,
  reduceMean,
  reshapeTo,
  Sin,
  shapeOf,
  slice,
  softmax,
  sqrt,
  squeeze,
  sub,
  transpose,
  unsqueeze,
  where,
} from "../ops/index.ts";
import type { KeyValue, Weights } from "./architecture.ts";

/** The most negative finite float32, as transformers uses for masked scores: a fully masked row stays free of NaN. */
const maskedScore = -3.4028234663852886e38;

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

/** x / √(mean x² + epsilon) · weight over the last axis. Zhang & Sennrich 2019, eq. (4). x [tokens, hidden]. */
export function rmsNorm(weights: Weights, module: string, x: Value, epsilon: number): Value {
  return inScope(module, () => {
    const inverse = reciprocal(sqrt(add(reduceMean(mul(x, x), [-1]), epsilon)));
    return mul(weights(`${module}.weight`), mul(x, inverse));
  });
}

/** The additive mask of causal attention over whole sequences: [1, 1, seq, seq]. */
export function causalMask(inputIds: Value): Value {
  return inScope("mask", () => {
    const seq = lengthOf(inputIds, 1);
    const at = range(constant(0, "int64"), seq);
    return where(lessOrEqual(unsqueeze(at, [0, 1, 2]), unsqueeze(at, [0, 1, 3])), 0, constant(maskedScore));
  });
}

/**
 * The additive mask of causal attention with a cache: [batch, 1, seq, total].
 * attentionMask int64 [batch, total] is 0 at padding; the queries are the last seq of the total positions.
 */
export function cachedMask(inputIds: Value, attentionMask: Value): Value {
  return inScope("mask", () => {
    const total = lengthOf(attentionMask, 1);
    const keys = range(constant(0, "int64"), total);
    const queries = range(sub(total, lengthOf(inputIds, 1)), total);
    const causal = lessOrEqual(unsqueeze(keys, [0, 1, 2]), unsqueeze(queries, [0, 1, 3]));
    const present = unsqueeze(not(lessOrEqual(attentionMask, 0)), [1, 2]);
    return where(and(causal, present), 0, constant(maskedScore));
  });
}

function lengthOf(x: Value, axis: number): Value {
  return squeeze(slice(shapeOf(x), [axis], [axis + 1], [0]), [0]);
}

function range(start: Value, limit: Value): Value {
  return apply(Range, [start, limit, constant(1, "int64")]);
}

/**
 * Rotary position tables: cos and sin of position · frequency, each [batch, 1, seq, headDim/2].
 * Su et al. 2021, eq. (34). `scale` multiplies both (YaRN's attention factor).
 */
export function rotaryTables(positionIds: Value, inverseFrequencies: Value, scale: number): { cos: Value; sin: Value } {
  return inScope("rotary", () => {
    const angles = mul(unsqueeze(cast(positionIds, "float32"), [1, 3]), inverseFrequencies);
    const scaled = (table: Value): Value => (scale === 1 ? table : mul(table, scale));
    return { cos: scaled(apply(Cos, [angles])), sin: scaled(apply(Sin, [angles])) };
  });
}

/** Rotate pairs (i, i + headDim/2): x [batch, heads, seq, headDim]. */
export function rotate(x: Value, { cos, sin }: { cos: Value; sin: Value }): Value {
  const headDim = Number(x.shape[3]);
  const half = headDim / 2;
  const first = slice(x, [0], [half], [3]);
  const second = slice(x, [half], [headDim], [3]);
  return concat([sub(mul(first, cos), mul(second, sin)), add(mul(second, cos), mul(first, sin))], 3);
}

/**
 * Scaled dot-product attention with grouped queries: query [batch, heads, seq, d], key and value
 * [batch, kvHeads, total, d] -> [batch·seq, heads·d]. The queries that share a key head are stacked along the
 * sequence, so keys and values are never repeated. Ainslie et al. 2023, §2.
 */
export function attention(query: Value, { key, value }: KeyValue, mask: Value, scale: number): Value {
  const [batch, heads, seq, headDim] = query.shape as readonly [number | string, number, number | string, number]; // rank 4
  const kvHeads = Number(key.shape[1]);
  const total = key.shape[2] ?? 1;
  const sources = [query, key];
  const stacked = mulDims(seq, heads / kvHeads);
  const grouped = reshapeTo(query, [batch, kvHeads, stacked, headDim], sources);
  const scores = reshapeTo(matmul(grouped, transpose(key, [0, 1, 3, 2])), [batch, heads, seq, total], sources);
  const probabilities = softmax(add(mul(scores, scale), mask));
  const mixed = matmul(reshapeTo(probabilities, [batch, kvHeads, stacked, total], sources), value);
  return joinHeads(reshapeTo(mixed, [batch, heads, seq, headDim], sources));
}

/** [batch·seq, heads·d] -> [batch, heads, seq, d]; the sizes are those of inputIds [batch, seq]. */
export function splitHeads(x: Value, inputIds: Value, heads: number, headDim: number): Value {
  const [batch = 1, seq = 1] = inputIds.shape;
  return transpose(reshapeTo(x, [batch, seq, heads, headDim], [inputIds]), [0, 2, 1, 3]);
}

/** [batch, heads, seq, d] -> [batch·seq, heads·d]. */
function joinHeads(x: Value): Value {
  const [batch = 1, heads = 1, seq = 1, headDim = 1] = x.shape;
  return reshapeTo(transpose(x, [0, 2, 1, 3]), [mulDims(batch, seq), mulDims(heads, headDim)], []);
}

/** Join the cache and this call's keys or values along the sequence. */
export function extend(past: KeyValue | undefined, { key, value }: KeyValue): KeyValue {
  return past ? { key: concat([past.key, key], 2), value: concat([past.value, value], 2) } : { key, value };
}
