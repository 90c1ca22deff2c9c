import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createRng } from "../src/linalg/index.ts";
import type { Answered } from "./size/answer.ts";
import { type SizeShapeName, sizeShapes, writeCheckpoint } from "./size/checkpoint.ts";
import { measured, peak, scion, type Taken } from "./size/command.ts";
import { drawGrowth, exponents, type GrowthPoint, type Sweep } from "./size/growth.ts";
import { unpackWeb } from "./size/unpack-web.ts";

/*
 * Every command on a model of a size that people bring, each in a process of its own, with time and peak memory.
 *   npm run bench:size -- [--shape 100m|0.5b|1b|3b] [--python <python with torch and peft>] [--only <parts of titles, between |>]
 *     [--tokens 300] [--updates 4] [--limit <seconds of a command>] [--folder <where the checkpoint is kept>] [--write]
 * --growth measures how tuning grows with tokens, rank, rows of data and the model instead, of which it draws docs/growth.svg.
 * --write puts what was measured into docs/size.md; rows of other shapes, and those not measured this time, stay.
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
    growth: { type: "boolean", default: false },
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

const docs = fileURLToPath(new URL("../docs/", import.meta.url));
const machine = `${cpus().length} cores (${cpus()[0]?.model.trim()}), ${(totalmem() / 1e9).toFixed(0)} GB, Node ${process.versions.node}`;
const opening = `# At the size that people have

Made by \`npm run bench:size\`: models with random bfloat16 weights, every command in a process of its own. Peak memory is the
most that the process had at once; pages of a mapped file count. "To open" is the time to the first update, less an update.
Seconds of a processor are what all threads worked: the machine had other work besides, which the time beside them counts too.
Merging and exports fold a LoRA of rank 8 in.
Where the first touch of memory is slow, as in many virtual machines, \`GLIBC_TUNABLES=glibc.malloc.hugetlb=1\` in the environment
helps: tuning Llama-3.2-1B's shape in float32 opened in 22 s instead of 33 s; held in bfloat16 it made no difference.

A row about transformers.js is there only where its eight greedy tokens are those of the graph that \`scion generate\` runs, on the
very numbers that the files hold, and the logits are within 1e-4 of the largest. The page is headless Chromium on WebAssembly, and
its memory that of the process that shows it.

Evaluating is bound by its products: in a profile of rows of 300 tokens, one at a time, they took 83 % of the time, at some 60 GFLOP/s
a core, and widening bfloat16 weights 13 %. Without ONNX Runtime's arena it took 0.9 GB less and 28 % more of a processor; decoding
the output layer in pieces, as tuning does, took no less memory and a tenth more time on Qwen2.5-0.5B's shape.
`;

const growthNotes = `Of tuning by LoRA: 256 tokens in a row, rank 8, eight rows and the model of 100 million weights, but for what grows; an exponent is
that of a straight line through all places on logarithmic scales, and "at the end" of one through the last two.`;

const kept = values.folder;
const work = await mkdtemp(join(tmpdir(), "scion-size-"));
const model = join(kept ?? work, values.shape);
const path = (name: string): string => join(work, name);
const rows: Row[] = [];
try {
  if (!existsSync(join(model, "config.json"))) await writeCheckpoint(model, shape);
  if (values.growth) await growth();
  else {
    await writeTexts();
    await tuning();
    await others();
    await pages();
  }
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
    await report(title, taken, `${seconds(update)} an update, ${seconds(first - update)} to open`);
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
    await report(title, taken, `${seconds(update)} an update, ${seconds(opened)} to open`);
  }
}

/** An adapter of a few updates, which this may make first. */
async function adapterOf(): Promise<string> {
  for (const held of ["f32", "bf16"]) if (existsSync(path(`run-${held}/adapter`))) return path(`run-${held}/adapter`);
  const args = ["tune", "-m", model, "-d", path("few.jsonl"), "--validation", "0", "--batch-size", "1"];
  const options = ["--max-length", "64", "--max-steps", "2", "--rank", "8", "--no-tensorboard", "-o", path("run-bf16")];
  const taken = await scion([...args, ...options, "--base-weights", "bf16"], { limitSeconds });
  if (taken.code !== 0) throw new Error(taken.lines.map(({ text }) => text).join("\n"));
  return path("run-bf16/adapter");
}

