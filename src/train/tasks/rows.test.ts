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
const bases: Partial<Record<TaskName, string>> = { "image-classification": "vit-image", "seq2seq-lm": "t5" };

async function exampleOf(task: TaskName, row: object): Promise<{ format: string; example: TokenizedExample }> {
  const folder = golden(`encoders/${bases[task] ?? "bert-base"}`);
  const opened = await openModel(nodeStorage, folder, {
    task,
    labels,
    ...(tasks[task].labels ? { newHead: true } : {}),
  });
  await storage.write("rows.jsonl", JSON.stringify(row));
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
    if (task === "image-classification") {
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
