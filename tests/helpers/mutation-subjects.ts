import { readFileSync } from "node:fs";
import { parquetWriteBuffer } from "hyparquet-writer";
import { findRuns } from "../../src/api/runs.ts";
import { readAdapter } from "../../src/export/index.ts";
import { graph, input, tensor, weight } from "../../src/graph/index.ts";
import { memoryStorage } from "../../src/io/memory-storage.ts";
import { openOnnx } from "../../src/io/onnx/read.ts";
import { writeOnnx } from "../../src/io/onnx/write.ts";
import type { Storage } from "../../src/io/storage.ts";
import { chatTemplateOf, loadTokenizer } from "../../src/io/tokenizer.ts";
import { openModel } from "../../src/models/index.ts";
import { importOnnx } from "../../src/models/onnx-graph.ts";
import { add, matmul, relu } from "../../src/ops/index.ts";
import { readCheckpoint, writeCheckpoint } from "../../src/train/checkpoint.ts";
import { readImage } from "../../src/train/data/image.ts";
import { readDataset } from "../../src/train/data/index.ts";
import { golden } from "./golden.ts";
import { moreSubjects } from "./more-mutation-subjects.ts";

type Files = Record<string, Uint8Array>;
const file = (path: string): Uint8Array => new Uint8Array(readFileSync(path));
const assets = new URL("../../assets/quickstart/model/", import.meta.url).pathname;

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
const sharded: Files = {
  "m/config.json": model["m/config.json"] as Uint8Array,
  "m/model-00001-of-00001.safetensors": model["m/model.safetensors"] as Uint8Array,
  "m/model.safetensors.index.json": indexOf(model["m/model.safetensors"] as Uint8Array),
};
const text = (content: string): Uint8Array => new TextEncoder().encode(content);
const rows = Array.from({ length: 8 }, (_, i) => ({ prompt: `say ${i}`, completion: `"${i}",\n` }));

const chatTemplate =
  "{% for m in messages %}{{ '<' + m['role'] + '>' }}{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
const metrics = [
  { kind: "step", step: 1, loss: 2.5, tokens: 12, learningRate: 0.001 },
  { kind: "evaluation", step: 1, loss: 2.25 },
  { kind: "observation", step: 1, measures: { forgetting: 0.5 } },
];

/** The index of a single shard that holds everything. */
function indexOf(bytes: Uint8Array): Uint8Array {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, unknown>; // a golden
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  const weight_map = Object.fromEntries(names.map((name) => [name, "model-00001-of-00001.safetensors"]));
  return new TextEncoder().encode(JSON.stringify({ metadata: { total_size: 1 }, weight_map }));
}

async function checkpointFile(): Promise<Uint8Array> {
  const storage = memoryStorage();
  await writeCheckpoint(storage, "c", {
    progress: { step: 4, best: { step: 2, loss: 1.5 }, evaluationsWithoutGain: 1 },
    fingerprint: { seed: 1 },
    metrics: undefined,
    state: new Map([["a", tensor("float32", [2, 3], 1)]]),
    best: new Map([["a", tensor("float32", [2, 3], 2)]]),
  });
  return storage.read("c");
}

async function readModel(storage: Storage): Promise<void> {
  const opened = await openModel(storage, "m");
  opened.loss();
  for (const { source } of opened.weights.values()) await source.read();
}

/** A kind of file, whole, and how it is read. */
export interface Subject {
  readonly files: Files;
  /** What is damaged. */
  readonly path: string;
  readonly read: (storage: Storage) => Promise<unknown>;
  /** What is damaged in it is passed over, or is text like any other. */
  readonly forgiving?: true;
}

/** What names a kind of file: its own name where it has one, or its ending. */
export function nameOf(path: string): string {
  const name = path.split("/").at(-1) ?? path;
  return (/^.\./.test(name) ? name.slice(1) : name).replace(/^(model)-\d+-of-\d+/, "$1"); // a shard is one like any other
}

