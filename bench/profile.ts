import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type MemoryChoiceName, memoryChoices } from "../src/train/memory.ts";
import { trainDefaults } from "../src/train/settings.ts";
import { shapeOf, writeModel } from "./inputs.ts";
import { methodRows } from "./method-rows.ts";
import { type BarChart, drawBars } from "./profile-picture.ts";
import { profileStep, total, type Use } from "./step-profile.ts";

/*
 * Where a training step's time and memory go, by operator and by part of the model: time from ONNX Runtime's own profile,
 * memory as what is alive between operators when most is.
 *   npm run profile -- [--shape llama8|smollm2] [--tokens 512] [--threads 2] [--steps 5]
 *     [--memory fast|balanced|small] [--row lora|paca|…] [--picture profile.svg]
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "llama8" },
    tokens: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "5" },
    memory: { type: "string", default: trainDefaults.memory },
    row: { type: "string", default: "lora" },
    picture: { type: "string" },
  },
});
if (!Object.hasOwn(memoryChoices, values.memory)) throw new Error(`there is no memory choice ${values.memory}`);
const row = methodRows[values.row];
if (!row) throw new Error(`there is no row ${values.row}; rows: ${Object.keys(methodRows).join(", ")}`);
const shape = shapeOf(values.shape);
const folder = await mkdtemp(join(tmpdir(), "scion-profile-"));
try {
  await writeModel(folder, shape);
  const { time, memory, productShare, savedBytes } = await profileStep(folder, shape, {
    row,
    tokens: Number(values.tokens),
    threads: Number(values.threads),
    memory: values.memory as MemoryChoiceName, // checked above
    steps: Number(values.steps),
  });
  const milliseconds = (amount: number): string => `${amount.toFixed(1)} ms`;
  const megabytes = (amount: number): string => `${(amount / 1e6).toFixed(1)} MB`;
  const title = `${shape.title}; ${values.row}, ${values.tokens} tokens, ${values.threads} threads, memory ${values.memory}`;
  console.log(`${title}\n`);
  const charts = [
    tabulate("time by operator", time, "op", milliseconds),
    tabulate("time by part of the model", time, "part", milliseconds),
    tabulate("memory by operator that wrote it", memory, "op", megabytes),
    tabulate("memory by part of the model", memory, "part", megabytes),
  ];
  console.log(
    `${milliseconds(total(time))} a step in operators, ${(100 * productShare).toFixed(1)} % of it in matrix products`,
  );
  console.log(`${megabytes(total(memory))} alive at the peak; ${megabytes(savedBytes)} are kept for the backward pass`);
  if (values.picture) await writeFile(values.picture, drawBars(title, charts));
} finally {
  await rm(folder, { recursive: true });
}

/** Print amounts by a key, the largest first, leaving out what is below half a percent. */
function tabulate(title: string, uses: readonly Use[], key: "op" | "part", show: (amount: number) => string): BarChart {
  const groups = new Map<string, Use[]>();
  for (const use of uses) groups.set(use[key], [...(groups.get(use[key]) ?? []), use]);
  const all = total(uses);
  const rows = [...groups]
    .map(([label, own]) => ({ label, amount: total(own) }))
    .sort((a, b) => b.amount - a.amount)
    .filter(({ amount }) => amount > all / 200);
  console.log(title);
  for (const { label, amount } of rows) {
    console.log(
      `  ${label.padEnd(44)} ${show(amount).padStart(10)} ${((100 * amount) / all).toFixed(1).padStart(6)} %`,
    );
  }
  console.log("");
  return { title, rows, total: all, show };
}
