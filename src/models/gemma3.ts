import { float32 } from "../io/gguf.ts";
import type { Activation } from "./activations.ts";
import type { Architecture } from "./architecture.ts";
import type { ConfigJson } from "./config.ts";
import {
  activationEntry,
  type DecoderConfig,
  type DecoderSettings,
  decoder,
  decoderLedger,
  layerTypesEntry,
  readDecoder,
  type WindowSettings,
  windowEntry,
  withWindows,
} from "./decoder.ts";
import { gemmaLike } from "./gemma.ts";
import {
  type ConfigReader,
  flag,
  inert,
  integer,
  type LedgerOf,
  optionalObject,
  optionalReal,
  real,
} from "./ledger.ts";
import { type Rope, readRope } from "./rope.ts";

interface Gemma3Settings extends DecoderSettings, WindowSettings {
  readonly hidden_activation: Activation;
  readonly attention_bias: boolean;
  readonly query_pre_attn_scalar: number;
  readonly final_logit_softcapping: number | undefined;
  readonly sliding_window_pattern: number;
  readonly use_bidirectional_attention: boolean;
  readonly rope_theta: number | undefined;
  readonly rope_local_base_freq: number | undefined;
}

/** Rotary positions of each kind of layer. */
interface LayerRopes {
  readonly full_attention: ConfigJson | undefined;
  readonly sliding_attention: ConfigJson | undefined;
}

const layerRopes: LedgerOf<LayerRopes> = {
  full_attention: optionalObject("how layers rotate that see everything"),
  sliding_attention: optionalObject("how layers with a window rotate"),
};

/**
 * Gemma 3, its text models: five local layers with rotary positions of their own to every global one, queries and keys
 * normalised. Kamath et al. 2025 (arXiv 2503.19786), §2.
 */
export const gemma3: Architecture<DecoderConfig> = decoder<Gemma3Settings>({
  modelType: "gemma3_text",
  className: "Gemma3ForCausalLM",
  ledger: {
    ...decoderLedger({
      ...{ vocab: 262208, hidden: 2304, inner: 9216, layers: 26, heads: 8, kvHeads: 4, headDim: 256, context: 131072 },
      tied: true,
    }),
    hidden_activation: activationEntry("gelu_pytorch_tanh"),
    hidden_act: inert("transformers reads hidden_activation"),
    attention_bias: flag("whether the projections of attention have biases", false),
    query_pre_attn_scalar: real("scores are divided by its root", 256),
    attn_logit_softcapping: inert("transformers stores it and caps no scores"),
    final_logit_softcapping: optionalReal("cap on logits"),
    sliding_window: windowEntry(4096),
    layer_types: layerTypesEntry,
    sliding_window_pattern: integer("one layer in so many has no window, where layer_types does not say", 6),
    _sliding_window_pattern: inert("layer_types says the same"),
    use_bidirectional_attention: flag(
      "whether tokens see those after them, and half of the window to each side",
      false,
    ),
    rope_theta: optionalReal("base of the wavelengths of layers without a window; 1000000 unless given"),
    rope_local_base_freq: optionalReal("base of the wavelengths of layers with a window; 10000 unless given"),
    partial_rotary_factor: inert("Gemma 3 rotates whole heads"),
    original_max_position_embeddings: inert("transformers reads that of rope_parameters"),
    ...Object.fromEntries(
      ["image_token_id", "mm_tokens_per_image", "text_config", "vision_config"].map((key) => [
        key,
        inert("of Gemma 3's models that read images"),
      ]),
    ),
  },
  configure: (settings, reader) => {
    const { sliding_window_pattern: period, use_bidirectional_attention: bidirectional } = settings;
    const base = readDecoder(settings, reader, undefined);
    const config = {
      ...gemmaLike(base, settings.attention_bias, settings.hidden_activation),
      sandwich: true,
      queryKeyNorm: true,
      attentionScale: 1 / Math.sqrt(settings.query_pre_attn_scalar),
      logitCap: settings.final_logit_softcapping,
      bidirectional,
    };
    const { sliding_window: given, layer_types } = settings;
    // Of a window that reaches to both sides transformers takes half, and the token itself.
    const sliding_window = bidirectional && given !== undefined ? Math.floor(given / 2) + 1 : given;
    const windowed = withWindows(config, { sliding_window, layer_types }, reader, (i) => (i + 1) % period !== 0);
    const { global, local } = ropes(settings, reader, base);
    const slides = (i: number): boolean =>
      layer_types ? layer_types[i] === "sliding_attention" : (i + 1) % period !== 0;
    return {
      ...windowed,
      attention: windowed.attention.map((layer, i) => ({ ...layer, rope: slides(i) ? local : global })),
    };
  },
  gguf: {
    name: "gemma3",
    activation: "gelu_pytorch_tanh",
    slides: (i) => i % 6 < 5,
    // llama.cpp tells the 27B model by its 62 layers.
    attentionScale: ({ layers, hiddenSize, heads, headDim }) =>
      1 / Math.sqrt(layers === 62 ? hiddenSize / heads : headDim),
    more: ({ attention }) => {
      const local = attention.find(({ window }) => window !== undefined)?.rope;
      return local ? { metadata: { "rope.freq_base_swa": float32(local.theta) } } : {};
    },
  },
});

/** `rope_scaling` changes the positions of layers that see everything alone. */
function ropes(
  settings: Gemma3Settings,
  reader: ConfigReader,
  { headDim, contextLength }: DecoderConfig,
): Readonly<Record<"global" | "local", Rope>> {
  const nested = reader.inner<LayerRopes>("rope_parameters", layerRopes, settings.rope_parameters ?? {});
  const whole = { headDim, contextLength, share: 1, partial: false };
  const read = (key: string, json: ConfigJson, theta: number): Rope => {
    const rope = readRope([key, json], reader, { ...whole, theta });
    if (rope.settings.truncate === false) reader.problem(`"${key}.truncate" is false; supported: true`);
    return rope;
  };
  const { full_attention: full, sliding_attention: sliding } = nested;
  const scaled = settings.rope_scaling ? { ...full, ...settings.rope_scaling } : (full ?? {});
  return {
    global: read(
      settings.rope_scaling ? "rope_scaling" : "rope_parameters.full_attention",
      scaled,
      settings.rope_theta ?? 1_000_000,
    ),
    local: read("rope_parameters.sliding_attention", sliding ?? {}, settings.rope_local_base_freq ?? 10_000),
  };
}
