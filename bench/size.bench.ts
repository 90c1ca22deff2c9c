import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createRng } from "../src/linalg/index.ts";
import { type SizeShapeName, sizeShapes, writeCheckpoint } from "./size/checkpoint.ts";
import { measured, scion, type Taken } from "./size/command.ts";

/*
 * Every command on a model of a size that people bring, each in a process of its own, with time and peak memory.
 *   npm run bench:size -- [--shape 100m|0.5b|1b|3b] [--python <python with torch and peft>] [--only <part of a title>]
 *     [--tokens 300] [--updates 4] [--limit <seconds of a command>] [--folder <where the checkpoint is kept>] [--write]
 * --write puts the table into docs/size.md.
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "1b" },
    python: { type: "string" },
    only: { type: "string" },
    tokens: { type: "string", default: "300" },
    updates: { type: "string", default: "4" },
    limit: { type: "string", default: "1200" },
    folder: { type: "string" },
    write: { type: "boolean", default: false },
  },
});
if (!Object.hasOwn(sizeShapes, values.shape)) {
  throw new Error(`there is no shape ${values.shape}; use one of ${Object.keys(sizeShapes).join(", ")}`);
}
const shape = sizeShapes[values.shape as SizeShapeName]; // just checked
const [tokens, updates, limitSeconds] = [values.tokens, values.updates, values.limit].map(Number) as [
  number,
  number,
  number,
];

/** Tokens that the inputs of layers are measured on: a half more than the widest layer of the 1 B shape has inputs. */
const calibrationTokens = 12288;

/** A line of the table. */
interface Row {
  readonly title: string;
  readonly took: string;
  readonly peak: string;
}

const kept = values.folder;
const work = await mkdtemp(join(tmpdir(), "scion-size-"));
const model = join(kept ?? work, values.shape);
const path = (name: string): string => join(work, name);
const rows: Row[] = [];
try {
  if (!existsSync(join(model, "config.json"))) await writeCheckpoint(model, shape);
  await writeTexts();
  await tuning();
  await others();
  if (values.write) await writePage();
} finally {
  await rm(work, { recursive: true });
}

