import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Tensor } from "../src/graph/index.ts";
import { writeModelWeights } from "../src/io/model-weights.ts";
import { writePeftAdapter } from "../src/io/peft.ts";
import { loraToPeft } from "../src/io/peft-lora.ts";
import { createRng } from "../src/linalg/index.ts";
import { lora } from "../src/methods/index.ts";
import { findArchitecture, tensorsOf as specsOf, type TensorSpec } from "../src/models/index.ts";
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
  gpt2: {
    title: "GPT-2's shape: hidden 768, 12 layers, vocabulary 50257",
    rank: 8,
    config: {
      architectures: ["GPT2LMHeadModel"],
      model_type: "gpt2",
      vocab_size: 50257,
      n_embd: 768,
      n_layer: 12,
      n_head: 12,
      n_positions: 1024,
      activation_function: "gelu_new",
      layer_norm_epsilon: 1e-5,
    },
  },
  wide: {
    title: "few wide layers: hidden 1024, 4 layers, vocabulary 32000",
    rank: 8,
    config: {
      ...llama8,
      hidden_size: 1024,
      intermediate_size: 2816,
      num_hidden_layers: 4,
      num_attention_heads: 16,
      num_key_value_heads: 16,
      vocab_size: 32000,
      tie_word_embeddings: false,
    },
  },
  tiny: {
    title: "a toy: hidden 64, 2 layers, vocabulary 512",
    rank: 8,
    config: {
      ...llama8,
      hidden_size: 64,
      intermediate_size: 172,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 16,
      vocab_size: 512,
    },
  },
};

/** A shape by its name on the command line. */
export function shapeOf(name: string): BenchShape {
  const shape = shapes[name];
  if (shape === undefined) throw new Error(`there is no shape ${name}; use one of ${Object.keys(shapes).join(", ")}`);
  return shape;
}

async function tensorsOf(shape: BenchShape["config"], into: string): Promise<readonly TensorSpec[]> {
  const architecture = await findArchitecture(shape, into);
  return specsOf(architecture, shape);
}

function random(name: string, size: number, scale: number): Float32Array {
  const rng = createRng(0, name);
  return Float32Array.from({ length: size }, () => scale * (2 * rng.uniform() - 1));
}

/** Write a model of this shape with seeded random weights to `<into>/model`. */
export async function writeModel(into: string, { config: shape }: BenchShape): Promise<void> {
  const specs = await tensorsOf(shape, into);
  const entries = specs.map(({ name, shape: sizes }): { name: string; tensor: Tensor } => {
    const size = sizes.reduce((a, b) => a * b, 1);
    const data = sizes.length === 1 ? new Float32Array(size).fill(1) : random(name, size, 0.035);
    return { name, tensor: { dtype: "float32", shape: sizes, data } };
  });
  await writeModelWeights(nodeStorage, join(into, "model"), entries, {});
  await writeFile(join(into, "model", "config.json"), JSON.stringify(shape));
}

/** Write a fresh LoRA adapter on every linear layer of a Llama's shape to `<into>/adapter`. */
async function writeAdapter(into: string, { config: shape, rank }: BenchShape): Promise<void> {
  const specs = await tensorsOf(shape, into);
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
  const settings = {
    rank,
    alpha: 16,
    rslora: false,
    dora: false,
    rankPattern: {},
    alphaPattern: {},
    dropout: 0,
    targetModules: modules,
    fanInFanOut: false,
    init: "kaiming",
  } as const;
  if (!lora.peft) throw new Error("LoRA has a PEFT form");
  await writePeftAdapter(nodeStorage, join(into, "adapter"), {
    config: loraToPeft(settings, { taskType: "CAUSAL_LM" }),
    layout: lora.peft,
    tensors,
  });
}

/** Write a model and an adapter of this shape to `<into>/model` and `<into>/adapter`. */
export async function writeInputs(into: string, shape: BenchShape): Promise<void> {
  await writeModel(into, shape);
  await writeAdapter(into, shape);
}
