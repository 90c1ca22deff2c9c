import { inScope, type Value } from "../graph/index.ts";
import { add, gather, linear, mul, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import {
  type Architecture,
  type FusedPart,
  type KeyValue,
  partsInOrder,
  type TensorSpec,
  type Weights,
} from "./architecture.ts";
import { dense, extend, type RotaryTables, rmsNorm, rotaryTables, rotate, softCap, splitHeads } from "./blocks.ts";
import { type ConfigJson, type ConfigReader, readConfig } from "./config.ts";
import { type DecoderGguf, decoderGguf } from "./decoder-gguf.ts";
import { tiedOutput } from "./harmless.ts";
import type { DecodeRecipe, LinearRecipe, NormRecipe, RopeRecipe } from "./recipe.ts";
import { fixedFrequencies, type Rope, readRope, ropeParameters } from "./rope.ts";

/** How one layer attends. */
export interface LayerAttention {
  /** Rotary positions; none in layers that see no positions (NoPE). */
  readonly rope: Rope | undefined;
  /** A token sees this many tokens up to itself; all of them when absent. */
  readonly window: number | undefined;
}

/** A decoder-only transformer with root-mean-square norms and a gated feed-forward: Llama and its descendants. */
export interface DecoderConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly contextLength: number;
  readonly normEpsilon: number;
  readonly tiedEmbeddings: boolean;
  /** Whether the projections of queries, keys and values, that of the output, and the feed-forward have biases. */
  readonly bias: Readonly<Record<"qkv" | "output" | "mlp", boolean>>;
  /** One matrix for queries, keys and values and one for gate and up, as Phi-3 stores them. */
  readonly fused: boolean;
  /** Queries and keys are normalised over each head. */
  readonly queryKeyNorm: boolean;
  /** Norms also follow attention and feed-forward, before each is added (Gemma 2 and 3). */
  readonly sandwich: boolean;
  /** Norms multiply by 1 + weight (Gemma). */
  readonly normsAddOne: boolean;
  readonly embeddingScale: number;
  readonly attentionScale: number;
  /** cap·tanh(x/cap) on scores and on logits; none when undefined. */
  readonly scoreCap: number | undefined;
  readonly logitCap: number | undefined;
  readonly activation: Activation;
  /** The share of a head that is rotated, in front. */
  readonly rotaryDim: number;
  /** One a layer. */
  readonly attention: readonly LayerAttention[];
}

/** What `config.json` says in the words that Llama and its descendants share; a family changes what it does otherwise. */
export function readDecoder(json: ConfigJson, reader: ConfigReader): DecoderConfig {
  const hiddenSize = reader.integer("hidden_size");
  const heads = reader.integer("num_attention_heads");
  const headDim = reader.integer("head_dim", Math.floor(hiddenSize / heads));
  const kvHeads = reader.integer("num_key_value_heads", heads);
  const contextLength = reader.integer("max_position_embeddings", 2048);
  const layers = reader.integer("num_hidden_layers");
  if (heads % kvHeads !== 0) {
    reader.problem(`"num_attention_heads" (${heads}) is not a multiple of "num_key_value_heads" (${kvHeads})`);
  }
  const { partial_rotary_factor: share = 1 } = { ...json, ...ropeParameters(json) };
  const rotaryDim = Math.floor(headDim * Number(share));
  if (rotaryDim % 2 !== 0) reader.problem(`"head_dim" (${rotaryDim}) is odd, so it has no rotary pairs`);
  const attentionBias = reader.boolean("attention_bias", false);
  const rope = readRope(json, reader, rotaryDim, contextLength);
  return {
    vocabSize: reader.integer("vocab_size"),
    hiddenSize,
    intermediateSize: reader.integer("intermediate_size"),
    layers,
    heads,
    kvHeads,
    headDim,
    contextLength,
    normEpsilon: reader.number("rms_norm_eps", 1e-6),
    tiedEmbeddings: reader.boolean("tie_word_embeddings", false),
    bias: { qkv: attentionBias, output: attentionBias, mlp: reader.boolean("mlp_bias", false) },
    fused: false,
    queryKeyNorm: false,
    sandwich: false,
    normsAddOne: false,
    embeddingScale: 1,
    attentionScale: 1 / Math.sqrt(headDim),
    scoreCap: undefined,
    logitCap: undefined,
    activation: reader.choice("hidden_act", activationNames, "silu"),
    rotaryDim,
    attention: Array.from({ length: layers }, () => ({ rope, window: undefined })),
  };
}

