import { constant, constantOf, type Dim, type InputValue, input, inScope, tensor, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  Clip,
  gather,
  lengthOf,
  lessOrEqual,
  linear,
  mul,
  places,
  reshape,
  reshapeTo,
  sub,
  transpose,
  unsqueeze,
} from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { Family, KeyValue, OpenGraph, TensorSpec, Weights } from "./architecture.ts";
import { additive, openAttention } from "./attention.ts";
import { dense, extend, rmsNorm, splitHeads } from "./blocks.ts";
import { negativeLikelihood } from "./causal-lm.ts";
import { tokenInputs } from "./inputs.ts";
import {
  alias,
  configured,
  flag,
  inert,
  integer,
  type LedgerOf,
  only,
  optionalFlag,
  optionalInteger,
  optionalOneOf,
  real,
  text,
} from "./ledger.ts";
import { sharedLedger } from "./shared-ledger.ts";

/** The part of a T5 `config.json` that shapes the computation. */
export interface T5Config {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly headDim: number;
  readonly innerSize: number;
  readonly layers: number;
  readonly decoderLayers: number;
  readonly heads: number;
  readonly buckets: number;
  readonly maxDistance: number;
  readonly normEpsilon: number;
  readonly activation: Activation;
  readonly gated: boolean;
  /** The output layer is the table of embeddings. */
  readonly tied: boolean;
  /** The output layer reads hidden states over √hidden. */
  readonly scaled: boolean;
  /** What the decoder begins with. */
  readonly startId: number | undefined;
}

interface T5Settings {
  readonly vocab_size: number;
  readonly d_model: number;
  readonly d_kv: number;
  readonly d_ff: number;
  readonly num_layers: number;
  readonly num_decoder_layers: number | undefined;
  readonly num_heads: number;
  readonly relative_attention_num_buckets: number;
  readonly relative_attention_max_distance: number;
  readonly layer_norm_epsilon: number;
  readonly feed_forward_proj: string;
  readonly dense_act_fn: Activation | undefined;
  readonly is_gated_act: boolean | undefined;
  readonly tie_word_embeddings: boolean;
  readonly scale_decoder_outputs: boolean | undefined;
  readonly decoder_start_token_id: number | undefined;
}

const ledger: LedgerOf<T5Settings> = {
  ...sharedLedger,
  vocab_size: integer("tokens in the vocabulary", 32128),
  d_model: integer("width of the hidden states", 512),
  d_kv: integer("width of a head", 64),
  d_ff: integer("width inside the feed-forward", 2048),
  num_layers: integer("layers of the encoder", 6),
  num_decoder_layers: optionalInteger("layers of the decoder; num_layers unless given"),
  num_heads: integer("heads", 8),
  relative_attention_num_buckets: integer("buckets of distances", 32),
  relative_attention_max_distance: integer("distances beyond it share a bucket", 128),
  layer_norm_epsilon: real("added under the root of norms", 1e-6),
  feed_forward_proj: text("the activation function of the feed-forward, and whether it is gated", "relu"),
  dense_act_fn: optionalOneOf(
    "the activation function of the feed-forward; comes before feed_forward_proj",
    activationNames,
  ),
  is_gated_act: optionalFlag("whether the feed-forward is gated; comes before feed_forward_proj"),
  tie_word_embeddings: flag("whether the output layer is the table of embeddings", true),
  scale_decoder_outputs: optionalFlag("whether the output layer reads hidden states over the root of d_model"),
  decoder_start_token_id: optionalInteger("the token that answers begin with; the one that fills rows up unless given"),
  hidden_size: alias("d_model"),
  num_attention_heads: alias("num_heads"),
  num_hidden_layers: alias("num_layers"),
  head_dim: alias("d_kv"),
  initializer_range: inert("of BERT's descendants"),
  initializer_factor: inert("of a model that starts anew"),
  n_positions: inert("distances have no end in T5"),
  is_encoder_decoder: only([true], "what the family is"),
  is_decoder: only([false], "a decoder without an encoder is another model"),
};

