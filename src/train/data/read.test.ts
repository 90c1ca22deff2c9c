import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, test } from "vitest";
import { TuneError } from "../../errors.ts";
import { memoryStorage } from "../../io/memory-storage.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { dataFormats, detectFormat } from "./formats.ts";
import { type Dataset, parseDocuments, parseJsonLines, readDataset } from "./read.ts";

const failure = (run: () => unknown): TuneError => {
  try {
    run();
  } catch (error) {
    if (error instanceof TuneError) return error;
    throw error;
  }
  throw new Error("expected a TuneError");
};

const pair = '{"prompt": "a", "completion": "b"}';
const chat = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}';

describe("JSON lines", () => {
  test("every format's example is a row of that format and passes its check", () => {
    for (const format of dataFormats) {
      const dataset = parseJsonLines(format.example);
      expect(dataset.format).toBe(format);
      expect(dataset.rows).toHaveLength(1);
    }
  });

  test("tolerates a byte order mark, CRLF and blank lines, and keeps line numbers", () => {
    const dataset = parseJsonLines(`\uFEFF${pair}\r\n\r\n${pair}\r\n`);
    expect(dataset.rows.map(({ line }) => line)).toEqual([1, 3]);
    expect(dataset.rows[0]?.value).toEqual({ prompt: "a", completion: "b" });
  });

  test("names the keys it ignores", () => {
    const dataset = parseJsonLines(`{"text": "a", "url": "x"}\n{"text": "b", "id": 3}`);
    expect([dataset.format.name, dataset.ignoredKeys]).toEqual(["text", ["url", "id"]]);
  });

  test("tells all problems at once, with their lines", () => {
    const lines = [
      pair,
      '{"prompt": "a"',
      "[1, 2]",
      '{"prompt": 7, "completion": "b"}',
      '{"prompt": "a", "completion": " "}',
      '{"prompt": "a"}',
      "{}",
    ];
    const error = failure(() => parseJsonLines(lines.join("\n"), "train.jsonl"));
    expect(error.code).toBe("malformed-data");
    expect(error.at).toBe("train.jsonl");
    expect(error.message).toContain("6 rows of the data cannot be used");
    expect(error.message).toMatch(/line 2: is not JSON/);
    expect(error.message).toContain("line 3: is JSON, but not an object");
    expect(error.message).toContain('line 4: "prompt" is a number, not text');
    expect(error.message).toContain('line 5: "completion" is empty');
    expect(error.message).toContain('line 6: lacks "completion" (it has the keys "prompt")');
    expect(error.message).toContain('line 7: lacks "prompt" and "completion" (it has no keys)');
  });

  test("shows ten problems and counts the rest", () => {
    const error = failure(() => parseJsonLines([pair, ...Array.from({ length: 14 }, () => "oops")].join("\n")));
    expect(error.message.match(/line \d+:/g)).toHaveLength(10);
    expect(error.message).toContain("… and 4 more");
  });

  test("refuses rows of several formats, of two at once, and of none", () => {
    const mixed = failure(() => parseJsonLines([pair, pair, chat].join("\n")));
    expect(mixed.code).toBe("mixed-data-formats");
    expect(mixed.message).toContain("line 3: is a messages row among prompt/completion rows");
    const both = failure(() => parseJsonLines(`${pair}\n{"prompt": "a", "completion": "b", "text": "c"}`));
    expect(both.message).toContain("line 2: has the keys of prompt/completion and text at once");
    const none = failure(() => parseJsonLines('{"input": "a"}'));
    expect(none.code).toBe("unknown-data-format");
    for (const { example } of dataFormats) expect(none.message).toContain(example);
    expect(failure(() => detectFormat([])).code).toBe("empty-data");
    expect(detectFormat([{ line: 1, value: { text: "a" } }]).name).toBe("text");
    expect(failure(() => detectFormat([{ line: 4, value: { a: 1 } }])).message).toContain("line 4");
  });

  test.each([
    ['{"messages": "hi"}', '"messages" is a string, not a list'],
    ['{"messages": []}', '"messages" is empty'],
    ['{"messages": ["hi"]}', "messages[0] is a string, not an object"],
    ['{"messages": [{"content": "hi"}]}', 'messages[0] has no "role"'],
    ['{"messages": [{"role": "user", "content": ["hi"]}]}', "messages[0].content[0] is a string, not a part such as"],
    ['{"messages": [{"role": "assistant", "content": ""}]}', "messages[0].content is empty"],
    ['{"messages": [{"role": "user", "content": "hi"}]}', 'no message has the role "assistant"'],
    [chat.replace("]}", '], "tools": "f"}'), '"tools" is text that is no JSON list'],
  ])("refuses the conversation %s", (row, problem) => {
    expect(failure(() => parseJsonLines(row)).message).toContain(`line 1: ${problem}`);
  });

  test("accepts an assistant that only calls tools", () => {
    const row = '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "tools": []}';
    expect(parseJsonLines(row).format.name).toBe("messages");
  });

  test("takes one JSON list as well, and refuses empty files", () => {
    for (const empty of ["", "\uFEFF", "\r\n \n"]) expect(failure(() => parseJsonLines(empty)).code).toBe("empty-data");
    const list = parseJsonLines(`[\n${pair},\n${pair}\n]\n`);
    expect(list.rows.map(({ line }) => line)).toEqual([1, 2]);
    expect(failure(() => parseJsonLines(`[${pair}, 3]`)).message).toContain("line 2: is an element of a list");
  });
});

