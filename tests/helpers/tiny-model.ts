import { bytesPerElement, type DType, type LazyTensor, type Tensor } from "../../src/graph/index.ts";
import { castTensor } from "../../src/io/convert.ts";
import { createRng } from "../../src/linalg/index.ts";
import { assembleModel, findArchitecture, type PretrainedModel, tensorsOf } from "../../src/models/index.ts";
import type { TokenizedExample } from "../../src/train/data/index.ts";

/** A Llama of two layers, 32 wide, with 64 tokens; every test that needs some model uses this one. */
export const tinyLlama = {
  model_type: "llama",
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
};

/** A model with seeded random weights, held in memory, in float32 or rounded to what a file would hold. */
export async function randomModel(
  json: Readonly<Record<string, unknown>> = tinyLlama,
  seed = 0,
  stored: DType = "float32",
): Promise<PretrainedModel> {
  const architecture = await findArchitecture(json, "memory");
  const files = new Map<string, LazyTensor>();
  for (const { name, shape } of tensorsOf(architecture, json)) {
    const size = shape.reduce((product, dim) => product * dim, 1);
    files.set(name, {
      dtype: stored,
      shape,
      sizeBytes: bytesPerElement(stored) * size,
      read: async () => {
        const rng = createRng(seed, name);
        const scale = shape.length === 1 ? 0.05 : 1 / Math.sqrt(shape.at(-1) ?? 1);
        const centre = /norm\w*\.weight$/i.test(name) ? 1 : 0;
        const data = Float32Array.from({ length: size }, () => centre + scale * rng.normal());
        return castTensor({ dtype: "float32", shape, data } satisfies Tensor, stored);
      },
    });
  }
  return assembleModel({ folder: "memory", json, architecture, files });
}

/** Sequences of random tokens of uneven length, the first third of each not trained. */
export function randomExamples(count: number, vocabSize = 64, seed = 1): readonly TokenizedExample[] {
  const rng = createRng(seed, "examples");
  return Array.from({ length: count }, (_, line) => {
    const length = 6 + rng.integer(10);
    return {
      inputIds: Int32Array.from({ length }, () => rng.integer(vocabSize)),
      trained: Uint8Array.from({ length }, (__, i) => Number(i >= length / 3)),
      line: line + 1,
    };
  });
}