type Side = "encoder" | "decoder";

/** T5 and its descendants (v1.1, Flan). Raffel et al. 2019 (arXiv 1910.10683), §2.1; names as in transformers. */
export const t5: Family<T5Config> = {
  modelType: "t5",
  sizeKeys: {
    vocab_size: "side",
    d_model: "side",
    hidden_size: "side",
    d_kv: "side",
    head_dim: "side",
    d_ff: "side",
    num_layers: "layers",
    num_hidden_layers: "layers",
    num_decoder_layers: "layers",
    num_heads: "side",
    num_attention_heads: "side",
    relative_attention_num_buckets: "side",
  },
  harmless: [
    {
      names: /^(encoder|decoder)\.embed_tokens\.weight$/,
      when: { sameAs: "shared.weight" },
      why: "the table of embeddings, which both sides share",
    },
    {
      names: /EncDecAttention\.relative_attention_bias\.weight$/,
      why: "positions between decoder and encoder, which the architecture does not have",
    },
  ],
  sublayers: {
    attention: /.*\.SelfAttention\.o/,
    crossAttention: /.*\.EncDecAttention\.o/,
    feedForward: /.*\.DenseReluDense\.wo/,
  },

  ...configured<T5Settings, T5Config>(ledger, (settings, reader) => {
    const forward = settings.feed_forward_proj;
    const [, gate, named = ""] = /^(gated-)?(\w+)$/.exec(forward) ?? [];
    // The original's gelu is the approximation by tanh, and is called so in gated layers alone.
    const said = forward === "gated-gelu" ? "gelu_new" : activationNames[named];
    if (said === undefined) {
      reader.problem(
        `"feed_forward_proj" is ${JSON.stringify(forward)}; supported, with or without gated- before: ${Object.keys(activationNames).join(", ")}`,
      );
    }
    const tied = settings.tie_word_embeddings;
    return {
      vocabSize: settings.vocab_size,
      hiddenSize: settings.d_model,
      headDim: settings.d_kv,
      innerSize: settings.d_ff,
      layers: settings.num_layers,
      decoderLayers: settings.num_decoder_layers ?? settings.num_layers,
      heads: settings.num_heads,
      buckets: settings.relative_attention_num_buckets,
      maxDistance: settings.relative_attention_max_distance,
      normEpsilon: settings.layer_norm_epsilon,
      activation: settings.dense_act_fn ?? said ?? "relu",
      gated: settings.is_gated_act ?? gate !== undefined,
      tied,
      scaled: settings.scale_decoder_outputs ?? tied,
      startId: settings.decoder_start_token_id,
    };
  }),
  tied: ({ tied }) => (tied ? { output: "lm_head.weight", embeddings: "shared.weight" } : undefined),
  tiedUnlessHeld: ({ scaled }) => ({
    output: "lm_head.weight",
    json: { tie_word_embeddings: true, scale_decoder_outputs: scaled },
  }),
  startId: ({ startId }) => startId,
  untied: ({ scaled }) => ({ tie_word_embeddings: false, scale_decoder_outputs: scaled }),

  sizes: ({ vocabSize, hiddenSize, layers, heads, headDim }) => ({
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads: heads,
    headDim,
    contextLength: 512,
  }),
  reads: () => tokenInputs(512),

  forms: [
    {
      task: "seq2seq-lm",
      className: "T5ForConditionalGeneration",
      basePrefix: "",
      outputModule: "lm_head",
      tensors,
      graphs: (config, weights) => ({
        predict: (rows = "batch") => {
          const { inputs, hidden } = whole(config, weights, rows);
          return { inputs, outputs: { logits: logitsOf(config, weights, hidden, inputs[2]) } }; // the decoder's
        },
        loss: () => {
          const { inputs, hidden } = whole(config, weights, "batch");
          const of = (rows: Value): Value => head(config, weights, rows);
          const likelihood = negativeLikelihood(hidden, of, config.vocabSize);
          return { inputs: [...inputs, ...likelihood.inputs], outputs: likelihood.outputs };
        },
        parts: () => ({
          encoder_model: encoderGraph(config, weights),
          decoder_model_merged: decoderGraph(config, weights),
        }),
      }),
    },
  ],
};