describe("plain text", () => {
  const documents = (text: string, separator?: string): [number, unknown][] =>
    parseDocuments(text, "data", separator === undefined ? {} : { separator }).rows.map(({ line, value }) => [
      line,
      value["text"],
    ]);

  test("documents stand between blank lines", () => {
    expect(documents("one\nstill one\n\n\n  two\n \t\nthree\n")).toEqual([
      [1, "one\nstill one"],
      [5, "two"],
      [7, "three"],
    ]);
    expect(documents("\uFEFF\r\none\r\n\r\ntwo")).toEqual([
      [2, "one"],
      [4, "two"],
    ]);
  });

  test("or between <|endoftext|>, where the text has it, or a separator of one's own", () => {
    expect(documents("a\n\nb<|endoftext|>\nc\n<|endoftext|>\n")).toEqual([
      [1, "a\n\nb"],
      [4, "c"],
    ]);
    expect(documents("a\n---\nb\n\nc", "---")).toEqual([
      [1, "a"],
      [3, "b\n\nc"],
    ]);
    expect(documents("a.b", ".")).toEqual([
      [1, "a"],
      [1, "b"],
    ]);
    expect(documents("a\n\nb", "")).toEqual([[1, "a\n\nb"]]);
  });

  test("nothing but white space is an error", () => {
    expect(failure(() => parseDocuments(" \n\n ")).code).toBe("empty-data");
  });
});

test("the ending of a file chooses the parser", async () => {
  const storage = memoryStorage({ "a.JSONL": pair, "a.txt": "hi", "a.xml": "x", "bad.txt": new Uint8Array([0xff]) });
  expect((await readDataset(storage, "a.JSONL")).format.name).toBe("prompt/completion");
  await storage.write("a.ndjson", `${pair}\n${pair}`);
  await storage.write("a.json", `[${pair}, ${pair}]`);
  for (const name of ["a.ndjson", "a.json"]) expect((await readDataset(storage, name)).rows).toHaveLength(2);
  expect((await readDataset(storage, "a.txt")).rows).toEqual([{ line: 1, value: { text: "hi" } }]);
  await expect(readDataset(storage, "a.xml")).rejects.toMatchObject({ code: "unknown-data-file" });
  await expect(readDataset(storage, "bad.txt")).rejects.toMatchObject({ code: "not-utf8" });
  await expect(readDataset(storage, "none.txt")).rejects.toMatchObject({ code: "file-not-found" });
});

