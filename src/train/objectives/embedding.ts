import { assert } from "../../errors.ts";
import type { Value } from "../../graph/index.ts";
import type { OpenGraph, Pooling, PretrainedModel } from "../../models/index.ts";
import {
  add,
  cast,
  div,
  equalSplit,
  max,
  mul,
  reduceMax,
  reduceSum,
  slice,
  sqrt,
  squeeze,
  sub,
  unsqueeze,
} from "../../ops/index.ts";
import type { Batch, LayoutOptions, TokenizedExample } from "../data/index.ts";
import { countTokens, feedSequences } from "./feed.ts";

/** The embeddings of both texts of every pair, first texts first: embeddings [2·pairs, size] of length 1. */
export function embeddingForward(model: PretrainedModel): OpenGraph {
  const { inputs, outputs } = model.predict("2*pairs");
  const mask = inputs.find(({ name }) => name === "attention_mask");
  return { inputs, outputs: { embeddings: embedded(outputs, mask, model.sentence?.pooling) } };
}

/**
 * One embedding a text, of length 1: the model's own, or of its tokens that are there the mean unless another way is given
 * (Reimers & Gurevych 2019, arXiv 1908.10084, §3).
 */
export function embedded(
  outputs: Readonly<Record<string, Value>>,
  mask: Value | undefined,
  pooling: Pooling = "mean",
): Value {
  const { embeddings, last_hidden_state: hidden } = outputs;
  if (embeddings) return embeddings;
  assert(hidden !== undefined && mask !== undefined, "an encoder gives embeddings, or hidden states of tokens");
  const present = unsqueeze(cast(mask, "float32"), [2]);
  const pooled = squeeze(pools[pooling](hidden, present), [1]);
  return div(pooled, max(sqrt(reduceSum(mul(pooled, pooled), [1])), 1e-12));
}

/** Ways of pooling, as sentence-transformers names them: hidden states [batch, seq, size] and which are there [batch, seq, 1], to [batch, 1, size]. */
const pools: Readonly<Record<Pooling, (hidden: Value, present: Value) => Value>> = {
  cls: (hidden) => slice(hidden, [0], [1], [1]),
  mean: (hidden, present) => div(reduceSum(mul(hidden, present), [1]), reduceSum(present, [1])),
  max: (hidden, present) => reduceMax(add(hidden, mul(sub(present, 1), 1e9)), [1]),
  mean_sqrt_len_tokens: (hidden, present) => div(reduceSum(mul(hidden, present), [1]), sqrt(reduceSum(present, [1]))),
};

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
