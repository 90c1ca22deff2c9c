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
import { flag, inert, only } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

/** What all Gemmas share: scaled embeddings; norms that multiply by 1 + weight. */
export function gemmaLike(base: DecoderConfig, biased: boolean, activation: Activation): DecoderConfig {
  return {
    ...base,
    bias: { qkv: biased, output: biased, mlp: false },
    activation,
    embeddingScale: Math.fround(Math.sqrt(base.hiddenSize)),
    normsAddOne: true,
  };
}

interface GemmaSettings extends DecoderSettings, OuterRotarySettings {
  readonly hidden_act: Activation;
  readonly attention_bias: boolean;
}

/** Gemma. Mesnard et al. 2024 (arXiv 2403.08295), §2. */
export const gemma: Architecture<DecoderConfig> = decoder<GemmaSettings>({
  modelType: "gemma",
  className: "GemmaForCausalLM",
  ledger: {
    ...decoderLedger({
      ...{ vocab: 256000, hidden: 3072, inner: 24576, layers: 28, heads: 16, kvHeads: 16, headDim: 256, context: 8192 },
      tied: true,
    }),
    ...outerRotaryLedger,
    // Files of the first days say gelu and mean its approximation by tanh.
    hidden_act: activationEntry("gelu_pytorch_tanh", { gelu: "gelu_pytorch_tanh" }),
    hidden_activation: inert("transformers reads hidden_act"),
    attention_bias: flag("whether the projections of attention have biases", false),
    use_bidirectional_attention: only([false], "what transformers computes then depends on its kernels", null),
  },
  configure: (settings, reader) =>
    gemmaLike(readDecoder(settings, reader, wholeHeads(settings)), settings.attention_bias, settings.hidden_act),
  gguf: { name: "gemma", activation: "gelu_pytorch_tanh", untied: false },
});
