import { inScope, type Value } from "../graph/index.ts";
import { float32, uint32 } from "../io/gguf.ts";
import { add, gather, linear, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations, recipeActivation } from "./activations.ts";
import { type Architecture, type KeyValue, partsInOrder, type TensorSpec } from "./architecture.ts";
import { dense, extend, layerNormed, splitHeads } from "./blocks.ts";
import type { GgufForm, GgufPart } from "./gguf.ts";
import { causalMasks } from "./harmless.ts";
import {
  alias,
  configured,
  flag,
  inert,
  integer,
  type LedgerOf,
  oneOf,
  only,
  optionalInteger,
  real,
} from "./ledger.ts";
import type { LinearRecipe, NormRecipe } from "./recipe.ts";
import { sharedLedger } from "./shared-ledger.ts";

/** The part of a GPT-2 `config.json` that shapes the computation. */
export interface Gpt2Config {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly innerSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly contextLength: number;
  readonly normEpsilon: number;
  readonly activation: Activation;
  readonly scaleScores: boolean;
  readonly scaleByLayer: boolean;
  readonly tiedEmbeddings: boolean;
}

interface Gpt2Settings {
  readonly vocab_size: number;
  readonly n_positions: number;
  readonly n_embd: number;
  readonly n_layer: number;
  readonly n_head: number;
  readonly n_inner: number | undefined;
  readonly activation_function: Activation;
  readonly layer_norm_epsilon: number;
  readonly scale_attn_weights: boolean;
  readonly scale_attn_by_inverse_layer_idx: boolean;
  readonly tie_word_embeddings: boolean;
}

const ledger: LedgerOf<Gpt2Settings> = {
  ...sharedLedger,
  vocab_size: integer("tokens in the vocabulary", 50257),
  n_positions: integer("the longest sequence", 1024),
  n_embd: integer("width of the hidden states", 768),
  n_layer: integer("layers", 12),
  n_head: integer("heads", 12),
  n_inner: optionalInteger("width inside the feed-forward; four times n_embd unless given"),
  activation_function: oneOf("the activation function of the feed-forward", activationNames, "gelu_new"),
  layer_norm_epsilon: real("added under the root of norms", 1e-5),
  scale_attn_weights: flag("whether scores are divided by the root of a head's width", true),
  scale_attn_by_inverse_layer_idx: flag("whether scores are divided by the number of the layer too", false),
  tie_word_embeddings: flag("whether the output layer is the table of embeddings", true),
  hidden_size: alias("n_embd"),
  max_position_embeddings: alias("n_positions"),
  num_attention_heads: alias("n_head"),
  num_hidden_layers: alias("n_layer"),
  n_ctx: inert("n_positions says the same"),
  reorder_and_upcast_attn: inert("how precisely PyTorch computes scores"),
  add_cross_attention: only([false], "there is no other model to attend to"),
};

