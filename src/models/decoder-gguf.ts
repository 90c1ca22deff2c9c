import { float32, type GgufMetadata, uint32 } from "../io/gguf.ts";
import type { Activation } from "./activations.ts";
import type { DecoderConfig } from "./decoder.ts";
import { type GgufForm, type GgufPart, pairedRows, ropeMetadata } from "./gguf.ts";
import type { Rope } from "./rope.ts";

/** What llama.cpp's architecture of a family of decoders does. */
export interface DecoderGguf {
  /** `general.architecture`. */
  readonly name: string;
  /** Whether rotated pairs lie side by side in its queries and keys. */
  readonly paired?: true;
  /** Which layers have the window that the metadata names; without it there are no windows. */
  readonly slides?: (layer: number) => boolean;
  /** Which layers rotate positions; all unless given. */
  readonly rotates?: (layer: number) => boolean;
  /** Which biases it reads. */
  readonly biases?: Partial<DecoderConfig["bias"]>;
  readonly activation?: Activation;
  /** Whether it reads factors on the rotary frequencies, one each. */
  readonly frequencyFactors?: true;
  /** Whether an output layer of its own can stand beside the embeddings; it can unless given. */
  readonly untied?: false;
  /** What scores are multiplied by; 1/√headDim unless given. */
  readonly attentionScale?: (config: DecoderConfig) => number;
  /** Further metadata and tensors. */
  readonly more?: (config: DecoderConfig) => { metadata?: GgufMetadata; parts?: readonly GgufPart[] };
}

/** The GGUF form of a decoder, as llama.cpp's `convert_hf_to_gguf.py` makes it. */
export function decoderGguf(family: DecoderGguf): (config: DecoderConfig) => GgufForm {
  return (config) => {
    const { metadata: more = {}, parts = [] } = family.more?.(config) ?? {};
    const rope = globalRope(config);
    const rotary = rope ? ropeMetadata(rope, config.contextLength) : { metadata: {}, problems: [] };
    return {
      architecture: family.name,
      metadata: { ...sizes(config, family), ...rotary.metadata, ...more },
      parts: [...tensors(config, family), ...frequencyFactors(rope, family), ...parts],
      problems: [...rotary.problems, ...problems(config, family, rope)],
    };
  };
}

/** The positions of layers that see everything, or of the first that rotates. */
function globalRope({ attention }: DecoderConfig): Rope | undefined {
  return (attention.find(({ rope, window }) => rope && window === undefined) ?? attention.find(({ rope }) => rope))
    ?.rope;
}

function sizes(config: DecoderConfig, { slides }: DecoderGguf): GgufMetadata {
  const windows = config.attention.flatMap(({ window }) => (window === undefined ? [] : [window]));
  const window = Math.min(config.contextLength, ...windows);
  return {
    // Where llama.cpp has no windows, both see the same for as long as everything is within one.
    context_length: uint32(slides ? config.contextLength : window),
    embedding_length: uint32(config.hiddenSize),
    block_count: uint32(config.layers),
    feed_forward_length: uint32(config.intermediateSize),
    "attention.head_count": uint32(config.heads),
    "attention.head_count_kv": uint32(config.kvHeads),
    "attention.key_length": uint32(config.headDim),
    "attention.value_length": uint32(config.headDim),
    "attention.layer_norm_rms_epsilon": float32(config.normEpsilon),
    "rope.dimension_count": uint32(config.rotaryDim),
    ...(slides ? { "attention.sliding_window": uint32(window) } : {}),
    ...(config.scoreCap === undefined ? {} : { attn_logit_softcapping: float32(config.scoreCap) }),
    ...(config.logitCap === undefined ? {} : { final_logit_softcapping: float32(config.logitCap) }),
  };
}

