import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { planBatches } from "../src/train/data/index.ts";
import { trainDefaults } from "../src/train/settings.ts";
import { shapeOf, writeInputs } from "./inputs.ts";
import { type Job, openSides, worstLossDifference } from "./side.ts";

/*
 * An epoch of instruction tuning on real, uneven texts (GSM8K, loss on the answers only), against PEFT in a loop that
 * pads each batch to its longest, as transformers' Trainer does. Both sides see the same batches in the same order.
 *   npm run bench:sft -- --data <train.jsonl> [--python <python with torch and peft>] [--shape llama8|smollm2]
 *     [--updates 0 (a whole epoch)] [--batch-size 8] [--threads 2] [--memory fast|balanced|small] [--json out.json]
 */
const { values } = parseArgs({
  options: {
    data: { type: "string", default: "../shared/data/gsm8k/train.jsonl" },
    shape: { type: "string", default: "llama8" },
    updates: { type: "string", default: "0" },
    "batch-size": { type: "string", default: "8" },
    threads: { type: "string", default: "2" },
    memory: { type: "string", default: trainDefaults.memory },
    python: { type: "string" },
    json: { type: "string" },
  },
});
const shape = shapeOf(values.shape);
const examples = encode(await readFile(values.data, "utf8"), shape.config.vocab_size);
const schedule = planBatches([{ count: examples.length, weight: 1 }], {
  batchSize: Number(values["batch-size"]),
  seed: 0,
});
const updates = Number(values.updates) || schedule.batchesPerEpoch;
const warmups = 3; // first updates are slow on both sides; they train but are not timed

const folder = await mkdtemp(join(tmpdir(), "scion-bench-"));
try {
  await writeInputs(folder, shape);
  const sides = await openSides(folder, { threads: values.threads, memory: values.memory, python: values.python });
  for (let update = 0; update < updates; update++) {
    const batch = schedule.at(update).indices.map((i) => examples[i] as Job["examples"][number]); // indices of examples
    for (const side of sides) await side.step({ examples: batch, learning_rate: 5e-4 });
    if ((update + 1) % 50 === 0) console.error(`${update + 1} of ${updates} updates`);
  }
  for (const side of sides) side.end();

  const tokens = sum(examples.map(({ ids }) => ids.length)) / examples.length;
  console.log(
    `${shape.title}; ${updates} of ${schedule.batchesPerEpoch} updates of an epoch, ${values["batch-size"]} examples of ${tokens.toFixed(0)} tokens on average, ${values.threads} threads`,
  );
  const rows = sides.map(({ name, answers }) => ({
    side: name,
    seconds: sum(answers.slice(warmups).map(({ ms }) => ms)) / 1000,
    computedTokens: sum(answers.map((answer) => answer.computed_tokens)),
    peakBytes: Math.max(...answers.map((answer) => answer.peak_bytes)),
    firstLoss: mean(answers.slice(0, 10).map(({ loss }) => loss)),
    lastLoss: mean(answers.slice(-10).map(({ loss }) => loss)),
  }));
  for (const { side, seconds, computedTokens, peakBytes, firstLoss, lastLoss } of rows) {
    console.log(
      `${side.padEnd(6)} ${seconds.toFixed(1)} s, ${computedTokens} tokens computed, peak ${(peakBytes / 1e6).toFixed(0)} MB, loss ${firstLoss.toFixed(4)} → ${lastLoss.toFixed(4)} (means of 10)`,
    );
  }
  const [a, b] = rows;
  const worst = worstLossDifference(sides);
  if (a && b) {
    console.log(
      `time ${(a.seconds / b.seconds).toFixed(2)}× PEFT's, memory ${(a.peakBytes / b.peakBytes).toFixed(2)}×; losses of an update differ by ${worst.toExponential(1)} at most`,
    );
    if (!(worst < 5e-3)) throw new Error("the loss curves differ: the sides do not train the same");
  }
  if (values.json) {
    const curves = Object.fromEntries(sides.map(({ name, answers }) => [name, answers.map(({ loss }) => loss)]));
    await writeFile(values.json, `${JSON.stringify({ shape, updates, rows, worst, curves }, null, 2)}\n`);
  }
} finally {
  await rm(folder, { recursive: true });
}

/**
 * Question and answer as token ids. The benchmark's model has no tokenizer, so the data's own pieces are its
 * vocabulary, the most frequent first: words with their space, single digits, runs of punctuation, which comes near
 * the lengths that BPE tokenizers give.
 */
function encode(text: string, vocabSize: number): Job["examples"] {
  const piecesOf = (part: string): string[] => part.match(/ ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+/gu) ?? [];
  const rows = text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { question: string; answer: string }) // GSM8K's format
    .map(({ question, answer }) => [piecesOf(`${question}\n`), piecesOf(answer)] as const);
  const counts = new Map<string, number>();
  for (const piece of rows.flat(2)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  const ranked = [...counts.keys()].sort((a, b) => (counts.get(b) ?? 0) - (counts.get(a) ?? 0));
  const ids = new Map(ranked.map((piece, rank) => [piece, Math.min(2 + rank, vocabSize - 1)]));
  const end = 1;
  return rows.map(([question, answer]) => ({
    ids: [...[...question, ...answer].map((piece) => ids.get(piece) ?? 0), end],
    prompt: question.length,
  }));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

function mean(numbers: readonly number[]): number {
  return sum(numbers) / numbers.length;
}
