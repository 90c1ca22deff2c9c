import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createRng } from "../../src/linalg/index.ts";
import { compiled } from "../compiled.ts";
import { shapeOf, writeModel } from "../inputs.ts";
import { type Job, Side } from "../side.ts";
import type { BenchPart, BenchResult } from "./parts.ts";

/** What is promised: a private step against a plain one of the same batch. */
const [mostTime, mostMemory] = [1.25, 1.15];
const [warmups, rounds, rows, tokens] = [2, 8, 8, 64];
const threads = "2";
/** A Python with torch and peft (the environment's SCION_BENCH_PYTHON); without it, the loop of single examples is left out. */
const { SCION_BENCH_PYTHON: python = "" } = process.env;

/** A private step beside a plain one, in turn, each in a process of its own; then torch, a backward pass an example. */
export const dpStepPart: BenchPart = {
  name: "dp-step",
  title: `A private step against a plain one: Llama, hidden 576, 8 layers; ${rows} rows of ${tokens}, LoRA of rank 8 on all linears, ${threads} threads`,
  run: measure,
};

async function measure(): Promise<BenchResult> {
  const folder = await mkdtemp(join(tmpdir(), "scion-bench-"));
  const shape = shapeOf("llama8");
  try {
    await writeModel(folder, shape);
    const model = join(folder, "model");
    const rank = String(shape.rank);
    const side = await compiled("side-dp");
    const node = (kind: string): Side => new Side(kind, process.execPath, [side, model, kind, rank, threads]);
    const sides = [node("plain"), node("private")];
    const loop = fileURLToPath(new URL("../side_dp.py", import.meta.url));
    const jobAt = (round: number): Job => {
      const rng = createRng(round, "ids");
      const idsOf = (): number[] => Array.from({ length: tokens }, () => rng.integer(shape.config.vocab_size));
      return { examples: Array.from({ length: rows }, () => ({ ids: idsOf(), prompt: 0 })), learning_rate: 1e-3 };
    };
    for (let round = 0; round < warmups + rounds; round++) {
      for (const one of sides) await one.step(jobAt(round));
    }
    if (existsSync(python)) {
      // Afterwards: its threads wait by spinning, and it takes many times as long.
      const torch = new Side("torch, one by one", python, [loop, model, rank, threads]);
      for (let round = 0; round <= warmups; round++) await torch.step(jobAt(round));
      sides.push(torch);
    }
    for (const one of sides) one.end();
    return resultOf(sides);
  } finally {
    await rm(folder, { recursive: true });
  }
}

function resultOf(sides: readonly Side[]): BenchResult {
  const data = sides.map(({ name, answers }) => {
    const times = answers
      .slice(warmups)
      .map(({ ms }) => ms)
      .sort((a, b) => a - b);
    const at = (share: number): number => times[Math.round(share * (times.length - 1))] ?? Number.NaN;
    const peakBytes = Math.max(...answers.map((answer) => answer.peak_bytes));
    return { side: name, medianMs: at(0.5), minMs: at(0), maxMs: at(1), peakBytes, firstLoss: answers[0]?.loss };
  });
  const [plain, dp] = data;
  const time = (dp?.medianMs ?? Number.NaN) / (plain?.medianMs ?? Number.NaN);
  const fastest = (dp?.minMs ?? Number.NaN) / (plain?.minMs ?? Number.NaN);
  const memory = (dp?.peakBytes ?? Number.NaN) / (plain?.peakBytes ?? Number.NaN);
  // Before the first update both compute the same loss.
  const same = Math.abs((dp?.firstLoss ?? 0) - (plain?.firstLoss ?? 1)) < 1e-4;
  return {
    table: [
      ...data.map(
        ({ side, medianMs, minMs, maxMs, peakBytes }) =>
          `${side.padEnd(18)} ${medianMs.toFixed(0)} ms (${minMs.toFixed(0)}–${maxMs.toFixed(0)}), peak ${(peakBytes / 1e6).toFixed(0)} MB`,
      ),
      `private / plain: time ${time.toFixed(2)} (at most ${mostTime}; of the fastest steps ${fastest.toFixed(2)}), memory ${memory.toFixed(2)} (at most ${mostMemory})`,
    ],
    data: { sides: data, time, fastest, memory },
    holds: same && time <= mostTime && memory <= mostMemory,
  };
}
