import { readRows } from "../data/index.ts";
import { f1 } from "../scores.ts";
import { rowTask } from "./examples.ts";
import { checkTexts } from "./fields.ts";
import { checkLabelList, namesIn, sharesIn } from "./label-lists.ts";
import type { ExampleTools, Judgement, MadeExample, Task, TaskFormat } from "./task.ts";

/** The probability from which a label is given, and the share from which it is expected. */
const threshold = 0.5;

/** Something with labels under one of the names that data gives them. */
function labelled(
  inputs: readonly string[],
  key: string,
  read: (inputs: readonly string[], tools: ExampleTools) => Promise<Omit<MadeExample, "answers">>,
): TaskFormat {
  const keys = [...inputs, key];
  return {
    name: keys.join("/"),
    kind: "labels",
    keys,
    optionalKeys: [],
    example: `{${inputs.map((name) => `"${name}": "…"`).join(", ")}, "${key}": ["…", "…"]}`,
    check: (row) => checkTexts(row, inputs) ?? checkLabelList(row, key),
    labels: (row) => namesIn(row, key),
    make: async (row, tools) => ({
      answers: sharesIn(row, key, tools),
      ...(await read(
        inputs.map((name) => String(row[name])),
        tools,
      )),
    }),
  };
}

const keys = ["labels", "label"] as const;
const texts = [["text"], ["text1", "text2"], ["sentence1", "sentence2"], ["premise", "hypothesis"], ["sentence"]];

/** Which labels a text has: any number of them. */
export const multiLabelClassification: Task = severalLabels(
  "say of each label whether a text has it",
  texts.flatMap((inputs) =>
    keys.map((key) =>
      labelled(inputs, key, async ([first = "", second], { reader }) => (await reader()).read(first, second)),
    ),
  ),
  ({ inputIds }, reader) => reader.show(inputIds),
);

/** Which labels an image has: any number of them. */
export const multiLabelImageClassification: Task = severalLabels(
  "say of each label whether an image has it",
  keys.map((key) => labelled(["image"], key, async ([path = ""], { image }) => ({ inputIds: await image(path) }))),
  () => "an image",
);

function severalLabels(
  summary: string,
  formats: readonly TaskFormat[],
  showInput: (...given: Parameters<NonNullable<Parameters<typeof rowTask>[0]["show"]>>) => string,
): Task {
  return rowTask({
    summary,
    formats,
    // As they are spelt: `1.0` says how much there is of a label, and `1` which it is.
    read: (storage, source, options) => readRows(storage, source, formats, options),
    show: (example, reader, labels) => {
      const there = labels.filter((_, i) => (example.answers?.[i] ?? 0) >= threshold);
      return `${showInput(example, reader, labels)} → ${there.length === 0 ? "no label" : there.join(", ")}`;
    },
    judge: judgeSeveral,
  });
}

/**
 * Examples all of whose labels are right; F1 of all labels of all examples as one, and its mean over the labels (0 for one that neither
 * occurs nor is given, as scikit-learn's). Labels of a probability of 0.5 and above are given.
 */
export function judgeSeveral(
  judgements: readonly Judgement[],
  labels: readonly string[],
): Readonly<Record<string, number>> {
  const given = judgements.map(({ said }) =>
    Array.from(said, (logit) => Number(logit >= Math.log(threshold / (1 - threshold)))),
  );
  const expected = judgements.map(({ example }) => (example.answers ?? []).map((share) => Number(share >= threshold)));
  const whole = given.filter((row, i) => row.every((label, j) => label === expected[i]?.[j])).length;
  const ofLabel = (rows: readonly (readonly number[])[], j: number): readonly number[] =>
    rows.map((row) => row[j] ?? 0);
  const each = labels.map((_, j) => f1(ofLabel(given, j), ofLabel(expected, j), 1));
  return {
    exactMatch: whole / Math.max(1, judgements.length),
    microF1: f1(given.flat(), expected.flat(), 1),
    macroF1: each.reduce((sum, value) => sum + value, 0) / Math.max(1, labels.length),
  };
}
