import { assert } from "../../errors.ts";
import { constantOf, type Value } from "../../graph/index.ts";
import {
  activations,
  type OpenGraph,
  type Pooling,
  type PretrainedModel,
  type SentenceLayer,
  type SentenceModules,
} from "../../models/index.ts";
import {
  add,
  cast,
  concat,
  div,
  equal,
  equalSplit,
  matmul,
  max,
  mul,
  places,
  reduceMax,
  reduceSum,
  sqrt,
  squeeze,
  sub,
  transpose,
  unsqueeze,
} from "../../ops/index.ts";
import type { Batch, LayoutOptions, TokenizedExample } from "../data/index.ts";
import { countTokens, feedSequences } from "./feed.ts";

/** The embeddings of both texts of every pair, first texts first: embeddings [2·pairs, size] of length 1. */
export function embeddingForward(model: PretrainedModel): OpenGraph {
  const { inputs, outputs } = model.predict("2*pairs");
  const mask = inputs.find(({ name }) => name === "attention_mask");
  return { inputs, outputs: { embeddings: embedded(outputs, mask, model.sentence) } };
}

/**
 * One embedding a text, of length 1: the model's own, or of its tokens that are there the mean unless its files say otherwise
 * (Reimers & Gurevych 2019, arXiv 1908.10084, §3).
 */
function embedded(
  outputs: Readonly<Record<string, Value>>,
  mask: Value | undefined,
  { poolings, layers }: Pick<SentenceModules, "poolings" | "layers"> = { poolings: ["mean"], layers: [] },
): Value {
  const { embeddings, last_hidden_state: hidden } = outputs;
  if (embeddings) return embeddings;
  assert(hidden !== undefined && mask !== undefined, "an encoder gives embeddings, or hidden states of tokens");
  const present = unsqueeze(cast(mask, "float32"), [2]);
  const pooled = poolings.map((way) => squeeze(pools[way](hidden, present), [1]));
  const [only = hidden] = pooled;
  return normalized(layers.reduce(layered, pooled.length === 1 ? only : concat(pooled, 1)));
}

/** Ways of pooling, as sentence-transformers names them: hidden states [batch, seq, size] and which are there [batch, seq, 1], to [batch, 1, size]. */
const pools: Readonly<Record<Pooling, (hidden: Value, present: Value) => Value>> = {
  cls: (hidden, present) => reduceSum(mul(hidden, cast(equal(numbered(present), 1), "float32")), [1]),
  mean: (hidden, present) => weightedMean(hidden, present),
  max: (hidden, present) => reduceMax(add(hidden, mul(sub(present, 1), 1e9)), [1]),
  mean_sqrt_len_tokens: (hidden, present) => div(reduceSum(mul(hidden, present), [1]), sqrt(reduceSum(present, [1]))),
  // Muennighoff 2022 (arXiv 2202.08904), §3: token i of n weighs i / (1 + … + n).
  weightedmean: (hidden, present) => weightedMean(hidden, numbered(present)),
  lasttoken: (hidden, present) => {
    const numbers = numbered(present);
    return reduceSum(mul(hidden, cast(equal(numbers, reduceMax(numbers, [1])), "float32")), [1]);
  },
};

function weightedMean(hidden: Value, weights: Value): Value {
  return div(reduceSum(mul(hidden, weights), [1]), reduceSum(weights, [1]));
}

/** 1, 2, … for the tokens that are there, and 0 for the others: [batch, seq, 1]. */
function numbered(present: Value): Value {
  return mul(present, unsqueeze(add(cast(places(present, 1), "float32"), 1), [0, 2]));
}

/** What follows the pooling, of embeddings [batch, size]. A Dense module is constant: nothing is attached to it or trained. */
function layered(x: Value, layer: SentenceLayer): Value {
  if (layer.kind === "normalize") return normalized(x);
  const product = matmul(x, transpose(constantOf(layer.weight), [1, 0]));
  return activations[layer.activation](layer.bias ? add(product, constantOf(layer.bias)) : product);
}

function normalized(x: Value): Value {
  return div(x, max(sqrt(reduceSum(mul(x, x), [1])), 1e-12));
}

/** Embeddings of first and of second texts, each [pairs, size]. */
export function sides(tuned: Readonly<Record<string, Value>>): readonly [Value, Value] {
  return equalSplit(tuned["embeddings"] as Value, 2, 0) as [Value, Value]; // as `embeddingForward` names it
}

/** Pairs of texts, first texts first. */
export function pairBatch(examples: readonly TokenizedExample[], layout: LayoutOptions): Batch {
  const seconds = examples.map(({ against = [] }) => {
    const [second] = against;
    assert(second !== undefined, "an example of texts that go together has two");
    return second;
  });
  const { feeds, sizes } = feedSequences([...examples, ...seconds], layout);
  return {
    feeds,
    sizes: { ...sizes, pairs: examples.length },
    tokens: countTokens(examples),
    targets: examples.length,
  };
}
