import { inScope } from "../graph/index.ts";
import { add, gather, linear, mul, reshape, sigmoid } from "../ops/index.ts";
import type { Architecture, KeyValue, TensorSpec } from "./architecture.ts";
import { dense, extend, rmsNorm, rotaryTables, rotate, splitHeads } from "./blocks.ts";
import { readConfig } from "./config.ts";
import { type Rope, readRope } from "./rope.ts";

/** The part of a Llama `config.json` that shapes the computation. */
export interface LlamaConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly contextLength: number;
  readonly normEpsilon: number;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly tiedEmbeddings: boolean;
  readonly rope: Rope;
}

/** Llama 1–3 and every model in its layout. Touvron et al. 2023 (arXiv 2302.13971); names as in transformers. */
export const llama: Architecture<LlamaConfig> = {
  modelType: "llama",
  className: "LlamaForCausalLM",
  basePrefix: "model.",
  ignored: /rotary_emb\.inv_freq$/,
  outputModule: "lm_head",
  defaultTargets: ["q_proj", "v_proj"],

  configure: (json) => {
    const reader = readConfig(json);
    const hiddenSize = reader.integer("hidden_size");
    const heads = reader.integer("num_attention_heads");
    const headDim = reader.integer("head_dim", Math.floor(hiddenSize / heads));
    const kvHeads = reader.integer("num_key_value_heads", heads);
    const contextLength = reader.integer("max_position_embeddings", 2048);
    reader.choice("hidden_act", ["silu"], "silu");
    if (heads % kvHeads !== 0) {
      reader.problem(`"num_attention_heads" (${heads}) is not a multiple of "num_key_value_heads" (${kvHeads})`);
    }
    if (headDim % 2 !== 0) reader.problem(`"head_dim" (${headDim}) is odd, so it has no rotary pairs`);
    const config: LlamaConfig = {
      vocabSize: reader.integer("vocab_size"),
      hiddenSize,
      intermediateSize: reader.integer("intermediate_size"),
      layers: reader.integer("num_hidden_layers"),
      heads,
      kvHeads,
      headDim,
      contextLength,
      normEpsilon: reader.number("rms_norm_eps", 1e-6),
      attentionBias: reader.boolean("attention_bias", false),
      mlpBias: reader.boolean("mlp_bias", false),
      tiedEmbeddings: reader.boolean("tie_word_embeddings", false),
      rope: readRope(json, reader, headDim, contextLength),
    };
    reader.finish();
    return config;
  },

  sizes: ({ vocabSize, hiddenSize, layers, heads, kvHeads, headDim, contextLength }) => ({
    vocabSize,
    hiddenSize,
    layers,
    heads,
    kvHeads,
    headDim,
    contextLength,
  }),

  tensors: (config) => {
    const { hiddenSize: hidden, intermediateSize: inner, headDim } = config;
    const specs: TensorSpec[] = [{ name: "model.embed_tokens.weight", shape: [config.vocabSize, hidden] }];
    const layer = (module: string, out: number, into: number, bias: boolean): void => {
      specs.push({ name: `${module}.weight`, shape: [out, into] });
      if (bias) specs.push({ name: `${module}.bias`, shape: [out] });
    };
    for (let i = 0; i < config.layers; i++) {
      const block = `model.layers.${i}`;
      layer(`${block}.self_attn.q_proj`, config.heads * headDim, hidden, config.attentionBias);
      layer(`${block}.self_attn.k_proj`, config.kvHeads * headDim, hidden, config.attentionBias);
      layer(`${block}.self_attn.v_proj`, config.kvHeads * headDim, hidden, config.attentionBias);
      layer(`${block}.self_attn.o_proj`, hidden, config.heads * headDim, config.attentionBias);
      layer(`${block}.mlp.gate_proj`, inner, hidden, config.mlpBias);
      layer(`${block}.mlp.up_proj`, inner, hidden, config.mlpBias);
      layer(`${block}.mlp.down_proj`, hidden, inner, config.mlpBias);
      specs.push({ name: `${block}.input_layernorm.weight`, shape: [hidden] });
      specs.push({ name: `${block}.post_attention_layernorm.weight`, shape: [hidden] });
    }
    specs.push({ name: "model.norm.weight", shape: [hidden] });
    if (!config.tiedEmbeddings) specs.push({ name: "lm_head.weight", shape: [config.vocabSize, hidden] });
    return specs;
  },

  trunk: (config, weights, { inputIds, positionIds, attend, past }) => {
    const { heads, kvHeads, headDim, normEpsilon, attentionBias, mlpBias } = config;
    const tables = rotaryTables(positionIds, config.rope.inverseFrequencies(positionIds), config.rope.scale);
    const present: KeyValue[] = [];
    let x = inScope("model.embed_tokens", () => gather(weights("model.embed_tokens.weight"), reshape(inputIds, [-1])));
    for (let i = 0; i < config.layers; i++) {
      const block = `model.layers.${i}`;
      const attended = rmsNorm(weights, `${block}.input_layernorm`, x, normEpsilon);
      const project = (name: string, count: number) =>
        splitHeads(
          dense(weights, `${block}.self_attn.${name}`, attended, { bias: attentionBias }),
          inputIds,
          count,
          headDim,
        );
      const [query, key, value] = [project("q_proj", heads), project("k_proj", kvHeads), project("v_proj", kvHeads)];
      const mixed = inScope(`${block}.self_attn`, () => {
        const cache = extend(past?.[i], { key: rotate(key, tables), value });
        present.push(cache);
        return attend(rotate(query, tables), cache, 1 / Math.sqrt(headDim));
      });
      x = add(x, dense(weights, `${block}.self_attn.o_proj`, mixed, { bias: attentionBias }));
      const normed = rmsNorm(weights, `${block}.post_attention_layernorm`, x, normEpsilon);
      const gate = dense(weights, `${block}.mlp.gate_proj`, normed, { bias: mlpBias });
      const up = dense(weights, `${block}.mlp.up_proj`, normed, { bias: mlpBias });
      const active = inScope(`${block}.mlp`, () => mul(mul(gate, sigmoid(gate)), up));
      x = add(x, dense(weights, `${block}.mlp.down_proj`, active, { bias: mlpBias }));
    }
    return { hidden: rmsNorm(weights, "model.norm", x, normEpsilon), present };
  },

  head: (config, weights, hidden) =>
    inScope("lm_head", () =>
      linear(hidden, weights(config.tiedEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight")),
    ),
};
