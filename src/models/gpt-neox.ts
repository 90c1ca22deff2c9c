import { inScope, type Value } from "../graph/index.ts";
import { bool, float32, uint32 } from "../io/gguf.ts";
import { add, gather, linear, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { Architecture, FusedPart, KeyValue, TensorSpec } from "./architecture.ts";
import { dense, layerNormed, splitHeads } from "./blocks.ts";
import { type GgufForm, type GgufPart, ropeMetadata } from "./gguf.ts";
import { causalMasks } from "./harmless.ts";
import { configured, flag, inert, integer, type LedgerOf, oneOf, optionalInteger, real } from "./ledger.ts";
import {
  cacheHoldsTo,
  outerRotaryLedger,
  type Rope,
  type RotarySettings,
  readRope,
  ropeObject,
  rotaryLedger,
} from "./rope.ts";
import { rotations } from "./rotate.ts";
import { sharedLedger } from "./shared-ledger.ts";

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
  readonly rope: Rope;
}

interface GptNeoxSettings extends RotarySettings {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly head_dim: number | undefined;
  readonly max_position_embeddings: number;
  readonly original_max_position_embeddings: number | undefined;
  readonly layer_norm_eps: number;
  readonly attention_bias: boolean;
  readonly use_parallel_residual: boolean;
  readonly hidden_act: Activation;
  readonly tie_word_embeddings: boolean;
  readonly rotary_pct: number;
  readonly rotary_emb_base: number;
}

const ledger: LedgerOf<GptNeoxSettings> = {
  ...sharedLedger,
  ...rotaryLedger,
  ...outerRotaryLedger,
  vocab_size: integer("tokens in the vocabulary", 50432),
  hidden_size: integer("width of the hidden states", 6144),
  intermediate_size: integer("width inside the feed-forward", 24576),
  num_hidden_layers: integer("layers", 44),
  num_attention_heads: integer("heads", 64),
  head_dim: optionalInteger("width of a head, which is hidden_size over num_attention_heads"),
  max_position_embeddings: integer("the longest sequence", 2048),
  layer_norm_eps: real("added under the root of norms", 1e-5),
  attention_bias: flag("whether the projections of attention have biases", true),
  use_parallel_residual: flag("whether attention and feed-forward read the same hidden state", true),
  hidden_act: oneOf("the activation function of the feed-forward", activationNames, "gelu"),
  tie_word_embeddings: flag("whether the output layer is the table of embeddings", false),
  rotary_pct: real("the share of a head that is rotated, where rope_parameters does not say", 0.25),
  rotary_emb_base: real("base of the wavelengths, where rope_parameters does not say", 10000),
  rope_theta: inert("transformers reads rotary_emb_base here"),
  partial_rotary_factor: inert("transformers reads rotary_pct here"),
};

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
  harmless: [causalMasks("attention")],
  outputModule: "embed_out",
  sublayers: { attention: /.*\.attention\.dense/, feedForward: /.*\.mlp\.dense_4h_to_h/ },

  ...configured<GptNeoxSettings, GptNeoxConfig>(ledger, (settings, reader) => {
    const { hidden_size: hiddenSize, num_attention_heads: heads, max_position_embeddings: contextLength } = settings;
    const headDim = hiddenSize / heads;
    if (hiddenSize % heads !== 0) {
      reader.problem(`"hidden_size" (${hiddenSize}) is not a multiple of "num_attention_heads" (${heads})`);
    }
    if ((settings.head_dim ?? headDim) !== headDim) {
      reader.problem(`"head_dim" is ${settings.head_dim}; supported: ${headDim}, which the other sizes give`);
    }
    return {
      vocabSize: settings.vocab_size,
      hiddenSize,
      intermediateSize: settings.intermediate_size,
      layers: settings.num_hidden_layers,
      heads,
      contextLength,
      normEpsilon: settings.layer_norm_eps,
      attentionBias: settings.attention_bias,
      parallelResidual: settings.use_parallel_residual,
      activation: settings.hidden_act,
      tiedEmbeddings: settings.tie_word_embeddings,
      rope: readRope(ropeObject(settings), reader, {
        headDim,
        contextLength,
        theta: settings.rotary_emb_base,
        share: settings.rotary_pct,
        partial: true,
        original: settings.original_max_position_embeddings,
      }),
    };
  }),
  tied: ({ tiedEmbeddings }) =>
    tiedEmbeddings ? { output: "embed_out.weight", embeddings: "gpt_neox.embed_in.weight" } : undefined,

  sizes: ({ vocabSize, hiddenSize, layers, heads, contextLength, rope }) => ({
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads: heads,
    headDim: hiddenSize / heads,
    contextLength,
    ...cacheHoldsTo([rope]),
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

  trunk: (config, weights, inputs) => {
    const { inputIds, attend, past } = inputs;
    const { hiddenSize, heads, normEpsilon, attentionBias, rope } = config;
    const headDim = hiddenSize / heads;
    const rotation = rotations(inputs);
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
        const turned = rotation(rope, query, { key, value }, past?.[i]);
        present.push(turned.kept);
        return attend(turned.query, turned.cache, { scale: 1 / Math.sqrt(headDim), layer: i });
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
        "rope.dimension_count": uint32(config.rope.rotaryDim),
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
