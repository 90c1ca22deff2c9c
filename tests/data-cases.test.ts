import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { Template } from "@huggingface/jinja";
import { describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import { evaluate, exportModel, loadData, loadModel, streamData } from "../src/index.ts";
import { compileChatTemplate } from "../src/io/chat-template.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { type NamedTemplate, namedTemplates } from "../src/io/named-templates.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import {
  previewExample,
  type ReadOptions,
  readDataset,
  readRows,
  streamDataset,
  tokenizeDataset,
} from "../src/train/data/index.ts";
import { tasks } from "../src/train/tasks/index.ts";
import { root } from "./helpers/root.ts";

const folder = `${root}/../shared/cases/data`;
const here = existsSync(folder);
if (!here) console.warn("../shared/cases is absent: the rows of cases/data are not held against what is right");

/** What a file becomes with a model's tokenizer, read whole and in pieces, and what is said of it. */
async function read(model: string, file: string, options: ReadOptions = {}) {
  const tokenizer = await loadTokenizer(nodeStorage, `${folder}/${model}`);
  const dataset = await readDataset(nodeStorage, `${folder}/${file}`, options);
  const { skipBadRows = false } = options;
  const { examples, warnings, skipped = [] } = tokenizeDataset(dataset, tokenizer, { maxLength: 1000, skipBadRows });
  const streamed = await streamDataset(
    { ...nodeStorage, ...cacheIn(memoryStorage({})) },
    [{ path: `${folder}/${file}` }],
    { tokenizer, maxLength: 1000, validation: 0, seed: 0, cache: "cache", ...options },
  );
  expect(await streamed.store.at(examples.map((_, i) => i))).toEqual(examples);
  expect(streamed.warnings).toEqual(warnings);
  const all = [...(dataset.skipped ?? []), ...skipped].sort((a, b) => a.line - b.line);
  expect(streamed.skipped.map(({ line, what }) => ({ line, what }))).toEqual(
    all.map(({ line, what }) => ({ line, what })),
  );
  return {
    previews: examples.map((example) => previewExample(example, tokenizer)),
    warnings: warnings.map(({ code, lines }) => `${code}: ${lines}`),
    skipped: all.map(({ line, what }) => `${line}: ${what}`),
    ids: examples.map(({ inputIds }) => [...inputIds]),
  };
}

/** The cache lies in memory, all else on the disk. */
function cacheIn(memory: ReturnType<typeof memoryStorage>): Partial<typeof nodeStorage> {
  return {
    read: (path, range) => (path === "cache" ? memory : nodeStorage).read(path, range),
    write: (path, content) => memory.write(path, content),
  };
}

/** A frame of Zstandard with one raw block, for texts below 256 bytes (RFC 8878, §3.1.1). */
function zstd(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const header = (bytes.length << 3) | 1;
  return Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x20, bytes.length, header & 255, header >> 8, header >> 16, ...bytes);
}

const failure = async (run: Promise<unknown>): Promise<TuneError> => {
  const error = await run.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof TuneError) return error;
  throw error ?? new Error("expected a TuneError");
};