/**
 * Windows of sliding attention by layer: `layer_types` where `config.json` has them, `otherwise` where not.
 */
export function withWindows(
  config: DecoderConfig,
  json: ConfigJson,
  reader: ConfigReader,
  otherwise: (layer: number) => boolean,
): DecoderConfig {
  const { sliding_window: size, layer_types: types } = json;
  const window = size === null || size === undefined ? undefined : reader.integer("sliding_window");
  if (types !== undefined && types !== null && (!Array.isArray(types) || types.length !== config.layers)) {
    reader.problem(`"layer_types" does not name one for each of ${config.layers} layers`);
  }
  const slides = (i: number): boolean => (Array.isArray(types) ? types[i] === "sliding_attention" : otherwise(i));
  return {
    ...config,
    attention: config.attention.map((layer, i) => ({ ...layer, window: slides(i) ? window : undefined })),
  };
}

/** What a family of decoders does otherwise than Llama. */
export interface DecoderFamily {
  readonly modelType: string;
  readonly className: string;
  /** What adapters attach to unless told otherwise, as PEFT's defaults. */
  readonly defaultTargets: readonly string[];
  /** Change what {@link readDecoder} read, or read more. */
  readonly configure: (base: DecoderConfig, reader: ConfigReader, json: ConfigJson) => DecoderConfig;
  /** What llama.cpp's architecture of the family does. */
  readonly gguf: DecoderGguf;
}

