import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { golden } from "../../../tests/helpers/golden.ts";
import { memoryStorage } from "../../io/memory-storage.ts";
import { loadTokenizer } from "../../io/tokenizer.ts";
import { openModel, type TaskName } from "../../models/index.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { readImage } from "../data/image.ts";
import type { TokenizedExample } from "../data/index.ts";
import { openReader } from "../data/reader.ts";
import { tasks } from "./index.ts";

const [one, other, words] = ["the cat sat", "Ada codes well", ["Ada", "codes", "well"]];
const labels = ["O", "B-PER"];

interface Said {
  /** What is read: a text, or two as a pair. */
  readonly texts?: readonly string[];
  /** What is held against it. */
  readonly against?: string;
  readonly answers?: readonly number[];
}

/** A row in every format of every task but the continuing of texts, and what it says. */
const cases: readonly (readonly [TaskName, object, Said])[] = [
  ...["label", "category", "intent"].flatMap((label) => [
    ["sequence-classification", { text: one, [label]: "B-PER" }, { texts: [one], answers: [1] }] as const,
    [
      "sequence-classification",
      { text1: one, text2: other, [label]: "O" },
      { texts: [one, other], answers: [0] },
    ] as const,
  ]),
  ["sequence-classification", { sentence1: one, sentence2: other, label: 1 }, { texts: [one, other], answers: [1] }],
  ["sequence-classification", { premise: one, hypothesis: other, label: 0 }, { texts: [one, other], answers: [0] }],
  ["sequence-classification", { sentence: one, label: "B-PER" }, { texts: [one], answers: [1] }],
  ...["labels", "label"].flatMap((key) => [
    ["multi-label-classification", { text: one, [key]: ["B-PER", "O"] }, { texts: [one], answers: [1, 1] }] as const,
    [
      "multi-label-classification",
      { text1: one, text2: other, [key]: [1] },
      { texts: [one, other], answers: [0, 1] },
    ] as const,
    [
      "multi-label-classification",
      { sentence1: one, sentence2: other, [key]: [] },
      { texts: [one, other], answers: [0, 0] },
    ] as const,
    [
      "multi-label-classification",
      { premise: one, hypothesis: other, [key]: [0.25, 1] },
      { texts: [one, other], answers: [0.25, 1] },
    ] as const,
    ["multi-label-classification", { sentence: one, [key]: "B-PER" }, { texts: [one], answers: [0, 1] }] as const,
    ["multi-label-image-classification", { image: "photos/1.png", [key]: [true, false] }, { answers: [1, 0] }] as const,
  ]),
  ...["scores", "labels"].flatMap((scores) => [
    ["regression", { text: one, [scores]: [2.5, -1] }, { texts: [one], answers: [2.5, -1] }] as const,
    [
      "regression",
      { text1: one, text2: other, [scores]: "[0, 1e-3]" },
      { texts: [one, other], answers: [0, 0.001] },
    ] as const,
    [
      "regression",
      { sentence1: one, sentence2: other, [scores]: [0, 0] },
      { texts: [one, other], answers: [0, 0] },
    ] as const,
  ]),
  ...["score", "label"].flatMap((score) => [
    ["regression", { text: one, [score]: 2.5 }, { texts: [one], answers: [2.5] }] as const,
    ["regression", { text1: one, text2: other, [score]: "-3" }, { texts: [one, other], answers: [-3] }] as const,
    ["regression", { sentence1: one, sentence2: other, [score]: 0 }, { texts: [one, other], answers: [0] }] as const,
  ]),
  ["token-classification", { tokens: words, tags: ["B-PER", "O", "O"] }, { answers: [1, 0, 0] }],
  ["token-classification", { tokens: words, ner_tags: [1, 0, 1] }, { answers: [1, 0, 1] }],
  ["token-classification", { words, labels: ["O", "O", "B-PER"] }, { answers: [0, 0, 1] }],
  ["sentence-embedding", { text1: one, text2: other }, { texts: [one], against: other }],
  ["sentence-embedding", { sentence1: one, sentence2: other }, { texts: [one], against: other }],
  ["sentence-embedding", { anchor: one, positive: other }, { texts: [one], against: other }],
  ["sentence-embedding", { text1: one, text2: other, score: 0.5 }, { texts: [one], against: other, answers: [0.5] }],
  ["sentence-embedding", { text1: one, text2: other, label: -1 }, { texts: [one], against: other, answers: [-1] }],
  [
    "sentence-embedding",
    { sentence1: one, sentence2: other, score: 1 },
    { texts: [one], against: other, answers: [1] },
  ],
  ["image-classification", { image: "photos/1.png", label: "B-PER" }, { answers: [1] }],
  ...[
    ["source", "target"],
    ["prompt", "completion"],
    ["text", "summary"],
    ["question", "answer"],
  ].map(
    ([from = "", to = ""]) => ["seq2seq-lm", { [from]: one, [to]: other }, { texts: [one], against: other }] as const,
  ),
];

