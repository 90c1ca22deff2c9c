import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { parquetWriteBuffer } from "hyparquet-writer";
import { fileJournal } from "../../src/diagnose/journal.ts";
import type { MatrixDiagnosis } from "../../src/diagnose/report.ts";
import { readAdapterTask } from "../../src/export/adapter-task.ts";
import { readAdapterVocabulary } from "../../src/export/adapter-tokens.ts";
import { tokenizerMetadata } from "../../src/export/gguf-tokenizer.ts";
import { readAdapter } from "../../src/export/index.ts";
import { readRunRecord } from "../../src/export/model-card.ts";
import { readScales } from "../../src/export/packed-folder.ts";
import { type Tensor, tensor } from "../../src/graph/index.ts";
import { readHead, writeHead } from "../../src/io/adapterhub-head.ts";
import { compileChatTemplate } from "../../src/io/chat-template.ts";
import { memoryStorage } from "../../src/io/memory-storage.ts";
import { writeMlxAdapter } from "../../src/io/mlx.ts";
import { putBack } from "../../src/io/outputs/index.ts";
import { readManifest, writeManifest } from "../../src/io/outputs/manifest.ts";
import { type Problem, throwProblems } from "../../src/io/problems.ts";
import { openQuantised, quantisedFormats, readSaidQuantisation } from "../../src/io/quantised/index.ts";
import { openSafetensors, writeSafetensors } from "../../src/io/safetensors.ts";
import { readSealed, writeSealed } from "../../src/io/sealed.ts";
import { readSealedTensors, writeSealedTensors } from "../../src/io/sealed-tensors.ts";
import type { Storage } from "../../src/io/storage.ts";
import { loadTokenizer } from "../../src/io/tokenizer.ts";
import { openModel } from "../../src/models/index.ts";
import { readSentenceModules } from "../../src/models/sentence.ts";
import { readDense } from "../../src/models/sentence-dense.ts";
import { readDataset } from "../../src/train/data/index.ts";
import { piecesOf } from "../../src/train/data/pieces.ts";
import { compressors, zstdFrame } from "./compress.ts";
import { golden } from "./golden.ts";
import type { Subject } from "./mutation-subjects.ts";
import { packFolder } from "./packed-model.ts";

type Files = Record<string, Uint8Array>;
const kept: Readonly<Record<string, Tensor>> = {
  S: tensor("float32", [3], [3, 2, 1]),
  U: tensor("float32", [2, 2], [1, 2, 3, 4]),
};
const file = (path: string): Uint8Array => new Uint8Array(readFileSync(path));
const text = (content: string): Uint8Array => new TextEncoder().encode(content);
const json = (content: unknown): Uint8Array => text(JSON.stringify(content));
const assets = new URL("../../assets/quickstart/model/", import.meta.url).pathname;

/** The files of a folder that is written into memory. */
async function written(names: readonly string[], write: (storage: Storage) => Promise<unknown>): Promise<Files> {
  const storage = memoryStorage();
  await write(storage);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await storage.read(name)])));
}

async function readModel(storage: Storage, folder = "m"): Promise<void> {
  const opened = await openModel(storage, folder);
  for (const { source } of opened.weights.values()) await source.read();
}

/** A subject for each of the files, all read in the same way. */
function each(prefix: string, files: Files, paths: readonly string[], read: Subject["read"]): Record<string, Subject> {
  return Object.fromEntries(paths.map((path) => [`${prefix} ${path.split("/").at(-1)}`, { files, path, read }]));
}