function tensors(config: DecoderConfig, { paired }: DecoderGguf): readonly GgufPart[] {
  const { heads, kvHeads, headDim, bias } = config;
  const parts: GgufPart[] = [];
  const norm = (name: string, from: string): void => {
    parts.push({ name: `${name}.weight`, from: `${from}.weight`, ...(config.normsAddOne ? { plusOne: true } : {}) });
  };
  const layer = (name: string, from: string, biased: boolean, rows?: readonly number[]): void => {
    const end = rows ? { rows } : {};
    parts.push({ name: `${name}.weight`, from: `${from}.weight`, ...end });
    if (biased) parts.push({ name: `${name}.bias`, from: `${from}.bias`, ...end });
  };
  const rowsOf = (count: number): readonly number[] | undefined => (paired ? pairedRows(count, headDim) : undefined);
  parts.push({ name: "token_embd.weight", from: "model.embed_tokens.weight", vocabulary: true });
  for (let i = 0; i < config.layers; i++) {
    const [to, from] = [`blk.${i}`, `model.layers.${i}`];
    norm(`${to}.attn_norm`, `${from}.input_layernorm`);
    if (config.fused) {
      layer(`${to}.attn_qkv`, `${from}.self_attn.qkv_proj`, bias.qkv);
      layer(`${to}.ffn_up`, `${from}.mlp.gate_up_proj`, bias.mlp);
    } else {
      layer(`${to}.attn_q`, `${from}.self_attn.q_proj`, bias.qkv, rowsOf(heads));
      layer(`${to}.attn_k`, `${from}.self_attn.k_proj`, bias.qkv, rowsOf(kvHeads));
      layer(`${to}.attn_v`, `${from}.self_attn.v_proj`, bias.qkv);
      layer(`${to}.ffn_gate`, `${from}.mlp.gate_proj`, bias.mlp);
      layer(`${to}.ffn_up`, `${from}.mlp.up_proj`, bias.mlp);
    }
    layer(`${to}.attn_output`, `${from}.self_attn.o_proj`, bias.output);
    layer(`${to}.ffn_down`, `${from}.mlp.down_proj`, bias.mlp);
    if (config.queryKeyNorm) {
      norm(`${to}.attn_q_norm`, `${from}.self_attn.q_norm`);
      norm(`${to}.attn_k_norm`, `${from}.self_attn.k_norm`);
    }
    if (config.sandwich) {
      norm(`${to}.post_attention_norm`, `${from}.post_attention_layernorm`);
      norm(`${to}.ffn_norm`, `${from}.pre_feedforward_layernorm`);
      norm(`${to}.post_ffw_norm`, `${from}.post_feedforward_layernorm`);
    } else {
      norm(`${to}.ffn_norm`, `${from}.post_attention_layernorm`);
    }
  }
  norm("output_norm", "model.norm");
  if (!config.tiedEmbeddings) parts.push({ name: "output.weight", from: "lm_head.weight", vocabulary: true });
  return parts;
}

/** What each rotary frequency is divided by, where that is no power of the base (Llama 3). */
function frequencyFactors(rope: Rope | undefined, { frequencyFactors: read }: DecoderGguf): readonly GgufPart[] {
  if (!read || rope?.type !== "llama3" || !rope.frequencies) return [];
  const count = rope.frequencies.length;
  const from = rope.frequencies.map((frequency, i) => rope.theta ** (-i / count) / frequency);
  return [{ name: "rope_freqs.weight", from, exact: true }];
}

function problems(config: DecoderConfig, family: DecoderGguf, rope: Rope | undefined): readonly string[] {
  const { slides, rotates = () => true, biases = {}, activation = "silu" } = family;
  const found: string[] = [];
  const check = (ok: boolean, what: string): void => void (ok || found.push(what));
  check(!config.bidirectional, "attention to later tokens");
  check(config.activation === activation, `the activation function ${config.activation} (it has ${activation})`);
  for (const kind of ["qkv", "output", "mlp"] as const) {
    check(!config.bias[kind] || biases[kind] === true, `biases of ${kind} projections`);
  }
  const scale = family.attentionScale?.(config) ?? 1 / Math.sqrt(config.headDim);
  check(Math.abs(config.attentionScale / scale - 1) < 1e-6, `scores scaled by ${config.attentionScale.toPrecision(4)}`);
  check(family.untied !== false || config.tiedEmbeddings, "an output layer apart from the embeddings");
  check(!family.paired || config.rotaryDim === config.headDim, "rotary positions over a part of each head");
  check(rope?.type !== "llama3" || family.frequencyFactors === true, "rotary positions scaled as Llama 3's");
  const hasWindows = config.attention.some(({ window }) => window !== undefined);
  config.attention.forEach((layer, i) => {
    check((layer.rope !== undefined) === rotates(i), `positions that layer ${i} does not rotate, or does`);
    const windowed = layer.window !== undefined;
    check(!slides || !hasWindows || windowed === slides(i), `${windowed ? "a" : "no"} window in layer ${i}`);
  });
  return found;
}
