import { inScope, type Value } from "../graph/index.ts";
import { add, gather, linear, mul, reshape, split } from "../ops/index.ts";
import { type Activation, activationNames, activations, recipeActivation } from "./activations.ts";
import {
  type Architecture,
  type FusedPart,
  type KeyValue,
  partsInOrder,
  type TensorSpec,
  type Weights,
} from "./architecture.ts";
import { dense, rmsNorm, softCap, splitHeads } from "./blocks.ts";
import { type DecoderGguf, decoderGguf } from "./decoder-gguf.ts";
import {
  type ConfigReader,
  configured,
  flag,
  integer,
  type LedgerOf,
  oneOf,
  optionalInteger,
  optionalList,
  real,
  type Used,
} from "./ledger.ts";
import type { DecodeRecipe, LinearRecipe, NormRecipe, RopeRecipe } from "./recipe.ts";
import {
  cacheHoldsTo,
  fixedFrequencies,
  type Rope,
  type RopeShape,
  type RotarySettings,
  readRope,
  ropeObject,
  rotaryLedger,
} from "./rope.ts";
import { rotations } from "./rotate.ts";
import { sharedLedger } from "./shared-ledger.ts";

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
  /** Tokens see those after them too, so that nothing can be continued a token at a time (EmbeddingGemma). */
  readonly bidirectional: boolean;
  readonly activation: Activation;
  /** The share of a head that is rotated, in front. */
  readonly rotaryDim: number;
  /** One a layer. */
  readonly attention: readonly LayerAttention[];
}

/** The keys that Llama and its descendants share; a family's ledger changes their defaults. */
export interface DecoderSettings extends RotarySettings {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number | undefined;
  readonly head_dim: number | undefined;
  readonly max_position_embeddings: number;
  readonly rms_norm_eps: number;
  readonly tie_word_embeddings: boolean;
}

/** Sizes that transformers gives a family where `config.json` names none. */
export interface DecoderDefaults {
  readonly vocab: number;
  readonly hidden: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  /** As many as there are heads unless given. */
  readonly kvHeads?: number;
  /** The hidden size over the number of heads unless given. */
  readonly headDim?: number;
  readonly context: number;
  readonly epsilon?: number;
  readonly tied?: boolean;
}

/** The ledger of a family of decoders, before its own keys. */
export function decoderLedger(defaults: DecoderDefaults): LedgerOf<DecoderSettings> {
  return {
    ...sharedLedger,
    ...rotaryLedger,
    vocab_size: integer("tokens in the vocabulary", defaults.vocab),
    hidden_size: integer("width of the hidden states", defaults.hidden),
    intermediate_size: integer("width inside the feed-forward", defaults.inner),
    num_hidden_layers: integer("layers", defaults.layers),
    num_attention_heads: integer("heads of queries", defaults.heads),
    num_key_value_heads: optionalInteger(
      "heads of keys and values; as many as of queries unless given",
      defaults.kvHeads,
    ),
    head_dim: optionalInteger("width of a head; hidden_size over num_attention_heads unless given", defaults.headDim),
    max_position_embeddings: integer("the longest sequence", defaults.context),
    rms_norm_eps: real("added under the root of norms", defaults.epsilon ?? 1e-6),
    tie_word_embeddings: flag("whether the output layer is the table of embeddings", defaults.tied ?? false),
  };
}

/** `hidden_act`, or `hidden_activation` where a family calls it so. */
export function activationEntry(
  otherwise: Activation,
  more: Readonly<Record<string, Activation>> = {},
): Used<Activation> {
  return oneOf("the activation function of the feed-forward", { ...activationNames, ...more }, otherwise);
}

/** Keys about which layers see a window of tokens only. */
export interface WindowSettings {
  readonly sliding_window: number | undefined;
  readonly layer_types: readonly LayerType[] | undefined;
}

/** How a layer attends, in transformers' words; `attention` is what it was once called. */
export type LayerType = "full_attention" | "sliding_attention" | "attention";

/** The ledger's entry for the window. */
export function windowEntry(otherwise?: number): Used<number | undefined> {
  return optionalInteger("tokens that a layer with a window sees, itself among them", otherwise);
}

/** The ledger's entry for the kinds of layers. */
export const layerTypesEntry: Used<readonly LayerType[] | undefined> = optionalList(
  "which layers have a window",
  'names out of "full_attention" and "sliding_attention"',
  (item): item is LayerType => ["full_attention", "sliding_attention", "attention"].includes(String(item)),
);