describe("tables", () => {
  const read = (name: string, content: string | Uint8Array): Promise<Dataset> =>
    readDataset(memoryStorage({ [name]: content }), name);

  test("CSV: quoted fields, line breaks within them, and lines counted in the file", async () => {
    const csv = '\uFEFFprompt,completion\r\n"a, ""b""\nc",d\r\n\r\ne,f\r\n';
    expect((await read("a.csv", csv)).rows).toEqual([
      { line: 2, value: { prompt: 'a, "b"\nc', completion: "d" } },
      { line: 5, value: { prompt: "e", completion: "f" } },
    ]);
    const tabs = await read("a.tsv", "instruction\tinput\toutput\nadd\t1 2\t3\n");
    expect([tabs.format.name, tabs.rows[0]?.value]).toEqual([
      "alpaca",
      { instruction: "add", input: "1 2", output: "3" },
    ]);
  });

  test("CSV: names the lines that do not fit the header", async () => {
    const error = await read("a.csv", "prompt,completion\na,b\nc\nd,e,f\n").catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "malformed-data" });
    expect(String(error)).toContain("line 3: has 1 fields under a header of 2");
    expect(String(error)).toContain("line 4: has 3 fields under a header of 2");
    await expect(read("a.csv", "prompt,completion\n")).rejects.toMatchObject({ code: "empty-data" });
  });

  test("Parquet: texts, and lists of messages", async () => {
    const texts = parquetWriteBuffer({ columnData: [{ name: "text", data: ["one", "two"], type: "STRING" }] });
    expect((await read("a.parquet", new Uint8Array(texts))).rows.map(({ value }) => value)).toEqual([
      { text: "one" },
      { text: "two" },
    ]);
    const turns = [
      { role: "user", content: "hi" },
      { role: "assistant", content: "hello" },
    ];
    const chats = parquetWriteBuffer({ columnData: [{ name: "messages", data: [turns], type: "JSON" }] });
    const dataset = await read("b.parquet", new Uint8Array(chats));
    expect([dataset.format.name, dataset.rows[0]?.value]).toEqual(["messages", { messages: turns }]);
  });

  test("Parquet: refuses what is damaged", async () => {
    const whole = new Uint8Array(parquetWriteBuffer({ columnData: [{ name: "text", data: ["one"], type: "STRING" }] }));
    for (const damaged of [new Uint8Array(), new Uint8Array(40), whole.slice(0, whole.length - 9), whole.slice(20)]) {
      await expect(read("a.parquet", damaged)).rejects.toMatchObject({ code: "malformed-data" });
    }
  });
});

const shared = fileURLToPath(new URL("../../../../shared/data", import.meta.url));
describe.skipIf(!existsSync(shared))("real data (skipped where ../shared is absent)", () => {
  test("GSM8K's question and answer are read under their own names", async () => {
    const { format, rows, ignoredKeys } = await readDataset(nodeStorage, `${shared}/gsm8k/train.jsonl`);
    expect([format.name, rows.length, ignoredKeys]).toEqual(["question/answer", 7473, []]);
  });

  test("P3 shards, C4 documents and TinyStories", async () => {
    const shard = await readDataset(nodeStorage, `${shared}/instructions/p3-shards/qasc_is_correct_1.jsonl`);
    expect([shard.format.name, shard.rows.length]).toEqual(["prompt/completion", 200]);
    const documents = await readDataset(nodeStorage, `${shared}/calibration-c4/c4_demo.jsonl`);
    expect([documents.format.name, documents.rows.length]).toEqual(["text", 300]);
    const stories = await readDataset(nodeStorage, `${shared}/tinystories/stories.txt`);
    expect([stories.format.name, stories.rows.length]).toEqual(["text", 2000]);
  });
});
