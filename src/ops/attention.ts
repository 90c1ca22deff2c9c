import { assert } from "../errors.ts";
import {
  type Attributes,
  constant,
  type Dim,
  divDims,
  float,
  int,
  mulDims,
  numberAttribute,
  type Value,
} from "../graph/index.ts";
import { add, and, cast, less, lessOrEqual, mul, sub, tanh, where } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { softmax } from "./normalise.ts";
import { apply, applyAll, defineOp, describe, type Op, type Reference, required, type Sample } from "./op.ts";
import { reduceSum } from "./reduce.ts";
import { reference, spread } from "./reference.ts";
import {
  concat,
  equalSplit,
  places,
  reshapeTo,
  scale as scaled,
  slice,
  squeeze,
  transposeLast,
  unsqueeze,
  zerosLike,
} from "./shape.ts";

/*
 * Causal attention whose memory grows with the length of a sequence, not with its square. Both operators are formulas: a
 * block of queries after another meets the keys up to its own end, and the backward pass computes a block's scores again
 * instead of reading them.
 *
 * Two things keep one block alive at a time. Each block reads a zero that is made of the results of the one before, so
 * that a runtime cannot compute two side by side. And the backward pass has values of another rank than the forward pass:
 * ONNX Runtime gives a value the buffer of an earlier one of the same shape, and would hold the forward pass' until then.
 */

/** The most negative finite float32, as transformers uses for masked scores: a fully masked row stays free of NaN. */
export const maskedScore = -3.4028234663852886e38;

/** How a layer attends. */
export interface CausalOptions {
  /** Scores are query·key·scale. */
  readonly scale: number;
  /** Blocks that the queries are cut into; the length of a sequence is a multiple. */
  readonly blocks: number;
  /** A token sees this many tokens up to itself; all of its document when absent. */
  readonly window?: number;
  /** Scores are cap·tanh(score/cap). */
  readonly cap?: number;
}

/**
 * Causal attention within documents: query [batch, heads, seq, d], key and value [batch, kvHeads, seq, d], positions int64
 * [batch, seq], which count from 0 in each of the documents of a row -> [batch, heads, seq, d].
 */
export function causalAttentionOf(
  inputs: readonly [query: Value, key: Value, value: Value, positions: Value],
  { scale, blocks, window, cap }: CausalOptions,
): Value {
  return apply(CausalAttention, inputs, {
    ...{ scale: float(scale), blocks: int(blocks) },
    ...(window === undefined ? {} : { window: int(window) }),
    ...(cap === undefined ? {} : { cap: float(cap) }),
  });
}

function optionsOf(attributes: Attributes): CausalOptions {
  const [window, cap] = [numberAttribute(attributes, "window", 0), numberAttribute(attributes, "cap", 0)];
  return {
    scale: numberAttribute(attributes, "scale", 1),
    blocks: numberAttribute(attributes, "blocks", 1),
    ...(window > 0 ? { window } : {}),
    ...(cap > 0 ? { cap } : {}),
  };
}

/** softmax(scale·QKᵀ) V, each query over the keys of its document up to itself. Vaswani et al. 2017, eq. (1). */
export const CausalAttention: Op = defineOp({
  name: "CausalAttention",
  domain: "scion",
  since: 1,
  infer: (inputs) => {
    const [query, value] = [required(inputs, 0, "CausalAttention"), required(inputs, 2, "CausalAttention")];
    assert(query.shape.length === 4 && value.shape.length === 4, () => `attention of ${describe(query, value)}`);
    return [{ dtype: query.dtype, shape: [...query.shape.slice(0, 3), value.shape[3] as Dim] }];
  },
  evaluate: (inputs, attributes) => {
    const [query, key, value, positions] = four(inputs);
    const out = reference([...query.shape.slice(0, 3), value.shape[3] ?? 0], 0);
    const [d, wide] = [query.shape[3] ?? 0, value.shape[3] ?? 0];
    eachRow([query, key, positions], attributes, ({ q, k, weights }) => {
      weights.forEach(({ place, weight }) => {
        for (let c = 0; c < wide; c++)
          out.data[(q / d) * wide + c] =
            (out.data[(q / d) * wide + c] ?? 0) + weight * (value.data[(k / d + place) * wide + c] ?? 0);
      });
    });
    return [out];
  },
  grad: ({ inputs, outputs, attributes, dy }) => applyAll(CausalAttentionGrad, [...inputs, outputs[0], dy], attributes),
  cost: "compute",
  composite: { expand: (inputs, attributes) => [attend(inputs as Inputs<4>, optionsOf(attributes))] },
  samples: [
    { inputs: sampleOf(2, 4, 2, 8, 4, [0, 1, 2, 3, 0, 1, 2, 0]), attributes: { scale: float(0.5), blocks: int(4) } },
    {
      inputs: sampleOf(1, 2, 2, 6, 3, [0, 1, 2, 3, 4, 5]),
      attributes: { scale: float(1.5), blocks: int(2), window: int(2), cap: float(2) },
    },
  ],
});