function tensors(config: T5Config): readonly TensorSpec[] {
  const { hiddenSize: hidden, innerSize: inner } = config;
  const across = config.heads * config.headDim;
  const attention = (module: string, positioned: boolean): readonly TensorSpec[] => [
    ...["q", "k", "v"].map((name) => ({ name: `${module}.${name}.weight`, shape: [across, hidden] })),
    { name: `${module}.o.weight`, shape: [hidden, across] },
    ...(positioned
      ? [{ name: `${module}.relative_attention_bias.weight`, shape: [config.buckets, config.heads] }]
      : []),
  ];
  const stack = (side: Side, layers: number): readonly TensorSpec[] => [
    ...Array.from({ length: layers }, (_, i) => {
      const block = `${side}.block.${i}.layer`;
      const last = side === "encoder" ? 1 : 2;
      return [
        ...attention(`${block}.0.SelfAttention`, i === 0),
        ...(side === "decoder" ? attention(`${block}.1.EncDecAttention`, false) : []),
        ...(config.gated ? ["wi_0", "wi_1"] : ["wi"]).map((name) => ({
          name: `${block}.${last}.DenseReluDense.${name}.weight`,
          shape: [inner, hidden],
        })),
        { name: `${block}.${last}.DenseReluDense.wo.weight`, shape: [hidden, inner] },
        ...Array.from({ length: last + 1 }, (__, j) => ({ name: `${block}.${j}.layer_norm.weight`, shape: [hidden] })),
      ];
    }).flat(),
    { name: `${side}.final_layer_norm.weight`, shape: [hidden] },
  ];
  return [
    { name: "shared.weight", shape: [config.vocabSize, hidden] },
    ...stack("encoder", config.layers),
    ...stack("decoder", config.decoderLayers),
    ...(config.tied ? [] : [{ name: "lm_head.weight", shape: [config.vocabSize, hidden] }]),
  ];
}

/** Encoder and decoder in one: the decoder's hidden states [batch·target, hidden]. */
function whole(
  config: T5Config,
  weights: Weights,
  rows: Dim,
): { inputs: [InputValue, InputValue, InputValue]; hidden: Value } {
  const inputIds = input("input_ids", "int64", [rows, "seq"]);
  const attentionMask = input("attention_mask", "int64", [rows, "seq"]);
  const decoderIds = input("decoder_input_ids", "int64", [rows, "target"]);
  const source = encode(config, weights, inputIds, attentionMask);
  const { hidden } = decode(config, weights, decoderIds, { hidden: source, mask: attentionMask });
  return { inputs: [inputIds, attentionMask, decoderIds], hidden };
}

function encoderGraph(config: T5Config, weights: Weights): OpenGraph {
  const inputIds = input("input_ids", "int64", ["batch", "seq"]);
  const attentionMask = input("attention_mask", "int64", ["batch", "seq"]);
  const hidden = encode(config, weights, inputIds, attentionMask);
  const shape = ["batch", "seq", config.hiddenSize];
  return {
    inputs: [inputIds, attentionMask],
    outputs: { last_hidden_state: reshapeTo(hidden, shape, [inputIds]) },
  };
}