async function others(): Promise<void> {
  const tuned = ["-m", model, "-a", path("adapter")];
  const generated = ["-m", model, "--max-new-tokens", "8"];
  const exported = (to: string, dtype: string, ...more: readonly string[]): readonly string[] => [
    ...["export", ...tuned, "--to", to, "--dtype", dtype, ...more, "-o", path("out")],
  ];
  const quantized = (method: string, bits: string): readonly string[] => [
    ...["quantize", "-m", model, "--method", method, "--bits", bits, "--max-length", String(tokens)],
    ...["--calibration", path("calibration.jsonl"), "-o", path("out")],
  ];
  const both = ["--base", model, "--adapter", path("adapter")];
  const commands: Readonly<Record<string, readonly string[]>> = {
    inspect: ["inspect", model],
    plan: ["plan", "-m", model, "-d", path("few.jsonl"), "--max-length", String(tokens), "--rank", "8"],
    "generate, 8 tokens": ["generate", ...generated, "-p", "Once upon a time", "--raw"],
    "generate, bf16": ["generate", ...generated, "-p", "Once", "--raw", "--base-weights", "bf16"],
    "chat, an answer of 8 tokens, bf16": ["chat", ...generated, "--base-weights", "bf16"],
    "eval, 4 rows": [
      ...["eval", "-m", model, "-d", path("few.jsonl"), "--max-length", String(tokens), "--batch-size", "1"],
    ],
    merge: ["merge", ...tuned, "-o", path("out")],
    combine: ["combine", ...tuned, "-a", `again=${path("adapter")}`, "--how", "svd", "-o", path("out")],
    ...Object.fromEntries(
      ["fp32", "fp16", "q8", "q4"].map((dtype) => [
        `export to transformers.js, ${dtype}`,
        exported("transformers.js", dtype),
      ]),
    ),
    ...Object.fromEntries(
      ["f16", "q8_0"].map((dtype) => [`export to gguf, ${dtype}`, exported("gguf", dtype, "--pre-tokenizer", "gpt-2")]),
    ),
    "quantize by rounding, 4 bits": ["quantize", "-m", model, "--method", "rtn", "--bits", "4", "-o", path("out")],
    [`quantize by gptq, 4 bits, ${calibrationTokens} tokens`]: quantized("gptq", "4"),
    [`quantize by shiftadd, 2 bits, ${calibrationTokens} tokens`]: quantized("shiftadd", "2"),
    "diagnose, rank 8": ["diagnose", ...both, "-o", path("out")],
    mend: ["mend", ...both, "-o", path("out")],
  };
  for (const [title, given] of Object.entries(commands)) {
    if (!chosen(title)) continue;
    const adapter = given.some((arg) => arg.includes(path("adapter"))) ? await adapterOf() : "";
    const args = given.map((arg) => arg.replace(path("adapter"), adapter));
    const taken = await scion(args, { limitSeconds, input: "Once upon a time\n/exit\n" });
    const { processorSeconds } = taken;
    const worked = processorSeconds === undefined ? "" : `, ${seconds(processorSeconds)} of a processor`;
    await report(title, taken, `${seconds(taken.seconds)}${worked}`);
    await rm(path("out"), { recursive: true, force: true });
  }
}

/** Tuned, and exported in 4 bits: as people use it, and held against what Scion makes of the same numbers. */
async function pages(): Promise<void> {
  const titles = { node: "transformers.js in Node, q4", page: "transformers.js in a page (WebAssembly), q4" };
  const where = (["node", "page"] as const).filter((one) => chosen(titles[one]));
  if (where.length === 0) return;
  const [web, unpacked] = [path("page-q4"), path("unpacked")];
  const tuned = ["-m", model, "-a", await adapterOf()];
  const exported = await scion(["export", ...tuned, "--to", "transformers.js", "--dtype", "q4", "-o", web], {
    limitSeconds,
  });
  if (exported.code !== 0) throw new Error(exported.lines.map(({ text }) => text).join("\n"));
  await unpackWeb(web, model, unpacked);
  const run = async (place: string, folder: string): Promise<readonly [Taken, Answered | undefined]> => {
    const script = fileURLToPath(new URL("./size/continue.ts", import.meta.url));
    const taken = await measured(
      process.execPath,
      ["--import", "tsx", ...(place === "page" ? [] : ["--import", peak]), script, place, folder, "8"],
      { limitSeconds },
    );
    const line = taken.lines.map(({ text }) => text).find((text) => text.startsWith("{"));
    return [taken, line === undefined ? undefined : (JSON.parse(line) as Answered)]; // what the script prints
  };
  const [own, expected] = await run("scion", unpacked);
  if (expected === undefined) throw new Error(own.lines.map(({ text }) => text).join("\n"));
  for (const place of where) {
    const [taken, given] = await run(place, web);
    const same = given?.ids.join() === expected.ids.join() && offBy(given.logits, expected.logits) < 1e-4;
    if (given !== undefined && !same) console.log(`    ${given.ids} instead of ${expected.ids}`);
    const { loadSeconds, firstSeconds, tokenSeconds } = given ?? {};
    const said = `loads in ${seconds(loadSeconds)}, first token after ${seconds(firstSeconds)}, then ${seconds(tokenSeconds)} each`;
    await report(titles[place], taken, same ? said : "says something else than Scion");
  }
}