const llama: Files = {
  "m/config.json": file(golden("llama-tiny/config.json")),
  "m/model.safetensors": file(golden("llama-tiny/model.safetensors")),
};
const packed = await written(["p/packed.safetensors", "p/config.json"], (storage) =>
  packFolder(memoryStorage(llama), "m", { storage, folder: "p" }, { bits: 2, scales: "columns" }),
);
const scales = await written(["s/scales.safetensors"], (storage) =>
  writeSafetensors(storage, "s/scales.safetensors", [{ name: "m.q_proj", tensor: tensor("float32", [2, 1, 8], 1) }]),
);
const mlxModule = "model.layers.0.self_attn.q_proj";
const mlx = await written(["a/adapter_config.json", "a/adapters.safetensors"], (storage) =>
  writeMlxAdapter(storage, "a", {
    settings: { dora: false, rank: 2, scale: 2, dropout: 0 },
    tensors: new Map([[mlxModule, { lora_a: tensor("float32", [32, 2], 1), lora_b: tensor("float32", [2, 32], 1) }]]),
    baseModel: "m",
  }),
);
const hub: Files = {
  "m/config.json": file(golden("encoders/bert-sequence/config.json")),
  "m/model.safetensors": file(golden("encoders/bert-sequence/model.safetensors")),
  "a/adapter_config.json": file(golden("adapterhub/bert-bottleneck/adapter_config.json")),
  "a/adapter.safetensors": file(golden("adapterhub/bert-bottleneck/adapter.safetensors")),
};
const hubHead = await written(["a/head_config.json", "a/model_head.safetensors"], (storage) =>
  writeHead(
    storage,
    "a",
    JSON.stringify({ config: null, model_class: "BertModel", label2id: { no: 0, yes: 1 } }),
    new Map([["classifier.weight", tensor("float32", [2, 4], 1)]]),
  ),
);
const adapterOf = async (storage: Storage): Promise<unknown> =>
  readAdapter(storage, "a", await openModel(storage, "m"));

async function headOf(storage: Storage): Promise<void> {
  const problems: Problem[] = [];
  const head = await readHead(storage, "a", await storage.list("a"), problems);
  throwProblems(problems, "a");
  for (const lazy of head?.tensors.values() ?? []) await lazy.read();
}

const quantised = await openSafetensors(memoryStorage({ q: file(golden("quantised.safetensors")) }), "q");

/** The tensors of a sample of quantised checkpoints, as those of a module. */
async function quantisedSubject(sample: string): Promise<Subject> {
  const prefix = `${sample}/`;
  const own = [...quantised.tensors].filter(([key]) => key.startsWith(prefix) && key !== `${prefix}expected`);
  const tensors = await Promise.all(
    own.map(async ([key, lazy]) => ({ name: `m.0.${key.slice(prefix.length)}`, tensor: await lazy.read() })),
  );
  const files = await written(["q.safetensors"], (storage) => writeSafetensors(storage, "q.safetensors", tensors));
  const said = { quantization_config: JSON.parse(quantised.metadata[sample] ?? "{}") as unknown };
  return {
    files,
    path: "q.safetensors",
    read: async (storage) => {
      const opened = await openSafetensors(storage, "q.safetensors");
      const plain = await openQuantised(opened.tensors, await readSaidQuantisation(storage, "", said), "q");
      for (const lazy of plain.tensors.values()) await lazy.read();
    },
  };
}
const quantisedSubjects = await Promise.all(
  quantisedFormats.flatMap(({ samples }) =>
    samples.slice(0, 1).map(async (sample) => [`quantised ${sample}`, await quantisedSubject(sample)] as const),
  ),
);