/** One step of the decoder, with the keys and values of its own earlier tokens. */
function decoderGraph(config: T5Config, weights: Weights): OpenGraph {
  const inputIds = input("input_ids", "int64", ["batch", "seq"]);
  const states = input("encoder_hidden_states", "float32", ["batch", "source", config.hiddenSize]);
  const mask = input("encoder_attention_mask", "int64", ["batch", "source"]);
  const cached = (i: number, part: string): InputValue =>
    input(`past_key_values.${i}.decoder.${part}`, "float32", ["batch", config.heads, "past", config.headDim]);
  const past = Array.from({ length: config.decoderLayers }, (_, i) => ({
    key: cached(i, "key"),
    value: cached(i, "value"),
  }));
  const hidden = reshape(states, [-1, config.hiddenSize]);
  const decoded = decode(config, weights, inputIds, { hidden, mask }, past);
  const outputs: Record<string, Value> = { logits: logitsOf(config, weights, decoded.hidden, inputIds) };
  decoded.present.forEach(({ key, value }, i) => {
    outputs[`present.${i}.decoder.key`] = key;
    outputs[`present.${i}.decoder.value`] = value;
  });
  return { inputs: [inputIds, mask, states, ...past.flatMap(({ key, value }) => [key, value])], outputs };
}

function head({ tied, scaled, hiddenSize }: T5Config, weights: Weights, hidden: Value): Value {
  return inScope("lm_head", () =>
    linear(scaled ? mul(hidden, hiddenSize ** -0.5) : hidden, weights(tied ? "shared.weight" : "lm_head.weight")),
  );
}

function logitsOf(config: T5Config, weights: Weights, hidden: Value, ids: InputValue): Value {
  return reshapeTo(head(config, weights, hidden), [...ids.shape, config.vocabSize], [ids]);
}

function encode(config: T5Config, weights: Weights, inputIds: Value, attentionMask: Value): Value {
  const attend = openAttention(attentionMask);
  const at = places(inputIds, 1);
  const bias = positionBias(config, weights, "encoder", at, at);
  let x = embed(weights, inputIds);
  for (let i = 0; i < config.layers; i++) {
    const block = `encoder.block.${i}.layer`;
    const [query, key, value] = projections(
      config,
      weights,
      `${block}.0.SelfAttention`,
      norm(config, weights, `${block}.0`, x),
      inputIds,
    );
    const mixed = inScope(`${block}.0.SelfAttention`, () => attend(query, { key, value }, { scale: 1, bias }));
    x = add(x, dense(weights, `${block}.0.SelfAttention.o`, mixed, { bias: false }));
    x = add(x, feedForward(config, weights, `${block}.1`, x));
  }
  return rmsNorm(weights, "encoder.final_layer_norm", x, config.normEpsilon);
}

/** Hidden states of the decoder [batch·seq, hidden], and the keys and values of all its tokens so far. */
function decode(
  config: T5Config,
  weights: Weights,
  inputIds: Value,
  source: { readonly hidden: Value; readonly mask: Value },
  past?: readonly KeyValue[],
): { readonly hidden: Value; readonly present: readonly KeyValue[] } {
  const { heads, headDim, normEpsilon } = config;
  const [ownAttend, crossAttend] = [openAttention(undefined), openAttention(source.mask)];
  const present: KeyValue[] = [];
  const from = past?.[0] ? lengthOf(past[0].key, 2) : constant(0, "int64");
  const queries = add(places(inputIds, 1), from);
  let bias: Value | undefined;
  let x = embed(weights, inputIds);
  for (let i = 0; i < config.decoderLayers; i++) {
    const block = `decoder.block.${i}.layer`;
    const own = `${block}.0.SelfAttention`;
    const [query, key, value] = projections(config, weights, own, norm(config, weights, `${block}.0`, x), inputIds);
    const cache = inScope(own, () => extend(past?.[i], { key, value }));
    present.push(cache);
    bias ??= causalBias(config, weights, queries, places(cache.key, 2));
    const shared = bias;
    const mixed = inScope(own, () => ownAttend(query, cache, { scale: 1, bias: shared }));
    x = add(x, dense(weights, `${own}.o`, mixed, { bias: false }));

    const cross = `${block}.1.EncDecAttention`;
    const asked = dense(weights, `${cross}.q`, norm(config, weights, `${block}.1`, x), { bias: false });
    const [keys, values] = ["k", "v"].map((name) => {
      const projected = dense(weights, `${cross}.${name}`, source.hidden, { bias: false });
      return inScope(cross, () => splitHeads(projected, source.mask, heads, headDim));
    }) as [Value, Value]; // two names
    const answered = inScope(cross, () =>
      crossAttend(splitHeads(asked, inputIds, heads, headDim), { key: keys, value: values }, { scale: 1 }),
    );
    x = add(x, dense(weights, `${cross}.o`, answered, { bias: false }));
    x = add(x, feedForward(config, weights, `${block}.2`, x));
  }
  return { hidden: rmsNorm(weights, "decoder.final_layer_norm", x, normEpsilon), present };
}

