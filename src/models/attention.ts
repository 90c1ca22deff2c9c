import { constant, mulDims, type Value, withScope } from "../graph/index.ts";
import {
  add,
  and,
  apply,
  causalAttentionOf,
  concat,
  equalSplit,
  lengthOf,
  lessOrEqual,
  maskedScore,
  matmul,
  not,
  places,
  range,
  reshapeTo,
  scale as scaled,
  shapeOf,
  slice,
  softmax,
  squeeze,
  sub,
  transpose,
  unsqueeze,
  where,
} from "../ops/index.ts";
import type { Attend, AttendOptions, KeyValue, SequenceAttention } from "./architecture.ts";
import { softCap } from "./blocks.ts";

/** Sequences that are trained on are cut into this many blocks of queries; their lengths are multiples of it. */
export const attentionBlocks = 4;

/**
 * Causal attention within documents: positionIds int64 [batch, {@link attentionBlocks}·block] count from 0 in each of
 * the documents that share a row. Each block of queries meets only the keys up to its own end, so three eighths of
 * the scores are never computed, kept or differentiated.
 */
export function causalAttention(positionIds: Value): Attend {
  const masks = masksByWindow((window) => {
    const rows = equalSplit(documentMask(positionIds, window), attentionBlocks, 2);
    return rows.map((row, i) => prefix(equalSplit(row, attentionBlocks, 3), i, 3));
  });
  const open = masksByWindow((window) => [openDocumentMask(positionIds, window)]);
  return (query, { key, value }, options) => {
    if (options.bidirectional) {
      const [whole] = open(options.window, groupSize(query, key));
      return joinHeads(attention(query, { key, value }, whole, options));
    }
    const mask = masks(options.window, groupSize(query, key));
    const [keys, values] = [equalSplit(key, attentionBlocks, 2), equalSplit(value, attentionBlocks, 2)];
    const parts = equalSplit(query, attentionBlocks, 2).map(
      (part, i) => attention(part, { key: prefix(keys, i, 2), value: prefix(values, i, 2) }, mask[i] as Value, options), // one a block
    );
    return joinHeads(concat(parts, 2));
  };
}

/** Exact attention of whole sequences, which is what every model is trained with unless another is chosen. */
export const exactAttention: SequenceAttention = { multiple: attentionBlocks, alone: false, attend: causalAttention };

/** From this many tokens on, memory for a layer's scores is worth what attention in many blocks takes to start. */
const longFrom = 2048;

/**
 * Exact attention for sequences of up to `length` tokens: long ones a block of a few hundred queries after another, in memory
 * that grows with the length alone ({@link causalAttentionOf}).
 */
export function exactAttentionFor(length: number): SequenceAttention {
  if (length < longFrom) return exactAttention;
  const blocks = 2 ** Math.min(6, Math.ceil(Math.log2(length / 256)));
  const attend = (positionIds: Value): Attend => {
    const whole = causalAttention(positionIds);
    return (query, { key, value }, options) => {
      if (options.bias !== undefined || options.bidirectional) return whole(query, { key, value }, options);
      return joinHeads(causalAttentionOf([query, key, value, positionIds], { ...options, blocks }));
    };
  };
  return { multiple: blocks, alone: false, attend };
}

/**
 * Causal attention of the last seq of total positions, with a cache. inputIds [batch, seq]; attentionMask int64
 * [batch, total] is 0 at padding.
 */
export function cachedAttention(inputIds: Value, attentionMask: Value): Attend {
  const masks = masksByWindow((window) => [cachedMask(inputIds, attentionMask, window)]);
  return (query, cache, options) => {
    const [mask] = masks(options.window, groupSize(query, cache.key));
    return joinHeads(attention(query, cache, mask as Value, options)); // just the one
  };
}

/**
 * Attention of every token to every token that is there: attentionMask int64 [batch, total] is 0 at padding. Queries may
 * be of another sequence than keys and values.
 */
export function openAttention(attentionMask: Value | undefined): Attend {
  const mask = attentionMask && withScope("mask", () => paddingMask(attentionMask));
  return (query, cache, options) => joinHeads(attention(query, cache, mask, options));
}

/** The additive mask of padded keys: int64 [batch, total] -> [batch, 1, 1, total]. */
export function paddingMask(attentionMask: Value): Value {
  return additive(unsqueeze(not(lessOrEqual(attentionMask, 0)), [1, 2]));
}

/**
 * Layers with the same window share their masks, repeated for each of the `group` query heads that share a key head:
 * [batch, 1, seq, total] -> [batch, 1, group·seq, total].
 */
function masksByWindow(
  make: (window: number | undefined) => readonly Value[],
): (window: number | undefined, group: number) => readonly Value[] {
  const made = new Map<string, readonly Value[]>();
  return (window, group) => {
    const key = `${window} ${group}`;
    const masks = made.get(key) ?? withScope("mask", () => make(window).map((mask) => repeat(mask, group)));
    made.set(key, masks);
    return masks;
  };
}

