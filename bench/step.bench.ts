import { type ChildProcessByStdio, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Tensor } from "../src/graph/index.ts";
import { writeModelWeights } from "../src/io/model-weights.ts";
import { writePeftAdapter } from "../src/io/peft.ts";
import { loraToPeft } from "../src/io/peft-lora.ts";
import { createRng } from "../src/linalg/index.ts";
import { lora } from "../src/methods/index.ts";
import { findArchitecture } from "../src/models/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";

/*
 * One whole LoRA step (forward, backward, clipping, AdamW), interleaved with PEFT on the same weights and batches.
 *   npm run bench:step -- [--python <python with torch and peft>] [--rounds 12] [--threads 2] [--json out.json]
 */
const { values } = parseArgs({
  options: {
    python: { type: "string" },
    rounds: { type: "string", default: "12" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "512" },
    json: { type: "string" },
  },
});
const rounds = Number(values.rounds);
const warmups = 3;
const rank = 8;
const shape = {
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

interface Answer {
  readonly ms: number;
  readonly loss: number;
  readonly peak_bytes: number;
}

/** A process that answers one line with one line. */
class Side {
  readonly name: string;
  readonly answers: Answer[] = [];
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  constructor(name: string, command: string, args: readonly string[]) {
    this.name = name;
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }
  async step(ids: readonly number[], learningRate: number): Promise<void> {
    this.#child.stdin.write(`${JSON.stringify({ ids, learning_rate: learningRate })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.name} ended before it answered`);
    this.answers.push(JSON.parse(value) as Answer); // the protocol of both sides
  }
  end(): void {
    this.#child.stdin.end();
  }
}

const folder = await mkdtemp(join(tmpdir(), "scion-bench-"));
try {
  await writeInputs(folder);
  const args = [join(folder, "model"), join(folder, "adapter"), values.threads];
  const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
  const sides = [new Side("scion", process.execPath, ["--import", "tsx", here("step-scion.ts"), ...args])];
  if (values.python) sides.push(new Side("peft", values.python, [here("step_peft.py"), ...args]));
  for (let round = 0; round < warmups + rounds; round++) {
    const rng = createRng(round, "ids");
    const ids = Array.from({ length: Number(values.tokens) }, () => rng.integer(shape.vocab_size));
    for (const side of sides) await side.step(ids, 1e-3);
  }
  for (const side of sides) side.end();
  await report(sides);
} finally {
  await rm(folder, { recursive: true });
}

async function writeInputs(into: string): Promise<void> {
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

async function report(sides: readonly Side[]): Promise<void> {
  const [ours, peer] = sides;
  const worst = Math.max(
    0,
    ...(peer?.answers ?? []).map(({ loss }, i) => Math.abs(loss / (ours?.answers[i]?.loss ?? Number.NaN) - 1)),
  );
  if (peer && !(worst < 1e-4))
    throw new Error(`the losses differ by ${worst} relative: the sides do not compute the same`);
  const rows = sides.map(({ name, answers }) => {
    const times = answers
      .slice(warmups)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    const at = (share: number): number => times[Math.round(share * (times.length - 1))] ?? Number.NaN;
    return {
      side: name,
      medianMs: at(0.5),
      minMs: at(0),
      maxMs: at(1),
      peakBytes: Math.max(...answers.map((a) => a.peak_bytes)),
    };
  });
  console.log(
    `Llama shape: hidden 576, 8 layers, ${values.tokens} tokens, rank ${rank} on all linears, ${values.threads} threads, ${rounds} rounds`,
  );
  for (const { side, medianMs, minMs, maxMs, peakBytes } of rows) {
    console.log(
      `${side.padEnd(6)} ${medianMs.toFixed(0)} ms (${minMs.toFixed(0)}–${maxMs.toFixed(0)}), peak ${(peakBytes / 1e6).toFixed(0)} MB`,
    );
  }
  const [a, b] = rows;
  if (a && b) {
    const ratios = (ours?.answers ?? [])
      .slice(warmups)
      .map(({ ms }, i) => ms / (peer?.answers[warmups + i]?.ms ?? Number.NaN))
      .sort((x, y) => x - y);
    console.log(
      `time ${(ratios[Math.floor(ratios.length / 2)] ?? Number.NaN).toFixed(2)}× PEFT's (median of pairs), memory ${(a.peakBytes / b.peakBytes).toFixed(2)}×; losses agree to ${worst.toExponential(1)}`,
    );
  }
  if (values.json)
    await writeFile(values.json, `${JSON.stringify({ shape, rows, worstLossDifference: worst }, null, 2)}\n`);
}