/** The gradients of {@link CausalAttention}'s query, key and value, of its inputs, its output and the output's gradient. */
export const CausalAttentionGrad: Op = defineOp({
  name: "CausalAttentionGrad",
  domain: "scion",
  since: 1,
  infer: (inputs) =>
    [0, 1, 2].map((i) => {
      const { dtype, shape } = required(inputs, i, "CausalAttentionGrad");
      return { dtype, shape };
    }),
  evaluate: (inputs, attributes) => {
    const [query, key, value, positions] = four(inputs);
    const dy = required(inputs, 5, "CausalAttentionGrad");
    const [dq, dk, dv] = [query, key, value].map(({ shape }) => reference(shape, 0)) as [
      Reference,
      Reference,
      Reference,
    ];
    const [d, wide] = [query.shape[3] ?? 0, value.shape[3] ?? 0];
    const { scale } = optionsOf(attributes);
    eachRow([query, key, positions], attributes, ({ q, k, weights }) => {
      const of = (tensor: Reference, row: number, c: number): number => tensor.data[row * wide + c] ?? 0;
      const flowing = weights.map(({ place }) => {
        let sum = 0;
        for (let c = 0; c < wide; c++) sum += of(dy, q / d, c) * of(value, k / d + place, c);
        return sum;
      });
      const mean = flowing.reduce((sum, flow, i) => sum + flow * (weights[i]?.weight ?? 0), 0);
      weights.forEach(({ place, weight, slope }, i) => {
        const ds = weight * ((flowing[i] ?? 0) - mean) * slope * scale;
        for (let c = 0; c < d; c++) {
          dq.data[q + c] = (dq.data[q + c] ?? 0) + ds * (key.data[k + place * d + c] ?? 0);
          dk.data[k + place * d + c] = (dk.data[k + place * d + c] ?? 0) + ds * (query.data[q + c] ?? 0);
        }
        for (let c = 0; c < wide; c++) {
          const at = (k / d + place) * wide + c;
          dv.data[at] = (dv.data[at] ?? 0) + weight * of(dy, q / d, c);
        }
      });
    });
    return [dq, dk, dv];
  },
  grad: "unsupported",
  cost: "compute",
  composite: { expand: (inputs, attributes) => attendBack(inputs as Inputs<6>, optionsOf(attributes)) },
  samples: [gradSampleOf(CausalAttention.samples[0] as Sample), gradSampleOf(CausalAttention.samples[1] as Sample)],
});

type Inputs<N extends 4 | 6> = N extends 4
  ? readonly [query: Value, key: Value, value: Value, positions: Value]
  : readonly [query: Value, key: Value, value: Value, positions: Value, out: Value, dy: Value];

/** The forward pass, block after block, in rank 4. */
function attend([query, key, value, positions]: Inputs<4>, options: CausalOptions): Value {
  const { blocks, scale } = options;
  const [batch, heads, , d] = query.shape as readonly [Dim, number, Dim, number];
  const [kvHeads, wide] = [Number(key.shape[1]), Number(value.shape[3])];
  const block = blockOf(query, blocks);
  const rows = mulDims(block, heads / kvHeads); // the queries that share a key head lie one under the other
  const queries = equalSplit(query, blocks, 2);
  const [keys, values] = [growing(transposeLast(key), blocks, 3), growing(value, blocks, 2)];
  const mask = masks(positions, options, { group: heads / kvHeads, rank: 4 });
  const outs: Value[] = [];
  for (let i = 0; i < blocks; i++) {
    const after = chained(outs.at(-1) ? [outs.at(-1) as Value] : []);
    const q = reshapeTo(mul(queries[i] as Value, add(constant(scale), after)), [batch, kvHeads, rows, d], []);
    const weights = softmax(add(capped(matmul(q, keys(i)), options.cap), mask(i, after)));
    outs.push(reshapeTo(matmul(weights, values(i)), [batch, heads, block, wide], []));
  }
  return concat(outs, 2);
}

