import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Tensor } from "../src/graph/index.ts";
import { writeModelWeights } from "../src/io/model-weights.ts";
import { writePeftAdapter } from "../src/io/peft.ts";
import { loraToPeft } from "../src/io/peft-lora.ts";
import { createRng } from "../src/linalg/index.ts";
import { lora } from "../src/methods/index.ts";
import { findArchitecture } from "../src/models/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";

/** What a benchmark trains: a model's configuration, and the rank of LoRA on all its linear layers. */
export interface BenchShape {
  readonly title: string;
  readonly rank: number;
  readonly config: Readonly<Record<string, unknown>> & { readonly vocab_size: number };
}

const llama8 = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 8192,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 8,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  head_dim: 64,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: "silu",
};

const shapes: Readonly<Record<string, BenchShape>> = {
  llama8: { title: "Llama shape: hidden 576, 8 layers, vocabulary 8192", rank: 8, config: llama8 },
  smollm2: {
    title: "SmolLM2-135M's shape: hidden 576, 30 layers, vocabulary 49152",
    rank: 8,
    config: { ...llama8, num_hidden_layers: 30, vocab_size: 49152, max_position_embeddings: 8192, rope_theta: 100000 },
  },
};

/** A shape by its name on the command line. */
export function shapeOf(name: string): BenchShape {
  const shape = shapes[name];
  if (shape === undefined) throw new Error(`there is no shape ${name}; use ${Object.keys(shapes).join(" or ")}`);
  return shape;
}

/** Write a model of this shape with seeded random weights to `<into>/model`, and a fresh adapter to `<into>/adapter`. */
export async function writeInputs(into: string, { config: shape, rank }: BenchShape): Promise<void> {
  const architecture = await findArchitecture(shape, into);
  const specs = architecture.tensors(architecture.configure(shape));
  const random = (name: string, size: number, scale: number): Float32Array => {
    const rng = createRng(0, name);
    return Float32Array.from({ length: size }, () => scale * (2 * rng.uniform() - 1));
  };
  const entries = specs.map(({ name, shape: sizes }): { name: string; tensor: Tensor } => {
    const size = sizes.reduce((a, b) => a * b, 1);
    const data = sizes.length === 1 ? new Float32Array(size).fill(1) : random(name, size, 0.035);
    return { name, tensor: { dtype: "float32", shape: sizes, data } };
  });
  await writeModelWeights(nodeStorage, join(into, "model"), entries, {});
  await writeFile(join(into, "model", "config.json"), JSON.stringify(shape));
  const tensors = new Map<string, Record<string, Tensor>>();
  for (const { name, shape: sizes } of specs) {
    const [out = 0, into2 = 0] = sizes;
    if (!/_proj\.weight$/.test(name)) continue;
    const module = name.replace(/\.weight$/, "");
    tensors.set(module, {
      A: { dtype: "float32", shape: [rank, into2], data: random(`${module}.A`, rank * into2, 1 / Math.sqrt(into2)) },
      B: { dtype: "float32", shape: [out, rank], data: new Float32Array(out * rank) },
    });
  }
  const modules = [...new Set([...tensors.keys()].map((module) => module.split(".").at(-1) ?? module))];
  const settings = { rank, alpha: 16, dropout: 0, targetModules: modules, fanInFanOut: false };
  if (!lora.peft) throw new Error("LoRA has a PEFT form");
  await writePeftAdapter(nodeStorage, join(into, "adapter"), {
    config: loraToPeft(settings, { taskType: "CAUSAL_LM" }),
    layout: lora.peft,
    tensors,
  });
}
