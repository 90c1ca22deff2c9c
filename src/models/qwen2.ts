import type { Architecture } from "./architecture.ts";
import type { ConfigJson, ConfigReader } from "./config.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";

/** Qwen's sliding windows: off unless asked for, and then in the layers from `max_window_layers` on. */
export function qwenWindows(config: DecoderConfig, reader: ConfigReader, json: ConfigJson): DecoderConfig {
  const first = reader.integer("max_window_layers", 28);
  return reader.boolean("use_sliding_window", false) ? withWindows(config, json, reader, (i) => i >= first) : config;
}

/** Qwen 2 and 2.5: Llama with biases on queries, keys and values. Yang et al. 2024 (arXiv 2407.10671), §2.2. */
export const qwen2: Architecture<DecoderConfig> = decoder({
  modelType: "qwen2",
  className: "Qwen2ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) =>
    qwenWindows({ ...base, bias: { qkv: true, output: false, mlp: false } }, reader, json),
  gguf: { name: "qwen2", biases: { qkv: true } },
});
