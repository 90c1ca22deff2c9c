import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";

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
});
