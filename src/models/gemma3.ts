import { float32 } from "../io/gguf.ts";
import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, withWindows } from "./decoder.ts";
import { gemmaLike } from "./gemma.ts";
import { readRope } from "./rope.ts";

/**
 * Gemma 3, its text models: five local layers with rotary positions of their own to every global one, queries and keys
 * normalised. Kamath et al. 2025 (arXiv 2503.19786), §2.
 */
export const gemma3: Architecture<DecoderConfig> = decoder({
  modelType: "gemma3_text",
  className: "Gemma3ForCausalLM",
  defaultTargets: ["q_proj", "v_proj"],
  configure: (base, reader, json) => {
    const period = reader.integer("sliding_window_pattern", 6);
    const config = {
      ...gemmaLike(base, reader),
      sandwich: true,
      queryKeyNorm: true,
      attentionScale: 1 / Math.sqrt(reader.number("query_pre_attn_scalar", 256)),
      scoreCap: reader.optional("attn_logit_softcapping"),
      logitCap: reader.optional("final_logit_softcapping"),
    };
    const windowed = withWindows(config, { sliding_window: 4096, ...json }, reader, (i) => (i + 1) % period !== 0);
    const { rope_parameters: ropes } = json;
    const nested = typeof ropes === "object" && ropes !== null && "full_attention" in ropes;
    const rope = (kind: "full_attention" | "sliding_attention") => {
      const local = { rope_theta: json["rope_local_base_freq"] ?? 10000 };
      const whole = { rope_theta: 1000000, ...json };
      const own = nested
        ? { rope_parameters: (ropes as Record<string, unknown>)[kind] }
        : kind === "full_attention"
          ? whole
          : local;
      return readRope(own, reader, base.headDim, base.contextLength);
    };
    const [global, local] = [rope("full_attention"), rope("sliding_attention")];
    return {
      ...windowed,
      attention: windowed.attention.map((layer) => ({ ...layer, rope: layer.window === undefined ? global : local })),
    };
  },
  gguf: {
    name: "gemma3",
    activation: "gelu_pytorch_tanh",
    slides: (i) => i % 6 < 5,
    // llama.cpp tells the 27B model by its 62 layers.
    attentionScale: ({ layers, hiddenSize, heads, headDim }) =>
      1 / Math.sqrt(layers === 62 ? hiddenSize / heads : headDim),
    more: ({ attention }) => {
      const local = attention.find(({ window }) => window !== undefined)?.rope;
      return local ? { metadata: { "rope.freq_base_swa": float32(local.theta) } } : {};
    },
  },
});
