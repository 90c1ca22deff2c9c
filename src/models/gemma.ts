import type { Architecture } from "./architecture.ts";
import type { ConfigReader } from "./config.ts";
import { type DecoderConfig, decoder } from "./decoder.ts";

/** What all Gemmas share: scaled embeddings, tied to the output; norms that multiply by 1 + weight; gated GELU. */
export function gemmaLike(base: DecoderConfig, reader: ConfigReader): DecoderConfig {
  return {
    ...base,
    activation: "gelu_pytorch_tanh",
    embeddingScale: Math.fround(Math.sqrt(base.hiddenSize)),
    normsAddOne: true,
    tiedEmbeddings: reader.boolean("tie_word_embeddings", true),
  };
}

/** Gemma. Mesnard et al. 2024 (arXiv 2403.08295), §2. */
export const gemma: Architecture<DecoderConfig> = decoder({
  modelType: "gemma",
  className: "GemmaForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: gemmaLike,
  gguf: { name: "gemma", activation: "gelu_pytorch_tanh", untied: false },
});
