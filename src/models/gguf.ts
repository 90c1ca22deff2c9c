import { float32, type GgufMetadata, text, uint32 } from "../io/gguf.ts";
import type { Rope } from "./rope.ts";

/** A tensor of a GGUF file, and the tensor of the checkpoint that it is made of. */
export interface GgufPart {
  readonly name: string;
  /** The checkpoint's name for it, or the values themselves. */
  readonly from: string | readonly number[];
  /** Row i of it is row `rows[i]` of the checkpoint's, once that is [out, in]; the same rows unless given. */
  readonly rows?: readonly number[];
  /** Whether the checkpoint holds it as [in, out]. */
  readonly turned?: true;
  /** Whether 1 is added, as llama.cpp's norms expect of Gemma's. */
  readonly plusOne?: true;
  /** Whether it has a row for each token. */
  readonly vocabulary?: true;
  /** Whether it is float32 in every file. */
  readonly exact?: true;
}

/** What llama.cpp makes of a model. */
export interface GgufForm {
  /** `general.architecture`. */
  readonly architecture: string;
  /** Metadata, but for the architecture's name in front of each key. */
  readonly metadata: GgufMetadata;
  readonly parts: readonly GgufPart[];
  /** What the model does and llama.cpp's architecture does not. */
  readonly problems: readonly string[];
}

/**
 * Rows of a projection whose halves are rotated, as llama.cpp's `LLAMA_ROPE_TYPE_NORM` wants them: pairs side by side.
 * Row h·d + 2j + p is row h·d + p·d/2 + j.
 */
export function pairedRows(heads: number, headDim: number): readonly number[] {
  const half = headDim / 2;
  return Array.from({ length: heads * headDim }, (_, row) => {
    const within = row % headDim;
    return row - within + (within % 2) * half + Math.floor(within / 2);
  });
}

/** Metadata of rotary positions, and what llama.cpp cannot do of them. */
export function ropeMetadata(rope: Rope, contextLength: number): { metadata: GgufMetadata; problems: string[] } {
  const { type, theta, settings, original } = rope;
  const base = { "rope.freq_base": float32(theta) };
  const factor = settings.factor ?? contextLength / original;
  const scaled = { ...base, "rope.scaling.factor": float32(factor) };
  if (type === "linear") return { metadata: { ...scaled, "rope.scaling.type": text("linear") }, problems: [] };
  if (type === "yarn") {
    const keys = ["attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow"] as const;
    const set: string[] = keys.filter((key) => settings[key] !== undefined);
    if (settings.truncate === false) set.push("truncate");
    return {
      metadata: {
        ...scaled,
        "rope.scaling.type": text("yarn"),
        "rope.scaling.original_context_length": uint32(original),
      },
      problems: set.map((key) => `YaRN's "${key}"`),
    };
  }
  return { metadata: base, problems: type === "dynamic" ? ["rotary positions scaled dynamically"] : [] };
}
