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
import { flag, integer, optionalList } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

interface SmolLm3Settings extends DecoderSettings, OuterRotarySettings, WindowSettings {
  readonly hidden_act: Activation;
  readonly attention_bias: boolean;
  readonly mlp_bias: boolean;
  readonly use_sliding_window: boolean;
  readonly no_rope_layers: readonly number[] | undefined;
  readonly no_rope_layer_interval: number;
}

/** SmolLM3: Llama whose every fourth layer sees no positions. Yang et al. 2025, "Rope to NoPE and back" (arXiv 2501.18795). */
export const smollm3: Architecture<DecoderConfig> = decoder<SmolLm3Settings>({
  modelType: "smollm3",
  className: "SmolLM3ForCausalLM",
  ledger: {
    ...decoderLedger({
      ...{ vocab: 128256, hidden: 2048, inner: 11008, layers: 36, heads: 16, kvHeads: 4, context: 32768, tied: true },
    }),
    ...outerRotaryLedger,
    hidden_act: activationEntry("silu"),
    attention_bias: flag("whether the projections of attention have biases", false),
    mlp_bias: flag("whether the feed-forward has biases", false),
    sliding_window: windowEntry(),
    layer_types: layerTypesEntry,
    use_sliding_window: flag("whether layers without positions have a window, where layer_types does not say", false),
    no_rope_layers: optionalList(
      "1 for each layer that rotates, 0 for each that does not",
      "0 and 1",
      (item): item is number => [0, 1].includes(Number(item)),
    ),
    no_rope_layer_interval: integer("one layer in so many does not rotate, where no_rope_layers does not say", 4),
  },
  configure: (settings, reader) => {
    const { no_rope_layers: listed, no_rope_layer_interval: interval, attention_bias: biased } = settings;
    const base = readDecoder(settings, reader, wholeHeads(settings, 2_000_000));
    if (listed && listed.length < base.layers) {
      reader.problem(`"no_rope_layers" does not name one for each of ${base.layers} layers`);
    }
    const rotates = (i: number): boolean => (listed ? listed[i] === 1 : (i + 1) % interval !== 0);
    const config: DecoderConfig = {
      ...base,
      bias: { qkv: biased, output: biased, mlp: settings.mlp_bias },
      activation: settings.hidden_act,
      attention: base.attention.map((layer, i) => ({ ...layer, rope: rotates(i) ? layer.rope : undefined })),
    };
    const windows = settings.use_sliding_window;
    return withWindows(config, settings, reader, (i) => windows && !rotates(i));
  },
  gguf: { name: "smollm3", paired: true, rotates: (i) => (i + 1) % 4 !== 0 },
});