/** GPT-2. Radford et al. 2019; names and `[in, out]` weight layout (Conv1D) as in transformers. */
export const gpt2: Architecture<Gpt2Config> = {
  modelType: "gpt2",
  className: "GPT2LMHeadModel",
  basePrefix: "transformer.",
  sizeKeys: {
    vocab_size: "side",
    n_embd: "side",
    hidden_size: "side",
    n_inner: "side",
    n_layer: "layers",
    num_hidden_layers: "layers",
    n_head: "side",
    num_attention_heads: "side",
    n_positions: "side",
    max_position_embeddings: "side",
  },
  harmless: [causalMasks("attn")],
  positionTable: true,
  inOut: /\.(c_attn|c_proj|c_fc)$/,
  outputModule: "lm_head",
  sublayers: { attention: /.*\.attn\.c_proj/, feedForward: /.*\.mlp\.c_proj/ },

  ...configured<Gpt2Settings, Gpt2Config>(ledger, (settings, reader) => {
    const { n_embd: hiddenSize, n_head: heads } = settings;
    if (hiddenSize % heads !== 0) reader.problem(`"n_embd" (${hiddenSize}) is not a multiple of "n_head" (${heads})`);
    return {
      vocabSize: settings.vocab_size,
      hiddenSize,
      innerSize: settings.n_inner ?? 4 * hiddenSize,
      layers: settings.n_layer,
      heads,
      contextLength: settings.n_positions,
      normEpsilon: settings.layer_norm_epsilon,
      activation: settings.activation_function,
      scaleScores: settings.scale_attn_weights,
      scaleByLayer: settings.scale_attn_by_inverse_layer_idx,
      tiedEmbeddings: settings.tie_word_embeddings,
    };
  }),
  tied: ({ tiedEmbeddings }) =>
    tiedEmbeddings ? { output: "lm_head.weight", embeddings: "transformer.wte.weight" } : undefined,

  sizes: ({ vocabSize, hiddenSize, layers, heads, contextLength }) => ({
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads: heads,
    headDim: hiddenSize / heads,
    contextLength,
  }),

  tensors: (config) => {
    const { hiddenSize: hidden, innerSize: inner } = config;
    const specs: TensorSpec[] = [
      { name: "transformer.wte.weight", shape: [config.vocabSize, hidden] },
      { name: "transformer.wpe.weight", shape: [config.contextLength, hidden] },
    ];
    const withBias = (module: string, shape: readonly number[]): void => {
      specs.push({ name: `${module}.weight`, shape }, { name: `${module}.bias`, shape: shape.slice(-1) });
    };
    for (let i = 0; i < config.layers; i++) {
      const block = `transformer.h.${i}`;
      withBias(`${block}.ln_1`, [hidden]);
      withBias(`${block}.attn.c_attn`, [hidden, 3 * hidden]);
      withBias(`${block}.attn.c_proj`, [hidden, hidden]);
      withBias(`${block}.ln_2`, [hidden]);
      withBias(`${block}.mlp.c_fc`, [hidden, inner]);
      withBias(`${block}.mlp.c_proj`, [inner, hidden]);
    }
    withBias("transformer.ln_f", [hidden]);
    if (!config.tiedEmbeddings) specs.push({ name: "lm_head.weight", shape: [config.vocabSize, hidden] });
    return specs;
  },

  fused: ({ hiddenSize }) => ({ c_attn: partsInOrder({ query: hiddenSize, key: hiddenSize, value: hiddenSize }) }),

  trunk: (config, weights, { inputIds, positionIds, attend, past }) => {
    const { hiddenSize, heads, normEpsilon } = config;
    const headDim = hiddenSize / heads;
    const conv = (module: string, x: Value): Value => dense(weights, module, x, { bias: true, layout: "in,out" });
    const present: KeyValue[] = [];
    const tokens = inScope("transformer.wte", () => gather(weights("transformer.wte.weight"), reshape(inputIds, [-1])));
    const places = inScope("transformer.wpe", () =>
      gather(weights("transformer.wpe.weight"), reshape(positionIds, [-1])),
    );
    let x = add(tokens, places);
    for (let i = 0; i < config.layers; i++) {
      const block = `transformer.h.${i}`;
      const fused = conv(`${block}.attn.c_attn`, layerNormed(weights, `${block}.ln_1`, x, normEpsilon));
      const mixed = inScope(`${block}.attn`, () => {
        const [query, key, value] = split(fused, [hiddenSize, hiddenSize, hiddenSize], 1).map((part) =>
          splitHeads(part, inputIds, heads, headDim),
        ) as [Value, Value, Value]; // three sizes, three parts
        const cache = extend(past?.[i], { key, value });
        present.push(cache);
        return attend(query, cache, { scale: scoreScale(config, i), layer: i });
      });
      x = add(x, conv(`${block}.attn.c_proj`, mixed));
      const inner = conv(`${block}.mlp.c_fc`, layerNormed(weights, `${block}.ln_2`, x, normEpsilon));
      const active = inScope(`${block}.mlp`, () => activations[config.activation](inner));
      x = add(x, conv(`${block}.mlp.c_proj`, active));
    }
    return { hidden: layerNormed(weights, "transformer.ln_f", x, normEpsilon), present };
  },

  head: (config, weights, hidden) =>
    inScope("lm_head", () =>
      linear(hidden, weights(config.tiedEmbeddings ? "transformer.wte.weight" : "lm_head.weight")),
    ),

  gguf: (config) => ({
    architecture: "gpt2",
    metadata: {
      context_length: uint32(config.contextLength),
      embedding_length: uint32(config.hiddenSize),
      block_count: uint32(config.layers),
      feed_forward_length: uint32(config.innerSize),
      "attention.head_count": uint32(config.heads),
      "attention.layer_norm_epsilon": float32(config.normEpsilon),
    },
    parts: ggufParts(config),
    problems: [
      ...(/^gelu_/.test(config.activation) ? [] : [`the activation function ${config.activation} (it has gelu_new)`]),
      ...(config.scaleScores ? [] : ["scores that are not scaled"]),
      ...(config.scaleByLayer ? ["scores scaled by layer"] : []),
    ],
  }),

  recipe: (config) => {
    const { hiddenSize: hidden, innerSize: inner, heads } = config;
    const activation = recipeActivation(config.activation);
    if (activation === undefined) return undefined;
    const layerNormOf = (module: string): NormRecipe => ({
      kind: "layer",
      module,
      epsilon: config.normEpsilon,
      addsOne: false,
    });
    const conv = (module: string, inputs: number, outputs: number): LinearRecipe => ({
      module,
      inputs,
      outputs,
      bias: true,
      layout: "in,out",
    });
    return {
      embedding: { tensor: "transformer.wte.weight", scale: 1, positions: "transformer.wpe.weight" },
      layers: Array.from({ length: config.layers }, (_, i) => {
        const block = `transformer.h.${i}`;
        return {
          attention: {
            norm: layerNormOf(`${block}.ln_1`),
            projections: [conv(`${block}.attn.c_attn`, hidden, 3 * hidden)],
            heads,
            kvHeads: heads,
            headDim: hidden / heads,
            scale: scoreScale(config, i),
            output: conv(`${block}.attn.c_proj`, hidden, hidden),
          },
          feedForward: {
            norm: layerNormOf(`${block}.ln_2`),
            inner: [conv(`${block}.mlp.c_fc`, hidden, inner)],
            gated: false,
            activation,
            down: conv(`${block}.mlp.c_proj`, inner, hidden),
          },
        };
      }),
      norm: layerNormOf("transformer.ln_f"),
      head: { tensor: config.tiedEmbeddings ? "transformer.wte.weight" : "lm_head.weight" },
    };
  },
};

