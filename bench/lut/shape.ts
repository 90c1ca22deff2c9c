import { float32ToFloat16 } from "../../src/io/convert.ts";
import { type PackedMatrix, packedFileName, planesBytes, writePacked } from "../../src/io/packed/index.ts";
import { joinPath, type Storage } from "../../src/io/storage.ts";
import { createRng } from "../../src/linalg/index.ts";

/** The shape of the model that decodes: Llama's, with few tokens so that the layers are what is measured. */
export const llama = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 512,
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 4,
  num_attention_heads: 32,
  num_key_value_heads: 4,
  head_dim: 64,
  hidden_act: "silu",
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: false,
} as const;

/** The linear maps of a layer: name, outputs, inputs. */
export const maps: readonly (readonly [string, number, number])[] = [
  ["self_attn.q_proj", 2048, 2048],
  ["self_attn.k_proj", 256, 2048],
  ["self_attn.v_proj", 256, 2048],
  ["self_attn.o_proj", 2048, 2048],
  ["mlp.gate_proj", 5632, 2048],
  ["mlp.up_proj", 5632, 2048],
  ["mlp.down_proj", 2048, 5632],
];

/** Weights of all layers' linear maps. */
export const weightCount: number =
  llama.num_hidden_layers * maps.reduce((sum, [, outputs, inputs]) => sum + outputs * inputs, 0);

/** Random bytes, fast: a 32-bit multiplicative sequence. */
export function randomBytes(count: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(count);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** A matrix of random signs with scales down columns as codes of powers of two. */
export function randomMatrix(rows: number, columns: number, bits: number, seed: number): PackedMatrix {
  const shape = {
    rows,
    columns,
    bits,
    coding: "binary",
    rowGroup: rows,
    columnGroup: 1,
    scaleKind: "float16",
  } as const;
  const size = 0.6 / Math.sqrt(columns);
  const rng = createRng(seed, "scales");
  const values = Float32Array.from(
    { length: bits * columns },
    (_, i) => size * (0.5 + rng.uniform()) * 2 ** -Math.floor(i / columns),
  );
  return { ...shape, planes: randomBytes(planesBytes(shape), seed), scales: float32ToFloat16(values) };
}

/** Write the random model as a packed folder; bytes of the file. */
export async function writeRandomModel(storage: Storage, folder: string, bits: number): Promise<number> {
  const half = (shape: readonly number[], seed: number, size: number) => {
    const rng = createRng(seed, "values");
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => size * rng.normal());
    return { dtype: "float16" as const, shape, data: float32ToFloat16(values) };
  };
  const ones = (size: number) => ({
    dtype: "float32" as const,
    shape: [size],
    data: new Float32Array(size).fill(1),
  });
  const { vocab_size: vocab, hidden_size: hidden, num_hidden_layers: layers } = llama;
  const tensors = [
    { name: "model.embed_tokens.weight", tensor: half([vocab, hidden], 1, 0.02) },
    { name: "lm_head.weight", tensor: half([vocab, hidden], 2, 0.02) },
    { name: "model.norm.weight", tensor: ones(hidden) },
  ];
  const matrices = Array.from({ length: layers }, (_, layer) => {
    const block = `model.layers.${layer}`;
    tensors.push({ name: `${block}.input_layernorm.weight`, tensor: ones(hidden) as never });
    tensors.push({ name: `${block}.post_attention_layernorm.weight`, tensor: ones(hidden) as never });
    return maps.map(([name, outputs, inputs], i) => ({
      name: `${block}.${name}.weight`,
      stored: "out,in" as const,
      matrix: randomMatrix(outputs, inputs, bits, 100 * layer + i),
    }));
  }).flat();
  const path = joinPath(folder, packedFileName);
  await writePacked(storage, path, { info: { method: "random" }, matrices, tensors });
  await storage.write(joinPath(folder, "config.json"), JSON.stringify(llama));
  return (await storage.sizeBytes(path)) ?? 0;
}