/** The backward pass, block after block, in rank 5. Dao et al. 2022 (arXiv 2205.14135), appendix B.2, by rows. */
function attendBack([query, key, value, positions, out, dy]: Inputs<6>, options: CausalOptions): readonly Value[] {
  const { blocks, scale, cap } = options;
  const [batch, heads, , d] = query.shape as readonly [Dim, number, Dim, number];
  const [kvHeads, wide] = [Number(key.shape[1]), Number(value.shape[3])];
  const block = blockOf(query, blocks);
  const rows = mulDims(block, heads / kvHeads);
  const [queries, outs, flows] = [query, out, dy].map((x) => equalSplit(x, blocks, 2)) as [Value[], Value[], Value[]];
  const [keys5, values5] = [unsqueeze(key, [0]), unsqueeze(value, [0])];
  const keys = growing(keys5, blocks, 3);
  const [turnedKeys, turnedValues] = [
    growing(transposeLast(keys5), blocks, 4),
    growing(transposeLast(values5), blocks, 4),
  ];
  const mask = masks(positions, options, { group: heads / kvHeads, rank: 5 });
  const dqs: Value[] = [];
  let [dk, dv]: (Value | undefined)[] = [];
  for (let i = 0; i < blocks; i++) {
    const after = chained(i === 0 ? [dy] : [dqs.at(-1) as Value, dk as Value, dv as Value]);
    const five = (x: Value, size: number): Value => reshapeTo(unsqueeze(x, [0]), [1, batch, kvHeads, rows, size], []);
    const q = five(mul(queries[i] as Value, add(constant(scale), after)), d);
    const flow = five(flows[i] as Value, wide);
    const scores = matmul(q, turnedKeys(i));
    const bent = cap === undefined ? undefined : tanh(scaled(scores, 1 / cap));
    const weights = softmax(add(bent === undefined ? scores : scaled(bent, cap ?? 1), mask(i, after)));
    const mean = reduceSum(mul(flow, five(outs[i] as Value, wide)), [4]);
    const ds = mul(weights, sub(matmul(flow, turnedValues(i)), mean));
    const bentBack = bent === undefined ? ds : mul(ds, sub(1, mul(bent, bent)));
    dqs.push(reshapeTo(squeeze(scaled(matmul(bentBack, keys(i)), scale), [0]), [batch, heads, block, d], []));
    // Products are turned, not scores: they are a head's width instead of a sequence's length.
    dk = onto(dk, matmul(transposeLast(q), bentBack), keys5, blocks);
    dv = onto(dv, matmul(transposeLast(flow), weights), values5, blocks);
  }
  const whole = (x: Value | undefined): Value => squeeze(transposeLast(x as Value), [0]); // there is a block
  return [concat(dqs, 2), whole(dk), whole(dv)];
}

function blockOf(query: Value, blocks: number): Dim {
  const block = divDims(query.shape[2] as Dim, blocks);
  assert(block !== undefined, () => `${query.shape[2]} tokens are not cut into ${blocks} blocks`);
  return block;
}

function capped(scores: Value, cap: number | undefined): Value {
  return cap === undefined ? scores : scaled(tanh(scaled(scores, 1 / cap)), cap);
}

/** The first i + 1 of the blocks of x along an axis, each made of the one before. */
function growing(x: Value, blocks: number, axis: number): (i: number) => Value {
  const parts = equalSplit(x, blocks, axis);
  const made: Value[] = [];
  return (i) => {
    const before = made[i - 1];
    made[i] ??= before === undefined ? (parts[i] as Value) : concat([before, parts[i] as Value], axis);
    return made[i] as Value;
  };
}

/** A sum over blocks of queries [1, batch, kvHeads, d, keys so far], with one more that reaches a block of keys further. */
function onto(sum: Value | undefined, more: Value, keys: Value, blocks: number): Value {
  if (sum === undefined) return more;
  const [first] = equalSplit(keys, blocks, 3); // of one block's shape
  return add(more, concat([sum, zerosLike(transposeLast(first as Value))], 4));
}

/**
 * The additive masks of blocks, [batch, 1, group·block, keys up to its end], with axes of size 1 before it up to `rank`; made
 * anew after whatever `after` is made of.
 */
