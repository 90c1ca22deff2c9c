import type { Activation } from "./activations.ts";
import type { Architecture } from "./architecture.ts";
import {
  activationEntry,
  type DecoderConfig,
  type DecoderSettings,
  decoder,
  decoderLedger,
  readDecoder,
} from "./decoder.ts";
import { flag } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

interface LlamaSettings extends DecoderSettings, OuterRotarySettings {
  readonly hidden_act: Activation;
  readonly attention_bias: boolean;
  readonly mlp_bias: boolean;
}

/** Llama 1–3 and every model in its layout. Touvron et al. 2023 (arXiv 2302.13971), §2.2. */
export const llama: Architecture<DecoderConfig> = decoder<LlamaSettings>({
  modelType: "llama",
  className: "LlamaForCausalLM",
  ledger: {
    ...decoderLedger({ vocab: 32000, hidden: 4096, inner: 11008, layers: 32, heads: 32, context: 2048 }),
    ...outerRotaryLedger,
    hidden_act: activationEntry("silu"),
    attention_bias: flag("whether the projections of attention have biases", false),
    mlp_bias: flag("whether the feed-forward has biases", false),
  },
  configure: (settings, reader) => {
    const { attention_bias: biased, mlp_bias: mlp, hidden_act: activation } = settings;
    return {
      ...readDecoder(settings, reader, wholeHeads(settings)),
      bias: { qkv: biased, output: biased, mlp },
      activation,
    };
  },
  gguf: { name: "llama", paired: true, frequencyFactors: true, biases: { qkv: true, output: true, mlp: true } },
});
