import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type LazyTensor, sizeOf } from "../../src/graph/index.ts";
import { writeModelWeights } from "../../src/io/model-weights.ts";
import { createRng } from "../../src/linalg/index.ts";
import { findArchitecture, tensorsOf } from "../../src/models/index.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

/** A model that people bring, by what `config.json` says of it. */
export interface SizeShape {
  readonly title: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** Bytes of a shard at most. */
  readonly maxShardBytes: number;
}

const llama32 = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 128256,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  rope_scaling: {
    rope_type: "llama3",
    factor: 32,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  tie_word_embeddings: true,
  hidden_act: "silu",
  torch_dtype: "bfloat16",
} as const;

/** The shapes, by the size that people name them with. */
export const sizeShapes: Readonly<Record<"100m" | "0.5b" | "1b" | "3b", SizeShape>> = {
  "100m": {
    title: "a Llama of 100 million weights, for tests",
    config: {
      ...llama32,
      vocab_size: 32000,
      hidden_size: 768,
      intermediate_size: 2048,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      num_key_value_heads: 4,
      head_dim: 64,
      max_position_embeddings: 8192,
    },
    maxShardBytes: 100e6,
  },
  "0.5b": {
    title: "Qwen2.5-0.5B's shape",
    config: {
      architectures: ["Qwen2ForCausalLM"],
      model_type: "qwen2",
      vocab_size: 151936,
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      max_position_embeddings: 32768,
      rms_norm_eps: 1e-6,
      rope_theta: 1000000,
      tie_word_embeddings: true,
      hidden_act: "silu",
      torch_dtype: "bfloat16",
    },
    maxShardBytes: 5e9,
  },
  "1b": {
    title: "Llama-3.2-1B's shape",
    config: {
      ...llama32,
      hidden_size: 2048,
      intermediate_size: 8192,
      num_hidden_layers: 16,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      head_dim: 64,
    },
    maxShardBytes: 1e9,
  },
  "3b": {
    title: "Llama-3.2-3B's shape",
    config: {
      ...llama32,
      hidden_size: 3072,
      intermediate_size: 8192,
      num_hidden_layers: 28,
      num_attention_heads: 24,
      num_key_value_heads: 8,
      head_dim: 128,
    },
    maxShardBytes: 5e9,
  },
};

/** Name of a shape. */
export type SizeShapeName = keyof typeof sizeShapes;

/**
 * Write a checkpoint of a shape with seeded random bfloat16 weights, one tensor in memory at a time, as
 * `model-*.safetensors`, with the bundled tokenizer beside it (its ids are the first of the vocabulary).
 */
export async function writeCheckpoint(folder: string, { config, maxShardBytes }: SizeShape): Promise<void> {
  await mkdir(folder, { recursive: true });
  const specs = tensorsOf(await findArchitecture(config, folder), config);
  const entries = specs.map(({ name, shape }) => ({ name, tensor: randomHalves(name, shape) }));
  await writeModelWeights(nodeStorage, folder, entries, { maxShardBytes, metadata: { format: "pt" } });
  await writeFile(join(folder, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  const bundled = new URL("../../assets/quickstart/model/", import.meta.url);
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    await copyFile(new URL(file, bundled), join(folder, file));
}

/** How many random numbers are drawn for a tensor; they are repeated, turned by one each time, to fill it. */
const drawn = 2 ** 16 + 1;

/** Gains of ones, and matrices from N(0, 0.02²), in bfloat16. */
function randomHalves(name: string, shape: readonly number[]): LazyTensor {
  const size = sizeOf(shape);
  return {
    dtype: "bfloat16",
    shape,
    sizeBytes: 2 * size,
    read: async () => {
      const data = new Uint16Array(size);
      if (shape.length === 1) return { dtype: "bfloat16", shape, data: data.fill(0x3f80) };
      const rng = createRng(0, name);
      const values = new Float32Array(drawn);
      for (let i = 0; i < drawn; i++) values[i] = 0.02 * rng.normal();
      const patterns = new Uint32Array(values.buffer);
      const halves = new Uint16Array(drawn);
      for (let i = 0; i < drawn; i++) halves[i] = (patterns[i] ?? 0) >>> 16;
      // An odd period shares no factor with a row's length, so no two rows near each other are alike.
      for (let start = 0; start < size; start += drawn)
        data.set(halves.subarray(0, Math.min(drawn, size - start)), start);
      return { dtype: "bfloat16", shape, data };
    },
  };
}
