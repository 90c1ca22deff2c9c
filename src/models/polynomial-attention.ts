import { constant, int, type Value, withScope } from "../graph/index.ts";
import {
  add,
  and,
  apply,
  CumSum,
  cast,
  concat,
  div,
  Expand,
  equal,
  exp,
  gatherElements,
  less,
  matmul,
  mul,
  not,
  Pad,
  places,
  reduceMax,
  reduceSum,
  reshapeTo,
  scale as scaled,
  sizeVector,
  slice,
  sqrt,
  sub,
  transpose,
  transposeLast,
  unsqueeze,
} from "../ops/index.ts";
import { nextProducts, taylorWeights } from "./taylor.ts";
import type { TaylorDegree } from "./taylor-error.ts";

/** What scores of a group of heads may be shifted by without changing attention, [kvHeads, headDim] each, flat. */
export interface Centres {
  /** Subtracted from every key: all scores of a row change alike. */
  readonly key?: readonly number[];
  /** Subtracted from every query; the keys then weigh exp(centre·key). */
  readonly query?: readonly number[];
}

/** How all heads of one call attend. */
export interface PolynomialOptions {
  readonly degree: TaylorDegree;
  /** Tokens in a chunk: their length in the graph's own arithmetic is chunk·n. */
  readonly chunk: number;
  readonly centres?: Centres;
}

/** What {@link polynomialAttention} makes once for all layers of a graph. */
export interface PolynomialMasks {
  /** The length of a chunk that they were made for. */
  readonly chunk: number;
  /** float32 [batch, 1, n, chunk, 1]: 1 at keys that later chunks may read, of the document alive at the chunk's end. */
  readonly keys: Value;
  /** float32 [batch, 1, n, chunk, 1]: 1 at queries that read earlier chunks, of the document that the chunk begins with. */
  readonly queries: Value;
  /** float32 [batch, 1, n, n]: 1 where a chunk reads an earlier one. */
  readonly chunks: Value;
  /** float32 [batch, 1, n, chunk, chunk]: 1 where a query sees a key of its own chunk. */
  readonly diagonal: Value;
  /** int64 [batch, 1, n, 1]: where the document begins that a chunk begins with. */
  readonly starts: Value;
  /** float32 [batch, 1, n, chunk, 1]: 0 at a document's first token, which everything that concerns it meets exactly. */
  readonly later: Value;
  /** float32 [batch, 1, n, 1, 1]: 1 where that is in an earlier chunk. */
  readonly startsBefore: Value;
  /** Whether each row is one document, so that chunks add up from the first on. */
  readonly alone: boolean;
}

/**
 * What documents of a row see of each other's chunks: positionIds int64 [batch, chunk·n] count from 0 in each document. A later
 * chunk's query can only be of the document that is alive at a chunk's end, so only that document's keys are kept of a chunk;
 * and only queries of the document that a chunk begins with read earlier chunks: those whose last document it is.
 */
export function polynomialMasks(
  positionIds: Value,
  chunk: number,
  { alone }: { readonly alone: boolean },
): PolynomialMasks {
  return withScope("chunks", () => {
    const [batch = 1] = positionIds.shape;
    const begins = sub(unsqueeze(places(positionIds, 1), [0]), positionIds);
    const starts = reshapeTo(begins, [batch, -1, chunk], []); // [batch, n, chunk]
    const firsts = slice(starts, [0], [1], [2]); // [batch, n, 1]
    const lasts = slice(starts, [chunk - 1], [chunk], [2]);
    const number = places(starts, 1); // [n]
    const [of, read] = [unsqueeze(number, [0, 2]), unsqueeze(number, [0, 1])];
    const within = constant(
      Array.from({ length: chunk * chunk }, (_, i) => (i % chunk <= Math.floor(i / chunk) ? 1 : 0)),
      "float32",
      [chunk, chunk],
    );
    const float = (x: Value): Value => cast(x, "float32");
    const together = float(equal(unsqueeze(starts, [3]), unsqueeze(starts, [2])));
    const startsItself = equal(reshapeTo(positionIds, [batch, -1, chunk], []), constant(0, "int64"));
    return {
      chunk,
      alone,
      // A document's first key is met exactly by all (below), so no state holds it.
      keys: unsqueeze(float(and(equal(starts, lasts), not(startsItself))), [1, 4]),
      queries: unsqueeze(float(equal(starts, firsts)), [1, 4]),
      chunks: unsqueeze(float(and(equal(firsts, transpose(lasts, [0, 2, 1])), less(read, of))), [1]),
      diagonal: unsqueeze(mul(together, within), [1]),
      starts: unsqueeze(firsts, [1]),
      later: unsqueeze(float(not(startsItself)), [1, 4]),
      startsBefore: unsqueeze(float(less(firsts, mul(of, constant(chunk, "int64")))), [1, 4]),
    };
  });
}