const sentence: Files = {
  "m/modules.json": json([
    { idx: 0, name: "0", path: "", type: "sentence_transformers.models.Transformer" },
    { idx: 1, name: "1", path: "1_Pooling", type: "sentence_transformers.models.Pooling" },
  ]),
  "m/1_Pooling/config.json": json({ word_embedding_dimension: 32, pooling_mode_mean_tokens: true }),
  "m/sentence_bert_config.json": json({ max_seq_length: 128, do_lower_case: false }),
};
const dense: Files = {
  "d/config.json": json({
    in_features: 4,
    out_features: 2,
    bias: true,
    activation_function: "torch.nn.modules.activation.Tanh",
  }),
  ...(await written(["d/model.safetensors"], (storage) =>
    writeSafetensors(storage, "d/model.safetensors", [
      { name: "linear.weight", tensor: tensor("float32", [2, 4], 1) },
      { name: "linear.bias", tensor: tensor("float32", [2], 1) },
    ]),
  )),
};
const image: Files = {
  "m/config.json": file(golden("encoders/vit-image/config.json")),
  "m/model.safetensors": file(golden("encoders/vit-image/model.safetensors")),
  "m/preprocessor_config.json": json({ do_resize: true, do_normalize: true, image_mean: [0.5, 0.5, 0.5] }),
};
const tokenizer: Files = {
  "t/tokenizer.json": file(`${assets}tokenizer.json`),
  "t/generation_config.json": json({ eos_token_id: [1, 2], pad_token_id: 0 }),
  "t/chat_template.json": json({ chat_template: "{{ messages[0]['content'] }}" }),
  "t/additional_chat_templates/tools.jinja": text("{% for m in messages %}{{ m['content'] }}{% endfor %}"),
};
const rows = text(
  Array.from({ length: 8 }, (_, i) => JSON.stringify({ prompt: `say ${i}`, completion: "a" })).join("\n"),
);
/** A frame of one raw block of Zstandard. */
const zstd = Uint8Array.of(
  ...[0x28, 0xb5, 0x2f, 0xfd, 0x60, (rows.length - 256) & 255, (rows.length - 256) >> 8],
  ...[((rows.length << 3) | 1) & 255, rows.length >> 5, rows.length >> 13, ...rows],
);
const streamed = async (storage: Storage, path: string): Promise<void> => {
  for await (const _ of piecesOf(storage, { path }) ?? []);
};
/** Parquet whose pages are compressed. */
function parquetSubject(codec: "ZSTD" | "GZIP", compress?: (page: Uint8Array) => Uint8Array): Subject {
  const data = Array.from({ length: 8 }, (_, i) => `text ${i} of some length`);
  const columnData = [{ name: "text", data, type: "STRING" as const }];
  const options = { columnData, codec, ...(compress ? { compressors: { [codec]: compress } } : {}) };
  return {
    files: { "d.parquet": new Uint8Array(parquetWriteBuffer(options)) },
    path: "d.parquet",
    read: (storage) => readDataset(storage, "d.parquet"),
  };
}
const beside: Files = {
  "a/task.json": json({ task: "sequence-classification", labels: ["no", "yes"] }),
  "a/scion-run.json": json({ step: 2, steps: 4, ended: "finished", facts: {}, cites: [] }),
};

