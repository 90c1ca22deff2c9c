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
import { gemmaLike } from "./gemma.ts";
import { flag, inert, only, optionalReal, real } from "./ledger.ts";
import { type OuterRotarySettings, outerRotaryLedger, wholeHeads } from "./rope.ts";

interface Gemma2Settings extends DecoderSettings, OuterRotarySettings, WindowSettings {
  readonly hidden_activation: Activation;
  readonly attention_bias: boolean;
  readonly query_pre_attn_scalar: number;
  readonly attn_logit_softcapping: number | undefined;
  readonly final_logit_softcapping: number | undefined;
}

/** Gemma 2: local and global layers in turns, capped scores and logits, norms on both sides. Riviere et al. 2024 (arXiv 2408.00118), §2. */
export const gemma2: Architecture<DecoderConfig> = decoder<Gemma2Settings>({
  modelType: "gemma2",
  className: "Gemma2ForCausalLM",
  ledger: {
    ...decoderLedger({
      ...{ vocab: 256000, hidden: 2304, inner: 9216, layers: 26, heads: 8, kvHeads: 4, headDim: 256, context: 8192 },
      tied: true,
    }),
    ...outerRotaryLedger,
    hidden_activation: activationEntry("gelu_pytorch_tanh"),
    hidden_act: inert("transformers reads hidden_activation"),
    attention_bias: flag("whether the projections of attention have biases", false),
    query_pre_attn_scalar: real("scores are divided by its root", 256),
    attn_logit_softcapping: optionalReal("cap on scores", 50),
    final_logit_softcapping: optionalReal("cap on logits", 30),
    sliding_window: windowEntry(4096),
    layer_types: layerTypesEntry,
    use_bidirectional_attention: only([false], "what transformers computes then depends on its kernels", null),
  },
  configure: (settings, reader) => {
    const base = readDecoder(settings, reader, wholeHeads(settings));
    const config = {
      ...gemmaLike(base, settings.attention_bias, settings.hidden_activation),
      sandwich: true,
      attentionScale: 1 / Math.sqrt(settings.query_pre_attn_scalar),
      scoreCap: settings.attn_logit_softcapping,
      logitCap: settings.final_logit_softcapping,
    };
    return withWindows(config, settings, reader, (i) => i % 2 === 0);
  },
  gguf: {
    name: "gemma2",
    activation: "gelu_pytorch_tanh",
    untied: false,
    slides: (i) => i % 2 === 0,
    // llama.cpp tells the 27B model by its 46 layers.
    attentionScale: ({ layers, hiddenSize, heads, headDim }) =>
      1 / Math.sqrt(layers === 46 ? hiddenSize / heads : headDim),
  },
});