/**
 * Causal attention in which scores between chunks go through a Taylor polynomial of exp, so that what a chunk needs of all earlier
 * ones is a state of fixed size: Φ(K)ᵀ[V, 1], with Φ the products of up to `degree` coordinates. Scores within a chunk, and those
 * with a document's first token, are exact. Alman & Song 2023 (arXiv 2302.13214) in the form of products that are symmetric;
 * used by "Computational Limits of LoRA" (arXiv 2406.03136), §3.
 *
 * query [batch, heads, chunk·n, d], key and value [batch, kvHeads, chunk·n, d or dv] -> out [batch, heads, chunk·n, dv], and
 * ranges [kvHeads]: a bound on |score|, the largest query's norm times the largest key's, those of first tokens aside.
 */
export function polynomialHeads(
  query: Value,
  { key, value }: { readonly key: Value; readonly value: Value },
  scale: number,
  masks: PolynomialMasks,
  { degree, chunk, centres = {} }: PolynomialOptions,
): { readonly out: Value; readonly ranges: Value } {
  const [batch = 1, heads, seq = 1, d] = query.shape as readonly [number | string, number, number | string, number]; // rank 4
  const [kvHeads, width] = [Number(key.shape[1]), Number(value.shape[3])];
  const group = heads / kvHeads;
  const centred = (x: Value, centre: readonly number[] | undefined): Value =>
    centre ? sub(x, constant(centre, "float32", [centre.length / d, 1, d])) : x;
  const keys = centred(key, centres.key);
  const queries = centred(query, centres.query && repeatRows(centres.query, d, group));
  const q = scaled(stackQueries(queries, [batch, kvHeads, group, chunk, d]), scale); // [batch, kvHeads, n, group·chunk, d]
  const k = reshapeTo(keys, [batch, kvHeads, -1, chunk, d], []);
  const plain = withOnes(reshapeTo(value, [batch, kvHeads, -1, chunk, width], [])); // [V, 1]
  const counted = centres.query ? mul(plain, keyWeights(k, centres.query, scale, d)) : plain;

  const repeated = (mask: Value, axis: number): Value =>
    group === 1 ? mask : concat(Array<Value>(group).fill(mask), axis);
  const own = matmul(mul(exp(matmul(q, transposeLast(k))), repeated(masks.diagonal, 3)), counted);

  const kept = mul(counted, masks.keys);
  const before = (state: Value): Value => sumBefore(state, masks);
  let past = matmul(withOnes(q), before(matmul(transposeLast(withOnes(k)), kept))); // degrees 0 and 1
  const [qt, kt] = [transposeLast(q), transposeLast(k)];
  let [productsOfQ, productsOfK] = [qt, kt];
  for (let size = 2; size <= degree; size++) {
    productsOfQ = nextProducts(productsOfQ, qt, d, size);
    productsOfK = nextProducts(productsOfK, kt, d, size);
    const state = before(matmul(mul(productsOfK, taylorWeights(d, size)), kept)); // [batch, kvHeads, n, products, width+1]
    past = add(past, transposeLast(matmul(transposeLast(state), productsOfQ)));
  }
  const first = firstKeys(k, counted, masks, { kvHeads, d, width });
  const withFirst = mul(exp(reduceSum(mul(q, first.key), [4])), first.value);
  const total = add(own, mul(add(past, mul(withFirst, masks.startsBefore)), repeated(masks.queries, 3)));
  const out = div(slice(total, [0], [width], [4]), slice(total, [width], [width + 1], [4]));
  const apart = reshapeTo(out, [batch, kvHeads, -1, group, chunk, width], []);
  const largest = (x: Value, mask: Value): Value => {
    const norms = mul(sqrt(reduceSum(mul(x, x), [4])), mask);
    return reduceMax(norms, [0, 2, 3, 4], { keep: false });
  };
  return {
    out: reshapeTo(transpose(apart, [0, 1, 3, 2, 4, 5]), [batch, heads, seq, width], [query]),
    ranges: mul(largest(q, repeated(masks.later, 3)), largest(k, masks.later)),
  };
}

