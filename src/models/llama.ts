import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder } from "./decoder.ts";

/** Llama 1–3 and every model in its layout. Touvron et al. 2023 (arXiv 2302.13971), §2.2. */
export const llama: Architecture<DecoderConfig> = decoder({
  modelType: "llama",
  className: "LlamaForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base) => base,
  gguf: { name: "llama", paired: true, frequencyFactors: true, biases: { qkv: true, output: true, mlp: true } },
});