/** What `config.json` says in the words that Llama and its descendants share; a family changes what it does otherwise. */
export function readDecoder(
  settings: DecoderSettings,
  reader: ConfigReader,
  rotary: Omit<RopeShape, "headDim" | "contextLength"> | undefined,
): DecoderConfig {
  const { hidden_size: hiddenSize, num_attention_heads: heads, num_hidden_layers: layers } = settings;
  const { head_dim: headDim = Math.floor(hiddenSize / heads), num_key_value_heads: kvHeads = heads } = settings;
  const contextLength = settings.max_position_embeddings;
  if (heads % kvHeads !== 0) {
    reader.problem(`"num_attention_heads" (${heads}) is not a multiple of "num_key_value_heads" (${kvHeads})`);
  }
  const rope = rotary && readRope(ropeObject(settings), reader, { headDim, contextLength, ...rotary });
  return {
    vocabSize: settings.vocab_size,
    hiddenSize,
    intermediateSize: settings.intermediate_size,
    layers,
    heads,
    kvHeads,
    headDim,
    contextLength,
    normEpsilon: settings.rms_norm_eps,
    tiedEmbeddings: settings.tie_word_embeddings,
    bias: { qkv: false, output: false, mlp: false },
    fused: false,
    queryKeyNorm: false,
    sandwich: false,
    normsAddOne: false,
    embeddingScale: 1,
    attentionScale: 1 / Math.sqrt(headDim),
    scoreCap: undefined,
    logitCap: undefined,
    bidirectional: false,
    activation: "silu",
    rotaryDim: rope?.rotaryDim ?? headDim,
    attention: Array.from({ length: layers }, () => ({ rope, window: undefined })),
  };
}

/**
 * Windows of sliding attention by layer: `layer_types` where `config.json` has them, `otherwise` where not.
 */
export function withWindows(
  config: DecoderConfig,
  { sliding_window: window, layer_types: types }: WindowSettings,
  reader: ConfigReader,
  otherwise: (layer: number) => boolean,
): DecoderConfig {
  if (types !== undefined && types.length !== config.layers) {
    reader.problem(`"layer_types" does not name one for each of ${config.layers} layers`);
  }
  if (window === undefined && types?.includes("sliding_attention") === true) {
    reader.problem(`"layer_types" has layers with a window, and "sliding_window" gives them none`);
  }
  const slides = (i: number): boolean => (types ? types[i] === "sliding_attention" : otherwise(i));
  return {
    ...config,
    attention: config.attention.map((layer, i) => ({ ...layer, window: slides(i) ? window : undefined })),
  };
}

/** What a family of decoders does otherwise than Llama. */
export interface DecoderFamily<Settings extends DecoderSettings> {
  readonly modelType: string;
  readonly className: string;
  /** What is made of each key of `config.json`. */
  readonly ledger: LedgerOf<Settings>;
  /** What they say: {@link readDecoder}, changed where the family does otherwise. */
  readonly configure: (settings: Settings, reader: ConfigReader) => DecoderConfig;
  /** What llama.cpp's architecture of the family does. */
  readonly gguf: DecoderGguf;
}

/** The architecture of a family of decoders, with transformers' names. */
export function decoder<Settings extends DecoderSettings>({
  modelType,
  className,
  ledger,
  configure,
  gguf,
}: DecoderFamily<Settings>): Architecture<DecoderConfig> {
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
    harmless: [],
    outputModule: "lm_head",
    sublayers: { attention: /.*\.self_attn\.o_proj/, feedForward: /.*\.mlp\.down_proj/ },
    ...configured(ledger, configure),
    tied: ({ tiedEmbeddings }) =>
      tiedEmbeddings ? { output: "lm_head.weight", embeddings: "model.embed_tokens.weight" } : undefined,
    sizes: ({ vocabSize, hiddenSize, layers, heads, kvHeads, headDim, contextLength, attention }) => ({
      vocabSize,
      hiddenSize,
      layers,
      heads,
      kvHeads,
      headDim,
      contextLength,
      ...cacheHoldsTo(attention.map(({ rope }) => rope)),
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
    wholeOnly: ({ bidirectional }) =>
      bidirectional ? `"use_bidirectional_attention" is true, so every token changes those before it` : undefined,
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

const trunk: Architecture<DecoderConfig>["trunk"] = (config, weights, inputs) => {
  const { inputIds, attend, past } = inputs;
  const { heads, kvHeads, headDim, bias, sandwich } = config;
  const norm = (module: string, x: Value): Value => rmsNorm(weights, module, x, config.normEpsilon, config.normsAddOne);
  const rotation = rotations(inputs);
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
      const turned = rotation(rope, normedQuery, { key: normedKey, value }, past?.[i]);
      present.push(turned.kept);
      return attend(turned.query, turned.cache, {
        scale: config.attentionScale,
        layer: i,
        ...(config.bidirectional ? { bidirectional: true } : {}),
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
  const activation = recipeActivation(config.activation);
  if ([...ropes.values()].includes(undefined) || activation === undefined || config.bidirectional) return undefined;
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
          layer: i,
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
          activation,
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