/** A centre of each key head for the queries that share it. */
function repeatRows(centre: readonly number[], d: number, group: number): readonly number[] {
  if (group === 1) return centre;
  const rows = Array.from({ length: centre.length / d }, (_, i) => centre.slice(i * d, (i + 1) * d));
  return rows.flatMap((row) => Array<readonly number[]>(group).fill(row).flat());
}

/** exp(scale·centre·key): what keys weigh when the centre is taken from the queries. k [batch, kvHeads, n, chunk, d]. */
function keyWeights(k: Value, centre: readonly number[], scale: number, d: number): Value {
  const shifted = constant(
    centre.map((x) => scale * x),
    "float32",
    [centre.length / d, 1, d, 1],
  );
  return exp(matmul(k, shifted));
}

/** [batch, heads, chunk·n, d] -> [batch, kvHeads, n, group·chunk, d]. */
function stackQueries(
  x: Value,
  [batch, kvHeads, group, chunk, d]: readonly [number | string, number, number, number, number],
): Value {
  if (group === 1) return reshapeTo(x, [batch, kvHeads, -1, chunk, d], []);
  const apart = reshapeTo(x, [batch, kvHeads, group, -1, chunk, d], []);
  return reshapeTo(transpose(apart, [0, 1, 3, 2, 4, 5]), [batch, kvHeads, -1, group * chunk, d], []);
}

/** [x, 1] along the last axis. */
function withOnes(x: Value): Value {
  const rank = x.shape.length;
  return apply(Pad, [x, constant([...Array<number>(2 * rank - 1).fill(0), 1], "int64"), constant(1)]);
}

/** The sum over the chunks that each reads: state [batch, kvHeads, n, products, width]. */
function sumBefore(state: Value, { chunks, alone }: PolynomialMasks): Value {
  if (alone) return apply(CumSum, [state, constant(2, "int64")], { exclusive: int(1) });
  const [batch = 1, kvHeads = 1, n = 1, products, width] = state.shape as readonly (number | string)[];
  const flat = reshapeTo(state, [batch, kvHeads, n, Number(products) * Number(width)], []);
  return reshapeTo(matmul(chunks, flat), [batch, kvHeads, n, Number(products), Number(width)], []);
}

/** The first key of the document that each chunk begins with, and its [V, 1]: [batch, kvHeads, n, 1, d and width+1]. */
function firstKeys(
  k: Value,
  counted: Value,
  { starts, alone }: PolynomialMasks,
  { kvHeads, d, width }: { readonly kvHeads: number; readonly d: number; readonly width: number },
): { readonly key: Value; readonly value: Value } {
  const pick = (x: Value, last: number): Value => {
    const [batch = 1, , n = 1] = x.shape;
    const rows = reshapeTo(x, [batch, kvHeads, -1, last], []);
    // One row, one document: its first token is every chunk's.
    const [from, count] = alone ? [constant(0, "int64"), 1] : [starts, n];
    const at = apply(Expand, [from, sizeVector([batch, kvHeads, count, last], [x])]);
    return unsqueeze(gatherElements(rows, at, 2), [3]);
  };
  return { key: pick(k, d), value: pick(counted, width + 1) };
}
