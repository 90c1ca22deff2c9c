import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";

/** Qwen 3: queries and keys are normalised over each head. Yang et al. 2025 (arXiv 2505.09388), §2. */
export const qwen3: Architecture<DecoderConfig> = decoder({
  modelType: "qwen3",
  className: "Qwen3ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) => {
    const sliding = reader.boolean("use_sliding_window", false);
    const first = reader.integer("max_window_layers", 28);
    const config = { ...base, queryKeyNorm: true };
    return sliding ? withWindows(config, json, reader, (i) => i >= first) : config;
  },
});