function embed(weights: Weights, ids: Value): Value {
  return inScope("shared", () => gather(weights("shared.weight"), reshape(ids, [-1])));
}

function norm(config: T5Config, weights: Weights, layer: string, x: Value): Value {
  return rmsNorm(weights, `${layer}.layer_norm`, x, config.normEpsilon);
}

/** Queries, keys and values of x [tokens, hidden], each [batch, heads, seq, headDim]. */
function projections(
  { heads, headDim }: T5Config,
  weights: Weights,
  module: string,
  x: Value,
  ids: Value,
): [Value, Value, Value] {
  return ["q", "k", "v"].map((name) => {
    const projected = dense(weights, `${module}.${name}`, x, { bias: false });
    return inScope(module, () => splitHeads(projected, ids, heads, headDim));
  }) as [Value, Value, Value]; // three names
}

/** wo(f(wi(norm x))), or wo(f(wi_0 x) ∘ wi_1 x). x [tokens, hidden] -> the same. */
function feedForward(config: T5Config, weights: Weights, layer: string, x: Value): Value {
  const module = `${layer}.DenseReluDense`;
  const normed = norm(config, weights, layer, x);
  const inner = (name: string): Value => dense(weights, `${module}.${name}`, normed, { bias: false });
  const active = (value: Value): Value => inScope(module, () => activations[config.activation](value));
  const fed = config.gated ? mul(active(inner("wi_0")), inner("wi_1")) : active(inner("wi"));
  return dense(weights, `${module}.wo`, fed, { bias: false });
}

/** What the distance of query and key adds to scores: [1, heads, queries, keys]. Raffel et al. 2019, §2.1. */
function positionBias(config: T5Config, weights: Weights, side: Side, queries: Value, keys: Value): Value {
  const module = `${side}.block.0.layer.0.SelfAttention`;
  return inScope(module, () => {
    const { maxDistance: far } = config;
    const apart = sub(unsqueeze(keys, [0]), unsqueeze(queries, [1]));
    const clipped = apply(Clip, [apart, constant(-far, "int64"), constant(far, "int64")]);
    const rows = Int32Array.from({ length: 2 * far + 1 }, (_, i) => bucketOf(i - far, config, side));
    const buckets = gather(constantOf(tensor("int64", [rows.length], rows)), add(clipped, far));
    const found = gather(weights(`${module}.relative_attention_bias.weight`), buckets);
    return unsqueeze(transpose(found, [2, 0, 1]), [0]);
  });
}

function causalBias(config: T5Config, weights: Weights, queries: Value, keys: Value): Value {
  const bias = positionBias(config, weights, "decoder", queries, keys);
  const mask = inScope("decoder.mask", () => additive(lessOrEqual(unsqueeze(keys, [0]), unsqueeze(queries, [1]))));
  return add(bias, mask);
}

/** The bucket of key − query: short distances each their own, long ones on a logarithmic scale, in float32. */
function bucketOf(distance: number, { buckets, maxDistance }: T5Config, side: Side): number {
  const own = side === "encoder" ? Math.floor(buckets / 2) : buckets;
  const later = side === "encoder" && distance > 0 ? own : 0;
  const size = side === "encoder" ? Math.abs(distance) : Math.max(0, -distance);
  const exact = Math.floor(own / 2);
  if (size < exact) return later + size;
  const single = Math.fround;
  const share = single(single(Math.log(single(size / exact))) / single(Math.log(maxDistance / exact)));
  return later + Math.min(own - 1, exact + Math.trunc(single(share * (own - exact))));
}
