import { inScope, type Value } from "../graph/index.ts";
import { float32, uint32 } from "../io/gguf.ts";
import { add, gather, linear, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import { type Architecture, type KeyValue, partsInOrder, type TensorSpec } from "./architecture.ts";
import { dense, extend, layerNormed, splitHeads } from "./blocks.ts";
import { readConfig } from "./config.ts";
import type { GgufForm, GgufPart } from "./gguf.ts";
import { causalMasks, tiedOutput } from "./harmless.ts";
import type { LinearRecipe, NormRecipe } from "./recipe.ts";

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
  harmless: [causalMasks("attn"), tiedOutput("transformer.wte.weight")],
  positionTable: true,
  inOut: /\.(c_attn|c_proj|c_fc)$/,
  outputModule: "lm_head",
  defaultTargets: ["c_attn"],
  sublayers: { attention: /.*\.attn\.c_proj/, feedForward: /.*\.mlp\.c_proj/ },

  configure: (json) => {
    const reader = readConfig(json);
    const hiddenSize = reader.integer("n_embd");
    const heads = reader.integer("n_head");
    if (hiddenSize % heads !== 0) reader.problem(`"n_embd" (${hiddenSize}) is not a multiple of "n_head" (${heads})`);
    if (json["add_cross_attention"] === true) reader.problem(`"add_cross_attention" is not supported`);
    const config: Gpt2Config = {
      vocabSize: reader.integer("vocab_size"),
      hiddenSize,
      innerSize: reader.integer("n_inner", 4 * hiddenSize),
      layers: reader.integer("n_layer"),
      heads,
      contextLength: reader.integer("n_positions", 1024),
      normEpsilon: reader.number("layer_norm_epsilon", 1e-5),
      activation: reader.choice("activation_function", activationNames, "gelu_new"),
      scaleScores: reader.boolean("scale_attn_weights", true),
      scaleByLayer: reader.boolean("scale_attn_by_inverse_layer_idx", false),
      tiedEmbeddings: reader.boolean("tie_word_embeddings", true),
    };
    reader.finish();
    return config;
  },

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
        return attend(query, cache, { scale: scoreScale(config, i) });
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
            activation: config.activation,
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