const tokenizer = await loadTokenizer(nodeStorage, golden("encoder-tokenizers/wordpiece"));
const storage = memoryStorage({ "photos/1.png": new Uint8Array(readFileSync(golden("images/photo.png"))) });
const bases: Partial<Record<TaskName, string>> = {
  "image-classification": "vit-image",
  "multi-label-image-classification": "vit-image",
  "seq2seq-lm": "t5",
};

async function exampleOf(
  task: TaskName,
  row: object | string,
  names?: readonly string[],
): Promise<{ format: string; example: TokenizedExample }> {
  const folder = golden(`encoders/${bases[task] ?? "bert-base"}`);
  const opened = await openModel(nodeStorage, folder, {
    task,
    labels: names ?? (task === "regression" && !JSON.stringify(row).includes("[") ? ["score"] : labels),
    ...(tasks[task].labels ? { newHead: true } : {}),
  });
  await storage.write("rows.jsonl", typeof row === "string" ? row : JSON.stringify(row));
  const dataset = await tasks[task].read(storage, "rows.jsonl");
  const context = { model: opened, storage, tokenizer: async () => tokenizer, maxLength: 40 };
  const { examples, warnings } = await tasks[task].examples(dataset, context);
  expect([examples.length, warnings, dataset.ignoredKeys]).toEqual([1, [], []]);
  return { format: dataset.format.name, example: examples[0] as TokenizedExample };
}

describe("rows of every format are read as such", () => {
  it.each(cases)("%s %j", async (task, row, { texts, against, answers }) => {
    const { format, example } = await exampleOf(task, row);
    expect(format).toBe(Object.keys(row).join("/"));
    const { read } = await openReader({ kind: "tokens" } as never, 40, async () => tokenizer); // all that it looks at
    if (texts) expect(example.inputIds).toEqual(read(texts[0] ?? "", texts[1]).inputIds);
    expect(example.against?.map(({ inputIds }) => inputIds)).toEqual(against && [read(against).inputIds]);
    if (task === "token-classification") {
      expect(example.inputIds).toEqual(read(words.join(" ")).inputIds);
      expect(example.answers?.filter((answer) => answer >= 0)).toEqual(answers);
    } else if (answers) expect(example.answers).toEqual(answers);
    if (task.endsWith("image-classification")) {
      const size = Math.sqrt(example.inputIds.length);
      expect(example.inputIds).toEqual(await readImage(storage, "photos/1.png", size));
    }
  });

  it("and no format is left out", () => {
    for (const [name, { formats }] of Object.entries(tasks)) {
      if (name === "causal-lm") continue; // src/train/data/tokenize.test.ts
      const own = cases.filter(([task]) => task === name).map(([, row]) => Object.keys(row).join("/"));
      expect(own.sort(), name).toEqual(formats.map((format) => format.name).sort());
    }
  });
});

