import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createRng } from "../src/linalg/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { type MemoryChoiceName, memoryChoices } from "../src/train/memory.ts";
import { trainDefaults } from "../src/train/settings.ts";
import { buildTraining } from "../src/train/step.ts";
import { compiled } from "./compiled.ts";
import { shapeOf, writeModel } from "./inputs.ts";
import { methodRows } from "./method-rows.ts";
import { Side } from "./side.ts";

/*
 * A training step by every method, interleaved, on one model and the same batches; PEFT's beside them.
 *   npm run bench:methods -- [--python <python with torch and peft>] [--rows floor,lora,paca] [--shape llama8]
 *     [--rounds 12] [--threads 2] [--tokens 512] [--memory fast|balanced|small] [--json out.json]
 */
const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "12" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "512" },
    shape: { type: "string", default: "llama8" },
    rows: { type: "string", default: Object.keys(methodRows).join(",") },
    memory: { type: "string", default: trainDefaults.memory },
    python: { type: "string" },
    json: { type: "string" },
  },
});
if (!Object.hasOwn(memoryChoices, values.memory)) throw new Error(`there is no memory choice ${values.memory}`);
const memory = values.memory as MemoryChoiceName; // just checked
const [rounds, tokens, warmups] = [Number(values.rounds), Number(values.tokens), 3];
const shape = shapeOf(values.shape);
const names = values.rows.split(",");
const unknown = names.filter((name) => !Object.hasOwn(methodRows, name));
if (unknown.length > 0)
  throw new Error(`there is no row ${unknown.join(", ")}; rows: ${Object.keys(methodRows).join(", ")}`);

const folder = await mkdtemp(join(tmpdir(), "scion-methods-"));
const model = join(folder, "model");
const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
try {
  await writeModel(folder, shape);
  const rank = String(shape.rank);
  const ours = await compiled("side-method");
  const sides = names.flatMap((name) => {
    const own = new Side(name, process.execPath, [ours, model, name, rank, values.threads, memory]);
    const peer = values.python ? methodRows[name]?.peer : undefined;
    if (peer === undefined || values.python === undefined) return [own];
    return [
      own,
      new Side(`peft ${name}`, values.python, [here("side_method_peft.py"), model, peer, rank, values.threads]),
    ];
  });
  for (let round = 0; round < warmups + rounds; round++) {
    const rng = createRng(round, "ids");
    const ids = Array.from({ length: tokens }, () => rng.integer(shape.config.vocab_size));
    // Each round begins with another side, so that no side always follows the same one.
    for (let i = 0; i < sides.length; i++) {
      await (sides[(round + i) % sides.length] as Side).step({ examples: [{ ids, prompt: 0 }], learning_rate: 1e-3 });
    }
  }
  for (const side of sides) side.end();
  await report(sides);
} finally {
  await rm(folder, { recursive: true });
}

async function report(sides: readonly Side[]): Promise<void> {
  const opened = await openModel(nodeStorage, model);
  const measured = sides.map(({ name, answers }) => {
    const times = answers.slice(warmups).map(({ ms }) => ms);
    return {
      name,
      times,
      firstLoss: answers[0]?.loss ?? Number.NaN,
      peakBytes: Math.max(...answers.map((a) => a.peak_bytes)),
    };
  });
  const timesOf = (name: string): readonly number[] | undefined => measured.find((side) => side.name === name)?.times;
  const rows = measured.map(({ name, times, firstLoss, peakBytes }) => {
    const sorted = times.toSorted((a, b) => a - b);
    const ratioTo = (other: string): number | undefined => medianRatio(times, timesOf(other));
    return {
      name,
      medianMs: median(times),
      minMs: sorted[0] ?? Number.NaN,
      maxMs: sorted.at(-1) ?? Number.NaN,
      peakBytes,
      firstLoss,
      savedBytes: savedBytesOf(name),
      toFloor: ratioTo("floor"),
      toLora: ratioTo("lora"),
      toPeer: ratioTo(`peft ${name}`),
      toPeftLora: ratioTo("peft lora"),
    };
  });
  console.log(
    `${shape.title}; ${tokens} tokens, rank ${shape.rank} on all linears, ${values.threads} threads, ${rounds} rounds, memory ${memory}`,
  );
  console.log(
    "method         median ms (min–max)      peak MB  saved MB   first loss  /floor  /lora  /its peer  /peft lora",
  );
  for (const row of rows) {
    const spread = `${row.medianMs.toFixed(0)} (${row.minMs.toFixed(0)}–${row.maxMs.toFixed(0)})`;
    const ratios = [row.toFloor, row.toLora, row.toPeer, row.toPeftLora].map((ratio) =>
      (ratio?.toFixed(2) ?? "").padStart(7),
    );
    const saved = row.savedBytes === undefined ? "" : (row.savedBytes / 1e6).toFixed(1);
    console.log(
      `${row.name.padEnd(14)} ${spread.padEnd(24)} ${(row.peakBytes / 1e6).toFixed(0).padStart(7)} ${saved.padStart(9)} ${row.firstLoss.toFixed(6).padStart(12)} ${ratios.join(" ")}`,
    );
  }
  const result = { shape, tokens, memory, rounds, rows };
  if (values.json) await writeFile(values.json, `${JSON.stringify(result, null, 2)}\n`);

  function savedBytesOf(name: string): number | undefined {
    const row = methodRows[name];
    if (row === undefined) return undefined;
    const { choice, targets, baseWeights } = row;
    return buildTraining(opened, {
      ...{ choice: choice(shape.rank), targets, memory, maxGradNorm: 1, accumulates: false, patches: true },
      optimizer: chooseOptimizer("adamw"),
      ...(baseWeights ? { baseWeights } : {}),
    }).gradient.savedBytes;
  }
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** The median of ratios round by round, which slow moments of the machine leave alone. */
function medianRatio(times: readonly number[], others: readonly number[] | undefined): number | undefined {
  return others && median(times.map((ms, i) => ms / (others[i] ?? Number.NaN)));
}