/** Every kind of file that comes from strangers. */
export const subjects: Readonly<Record<string, Subject>> = {
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
  "tokenizer_config.json": {
    files: tokenizer,
    path: "t/tokenizer_config.json",
    read: async (storage) => {
      const loaded = await loadTokenizer(storage, "t");
      if (!loaded.chatTemplates.has("default")) return undefined;
      const messages = [{ role: "user", content: "set the alarm to 7" }];
      return loaded.encode(chatTemplateOf(loaded).render(messages, { addGenerationPrompt: true }));
    },
  },
  "model.safetensors.index.json": {
    files: sharded,
    path: "m/model.safetensors.index.json",
    read: readModel,
  },
  checkpoint: {
    files: { "c.safetensors": await checkpointFile() },
    path: "c.safetensors",
    read: (storage) => readCheckpoint(storage, "c.safetensors"),
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
  PNG: {
    files: { "i.png": file(golden("images/palette.png")) },
    path: "i.png",
    read: (storage) => readImage(storage, "i.png", 8),
  },
  "interlaced PNG": {
    files: { "i.png": file(golden("images/interlaced.png")) },
    path: "i.png",
    read: (storage) => readImage(storage, "i.png", 8),
  },
  JPEG: {
    files: { "i.jpg": file(golden("images/turned6.jpg")) },
    path: "i.jpg",
    read: (storage) => readImage(storage, "i.jpg", 8),
  },
  "progressive JPEG": {
    files: { "i.jpg": file(golden("images/progressive.jpg")) },
    path: "i.jpg",
    read: (storage) => readImage(storage, "i.jpg", 8),
  },
  "chat template": {
    files: { ...tokenizer, "t/chat_template.jinja": text(chatTemplate) },
    path: "t/chat_template.jinja",
    read: async (storage) => {
      const messages = [{ role: "user", content: "set the alarm to 7" }];
      return chatTemplateOf(await loadTokenizer(storage, "t")).render(messages, { addGenerationPrompt: true });
    },
  },
  "metrics.jsonl": {
    forgiving: true,
    files: { "r/metrics.jsonl": text(metrics.map((line) => JSON.stringify(line)).join("\n")) },
    path: "r/metrics.jsonl",
    read: (storage) => findRuns(storage, "r"),
  },
  "run.json": {
    forgiving: true,
    files: {
      "r/metrics.jsonl": text(metrics.map((line) => JSON.stringify(line)).join("\n")),
      "r/run.json": text(JSON.stringify({ model: "m", learningRate: 0.001 })),
    },
    path: "r/run.json",
    read: (storage) => findRuns(storage, "r"),
  },
  "plain text": {
    forgiving: true,
    files: { "d.txt": text("one text\n\nand another\n") },
    path: "d.txt",
    read: (storage) => readDataset(storage, "d.txt"),
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
  ...moreSubjects,
};

/**
 * Source files that read from a storage and need no subject of their own, each with the reason. Any other that no subject
 * goes through fails the suite.
 */
export const withoutSubject: Readonly<Record<string, string>> = {
  "api/attention.ts": "through io/json.ts, and every field of a plan is checked: tests/tune-attention.test.ts",
  "api/federation-folder.ts": "through io/sealed.ts, and objects by their SHA-256: tests/damage.test.ts",
  "api/nats-federation.ts": "through io/json.ts, and every field is checked: tests/federated-nats.test.ts",
  "privacy/key-file.ts": "refused when a byte differs: tests/private-tuning.test.ts",
  "privacy/ledger.ts": "through io/sealed.ts, whose files are refused when a byte differs",
  "api/compare-workers.ts": "sends files as they are; whoever reads them has its own: tests/compare-workers.test.ts",
  "api/federation-status.ts": "through io/sealed.ts, whose files are refused when a byte differs",
  "api/compare.ts": "through io/sealed.ts alone, whose files are refused when a byte differs",
  "api/continual.ts": "through io/sealed.ts alone, likewise",
  "api/diagnose.ts": "hashes a file, whatever it holds",
  "api/inspect.ts": "through the readers of each kind, which have theirs",
  "api/vocabulary.ts": "reads again what io/tokenizer.ts has read",
  "cli/config.ts": "the person's own file: bounded in tests/options.test.ts",
  "cli/model.ts": "the person's own template: damaged as chat_template.jinja",
  "compress/work-folder.ts": "reads what its state has checksums of",
  "export/model-files.ts": "copies files, and spells numbers as a config.json that has been read",
  "export/transformers-js.ts": "reads again what io/tokenizer.ts has read",
  "io/content-hash.ts": "hashes a file, whatever it holds",
  "io/other-files.ts": "a storage, not a reader",
  "io/outputs/picture.ts": "looks for a hash at the end of a picture",
  "train/data/store.ts": "a cache that is written anew for each run",
};