describe("lists of labels", () => {
  const three = ["sad", "calm", "glad"];
  const of = async (text: string, names: readonly string[] = three): Promise<readonly number[] | undefined> =>
    (await exampleOf("multi-label-classification", `{"text": "a", "labels": ${text}}`, names)).example.answers;

  it.each([
    ['["glad", "sad"]', [1, 0, 1]],
    ["[2, 0]", [1, 0, 1]],
    ['["2", "calm"]', [0, 1, 1]],
    ["[]", [0, 0, 0]],
    ["2", [0, 0, 1]],
    ["[1]", [0, 1, 0]],
    ["[1, 0]", [1, 1, 0]], // two numbers of labels: a vector of this model has three
    ["[0, 1, 0]", [0, 1, 0]], // a vector: no label is there twice
    ["[0.0, 1.0, 0.0]", [0, 1, 0]],
    ["[0.25, 1, 0]", [0.25, 1, 0]],
    ["[false, true, true]", [0, 1, 1]],
    ['"[\\"glad\\", \\"calm\\"]"', [0, 1, 1]], // as tables hold it
    ['"[0.0, 1.0, 1.0]"', [0, 1, 1]],
  ] as const)("%s", async (text, answers) => {
    expect(await of(text)).toEqual(answers);
  });

  it.each([
    ["[0, 1]", ["a", "b"], /may be numbers of labels, or say of each whether it is there: write names/],
    ["[0]", ["a"], /may be numbers of labels/],
    ["[0.0, 1.0]", three, /says of 2 labels whether they are there, and the model has 3/],
    ["[0.0, 2.0, 1.0]", three, /holds 2, which is not between 0 and 1/],
    ["[2, -1]", three, /holds -1, which is no number of a label/],
    ["[2, 2]", three, /has the label "2" twice/],
    ['["sad", 1]', three, /mixes names and numbers/],
    ["[null]", three, /holds null, not names or numbers/],
    ['[" "]', three, /has an empty entry/],
    ["0.5", three, /is a number, not the name or number of a label/],
    ["null", three, /is null, not the name/],
    [`"['sad', 'calm']"`, three, /begins as a list and is none in JSON/],
    ['["sadder"]', three, /has no label "sadder" \(nearest: "sad"\)/],
    ["[3]", three, /has no label "3"/],
  ] as const)("%s is refused", async (text, names, message) => {
    await expect(of(text, names)).rejects.toThrow(message);
  });

  it("two numbers are a vector where they are spelt so", async () => {
    expect(await of("[0.0, 1.0]", ["a", "b"])).toEqual([0, 1]);
    expect(await of("[0, 0]", ["a", "b"])).toEqual([0, 0]);
  });

  it("name the labels of a head that starts anew", async () => {
    const named = async (...rows: readonly string[]): Promise<readonly string[] | undefined> => {
      await storage.write("all.jsonl", rows.map((labels) => `{"text": "a", "labels": ${labels}}\n`).join(""));
      const { labels: of, read } = tasks["multi-label-classification"];
      return of?.(await read(storage, "all.jsonl"));
    };
    expect(await named('["sad"]', "[]", '["glad", "calm"]')).toEqual(["calm", "glad", "sad"]);
    expect(await named("[10, 2]", "0")).toEqual(["0", "2", "10"]);
    expect(await named("[0.0, 1.0, 0.0]", "[0, 0, 1]")).toEqual(["0", "1", "2"]);
  });
});

describe("several scores", () => {
  const of = async (text: string, names: readonly string[]): Promise<readonly number[] | undefined> =>
    (await exampleOf("regression", `{"text": "a", "scores": ${text}}`, names)).example.answers;

  it.each([
    ["[1, 2]", ["a", "b", "c"], /"scores" has 2 scores, and the model gives 3 scores/],
    ["1.5", ["a", "b", "c"], /has 1 score, and the model gives 3 scores/],
    ["[1, null]", ["a", "b"], /holds null as entry 2, not a number/],
    ["[]", ["a"], /is empty/],
    ['"(1, 2)"', ["a", "b"], /not a number/],
    ['"[1; 2]"', ["a", "b"], /none in JSON/],
  ] as const)("%s is refused", async (text, names, message) => {
    await expect(of(text, names)).rejects.toThrow(message);
  });

  it("are as many as the data has, for a head that starts anew", async () => {
    const named = async (rows: string): Promise<readonly string[] | undefined> => {
      await storage.write("all.jsonl", rows);
      const { labels: of, read } = tasks.regression;
      return of?.(await read(storage, "all.jsonl"));
    };
    const twelve = JSON.stringify(Array.from({ length: 12 }, (_, i) => i));
    expect(await named(`{"text": "a", "scores": ${twelve}}`)).toEqual(
      Array.from({ length: 12 }, (_, i) => `LABEL_${i}`),
    );
    expect(await named('{"text": "a", "scores": 1}')).toEqual([]);
  });
});
