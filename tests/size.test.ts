import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { sizeShapes, writeCheckpoint } from "../bench/size/checkpoint.ts";
import { scion } from "../bench/size/command.ts";
import { exportModel, loadModel } from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";

/*
 * Commands on a model of 100 million bfloat16 weights (200 MB; the largest matrix is 98 MB in float32), each in a process of its
 * own with 80 MB of JavaScript's heap: too little for a matrix as an array of numbers. The limits of memory lie under what it
 * takes to hold the weights once more, so that a second copy fails.
 */
const heapMegabytes = 80;

let folder: string;
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-size-"));
  await mkdir(at("model"));
  await writeCheckpoint(at("model"), sizeShapes["100m"]);
  const texts = ["First Citizen: Before we proceed any further, hear me speak.", "You are all resolved rather to die."];
  await writeFile(at("texts.jsonl"), texts.map((text) => JSON.stringify({ text })).join("\n"));
}, 300_000);
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const tune = (held: string): readonly string[] => [
  ...["tune", "-m", "model", "-d", "texts.jsonl", "--validation", "0", "--batch-size", "1", "--max-steps", "2"],
  ...["--rank", "4", "--no-tensorboard", "--base-weights", held, "-o", `run-${held}`],
];
const exported = (to: string, dtype: string, ...more: readonly string[]): readonly string[] => [
  ...["export", "-m", "model", "--to", to, "--dtype", dtype, "-o", `${to}-${dtype}`, ...more],
];
const commands: readonly { readonly title: string; readonly megabytes: number; readonly args: readonly string[] }[] = [
  { title: "inspect", megabytes: 140, args: ["inspect", "model"] },
  { title: "tune, bf16", megabytes: 740, args: tune("bf16") },
  { title: "tune, q8", megabytes: 640, args: tune("q8") },
  { title: "tune, q4", megabytes: 640, args: tune("q4") },
  {
    title: "generate, bf16",
    megabytes: 640,
    args: ["generate", "-m", "model", "-p", "Once", "--raw", "--max-new-tokens", "2", "--base-weights", "bf16"],
  },
  {
    title: "eval, bf16",
    megabytes: 640,
    args: ["eval", "-m", "model", "-d", "texts.jsonl", "--base-weights", "bf16"],
  },
  { title: "merge", megabytes: 270, args: ["merge", "-m", "model", "-a", "run-bf16/adapter", "-o", "merged"] },
  { title: "transformers.js, fp32", megabytes: 240, args: exported("transformers.js", "fp32") },
  { title: "transformers.js, fp16", megabytes: 280, args: exported("transformers.js", "fp16") },
  { title: "transformers.js, q8", megabytes: 260, args: exported("transformers.js", "q8") },
  {
    title: "transformers.js, q4, with an adapter",
    megabytes: 260,
    args: exported("transformers.js", "q4", "-a", "run-bf16/adapter"),
  },
  { title: "gguf, f16", megabytes: 250, args: exported("gguf", "f16", "--pre-tokenizer", "gpt-2") },
  { title: "gguf, q8_0", megabytes: 250, args: exported("gguf", "q8_0", "--pre-tokenizer", "gpt-2") },
  {
    title: "quantize by rounding",
    megabytes: 240,
    args: ["quantize", "-m", "model", "--method", "rtn", "--bits", "4", "-o", "rtn"],
  },
];

describe("at 100 million weights", () => {
  it.each(commands)(
    "$title takes less than $megabytes MB",
    async ({ args, megabytes }) => {
      const own = new Set(["model", "texts.jsonl", "run-bf16/adapter"]);
      const placed = args.map((arg, i) => (own.has(arg) || args[i - 1] === "-o" ? at(arg) : arg));
      const { code, peakBytes = 0, lines } = await scion(placed, { heapMegabytes, limitSeconds: 280 });
      const said = lines.map(({ text }) => text).join("\n");
      expect(code, said).toBe(0);
      expect(peakBytes / 1e6).toBeGreaterThan(50);
      expect(peakBytes / 1e6, said).toBeLessThan(megabytes);
    },
    300_000,
  );

  it.each([
    { output: "merged", to: "safetensors", dtypes: {} },
    { output: "transformers.js-fp16", to: "transformers.js", dtypes: { dtypes: ["fp16"] } },
    { output: "transformers.js-q8", to: "transformers.js", dtypes: { dtypes: ["q8"] } },
    { output: "transformers.js-q4", to: "transformers.js", dtypes: { dtypes: ["q4"] } },
    { output: "gguf-f16", to: "gguf", dtypes: { dtypes: ["f16"], preTokenizer: "gpt-2" } },
    { output: "gguf-q8_0", to: "gguf", dtypes: { dtypes: ["q8_0"], preTokenizer: "gpt-2" } },
  ] as const)(
    "what $output takes is said before it starts where the disk is too small",
    async ({ output, to, dtypes }) => {
      const names = await readdir(at(output), { recursive: true, withFileTypes: true });
      const files = names.filter((entry) => entry.isFile()).map((entry) => stat(join(entry.parentPath, entry.name)));
      const taken = (await Promise.all(files)).reduce((sum, { size }) => sum + size, 0);
      const storage = { ...nodeStorage, freeBytes: async () => 1e6 };
      const model = await loadModel(at("model"), { platform: { ...nodePlatform, storage } });
      const refused = await exportModel(model, to, at("nowhere"), dtypes).catch(String);
      const [, size = "", unit = ""] = /it takes ([\d.]+) ([MG]B)/.exec(String(refused)) ?? [];
      const said = Number(size) * (unit === "GB" ? 1e9 : 1e6);
      // Cards and tokenizers come to it; numbers are said in two decimals.
      expect(said).toBeGreaterThan(0.95 * taken);
      expect(said).toBeLessThan(1.05 * taken);
      await expect(stat(at("nowhere"))).rejects.toThrow();
    },
  );
});
