import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";

/** SmolLM3: Llama whose every fourth layer sees no positions. Yang et al. 2025, "Rope to NoPE and back" (arXiv 2501.18795). */
export const smollm3: Architecture<DecoderConfig> = decoder({
  modelType: "smollm3",
  className: "SmolLM3ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) => {
    const interval = reader.integer("no_rope_layer_interval", 4);
    const { no_rope_layers: listed } = json;
    // In spite of its name the list holds 1 where positions are rotated.
    const rotates = (i: number): boolean => (Array.isArray(listed) ? listed[i] === 1 : (i + 1) % interval !== 0);
    const config = {
      ...base,
      tiedEmbeddings: reader.boolean("tie_word_embeddings", true),
      attention: base.attention.map((layer, i) => ({ ...layer, rope: rotates(i) ? layer.rope : undefined })),
    };
    return reader.boolean("use_sliding_window", false) ? withWindows(config, json, reader, (i) => !rotates(i)) : config;
  },
  gguf: { name: "smollm3", paired: true, rotates: (i) => (i + 1) % 4 !== 0 },
});
