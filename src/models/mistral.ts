import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";

/** Mistral 7B and its kin: Llama with a sliding window in every layer. Jiang et al. 2023 (arXiv 2310.06825), §2. */
export const mistral: Architecture<DecoderConfig> = decoder({
  modelType: "mistral",
  className: "MistralForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) =>
    withWindows(base, { sliding_window: 4096, ...json, layer_types: undefined }, reader, () => true),
  gguf: { name: "llama", paired: true, frequencyFactors: true },
});