describe.skipIf(!here)("the rows of cases/data", () => {
  it("jinja-strip-chars: four spaces stay", async () => {
    const { previews } = await read("jinja-strip-chars/model", "jinja-strip-chars/indent.jsonl");
    expect(previews[0]).toContain("⟦    return x + 1<|im_end|>");
  });

  it("bigint-json: numbers are written as they were spelt", async () => {
    const { previews } = await read("bigint-json/model", "bigint-json/bigint.jsonl");
    expect(previews[0]).toContain('{"id": 2512292042121000001, "x": 20.0}');
  });

  it("tool-arguments-string: arguments in JSON are not encoded twice", async () => {
    const { previews } = await read("tool-arguments-string/model", "tool-arguments-string/strargs.jsonl");
    expect(previews[0]).toContain('[call]f {"city": "SF"}[/call]');
  });

  it.each(["weight", "train"])("weight-zero: %s leaves the wrong answer untrained, and says so", async (name) => {
    const { previews, warnings } = await read("weight-zero/model", `weight-zero/${name}.jsonl`);
    expect(previews[0]?.match(/⟦[^⟧]*⟧/g)).toEqual(["⟦Paris<|im_end|>\n⟧"]);
    expect(previews[0]).toContain("WRONG<|im_end|>");
    expect(warnings).toEqual(["weight-zero: 1"]);
  });

  it("eos-only-at-end: both answers are trained", async () => {
    const { previews, warnings } = await read("eos-only-at-end/phi3", "eos-only-at-end/multi.jsonl");
    expect(previews[0]?.match(/⟦[^⟧]*⟧/g)).toEqual(["⟦First[end]⟧", "⟦Second[end]<|endoftext|>⟧"]);
    expect(warnings).toEqual([]);
  });

  it("bos-in-text: rows that begin with BOS get no second one", async () => {
    for (const file of ["p2", "t2", "m2"]) {
      const { ids } = await read("bos-in-text/mist", `bos-in-text/${file}.jsonl`);
      expect(ids[0]?.filter((id) => id === 1)).toEqual([1]);
      expect(ids[0]?.[0]).toBe(1);
    }
    const { previews } = await read("bos-in-text/mist", "bos-in-text/p2.jsonl");
    expect(previews[0]).toBe("<s>[INST] Hi [/INST]⟦ Hello</s>⟧");
  });

  it("parquet-int64: labels, scores and tags are numbers; every compression is read", async () => {
    const rows = async (task: keyof typeof tasks, file: string) =>
      (await tasks[task].read(nodeStorage, `${folder}/parquet-int64/${file}.parquet`)).rows.map(({ value }) => value);
    expect(await rows("sequence-classification", "cls")).toMatchObject([{ label: 0 }, { label: 1 }]);
    expect(await rows("regression", "score")).toMatchObject([{ score: 1 }, { score: 5 }]);
    expect(await rows("token-classification", "ner")).toMatchObject([{ ner_tags: [0, 1] }, { ner_tags: [2] }]);
    const plain = await read("parquet-int64/chat", "parquet-int64/msgs_none.parquet");
    expect(plain.previews.length).toBeGreaterThan(0);
    for (const codec of ["snappy", "gzip", "zstd"])
      expect(await read("parquet-int64/chat", `parquet-int64/msgs_${codec}.parquet`)).toEqual(plain);
  });

  it("refusals: parts of text are joined, TRL's conversational prompts read, tools taken from JSON", async () => {
    const { previews } = await read("weight-zero/model", "refusals/parts.jsonl");
    expect(previews[0]).toBe("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello<|im_end|>\n⟧");
    expect((await read("weight-zero/model", "refusals/pcmsgs.jsonl")).previews).toEqual(previews);
    expect((await read("weight-zero/model", "refusals/toolsstr.jsonl")).previews).toEqual(previews);
    expect((await read("weight-zero/model", "refusals/sgtools.jsonl")).previews).toHaveLength(2);
  });

  it("refusals: an empty answer among others is left untrained, and said", async () => {
    const { previews, warnings } = await read("weight-zero/model", "refusals/emptyasst.jsonl");
    expect(previews.map((preview) => preview.match(/⟦[^⟧]*⟧/g))).toEqual([
      ["⟦Hello<|im_end|>\n⟧"],
      ["⟦Yo<|im_end|>\n⟧"],
    ]);
    expect(warnings).toEqual(["empty-turns: 1"]);
  });

  it("cls-pooling: embeddings are pooled as 1_Pooling says, and what is exported says it too", async () => {
    const model = await loadModel(`${folder}/cls-pooling/bge`, { platform: nodePlatform, task: "sentence-embedding" });
    const { train } = await loadData(model, `${folder}/cls-pooling/sts.jsonl`);
    const { measures } = await evaluate(model, train, {});
    expect(measures["pearson"]).toBeCloseTo(-0.3503, 4);
    const target = await mkdtemp(join(tmpdir(), "scion-pooling-"));
    await exportModel(model, "safetensors", join(target, "model"));
    const again = await loadModel(join(target, "model"), { platform: nodePlatform, task: "sentence-embedding" });
    expect(again.pretrained.sentence).toEqual({ poolings: ["cls"], layers: [{ kind: "normalize" }] });
    await rm(target, { recursive: true });
  });

  it("refusals: BOM and CRLF are read", async () => {
    expect((await read("weight-zero/model", "refusals/crlfbom.jsonl")).previews).toHaveLength(2);
  });

  it("refusals: half a character is named by its line, and left out where that is asked for", async () => {
    const file = "refusals/surr.jsonl";
    const error = await failure(read("weight-zero/model", file));
    expect(error.message).toContain('line 1: "completion" holds half of a character (a surrogate such as \\ud83d');
    expect(error.fix).toContain("--skip-bad-rows");
    const { previews, skipped } = await read("weight-zero/model", file, { skipBadRows: true });
    expect([previews.length, skipped.length]).toEqual([1, 1]);
    expect(skipped[0]).toMatch(/^1: "completion" holds half of a character/);
  });

  it("refusals: a system role that the template refuses is named with a way out", async () => {
    const storage = memoryStorage({});
    const rows = [
      ...readFileSync(`${folder}/refusals/sys.jsonl`, "utf8").trim().split("\n"),
      '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}',
    ];
    await storage.write("rows.jsonl", rows.join("\n"));
    const known = await loadTokenizer(nodeStorage, `${folder}/weight-zero/model`);
    const template =
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    const tokenizer = { ...known, chatTemplates: new Map([["default", template]]) };
    const dataset = await readDataset(storage, "rows.jsonl");
    const error = await failure((async () => tokenizeDataset(dataset, tokenizer, { maxLength: 99 }))());
    expect(error.message).toMatch(/line 1: .*System role not supported/);
    expect(error.fix).toMatch(/front of the first user's.*--skip-bad-rows/);
    const { examples, skipped } = tokenizeDataset(dataset, tokenizer, { maxLength: 99, skipBadRows: true });
    expect([examples.map(({ line }) => line), skipped?.map(({ line }) => line)]).toEqual([[2], [1]]);
  });
});

describe("rows from elsewhere", () => {
  const chats = [
    { prompt: "2+2=", completion: "4" },
    { prompt: "3+3=", completion: "6" },
  ];
  const model = `${root}/assets/quickstart/model`;

  it("memory and async iterables give what a file gives, whole and streamed", async () => {
    const loaded = await loadModel(model, { platform: nodePlatform });
    async function* slowly(): AsyncGenerator<object> {
      for (const row of chats) yield row;
    }
    const { train } = await loadData(loaded, chats);
    expect(train).toHaveLength(2);
    expect((await loadData(loaded, slowly())).train).toEqual(train);
    expect((await loadData(loaded, [{ rows: chats, weight: 2 }])).train).toEqual(train);
    const storage = memoryStorage({ "run/x": "" });
    const streamed = await streamData({ ...loaded, platform: { ...loaded.platform, storage } }, slowly(), {
      folder: "run",
    });
    expect(await streamed.store.at([0, 1])).toEqual(train);
    await streamed.close();
    const error = await failure(loadData(loaded, [{ prompt: "a", completion: "b" }, 3]));
    expect(error.message).toContain("line 2: is a number, not an object");
  });

  it("gzip and zstd are unfolded, whole and in pieces; what is cut short is refused", async () => {
    const text = chats.map((row) => JSON.stringify(row)).join("\n");
    const gz = new Uint8Array(gzipSync(text));
    const storage = memoryStorage({
      "a.jsonl.gz": gz,
      "cut.jsonl.gz": gz.slice(0, -9),
      "a.jsonl.zst": zstd(text),
      "a.csv.gz": new Uint8Array(gzipSync("prompt,completion\n2+2=,4\n3+3=,6\n")),
    });
    for (const path of ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz"])
      expect((await readDataset(storage, path)).rows.map(({ value }) => value)).toEqual(chats);
    expect((await failure(readDataset(storage, "cut.jsonl.gz"))).code).toBe("malformed-data");
    const tokenizer = await loadTokenizer(nodeStorage, model);
    const { store } = await streamDataset(storage, [{ path: "a.jsonl.gz" }], {
      tokenizer,
      maxLength: 99,
      validation: 0,
      seed: 0,
      cache: "c",
    });
    expect(store.count).toBe(2);
  });

  it("columns are renamed; those that are not there, and keys that no format has, are refused by name", async () => {
    const storage = memoryStorage({
      "g.jsonl": '{"Q": "2+2=", "A": "4"}',
      "gsm8k.jsonl": '{"question": "2+2=", "answer": "4"}',
    });
    const tokenizer = await loadTokenizer(nodeStorage, model);
    const example = async (path: string, columns = {}) =>
      tokenizeDataset(await readDataset(storage, path, { columns }), tokenizer, { maxLength: 99 }).examples[0]
        ?.inputIds;
    const renamed = await example("g.jsonl", { prompt: "Q", completion: "A" });
    expect(renamed).toEqual(await example("gsm8k.jsonl"));
    expect(renamed).toEqual(await example("gsm8k.jsonl", { prompt: "question", completion: "answer" }));
    expect((await failure(example("g.jsonl", { prompt: "q", completion: "A" }))).message).toContain('"q" (nearest: Q)');
    expect((await failure(example("g.jsonl", { promt: "Q" }))).message).toContain("nearest: prompt");
    expect((await failure(readRows(storage, "g.jsonl", []))).code).toBe("unknown-data-format");
  });
});

describe("named chat templates", () => {
  const model = `${root}/assets/quickstart/model`;
  const talk = [
    { role: "system", content: "Be kind" },
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Yo" },
  ];
  /** The formats as their models were published with them, by hand. */
  const expected: Readonly<Record<string, string>> = {
    chatml:
      "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n",
    "llama-3":
      "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo<|eot_id|>",
    "llama-2": "<s>[INST] <<SYS>>\nBe kind\n<</SYS>>\n\nHi [/INST] Yo </s>",
    mistral: "<s>[INST] Be kind\n\nHi[/INST] Yo</s>",
    gemma: "<s><start_of_turn>user\nBe kind\n\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n",
    "phi-3": "<|system|>\nBe kind<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n",
    zephyr: "<|system|>\nBe kind</s>\n<|user|>\nHi</s>\n<|assistant|>\nYo</s>\n",
    alpaca: "<s>Be kind\n\n### Instruction:\nHi\n\n### Response:\nYo</s>\n\n",
    vicuna: "<s>Be kind\n\nUSER: Hi ASSISTANT: Yo</s>",
  };

  it.each([...namedTemplates.keys()])("%s writes its format, and its answers are found", (name) => {
    const { source } = namedTemplates.get(name) as NamedTemplate; // its own keys
    const template = compileChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" });
    const text = template.render(talk, { addGenerationPrompt: false });
    expect(text).toBe(expected[name]);
    const opened = template.render(talk.slice(0, 2), { addGenerationPrompt: true });
    expect(text.startsWith(opened)).toBe(true);
    expect(text.slice(opened.length).trimStart()).toMatch(/^Yo/);
    const library = new Template(source);
    expect(library.render({ messages: talk, bos_token: "<s>", eos_token: "</s>", add_generation_prompt: false })).toBe(
      text,
    );
  });

  it("are refused where the vocabulary lacks their tokens; with new tokens they are used and exported", async () => {
    const error = await failure(loadModel(model, { platform: nodePlatform, chatTemplate: "gemma" }));
    expect(error.message).toContain("<start_of_turn>, <end_of_turn>, which are no tokens of this model");
    expect(error.fix).toContain('--new-tokens "<start_of_turn>,<end_of_turn>"');
    expect((await failure(loadModel(model, { platform: nodePlatform, chatTemplate: "gema" }))).message).toContain(
      "nearest: gemma",
    );
    expect((await failure(loadModel(model, { platform: nodePlatform, chatTemplate: "{% if %}" }))).code).toBe(
      "malformed-chat-template",
    );
    const tuned = await loadModel(model, {
      platform: nodePlatform,
      chatTemplate: "gemma",
      newTokens: ["<start_of_turn>", "<end_of_turn>"],
    });
    const { preview, warnings } = await loadData(tuned, [{ messages: talk }]);
    expect(preview).toContain("<start_of_turn>model\n⟦Yo<end_of_turn>");
    expect(warnings).toEqual([]);
    const plain = await loadModel(model, {
      platform: nodePlatform,
      chatTemplate:
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    });
    const folder = await mkdtemp(join(tmpdir(), "scion-template-"));
    await exportModel(plain, "safetensors", join(folder, "model"));
    const config = JSON.parse(await readFile(join(folder, "model", "tokenizer_config.json"), "utf8")) as Record<
      string,
      unknown
    >;
    expect(config["chat_template"]).toContain("<{{ m.role }}>");
    const again = await loadModel(join(folder, "model"), { platform: nodePlatform });
    expect((await loadData(again, [{ messages: talk }])).preview).toBe(
      (await loadData(plain, [{ messages: talk }])).preview,
    );
    await rm(folder, { recursive: true });
  });
});
