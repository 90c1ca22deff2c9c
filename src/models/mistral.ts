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
import { inert } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

interface MistralSettings extends DecoderSettings, OuterRotarySettings, WindowSettings {
  readonly hidden_act: Activation;
}

/**
 * Mistral 7B and its kin: Llama with a sliding window in every layer. Jiang et al. 2023 (arXiv 2310.06825), §2. Ministral
 * names the layers that have one.
 */
export const mistral: Architecture<DecoderConfig> = decoder<MistralSettings>({
  modelType: "mistral",
  className: "MistralForCausalLM",
  ledger: {
    ...decoderLedger({ vocab: 32000, hidden: 4096, inner: 14336, layers: 32, heads: 32, kvHeads: 8, context: 131072 }),
    ...outerRotaryLedger,
    hidden_act: activationEntry("silu"),
    sliding_window: windowEntry(4096),
    layer_types: layerTypesEntry,
    attention_bias: inert("Mistral's projections have no biases"),
    mlp_bias: inert("Mistral's feed-forward has no biases"),
  },
  configure: (settings, reader) => {
    const base = { ...readDecoder(settings, reader, wholeHeads(settings)), activation: settings.hidden_act };
    return withWindows(base, settings, reader, () => true);
  },
  gguf: { name: "llama", paired: true, frequencyFactors: true },
});
