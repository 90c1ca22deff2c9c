import { float32, type GgufMetadata, uint32 } from "../io/gguf.ts";
import type { Activation } from "./activations.ts";
import type { Architecture } from "./architecture.ts";
import {
  activationEntry,
  type DecoderConfig,
  type DecoderSettings,
  decoder,
  decoderLedger,
  readDecoder,
  windowEntry,
  withWindows,
} from "./decoder.ts";
import type { GgufPart } from "./gguf.ts";
import { inert, integer, only } from "./ledger.ts";
import { outerRotaryLedger } from "./rope.ts";

interface Phi3Settings extends DecoderSettings {
  readonly hidden_act: Activation;
  readonly sliding_window: number | undefined;
  readonly rope_theta: number | undefined;
  readonly partial_rotary_factor: number | undefined;
  readonly original_max_position_embeddings: number;
}

/**
 * Phi-3 and Phi-4-mini: fused projections, and rotary positions over a part of each head. Abdin et al. 2024
 * (arXiv 2404.14219), §2.
 */
export const phi3: Architecture<DecoderConfig> = decoder<Phi3Settings>({
  modelType: "phi3",
  className: "Phi3ForCausalLM",
  ledger: {
    ...decoderLedger({
      ...{ vocab: 32064, hidden: 3072, inner: 8192, layers: 32, heads: 32, context: 4096, epsilon: 1e-5 },
    }),
    ...outerRotaryLedger,
    original_max_position_embeddings: integer("the length first trained for", 4096),
    hidden_act: activationEntry("silu"),
    sliding_window: windowEntry(),
    layer_types: inert("Phi-3's layers all have the window"),
    attention_bias: inert("Phi-3's projections have no biases"),
    mlp_bias: inert("Phi-3's feed-forward has no biases"),
    lm_head_bias: only([false], "Phi-3's output layer has no biases"),
    full_attn_mod: inert("of Microsoft's own code, which is never run"),
    interpolate_factor: inert("of Microsoft's own code, which is never run"),
  },
  configure: (settings, reader) => {
    const base = readDecoder(settings, reader, {
      theta: settings.rope_theta ?? 10000,
      share: settings.partial_rotary_factor ?? 1,
      partial: true,
      original: settings.original_max_position_embeddings,
      // Files of the first days call longrope so.
      types: { default: "default", longrope: "longrope", su: "longrope", yarn: "longrope" },
    });
    const config = { ...base, fused: true, activation: settings.hidden_act };
    return withWindows(config, { sliding_window: settings.sliding_window, layer_types: undefined }, reader, () => true);
  },
  gguf: { name: "phi3", biases: { qkv: true }, more: longRope },
});

/** LongRoPE as llama.cpp reads it: factors on the frequencies for short and for long sequences, and on cos and sin. */
function longRope({ attention, contextLength }: DecoderConfig): {
  metadata?: GgufMetadata;
  parts?: readonly GgufPart[];
} {
  const rope = attention[0]?.rope;
  const metadata = { "rope.scaling.original_context_length": uint32(rope?.original ?? contextLength) };
  if (rope?.type !== "longrope") return { metadata };
  const parts = (["long", "short"] as const).map((length): GgufPart => {
    const factors = rope.settings[`${length}_factor`] ?? []; // `readRope` has checked it
    return { name: `rope_factors_${length}.weight`, from: factors, exact: true };
  });
  return { metadata: { ...metadata, "rope.scaling.attn_factor": float32(rope.scale) }, parts };
}
