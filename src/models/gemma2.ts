import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";
import { gemmaLike } from "./gemma.ts";

/** Gemma 2: local and global layers in turns, capped scores and logits, norms on both sides. Riviere et al. 2024 (arXiv 2408.00118), §2. */
export const gemma2: Architecture<DecoderConfig> = decoder({
  modelType: "gemma2",
  className: "Gemma2ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) => {
    const config = {
      ...gemmaLike(base, reader),
      sandwich: true,
      attentionScale: 1 / Math.sqrt(reader.number("query_pre_attn_scalar", 256)),
      scoreCap: reader.optional("attn_logit_softcapping", 50),
      logitCap: reader.optional("final_logit_softcapping", 30),
    };
    return withWindows(config, { sliding_window: 4096, ...json }, reader, (i) => i % 2 === 0);
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
