import { readFileSync } from "node:fs";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import { readAdapter } from "../src/export/index.ts";
import { graph, input, tensor, weight } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openOnnx } from "../src/io/onnx/read.ts";
import { writeOnnx } from "../src/io/onnx/write.ts";
import type { Storage } from "../src/io/storage.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { createRng } from "../src/linalg/index.ts";
import { openModel } from "../src/models/index.ts";
import { importOnnx } from "../src/models/onnx-graph.ts";
import { add, matmul, relu } from "../src/ops/index.ts";
import { readDataset } from "../src/train/data/index.ts";
import { damaged } from "./helpers/damaged.ts";
import { golden } from "./helpers/golden.ts";

/*
 * Damaged files: every one is read as what it says, or refused with a coded error. MUTATIONS=10000 tries as many.
 */
const mutations = Number(process.env["MUTATIONS"] ?? 600);
/** No file of these sizes takes longer to refuse. */
const limitMs = 4000;

type Files = Record<string, Uint8Array>;
const file = (path: string): Uint8Array => new Uint8Array(readFileSync(path));
const assets = new URL("../assets/quickstart/model/", import.meta.url).pathname;

function onnxFile(): Uint8Array {
  const x = input("x", "float32", ["batch", 3]);
  const values = tensor("float32", [3, 2], [1, 2, 3, 4, 5, 6]);
  const w = weight("w", { dtype: "float32", shape: [3, 2], sizeBytes: 24, read: async () => values });
  const y = relu(add(matmul(x, w), 1));
  return writeOnnx(graph({ name: "g", inputs: [x], outputs: { y } }), { place: () => values });
}

const model: Files = {
  "m/config.json": file(golden("llama-tiny/config.json")),
  "m/model.safetensors": file(golden("llama-tiny/model.safetensors")),
};
const adapter: Files = {
  ...model,
  "a/adapter_config.json": file(golden("peft-llama/adapter_config.json")),
  "a/adapter_model.safetensors": file(golden("peft-llama/adapter_model.safetensors")),
};
const tokenizer: Files = {
  "t/tokenizer.json": file(`${assets}tokenizer.json`),
  "t/tokenizer_config.json": file(`${assets}tokenizer_config.json`),
};
const text = (content: string): Uint8Array => new TextEncoder().encode(content);
const rows = Array.from({ length: 8 }, (_, i) => ({ prompt: `say ${i}`, completion: `"${i}",\n` }));

async function readModel(storage: Storage): Promise<void> {
  const opened = await openModel(storage, "m");
  opened.loss();
  for (const { source } of opened.weights.values()) await source.read();
}

interface Subject {
  readonly files: Files;
  /** What is damaged. */
  readonly path: string;
  readonly read: (storage: Storage) => Promise<unknown>;
}

const subjects: Readonly<Record<string, Subject>> = {
  safetensors: { files: model, path: "m/model.safetensors", read: readModel },
  "config.json": { files: model, path: "m/config.json", read: readModel },
  "adapter_config.json": {
    files: adapter,
    path: "a/adapter_config.json",
    read: async (storage) => readAdapter(storage, "a", await openModel(storage, "m")),
  },
  "adapter_model.safetensors": {
    files: adapter,
    path: "a/adapter_model.safetensors",
    read: async (storage) => readAdapter(storage, "a", await openModel(storage, "m")),
  },
  "tokenizer.json": {
    files: tokenizer,
    path: "t/tokenizer.json",
    read: async (storage) => {
      const loaded = await loadTokenizer(storage, "t");
      return loaded.decode(loaded.encode("set the alarm to 7"));
    },
  },
  ONNX: {
    files: { "g.onnx": onnxFile() },
    path: "g.onnx",
    read: async (storage) => importOnnx(await openOnnx(storage, "g.onnx")),
  },
  JSONL: {
    files: { "d.jsonl": text(rows.map((row) => JSON.stringify(row)).join("\n")) },
    path: "d.jsonl",
    read: (storage) => readDataset(storage, "d.jsonl"),
  },
  CSV: {
    files: { "d.csv": text(`prompt,completion\n${rows.map(({ prompt }) => `${prompt},"a ""b"" c"`).join("\n")}`) },
    path: "d.csv",
    read: (storage) => readDataset(storage, "d.csv"),
  },
  Parquet: {
    files: {
      "d.parquet": new Uint8Array(
        parquetWriteBuffer({
          columnData: [
            { name: "prompt", data: rows.map(({ prompt }) => prompt), type: "STRING" },
            { name: "completion", data: rows.map(({ completion }) => completion), type: "STRING" },
          ],
        }),
      ),
    },
    path: "d.parquet",
    read: (storage) => readDataset(storage, "d.parquet"),
  },
};

describe("damaged files are refused with a code, soon", () => {
  const share = Math.ceil(mutations / Object.keys(subjects).length);
  it.each(Object.entries(subjects))(`%s (${share} of them)`, async (name, { files, path, read }) => {
    await read(memoryStorage(files)); // whole, it can be read
    const refused = new Map<string, number>();
    for (let i = 0; i < share; i++) {
      const wounded = damaged(files[path] as Uint8Array, createRng(7, name, i));
      const started = performance.now();
      const error = await read(memoryStorage({ ...files, [path]: wounded })).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(performance.now() - started, `mutation ${i}`).toBeLessThan(limitMs);
      if (error === undefined) continue;
      if (!(error instanceof TuneError))
        throw new Error(`mutation ${i} of ${name}: ${String(error)}`, { cause: error });
      refused.set(error.code, (refused.get(error.code) ?? 0) + 1);
    }
    expect(refused.size).toBeGreaterThan(0);
  });
});