/** The largest difference, as a share of the largest value. */
function offBy(given: readonly number[], expected: readonly number[]): number {
  const most = (values: readonly number[]): number => values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return most(given.map((value, i) => value - (expected[i] ?? Number.NaN))) / most(expected);
}

function chosen(title: string): boolean {
  return values.only?.split("|").some((part) => title.includes(part)) ?? true;
}

async function report(title: string, { code, peakBytes, lines }: Taken, took: string): Promise<void> {
  const peak = peakBytes === undefined ? "?" : `${(peakBytes / 1e9).toFixed(2)} GB`;
  const failed = code === 0 ? "" : ` (ended with ${code ?? "a signal, or at the limit"})`;
  rows.push({ title, took: code === 0 ? took : `failed${failed}`, peak });
  console.log(`${title.padEnd(44)} ${(code === 0 ? took : `failed${failed}`).padEnd(36)} ${peak}`);
  if (code !== 0) for (const { text } of lines.slice(-4)) console.log(`    ${text}`);
  if (values.write) await writeSection(shape.title, tableOf(rows)); // at once: a run of hours may be cut short
}

function seconds(value = Number.NaN): string {
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} s`;
}

function median(sorted: readonly number[]): number {
  return [...sorted].sort((a, b) => a - b)[sorted.length >> 1] ?? Number.NaN;
}

/** The rows of a section as they stand, and those measured now in their places or behind them. */
function tableOf(now: readonly Row[]): (before: string) => string {
  return (before) => {
    const lines = new Map(
      before.split("\n").flatMap((line) => {
        const [, title = "", , peak] = line.split("|").map((cell) => cell.trim());
        return peak === undefined || title === "command" || title.startsWith("-") ? [] : [[title, line] as const];
      }),
    );
    for (const { title, took, peak } of now) lines.set(title, `| ${title} | ${took} | ${peak} |`);
    return ["| command | time | peak memory |", "| --- | --- | --- |", ...lines.values()].join("\n");
  };
}

/** Put a section into docs/size.md in place of the one of that title. */
async function writeSection(title: string, content: (before: string) => string): Promise<void> {
  const page = await readFile(join(docs, "size.md"), "utf8").catch(() => opening);
  const [head = "", ...sections] = page.split(/^## /m);
  const others = sections.filter((section) => !section.startsWith(`${title}\n`));
  const before = sections.find((section) => section.startsWith(`${title}\n`)) ?? "";
  const said = `${title}\n\nOn ${machine}, ${new Date().toISOString().slice(0, 10)}.\n\n${content(before)}\n`;
  const all = [...others.map((section) => section.trimEnd()), said.trimEnd()];
  await writeFile(
    join(docs, "size.md"),
    `${head.trimEnd()}\n\n${all.map((section) => `## ${section}`).join("\n\n")}\n`,
  );
}

/** How tuning grows with each of four things while the others stay: small shapes, so that all of it takes minutes. */
async function growth(): Promise<void> {
  const sweeps: Sweep[] = [
    await sweep("tokens in a row", "an update", [128, 256, 512, 1024, 2048, 4096, 8192], (count) => ({ count })),
    await sweep("rank", "an update", [2, 8, 32, 128], (rank) => ({ rank })),
    await sweep("rows of data", "opening", [1e3, 1e4, 1e5, 1e6], (rowsOfData) => ({ rowsOfData })),
    await sweep("weights of the model", "an update", [1e8, 4.94e8, 1.236e9], (weights) => ({
      of: weights < 2e8 ? "100m" : weights < 1e9 ? "0.5b" : "1b",
    })),
  ];
  await writeFile(join(docs, "growth.svg"), drawGrowth("Tuning by LoRA as one thing grows", sweeps));
  const lines = sweeps.map(({ name, of, points, beyond }) => {
    const [time, memory] = [
      points.map(({ x, seconds: y }) => [x, y] as const),
      points.map(({ x, bytes }) => [x, bytes] as const),
    ];
    const said = ([all, last]: readonly [number, number]): string => `${all.toFixed(2)}, at the end ${last.toFixed(2)}`;
    const reached = [...points.map(({ x }) => x), ...(beyond === undefined ? [] : [beyond])].join(", ");
    return `| ${name} | ${reached} | ${of}: ${said(exponents(time))} | ${said(exponents(memory))} |`;
  });
  const table = [
    "| what grows | from, to | exponent of time | exponent of memory |",
    "| --- | --- | --- | --- |",
    ...lines,
  ];
  if (values.write)
    await writeSection("Growth", () =>
      [`![time and memory over four sizes](growth.svg)`, growthNotes, table.join("\n")].join("\n\n"),
    );
}

interface Place {
  readonly count?: number;
  readonly rank?: number;
  readonly rowsOfData?: number;
  readonly of?: SizeShapeName;
}

async function sweep(
  name: string,
  of: "an update" | "opening",
  places: readonly number[],
  placeOf: (x: number) => Place,
): Promise<Sweep> {
  const points: GrowthPoint[] = [];
  const measuredBefore = join(kept ?? work, "growth.json");
  for (const x of places) {
    // A run that was cut short goes on from what it had measured, where the folder is kept.
    const known: Record<string, GrowthPoint> = JSON.parse(await readFile(measuredBefore, "utf8").catch(() => "{}"));
    const before = known[`${name} ${x}`];
    if (before) {
      points.push(before);
      continue;
    }
    const { count = 256, rank = 8, rowsOfData = 8, of: shapeName = "100m" } = placeOf(x);
    const folder = join(kept ?? work, shapeName);
    if (!existsSync(join(folder, "config.json"))) await writeCheckpoint(folder, sizeShapes[shapeName]);
    const words = of === "opening" ? 8 : 2 * count;
    const line = JSON.stringify({ text: "the sea ".repeat(Math.ceil(words / 2)) });
    await writeFile(path("growth.jsonl"), `${line}\n`.repeat(rowsOfData));
    const args = ["tune", "-m", folder, "-d", path("growth.jsonl"), "--validation", "0", "--batch-size", "1"];
    const options = ["--max-length", String(count), "--max-steps", String(updates), "--rank", String(rank)];
    const output = path(`growth-${name}-${x}`);
    const taken = await scion([...args, ...options, "--no-tensorboard", "--json", "-o", output], { limitSeconds });
    await rm(output, { recursive: true, force: true });
    const at = taken.lines.filter(({ text: line }) => line.includes('"kind":"step"')).map(({ worked }) => worked);
    if (at.length < 2) {
      // What a machine has no memory for ends the sweep.
      const [refusal = ""] = taken.lines.flatMap(({ text: said }) => /would take [\d.]+ GB/.exec(said) ?? []);
      if (refusal === "") throw new Error(taken.lines.map(({ text: said }) => said.slice(0, 200)).join("\n"));
      console.log(`${name} ${x}: refused, it ${refusal}`);
      return { name, of, points, beyond: `${x} ${refusal}` };
    }
    const update = Math.min(...at.slice(1).map((end, i) => end - (at[i] ?? Number.NaN)));
    const took = of === "opening" ? (at[0] ?? Number.NaN) - update : update;
    const memory = ((taken.peakBytes ?? Number.NaN) / 1e9).toFixed(2);
    console.log(`${name} ${x}: ${took.toFixed(2)} s of a processor for ${of}, ${memory} GB`);
    const point = { x, seconds: took, bytes: taken.peakBytes ?? Number.NaN };
    points.push(point);
    await writeFile(measuredBefore, JSON.stringify({ ...known, [`${name} ${x}`]: point }));
  }
  return { name, of, points };
}
