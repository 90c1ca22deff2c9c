import type { Activation } from "./activations.ts";
import type { Architecture } from "./architecture.ts";
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
import { type ConfigReader, flag, inert, integer, type LedgerOf } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

/** The keys that Qwens share besides those of all decoders. */
export interface QwenSettings extends DecoderSettings, OuterRotarySettings, WindowSettings {
  readonly hidden_act: Activation;
  readonly use_sliding_window: boolean;
  readonly max_window_layers: number;
}

/** The ledger of Qwens; `headDim` is the width of a head where `config.json` names none. */
export function qwenLedger(headDim?: number): LedgerOf<QwenSettings> {
  const sizes = { vocab: 151936, hidden: 4096, inner: 22016, layers: 32, heads: 32, kvHeads: 32, context: 32768 };
  return {
    ...decoderLedger({ ...sizes, ...(headDim === undefined ? {} : { headDim }) }),
    ...outerRotaryLedger,
    hidden_act: activationEntry("silu"),
    sliding_window: windowEntry(4096),
    layer_types: layerTypesEntry,
    use_sliding_window: flag("whether any layer has a window", false),
    max_window_layers: integer("the first layer with a window, where layer_types does not say", 28),
    mlp_bias: inert("Qwen's feed-forward has no biases"),
    use_mrope: inert("of Qwen's models that read images"),
  };
}

/** Qwen's sliding windows: off unless asked for, and then in the layers from `max_window_layers` on. */
export function qwenWindows(config: DecoderConfig, settings: QwenSettings, reader: ConfigReader): DecoderConfig {
  const { max_window_layers: first, layer_types, use_sliding_window: windows } = settings;
  const sliding_window = windows ? settings.sliding_window : undefined;
  return withWindows(config, { sliding_window, layer_types }, reader, (i) => i >= first);
}

/** Qwen 2 and 2.5: Llama with biases on queries, keys and values. Yang et al. 2024 (arXiv 2407.10671), §2.2. */
export const qwen2: Architecture<DecoderConfig> = decoder<QwenSettings>({
  modelType: "qwen2",
  className: "Qwen2ForCausalLM",
  ledger: { ...qwenLedger(), attention_bias: inert("Qwen 2 has biases on queries, keys and values, and no others") },
  configure: (settings, reader) => {
    const bias = { qkv: true, output: false, mlp: false };
    const base = { ...readDecoder(settings, reader, wholeHeads(settings)), bias, activation: settings.hidden_act };
    return qwenWindows(base, settings, reader);
  },
  gguf: { name: "qwen2", biases: { qkv: true } },
});