/** Files of models, adapters and runs. */
export const moreSubjects: Readonly<Record<string, Subject>> = {
  ...each("packed", packed, ["p/packed.safetensors"], (storage) => readModel(storage, "p")),
  ...each("tuned", scales, ["s/scales.safetensors"], (storage) => readScales(storage, "s")),
  ...each("mlx", { ...llama, ...mlx }, ["a/adapter_config.json", "a/adapters.safetensors"], adapterOf),
  ...each("AdapterHub", hub, ["a/adapter_config.json", "a/adapter.safetensors"], adapterOf),
  ...each("AdapterHub", { ...hub, ...hubHead }, ["a/head_config.json", "a/model_head.safetensors"], headOf),
  ...Object.fromEntries(quantisedSubjects),
  "quantize_config.json": {
    files: { "m/quantize_config.json": json({ bits: 4, group_size: 128, desc_act: false, sym: true }) },
    path: "m/quantize_config.json",
    read: (storage) => readSaidQuantisation(storage, "m", {}),
  },
  ...each("sentence-transformers", sentence, Object.keys(sentence), (storage) => readSentenceModules(storage, "m", 32)),
  ...each("Dense module's", dense, Object.keys(dense), (storage) => readDense(storage, "d")),
  ...each("image", image, ["m/preprocessor_config.json"], readModel as Subject["read"]),
  ...each("tokenizer", tokenizer, Object.keys(tokenizer).slice(1), async (storage) => {
    const loaded = await loadTokenizer(storage, "t");
    for (const source of loaded.chatTemplates.values())
      compileChatTemplate(source, {}).render([{ role: "user", content: "set the alarm" }], {
        addGenerationPrompt: true,
      });
  }),
  "tokenizer.json for GGUF": {
    files: tokenizer,
    path: "t/tokenizer.json",
    read: (storage) => tokenizerMetadata(storage, "t", { vocabSize: 8192, preTokenizer: "gpt-2" }),
  },
  "JSONL in gzip": {
    files: { "d.jsonl.gz": new Uint8Array(gzipSync(rows)) },
    path: "d.jsonl.gz",
    read: (storage) => readDataset(storage, "d.jsonl.gz"),
  },
  "JSONL in zstd": {
    files: { "d.jsonl.zst": zstd },
    path: "d.jsonl.zst",
    read: (storage) => readDataset(storage, "d.jsonl.zst"),
  },
  // Its blocks are compressed, by `zstd -19`, and it has a checksum.
  "JSONL in zstd's own": {
    files: { "d.jsonl.zst": file(fileURLToPath(new URL("../fixtures/rows.jsonl.zst", import.meta.url))) },
    path: "d.jsonl.zst",
    read: (storage) => readDataset(storage, "d.jsonl.zst"),
  },
  "streamed TSV": {
    files: { "d.tsv": text(`prompt\tcompletion\n${'"a ""b"" c"\td\r\n'.repeat(8)}`) },
    path: "d.tsv",
    read: (storage) => streamed(storage, "d.tsv"),
    forgiving: true,
  },
  "Parquet in zstd": parquetSubject("ZSTD", zstdFrame),
  "Parquet in gzip": parquetSubject("GZIP", compressors["gz"]),
  "streamed JSONL in zstd": {
    files: { "d.jsonl.zst": zstd },
    path: "d.jsonl.zst",
    read: (storage) => streamed(storage, "d.jsonl.zst"),
  },
  "state of a run": {
    files: await written(["state.json"], (storage) =>
      writeSealed(storage, "state.json", { fingerprint: {}, files: {} }),
    ),
    path: "state.json",
    read: (storage) => readSealed(storage, "state.json"),
  },
  ...each("adapter's", beside, ["a/task.json"], (storage) => readAdapterTask(storage, "a")),
  ...each("adapter's", beside, ["a/scion-run.json"], (storage) => readRunRecord(storage, "a")),
  "adapter's tokenizer": {
    files: { "a/tokenizer.json": file(`${assets}tokenizer.json`) },
    path: "a/tokenizer.json",
    read: (storage) => readAdapterVocabulary(storage, "a"),
  },
  ".scion.json": {
    forgiving: true,
    files: await written(["o/.scion.json"], (storage) =>
      writeManifest(storage, "o", { kind: "run", files: { a: "0" } }),
    ),
    path: "o/.scion.json",
    read: (storage) => readManifest(storage, "o"),
  },
  "list of what is moved into a folder": {
    files: { "t/.scion-partial/.scion-moves.json": json({ out: ["a", "b/c"], in: ["d", "e"] }), "t/a": text("a") },
    path: "t/.scion-partial/.scion-moves.json",
    read: (storage) => putBack(storage, "t"),
  },
  "what a cache keeps of a base": {
    forgiving: true,
    files: await written(["c/x.safetensors"], (storage) =>
      writeSealedTensors(storage, "c/x.safetensors", "of x", kept),
    ),
    path: "c/x.safetensors",
    read: async (storage) => {
      const found = await readSealedTensors(storage, "c/x.safetensors", "of x");
      const same =
        found === undefined || [...found].every(([name, { data }]) => data.join() === kept[name]?.data.join());
      if (!same) throw new Error("what is damaged was read");
    },
  },
  "journal of a diagnosis": {
    forgiving: true,
    files: await written(["d/progress.jsonl"], async (storage) => {
      for (const key of ["a", "b"]) await fileJournal(storage, "d/progress.jsonl").append(key, {} as MatrixDiagnosis);
    }),
    path: "d/progress.jsonl",
    read: (storage) => fileJournal(storage, "d/progress.jsonl").read(),
  },
};
