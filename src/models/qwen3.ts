import type { Architecture } from "./architecture.ts";
import { type DecoderConfig, decoder, readDecoder } from "./decoder.ts";
import { flag } from "./ledger.ts";
import { type QwenSettings, qwenLedger, qwenWindows } from "./qwen2.ts";
import { wholeHeads } from "./rope.ts";

interface Qwen3Settings extends QwenSettings {
  readonly attention_bias: boolean;
}

/** Qwen 3: queries and keys are normalised over each head. Yang et al. 2025 (arXiv 2505.09388), §2. */
export const qwen3: Architecture<DecoderConfig> = decoder<Qwen3Settings>({
  modelType: "qwen3",
  className: "Qwen3ForCausalLM",
  ledger: { ...qwenLedger(128), attention_bias: flag("whether the projections of attention have biases", false) },
  configure: (settings, reader) => {
    const { attention_bias: biased, hidden_act: activation } = settings;
    const bias = { qkv: biased, output: biased, mlp: false };
    return qwenWindows(
      { ...readDecoder(settings, reader, wholeHeads(settings)), bias, activation, queryKeyNorm: true },
      settings,
      reader,
    );
  },
  gguf: { name: "qwen3" },
});
