import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder } from "./decoder.ts";
import { qwenWindows } from "./qwen2.ts";

/** Qwen 3: queries and keys are normalised over each head. Yang et al. 2025 (arXiv 2505.09388), §2. */
export const qwen3: Architecture<DecoderConfig> = decoder({
  modelType: "qwen3",
  className: "Qwen3ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) => qwenWindows({ ...base, queryKeyNorm: true }, reader, json),
  gguf: { name: "qwen3" },
});
