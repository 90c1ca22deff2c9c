import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRng } from "../src/linalg/index.ts";
import { type MemoryChoiceName, memoryChoices } from "../src/train/memory.ts";
import { trainDefaults } from "../src/train/settings.ts";
import { shapeOf, writeInputs } from "./inputs.ts";
import { loraRow } from "./method-rows.ts";
import { openSides, type Side, worstLossDifference } from "./side.ts";
import { profileStep, type StepProfile } from "./step-profile.ts";

/*
 * One whole LoRA step (forward, backward, clipping, AdamW), interleaved with PEFT on the same weights and batches.
 *   npm run bench:step -- [--python <python with torch and peft>] [--shape llama8|smollm2]
 *     [--rounds 12] [--threads 2] [--tokens 512] [--memory fast|balanced|small] [--json out.json]
 */
const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "12" },
    threads: { type: "string", default: "2" },
    tokens: { type: "string", default: "512" },
    shape: { type: "string", default: "llama8" },
    memory: { type: "string", default: trainDefaults.memory },
    python: { type: "string" },
    json: { type: "string" },
  },
});
const rounds = Number(values.rounds);
const warmups = 3;
const shape = shapeOf(values.shape);
const tokens = Number(values.tokens);
if (!Object.hasOwn(memoryChoices, values.memory)) throw new Error(`there is no memory choice ${values.memory}`);
const memory = values.memory as MemoryChoiceName; // just checked
const folder = await mkdtemp(join(tmpdir(), "scion-bench-"));
try {
  await writeInputs(folder, shape);
  const sides = await openSides(folder, values);
  for (let round = 0; round < warmups + rounds; round++) {
    const rng = createRng(round, "ids");
    const ids = Array.from({ length: tokens }, () => rng.integer(shape.config.vocab_size));
    for (const side of sides) await side.step({ examples: [{ ids, prompt: 0 }], learning_rate: 1e-3 });
  }
  for (const side of sides) side.end();
  await report(
    sides,
    await profileStep(folder, shape, { row: loraRow, tokens, threads: Number(values.threads), memory, steps: 5 }),
  );
} finally {
  await rm(folder, { recursive: true });
}

async function report(sides: readonly Side[], { productShare, savedBytes }: StepProfile): Promise<void> {
  const [ours, peer] = sides;
  const worst = worstLossDifference(sides);
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
    `${shape.title}; ${values.tokens} tokens, rank ${shape.rank} on all linears, ${values.threads} threads, ${rounds} rounds`,
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
  console.log(
    `${(100 * productShare).toFixed(1)} % of Scion's operators' time is in matrix products; ${(savedBytes / 1e6).toFixed(1)} MB are kept for the backward pass`,
  );
  const result = { shape, memory, rows, worstLossDifference: worst, productShare, savedBytes };
  if (values.json) await writeFile(values.json, `${JSON.stringify(result, null, 2)}\n`);
}