/** Rows of exactly `tokens` tokens: the bundled tokenizer takes each of these words as one or two. */
async function writeTexts(): Promise<void> {
  const rng = createRng(0, "texts");
  const words = ["the", "a", "and", "of", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as"];
  const text = (): string => Array.from({ length: 2 * tokens }, () => words[rng.integer(words.length)]).join(" ");
  const lines = (count: number): string =>
    Array.from({ length: count }, () => JSON.stringify({ text: text() })).join("\n");
  await writeFile(path("texts.jsonl"), lines(2 * updates));
  await writeFile(path("few.jsonl"), lines(4));
  // Quantising asks for as many tokens as the widest layer has inputs.
  await writeFile(path("calibration.jsonl"), lines(Math.ceil(calibrationTokens / tokens)));
}

async function tuning(): Promise<void> {
  for (const held of ["f32", "bf16", "q8", "q4"]) {
    const title = `tune, ${held} base, an update of ${tokens} tokens`;
    if (!chosen(title)) continue;
    const args = ["tune", "-m", model, "-d", path("texts.jsonl"), "--validation", "0", "--batch-size", "1"];
    const options = ["--max-length", String(tokens), "--max-steps", String(updates), "--rank", "8", "--no-tensorboard"];
    const taken = await scion([...args, ...options, "--base-weights", held, "-o", path(`run-${held}`)], {
      limitSeconds,
    });
    const steps = taken.lines.filter(({ text }) => /^\s*\d+\/\d+ +loss/.test(text)).map(({ at }) => at);
    const [first = Number.NaN] = steps;
    const update = median(steps.slice(1).map((at, i) => at - (steps[i] ?? Number.NaN)));
    report(title, taken, `${seconds(update)} an update, ${seconds(first - update)} to open`);
  }
  if (!values.python) return;
  for (const dtype of ["float32", "bfloat16"]) {
    const title = `PEFT in ${dtype}, likewise`;
    if (!chosen(title)) continue;
    const script = fileURLToPath(new URL("./size/side_peft.py", import.meta.url));
    const given = [script, model, dtype, String(tokens), String(updates), String(cpus().length)];
    const taken = await measured(values.python, given, { limitSeconds });
    const line = taken.lines.map(({ text }) => text).find((text) => text.startsWith("{")) ?? "{}";
    const { update, opened } = JSON.parse(line) as { update?: number; opened?: number }; // what the script prints
    report(title, taken, `${seconds(update)} an update, ${seconds(opened)} to open`);
  }
}

async function others(): Promise<void> {
  const adapter = existsSync(path("run-f32/adapter")) ? path("run-f32/adapter") : path("run-bf16/adapter");
  const tuned = existsSync(adapter) ? ["-a", adapter] : [];
  const commands: Readonly<Record<string, readonly string[]>> = {
    inspect: ["inspect", model],
    plan: ["plan", "-m", model, "-d", path("few.jsonl"), "--max-length", String(tokens), "--rank", "8"],
    "generate, 8 tokens": ["generate", "-m", model, "-p", "Once upon a time", "--raw", "--max-new-tokens", "8"],
    "generate, bf16": [
      "generate",
      "-m",
      model,
      "-p",
      "Once",
      "--raw",
      "--max-new-tokens",
      "8",
      "--base-weights",
      "bf16",
    ],
    "eval, 4 rows": ["eval", "-m", model, "-d", path("few.jsonl"), "--max-length", String(tokens), "--batch-size", "1"],
    merge: ["merge", "-m", model, ...tuned, "-o", path("merged")],
    ...Object.fromEntries(
      ["fp32", "fp16", "q8", "q4"].map((dtype) => [
        `export to transformers.js, ${dtype}`,
        ["export", "-m", model, ...tuned, "--to", "transformers.js", "--dtype", dtype, "-o", path(`web-${dtype}`)],
      ]),
    ),
    ...Object.fromEntries(
      ["f16", "q8_0"].map((dtype) => [
        `export to gguf, ${dtype}`,
        [
          "export",
          "-m",
          model,
          ...tuned,
          "--to",
          "gguf",
          "--pre-tokenizer",
          "gpt-2",
          "--dtype",
          dtype,
          "-o",
          path(`gguf-${dtype}`),
        ],
      ]),
    ),
    "quantize by rounding, 4 bits": ["quantize", "-m", model, "--method", "rtn", "--bits", "4", "-o", path("rtn")],
    ...Object.fromEntries(
      [
        ["gptq", "4"],
        ["shiftadd", "2"],
      ].map(([method = "", bits = ""]) => [
        `quantize by ${method}, ${bits} bits, ${calibrationTokens} tokens`,
        [
          ...["quantize", "-m", model, "--method", method, "--bits", bits, "--calibration", path("calibration.jsonl")],
          ...["--max-length", String(tokens), "-o", path("rtn")],
        ],
      ]),
    ),
    "diagnose, rank 8": ["diagnose", "--base", model, "--adapter", adapter, "-o", path("diagnosis")],
  };
  for (const [title, args] of Object.entries(commands)) {
    if (!chosen(title)) continue;
    const taken = await scion(args, { limitSeconds });
    report(title, taken, seconds(taken.seconds));
    for (const folder of ["merged", "rtn", "web-fp32", "web-fp16", "web-q8", "web-q4", "gguf-f16", "gguf-q8_0"])
      await rm(path(folder), { recursive: true, force: true });
  }
}

function chosen(title: string): boolean {
  return values.only === undefined || title.includes(values.only);
}

function report(title: string, { code, peakBytes, lines }: Taken, took: string): void {
  const peak = peakBytes === undefined ? "?" : `${(peakBytes / 1e9).toFixed(2)} GB`;
  const failed = code === 0 ? "" : ` (ended with ${code ?? "a signal, or at the limit"})`;
  rows.push({ title, took: code === 0 ? took : `failed${failed}`, peak });
  console.log(`${title.padEnd(44)} ${(code === 0 ? took : `failed${failed}`).padEnd(36)} ${peak}`);
  if (code !== 0) for (const { text } of lines.slice(-4)) console.log(`    ${text}`);
}

function seconds(value = Number.NaN): string {
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} s`;
}

function median(sorted: readonly number[]): number {
  return [...sorted].sort((a, b) => a - b)[sorted.length >> 1] ?? Number.NaN;
}

async function writePage(): Promise<void> {
  const table = rows.map(({ title, took, peak }) => `| ${title} | ${took} | ${peak} |`).join("\n");
  const machine = `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${(totalmem() / 1e9).toFixed(0)} GB, Node ${process.versions.node}`;
  const page = `# At the size that people have

Made by \`npm run bench:size -- --shape ${values.shape} --write\`: ${shape.title} with random bfloat16 weights, every command in
a process of its own, on ${machine}, ${new Date().toISOString().slice(0, 10)}. Peak memory is the most that the process had
at once; pages of a mapped file count. "To open" is the time to the first update, less an update.

| command | time | peak memory |
| --- | --- | --- |
${table}
`;
  const docs = fileURLToPath(new URL("../docs/", import.meta.url));
  await mkdir(docs, { recursive: true });
  await writeFile(join(docs, "size.md"), page);
}
