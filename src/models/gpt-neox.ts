import { inScope, type Value } from "../graph/index.ts";
import { bool, float32, uint32 } from "../io/gguf.ts";
import { add, gather, linear, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { Architecture, FusedPart, KeyValue, TensorSpec } from "./architecture.ts";
import { dense, extend, layerNormed, rotaryTables, rotate, splitHeads } from "./blocks.ts";
import { readConfig } from "./config.ts";
import { type GgufForm, type GgufPart, ropeMetadata } from "./gguf.ts";
import { causalMasks, tiedOutput } from "./harmless.ts";
import { type Rope, readRope, ropeParameters } from "./rope.ts";

/** The part of a GPT-NeoX `config.json` that shapes the computation. */
export interface GptNeoxConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly contextLength: number;
  readonly normEpsilon: number;
  readonly attentionBias: boolean;
  /** Attention and feed-forward read the same hidden state and are added together. */
  readonly parallelResidual: boolean;
  readonly activation: Activation;
  readonly tiedEmbeddings: boolean;
  readonly rotaryDim: number;
  readonly rope: Rope;
}

/** GPT-NeoX, Pythia and their kin. Black et al. 2022 (arXiv 2204.06745), §2; names as in transformers. */
export const gptNeox: Architecture<GptNeoxConfig> = {
  modelType: "gpt_neox",
  className: "GPTNeoXForCausalLM",
  basePrefix: "gpt_neox.",
  sizeKeys: {
    vocab_size: "side",
    hidden_size: "side",
    intermediate_size: "side",
    num_hidden_layers: "layers",
    num_attention_heads: "side",
  },
  harmless: [causalMasks("attention"), { ...tiedOutput("gpt_neox.embed_in.weight"), names: /^embed_out\.weight$/ }],
  outputModule: "embed_out",
  defaultTargets: ["query_key_value"],
  sublayers: { attention: /.*\.attention\.dense/, feedForward: /.*\.mlp\.dense_4h_to_h/ },

  configure: (json) => {
    const reader = readConfig(json);
    const hiddenSize = reader.integer("hidden_size");
    const heads = reader.integer("num_attention_heads");
    const contextLength = reader.integer("max_position_embeddings", 2048);
    if (hiddenSize % heads !== 0) {
      reader.problem(`"hidden_size" (${hiddenSize}) is not a multiple of "num_attention_heads" (${heads})`);
    }
    const { partial_rotary_factor: share = json["rotary_pct"] ?? 0.25 } = ropeParameters(json);
    const rotaryDim = Math.floor((hiddenSize / heads) * Number(share));
    if (!(rotaryDim >= 2 && rotaryDim % 2 === 0)) reader.problem(`"rotary_pct" leaves ${rotaryDim} elements to rotate`);
    const config: GptNeoxConfig = {
      vocabSize: reader.integer("vocab_size"),
      hiddenSize,
      intermediateSize: reader.integer("intermediate_size"),
      layers: reader.integer("num_hidden_layers"),
      heads,
      contextLength,
      normEpsilon: reader.number("layer_norm_eps", 1e-5),
      attentionBias: reader.boolean("attention_bias", true),
      parallelResidual: reader.boolean("use_parallel_residual", true),
      activation: reader.choice("hidden_act", activationNames, "gelu"),
      tiedEmbeddings: reader.boolean("tie_word_embeddings", false),
      rotaryDim,
      rope: readRope({ rope_theta: json["rotary_emb_base"], ...json }, reader, rotaryDim, contextLength),
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

  tensors: ({ hiddenSize: hidden, intermediateSize: inner, ...config }) => {
    const specs: TensorSpec[] = [{ name: "gpt_neox.embed_in.weight", shape: [config.vocabSize, hidden] }];
    const layer = (module: string, shape: readonly number[], bias = true): void => {
      specs.push({ name: `${module}.weight`, shape });
      if (bias) specs.push({ name: `${module}.bias`, shape: shape.slice(0, 1) });
    };
    for (let i = 0; i < config.layers; i++) {
      const block = `gpt_neox.layers.${i}`;
      layer(`${block}.input_layernorm`, [hidden]);
      layer(`${block}.post_attention_layernorm`, [hidden]);
      layer(`${block}.attention.query_key_value`, [3 * hidden, hidden], config.attentionBias);
      layer(`${block}.attention.dense`, [hidden, hidden], config.attentionBias);
      layer(`${block}.mlp.dense_h_to_4h`, [inner, hidden]);
      layer(`${block}.mlp.dense_4h_to_h`, [hidden, inner]);
    }
    layer("gpt_neox.final_layer_norm", [hidden]);
    if (!config.tiedEmbeddings) specs.push({ name: "embed_out.weight", shape: [config.vocabSize, hidden] });
    return specs;
  },

  // The three projections of a head lie side by side.
  fused: ({ hiddenSize, heads }) => {
    const headDim = hiddenSize / heads;
    const rowsOf = (part: number): FusedPart["rows"] =>
      Array.from({ length: heads }, (_, head) => [(3 * head + part) * headDim, (3 * head + part + 1) * headDim]);
    return { query_key_value: ["query", "key", "value"].map((name, part) => ({ name, rows: rowsOf(part) })) };
  },

  trunk: (config, weights, { inputIds, positionIds, attend, past }) => {
    const { hiddenSize, heads, normEpsilon, attentionBias, rope, rotaryDim } = config;
    const headDim = hiddenSize / heads;
    const tables = rotaryTables(positionIds, rope.inverseFrequencies(positionIds), rope.scale);
    const present: KeyValue[] = [];
    let x = inScope("gpt_neox.embed_in", () => gather(weights("gpt_neox.embed_in.weight"), reshape(inputIds, [-1])));
    for (let i = 0; i < config.layers; i++) {
      const block = `gpt_neox.layers.${i}`;
      const module = `${block}.attention`;
      const normed = layerNormed(weights, `${block}.input_layernorm`, x, normEpsilon);
      const fused = dense(weights, `${module}.query_key_value`, normed, { bias: attentionBias });
      const mixed = inScope(module, () => {
        // The three projections of a head lie side by side.
        const whole = splitHeads(fused, inputIds, heads, 3 * headDim);
        const [query, key, value] = split(whole, [headDim, headDim, headDim], 3) as [Value, Value, Value]; // three sizes
        const cache = extend(past?.[i], { key: rotate(key, tables, rotaryDim), value });
        present.push(cache);
        return attend(rotate(query, tables, rotaryDim), cache, { scale: 1 / Math.sqrt(headDim) });
      });
      const attended = dense(weights, `${module}.dense`, mixed, { bias: attentionBias });
      const residual = add(x, attended);
      const between = layerNormed(
        weights,
        `${block}.post_attention_layernorm`,
        config.parallelResidual ? x : residual,
        normEpsilon,
      );
      const inner = dense(weights, `${block}.mlp.dense_h_to_4h`, between, { bias: true });
      const active = inScope(`${block}.mlp`, () => activations[config.activation](inner));
      x = add(residual, dense(weights, `${block}.mlp.dense_4h_to_h`, active, { bias: true }));
    }
    return { hidden: layerNormed(weights, "gpt_neox.final_layer_norm", x, normEpsilon), present };
  },

  head: (config, weights, hidden) =>
    inScope("embed_out", () =>
      linear(hidden, weights(config.tiedEmbeddings ? "gpt_neox.embed_in.weight" : "embed_out.weight")),
    ),

  gguf: (config) => {
    const rotary = ropeMetadata(config.rope, config.contextLength);
    return {
      architecture: "gptneox",
      metadata: {
        context_length: uint32(config.contextLength),
        embedding_length: uint32(config.hiddenSize),
        block_count: uint32(config.layers),
        feed_forward_length: uint32(config.intermediateSize),
        "attention.head_count": uint32(config.heads),
        "attention.layer_norm_epsilon": float32(config.normEpsilon),
        "rope.dimension_count": uint32(config.rotaryDim),
        use_parallel_residual: bool(config.parallelResidual),
        ...rotary.metadata,
      },
      parts: ggufParts(config),
      problems: [
        ...rotary.problems,
        // It has the approximation by tanh alone, and converts models of the exact function all the same.
        ...(/^gelu/.test(config.activation) ? [] : [`the activation function ${config.activation} (it has gelu)`]),
        ...(config.attentionBias ? [] : ["attention without biases"]),
      ],
    };
  },
};

/** Rows of a fused projection, all queries first, then all keys, then all values, where each head has its three together. */
function separatedRows(heads: number, headDim: number): readonly number[] {
  return Array.from({ length: 3 * heads * headDim }, (_, row) => {
    const [part, head] = [Math.floor(row / (heads * headDim)), Math.floor(row / headDim) % heads];
    return (3 * head + part) * headDim + (row % headDim);
  });
}

function ggufParts(config: GptNeoxConfig): GgufForm["parts"] {
  const rows = separatedRows(config.heads, config.hiddenSize / config.heads);
  const parts: GgufPart[] = [{ name: "token_embd.weight", from: "gpt_neox.embed_in.weight", vocabulary: true }];
  const layer = (name: string, from: string, options: Pick<GgufPart, "rows"> = {}): void => {
    for (const end of ["weight", "bias"]) parts.push({ name: `${name}.${end}`, from: `${from}.${end}`, ...options });
  };
  for (let i = 0; i < config.layers; i++) {
    const [to, from] = [`blk.${i}`, `gpt_neox.layers.${i}`];
    layer(`${to}.attn_norm`, `${from}.input_layernorm`);
    layer(`${to}.attn_qkv`, `${from}.attention.query_key_value`, { rows });
    layer(`${to}.attn_output`, `${from}.attention.dense`);
    layer(`${to}.ffn_norm`, `${from}.post_attention_layernorm`);
    layer(`${to}.ffn_up`, `${from}.mlp.dense_h_to_4h`);
    layer(`${to}.ffn_down`, `${from}.mlp.dense_4h_to_h`);
  }
  layer("output_norm", "gpt_neox.final_layer_norm");
  const output = config.tiedEmbeddings ? "gpt_neox.embed_in.weight" : "embed_out.weight";
  parts.push({ name: "output.weight", from: output, vocabulary: true });
  return parts;
}