/** The architecture of a family of decoders, with transformers' names. */
export function decoder({
  modelType,
  className,
  defaultTargets,
  configure,
  gguf,
}: DecoderFamily): Architecture<DecoderConfig> {
  return {
    modelType,
    className,
    basePrefix: "model.",
    sizeKeys: {
      vocab_size: "side",
      hidden_size: "side",
      intermediate_size: "side",
      num_hidden_layers: "layers",
      num_attention_heads: "side",
      num_key_value_heads: "side",
      head_dim: "side",
    },
    harmless: [tiedOutput("model.embed_tokens.weight")],
    outputModule: "lm_head",
    defaultTargets,
    sublayers: { attention: /.*\.self_attn\.o_proj/, feedForward: /.*\.mlp\.down_proj/ },
    configure: (json) => {
      const reader = readConfig(json);
      const config = configure(readDecoder(json, reader), reader, json);
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
    tensors,
    fused: ({
      fused,
      heads,
      kvHeads,
      headDim,
      intermediateSize: inner,
    }): Readonly<Record<string, readonly FusedPart[]>> =>
      fused
        ? {
            qkv_proj: partsInOrder({ q_proj: heads * headDim, k_proj: kvHeads * headDim, v_proj: kvHeads * headDim }),
            gate_up_proj: partsInOrder({ gate_proj: inner, up_proj: inner }),
          }
        : {},
    trunk,
    gguf: decoderGguf(gguf),
    head: ({ tiedEmbeddings, logitCap }, weights, hidden) =>
      inScope("lm_head", () =>
        softCap(linear(hidden, weights(tiedEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight")), logitCap),
      ),
    recipe,
  };
}

function tensors(config: DecoderConfig): readonly TensorSpec[] {
  const { hiddenSize: hidden, intermediateSize: inner, headDim, heads, kvHeads, bias } = config;
  const specs: TensorSpec[] = [{ name: "model.embed_tokens.weight", shape: [config.vocabSize, hidden] }];
  const layer = (module: string, out: number, into: number, biased: boolean): void => {
    specs.push({ name: `${module}.weight`, shape: [out, into] });
    if (biased) specs.push({ name: `${module}.bias`, shape: [out] });
  };
  const norm = (module: string, size = hidden): void => void specs.push({ name: `${module}.weight`, shape: [size] });
  for (let i = 0; i < config.layers; i++) {
    const block = `model.layers.${i}`;
    const attention = `${block}.self_attn`;
    if (config.fused) {
      layer(`${attention}.qkv_proj`, (heads + 2 * kvHeads) * headDim, hidden, bias.qkv);
    } else {
      layer(`${attention}.q_proj`, heads * headDim, hidden, bias.qkv);
      layer(`${attention}.k_proj`, kvHeads * headDim, hidden, bias.qkv);
      layer(`${attention}.v_proj`, kvHeads * headDim, hidden, bias.qkv);
    }
    layer(`${attention}.o_proj`, hidden, heads * headDim, bias.output);
    if (config.queryKeyNorm) {
      norm(`${attention}.q_norm`, headDim);
      norm(`${attention}.k_norm`, headDim);
    }
    if (config.fused) {
      layer(`${block}.mlp.gate_up_proj`, 2 * inner, hidden, bias.mlp);
    } else {
      layer(`${block}.mlp.gate_proj`, inner, hidden, bias.mlp);
      layer(`${block}.mlp.up_proj`, inner, hidden, bias.mlp);
    }
    layer(`${block}.mlp.down_proj`, hidden, inner, bias.mlp);
    norm(`${block}.input_layernorm`);
    norm(`${block}.post_attention_layernorm`);
    if (config.sandwich) {
      norm(`${block}.pre_feedforward_layernorm`);
      norm(`${block}.post_feedforward_layernorm`);
    }
  }
  norm("model.norm");
  if (!config.tiedEmbeddings) specs.push({ name: "lm_head.weight", shape: [config.vocabSize, hidden] });
  return specs;
}

const trunk: Architecture<DecoderConfig>["trunk"] = (config, weights, { inputIds, positionIds, attend, past }) => {
  const { heads, kvHeads, headDim, bias, sandwich } = config;
  const norm = (module: string, x: Value): Value => rmsNorm(weights, module, x, config.normEpsilon, config.normsAddOne);
  const tables = new Map<Rope, RotaryTables>();
  const rotated = (x: Value, rope: Rope | undefined): Value => {
    if (rope === undefined) return x;
    const known = tables.get(rope) ?? rotaryTables(positionIds, rope.inverseFrequencies(positionIds), rope.scale);
    tables.set(rope, known);
    return rotate(x, known, config.rotaryDim);
  };
  const present: KeyValue[] = [];
  let x = inScope("model.embed_tokens", () => {
    const embedded = gather(weights("model.embed_tokens.weight"), reshape(inputIds, [-1]));
    return config.embeddingScale === 1 ? embedded : mul(embedded, config.embeddingScale);
  });
  config.attention.forEach(({ rope, window }, i) => {
    const block = `model.layers.${i}`;
    const module = `${block}.self_attn`;
    const projected = projections(config, weights, module, norm(`${block}.input_layernorm`, x));
    const [query, key, value] = inScope(module, () =>
      projected.map((part, j) => splitHeads(part, inputIds, j === 0 ? heads : kvHeads, headDim)),
    ) as [Value, Value, Value]; // three projections
    const normed = (name: string, part: Value): Value => (config.queryKeyNorm ? norm(`${module}.${name}`, part) : part);
    const [normedQuery, normedKey] = [normed("q_norm", query), normed("k_norm", key)];
    const mixed = inScope(module, () => {
      const cache = extend(past?.[i], { key: rotated(normedKey, rope), value });
      present.push(cache);
      return attend(rotated(normedQuery, rope), cache, {
        scale: config.attentionScale,
        ...(window === undefined ? {} : { window }),
        ...(config.scoreCap === undefined ? {} : { cap: config.scoreCap }),
      });
    });
    const attended = dense(weights, `${module}.o_proj`, mixed, { bias: bias.output });
    x = add(x, sandwich ? norm(`${block}.post_attention_layernorm`, attended) : attended);
    const before = sandwich ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    const fed = feedForward(config, weights, `${block}.mlp`, norm(`${block}.${before}`, x));
    x = add(x, sandwich ? norm(`${block}.post_feedforward_layernorm`, fed) : fed);
  });
  return { hidden: norm("model.norm", x), present };
};

/** Queries [tokens, heads·headDim], keys and values [tokens, kvHeads·headDim] of x [tokens, hidden]. */
function projections(config: DecoderConfig, weights: Weights, module: string, x: Value): readonly Value[] {
  const { heads, kvHeads, headDim, bias } = config;
  const project = (name: string): Value => dense(weights, `${module}.${name}`, x, { bias: bias.qkv });
  if (!config.fused) return ["q_proj", "k_proj", "v_proj"].map(project);
  const sizes = [heads, kvHeads, kvHeads].map((count) => count * headDim);
  const whole = project("qkv_proj");
  return inScope(module, () => split(whole, sizes, 1));
}

/** down(f(gate(x)) ∘ up(x)). Shazeer 2020 (arXiv 2002.05202), eq. (6). */
function feedForward(config: DecoderConfig, weights: Weights, module: string, x: Value): Value {
  const { bias, fused, intermediateSize } = config;
  const layer = (name: string, from: Value): Value => dense(weights, `${module}.${name}`, from, { bias: bias.mlp });
  const whole = fused ? layer("gate_up_proj", x) : undefined;
  const [gate, up] = whole
    ? inScope(module, () => split(whole, [intermediateSize, intermediateSize], 1) as [Value, Value]) // two sizes
    : [layer("gate_proj", x), layer("up_proj", x)];
  const active = inScope(module, () => mul(activations[config.activation](gate), up));
  return layer("down_proj", active);
}

/** The same computation as {@link trunk} and the head, as data. */
function recipe(config: DecoderConfig): DecodeRecipe | undefined {
  const { hiddenSize: hidden, intermediateSize: inner, headDim, heads, kvHeads, bias, fused, sandwich } = config;
  const norm = (module: string): NormRecipe => ({
    kind: "rms",
    module,
    epsilon: config.normEpsilon,
    addsOne: config.normsAddOne,
  });
  const layer = (module: string, outputs: number, inputs: number, biased: boolean): LinearRecipe => ({
    module,
    inputs,
    outputs,
    bias: biased,
    layout: "out,in",
  });
  const ropes = new Map<Rope, RopeRecipe | undefined>();
  for (const { rope } of config.attention) {
    const frequencies = rope && fixedFrequencies(rope);
    if (rope) ropes.set(rope, frequencies && { frequencies, scale: rope.scale });
  }
  if ([...ropes.values()].includes(undefined)) return undefined;
  return {
    embedding: { tensor: "model.embed_tokens.weight", scale: config.embeddingScale },
    layers: config.attention.map(({ rope, window }, i) => {
      const block = `model.layers.${i}`;
      const attention = `${block}.self_attn`;
      const turned = rope && ropes.get(rope);
      return {
        attention: {
          norm: norm(`${block}.input_layernorm`),
          projections: fused
            ? [layer(`${attention}.qkv_proj`, (heads + 2 * kvHeads) * headDim, hidden, bias.qkv)]
            : [
                layer(`${attention}.q_proj`, heads * headDim, hidden, bias.qkv),
                layer(`${attention}.k_proj`, kvHeads * headDim, hidden, bias.qkv),
                layer(`${attention}.v_proj`, kvHeads * headDim, hidden, bias.qkv),
              ],
          heads,
          kvHeads,
          headDim,
          ...(config.queryKeyNorm
            ? { queryNorm: norm(`${attention}.q_norm`), keyNorm: norm(`${attention}.k_norm`) }
            : {}),
          ...(turned ? { rope: turned } : {}),
          scale: config.attentionScale,
          ...(window === undefined ? {} : { window }),
          ...(config.scoreCap === undefined ? {} : { cap: config.scoreCap }),
          output: layer(`${attention}.o_proj`, hidden, heads * headDim, bias.output),
          ...(sandwich ? { after: norm(`${block}.post_attention_layernorm`) } : {}),
        },
        feedForward: {
          norm: norm(`${block}.${sandwich ? "pre_feedforward_layernorm" : "post_attention_layernorm"}`),
          inner: fused
            ? [layer(`${block}.mlp.gate_up_proj`, 2 * inner, hidden, bias.mlp)]
            : [
                layer(`${block}.mlp.gate_proj`, inner, hidden, bias.mlp),
                layer(`${block}.mlp.up_proj`, inner, hidden, bias.mlp),
              ],
          gated: true,
          activation: config.activation,
          down: layer(`${block}.mlp.down_proj`, hidden, inner, bias.mlp),
          ...(sandwich ? { after: norm(`${block}.post_feedforward_layernorm`) } : {}),
        },
      };
    }),
    norm: norm("model.norm"),
    head: {
      tensor: config.tiedEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight",
      ...(config.logitCap === undefined ? {} : { cap: config.logitCap }),
    },
  };
}