function repeat(mask: Value, group: number): Value {
  return group === 1 ? mask : concat(Array<Value>(group).fill(mask), 2);
}

function groupSize(query: Value, key: Value): number {
  return Number(query.shape[1]) / Number(key.shape[1]);
}

/** The blocks up to and with the one at `last`, side by side. */
function prefix(blocks: readonly Value[], last: number, axis: number): Value {
  return last === 0 ? (blocks[0] as Value) : concat(blocks.slice(0, last + 1), axis); // there is a first
}

/**
 * The additive mask of causal attention within documents: [batch, 1, seq, seq]. The query at place i of a row is the
 * positionIds[i]-th of its document, so it sees the keys from place i − positionIds[i] to i.
 */
function documentMask(positionIds: Value, window: number | undefined): Value {
  const at = places(positionIds, 1);
  const [keys, queries] = [unsqueeze(at, [0, 1, 2]), unsqueeze(at, [0, 1, 3])];
  const starts = sub(queries, unsqueeze(positionIds, [1, 3]));
  return additive(and(within(keys, queries, window), lessOrEqual(starts, keys)));
}

/** The additive mask of attention both ways within documents: [batch, 1, seq, seq]; `window` − 1 tokens to each side. */
function openDocumentMask(positionIds: Value, window: number | undefined): Value {
  const at = places(positionIds, 1);
  const starts = sub(unsqueeze(at, [0]), positionIds);
  const [ofKeys, ofQueries] = [unsqueeze(starts, [1, 2]), unsqueeze(starts, [1, 3])];
  const together = and(lessOrEqual(ofKeys, ofQueries), lessOrEqual(ofQueries, ofKeys));
  if (window === undefined) return additive(together);
  const [keys, queries] = [unsqueeze(at, [0, 1, 2]), unsqueeze(at, [0, 1, 3])];
  const near = and(lessOrEqual(sub(queries, window - 1), keys), lessOrEqual(sub(keys, window - 1), queries));
  return additive(and(together, near));
}

/** Whether a query sees a key: it comes no later, and is one of the last `window` tokens. */
function within(keys: Value, queries: Value, window: number | undefined): Value {
  const causal = lessOrEqual(keys, queries);
  return window === undefined ? causal : and(causal, lessOrEqual(sub(queries, window - 1), keys));
}

/** 0 where a score counts, and the lowest number where it does not. */
export function additive(counts: Value): Value {
  return where(counts, 0, constant(maskedScore));
}

/**
 * The additive mask of causal attention with a cache: [batch, 1, seq, total].
 * attentionMask int64 [batch, total] is 0 at padding; the queries are the last seq of the total positions.
 */
function cachedMask(inputIds: Value, attentionMask: Value, window: number | undefined): Value {
  const total = lengthOf(attentionMask, 1);
  const keys = places(attentionMask, 1);
  const queries = range(sub(total, lengthOf(inputIds, 1)), total);
  const causal = within(unsqueeze(keys, [0, 1, 2]), unsqueeze(queries, [0, 1, 3]), window);
  const present = unsqueeze(not(lessOrEqual(attentionMask, 0)), [1, 2]);
  return additive(and(causal, present));
}

/**
 * Scaled dot-product attention with grouped queries: query [batch, heads, seq, d], key and value
 * [batch, kvHeads, total, d] -> [batch, heads, seq, d]. The queries that share a key head are stacked along the
 * sequence, and so is the mask [batch, 1, heads/kvHeads·seq, total]: keys and values are never repeated. Ainslie et al.
 * 2023, §2.
 */
function attention(
  query: Value,
  { key, value }: KeyValue,
  mask: Value | undefined,
  { scale, cap, bias }: AttendOptions,
): Value {
  const [batch, heads, seq, headDim] = query.shape as readonly [number | string, number, number | string, number]; // rank 4
  const kvHeads = Number(key.shape[1]);
  const sources = [query, key];
  const grouped = reshapeTo(query, [batch, kvHeads, mulDims(seq, heads / kvHeads), headDim], sources);
  // The queries are scaled, not the scores: there are fewer of them.
  const scores = softCap(matmul(scaled(grouped, scale), transpose(key, [0, 1, 3, 2])), cap);
  const biased = bias ? add(scores, bias) : scores;
  const mixed = matmul(softmax(mask ? add(biased, mask) : biased), value);
  return reshapeTo(mixed, [batch, heads, seq, headDim], sources);
}

/** [batch, heads, seq, d] -> [batch·seq, heads·d]. */
export function joinHeads(x: Value): Value {
  const [batch = 1, heads = 1, seq = 1, headDim = 1] = x.shape;
  return reshapeTo(transpose(x, [0, 2, 1, 3]), [mulDims(batch, seq), mulDims(heads, headDim)], []);
}