function masks(
  positions: Value,
  { blocks, window }: CausalOptions,
  { group, rank }: { readonly group: number; readonly rank: 4 | 5 },
): (i: number, after: Value) => Value {
  const at = places(positions, 1);
  const [queries, counts] = [equalSplit(at, blocks, 0), equalSplit(positions, blocks, 1)];
  const keys = growing(at, blocks, 0);
  const lead = Array.from({ length: rank - 4 }, (_, axis) => axis);
  const axes = (...inner: readonly number[]): readonly number[] => [...lead, ...inner.map((axis) => axis + rank - 4)];
  return (i, after) => {
    const own = add(queries[i] as Value, cast(after, "int64"));
    const [query, key] = [unsqueeze(own, axes(0, 1, 3)), unsqueeze(keys(i), axes(0, 1, 2))];
    const starts = sub(query, unsqueeze(counts[i] as Value, axes(1, 3)));
    const causal = and(lessOrEqual(starts, key), lessOrEqual(key, query));
    const seen = window === undefined ? causal : and(causal, lessOrEqual(sub(query, window - 1), key));
    const mask = where(seen, 0, constant(maskedScore));
    return group === 1 ? mask : concat(Array<Value>(group).fill(mask), rank - 2);
  };
}

/** 0, and computed after all of these: one number of each is not less than itself, be it infinite or none. */
function chained(values: readonly Value[]): Value {
  const numbers = values.map((x) => {
    const zeros = x.shape.map(() => 0);
    const ones = x.shape.map(() => 1);
    const axes = x.shape.map((_, i) => i);
    return squeeze(slice(x, zeros, ones, axes), axes);
  });
  const [first, ...others] = numbers;
  if (first === undefined) return constant(0);
  const all = others.reduce((sum, number) => add(sum, number), first);
  return cast(less(all, all), "float32");
}

interface Row {
  /** Where the query's and the first key's elements are. */
  readonly q: number;
  readonly k: number;
  readonly weights: readonly { readonly place: number; readonly weight: number; readonly slope: number }[];
}

/** Visit the weights of every query, in float64. */
function eachRow(
  [query, key, positions]: readonly [Reference, Reference, Reference],
  attributes: Attributes,
  visit: (row: Row) => void,
): void {
  const { scale, window = Number.POSITIVE_INFINITY, cap } = optionsOf(attributes);
  const [batch = 0, heads = 0, seq = 0, d = 0] = query.shape;
  const kvHeads = key.shape[1] ?? 1;
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < seq; i++) {
        const q = ((b * heads + h) * seq + i) * d;
        const k = (b * kvHeads + Math.floor((h * kvHeads) / heads)) * seq * d;
        const first = Math.max(i - (positions.data[b * seq + i] ?? 0), i - window + 1);
        const scores = Array.from({ length: i - first + 1 }, (_, n) => {
          let sum = 0;
          for (let c = 0; c < d; c++) sum += (query.data[q + c] ?? 0) * (key.data[k + (first + n) * d + c] ?? 0);
          const score = sum * scale;
          return cap === undefined ? score : cap * Math.tanh(score / cap);
        });
        const most = Math.max(...scores);
        const total = scores.reduce((sum, score) => sum + Math.exp(score - most), 0);
        const weights = scores.map((score, n) => ({
          place: first + n,
          weight: Math.exp(score - most) / total,
          slope: cap === undefined ? 1 : 1 - (score / cap) ** 2,
        }));
        visit({ q, k, weights });
      }
}

function four(inputs: readonly (Reference | undefined)[]): [Reference, Reference, Reference, Reference] {
  return [0, 1, 2, 3].map((i) => required(inputs, i, "CausalAttention")) as [
    Reference,
    Reference,
    Reference,
    Reference,
  ];
}

/** A sample of the gradient: with the output that belongs to the inputs, and some gradient of it. */
function gradSampleOf({ inputs, attributes = {} }: Sample): Sample {
  const [out] = CausalAttention.evaluate(inputs, attributes) as [Reference];
  return { inputs: [...inputs, out, spread(out.shape, -1, 1, 0.11)], attributes };
}

function sampleOf(
  batch: number,
  heads: number,
  kvHeads: number,
  seq: number,
  d: number,
  positions: readonly number[],
): readonly Reference[] {
  const all = Array.from({ length: batch * seq }, (_, i) => positions[i % seq] ?? 0);
  return [
    spread([batch, heads, seq, d], -1, 1, 0.31),
    spread([batch, kvHeads, seq, d], -1, 1, 0.57),
    spread([batch, kvHeads, seq, d], -1, 1, 0.83),
    reference([batch, seq], all, "int64"),
  ];
}