function ggufParts(config: Gpt2Config): GgufForm["parts"] {
  const parts: GgufPart[] = [
    { name: "token_embd.weight", from: "transformer.wte.weight", vocabulary: true },
    { name: "position_embd.weight", from: "transformer.wpe.weight", exact: true },
  ];
  const layer = (name: string, from: string, conv: boolean): void => {
    parts.push({ name: `${name}.weight`, from: `${from}.weight`, ...(conv ? { turned: true } : {}) });
    parts.push({ name: `${name}.bias`, from: `${from}.bias` });
  };
  for (let i = 0; i < config.layers; i++) {
    const [to, from] = [`blk.${i}`, `transformer.h.${i}`];
    layer(`${to}.attn_norm`, `${from}.ln_1`, false);
    layer(`${to}.attn_qkv`, `${from}.attn.c_attn`, true);
    layer(`${to}.attn_output`, `${from}.attn.c_proj`, true);
    layer(`${to}.ffn_norm`, `${from}.ln_2`, false);
    layer(`${to}.ffn_up`, `${from}.mlp.c_fc`, true);
    layer(`${to}.ffn_down`, `${from}.mlp.c_proj`, true);
  }
  layer("output_norm", "transformer.ln_f", false);
  // Older versions of llama.cpp want an output layer of its own, whether it is tied or not.
  const output = config.tiedEmbeddings ? "transformer.wte.weight" : "lm_head.weight";
  parts.push({ name: "output.weight", from: output, vocabulary: true });
  return parts;
}

function scoreScale({ hiddenSize, heads, scaleScores, scaleByLayer }: Gpt2Config, layer: number): number {
  return (scaleScores ? 1 / Math.sqrt(hiddenSize / heads) : 1) / (scaleByLayer ? layer + 1 : 1);
}
