import { float32, type GgufMetadata, uint32 } from "../io/gguf.ts";
import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";
import type { GgufPart } from "./gguf.ts";

/**
 * Phi-3 and Phi-4-mini: fused projections, and rotary positions over a part of each head. Abdin et al. 2024
 * (arXiv 2404.14219), §2.
 */
export const phi3: Architecture<DecoderConfig> = decoder({
  modelType: "phi3",
  className: "Phi3ForCausalLM",
  defaultTargets: ["qkv_proj"],
  configure: (base, reader, json) =>
    withWindows(
      { ...base, fused: true, bias: { qkv: false, output: false, mlp: false } },
      { ...json, layer_types: undefined },
      reader,
      () => true,
    ),
  gguf: { name: "phi3", biases: { qkv: true }, more: longRope },
});

/** LongRoPE as llama.cpp reads it: factors on the frequencies for short and for long sequences, and on cos and sin. */
function longRope({ attention, contextLength }: DecoderConfig): {
  metadata?: GgufMetadata;
  parts?: readonly GgufPart[];
} {
  const rope = attention[0]?.rope;
  const original = Number(rope?.settings["original_max_position_embeddings"] ?? contextLength);
  const metadata = { "rope.scaling.original_context_length": uint32(original) };
  if (rope?.type !== "longrope") return { metadata };
  const parts = (["long", "short"] as const).map((length): GgufPart => {
    const factors = rope.settings[`${length}_factor`];
    return { name: `rope_factors_${length}.weight`, from: factors as number[], exact: true }; // `readRope` has checked it
  });
  return { metadata: { ...metadata, "rope.scaling.attn_factor": float32(rope.scale) }, parts };
}
