import { accuracy, f1, matthews } from "../scores.ts";
import { rowTask } from "./examples.ts";
import { checkLabel, checkTexts } from "./fields.ts";
import type { Judgement, Task, TaskFormat } from "./task.ts";

/** A text, or two, with a label under one of the names that data gives it. */
function labelled(texts: readonly [string] | readonly [string, string], label: string): TaskFormat {
  const keys = [...texts, label];
  return {
    name: keys.join("/"),
    kind: "label",
    keys,
    optionalKeys: [],
    example: `{${texts.map((key) => `"${key}": "…"`).join(", ")}, "${label}": "…"}`,
    check: (row) => checkTexts(row, texts) ?? checkLabel(row, label),
    labels: (row) => [String(row[label])],
    make: async (row, { reader, labelNumber }) => ({
      ...(await reader()).read(String(row[texts[0]]), texts[1] === undefined ? undefined : String(row[texts[1]])),
      answers: [labelNumber(String(row[label]))],
    }),
  };
}

const names = ["label", "category", "intent"] as const;

/** Which of some labels a text has. */
export const sequenceClassification: Task = rowTask({
  summary: "say which of some labels a text has",
  formats: [
    ...names.map((name) => labelled(["text"], name)),
    ...names.map((name) => labelled(["text1", "text2"], name)),
    labelled(["sentence1", "sentence2"], "label"),
    labelled(["premise", "hypothesis"], "label"),
    labelled(["sentence"], "label"),
  ],
  judge: judgeLabels,
});

/** Accuracy, F1 (of the second of two labels, or the mean over labels) and Matthews' correlation. */
export function judgeLabels(
  judgements: readonly Judgement[],
  labels: readonly string[],
): Readonly<Record<string, number>> {
  const given = judgements.map(({ said }) => said.indexOf(Math.max(...said)));
  const expected = judgements.map(({ example }) => example.answers?.[0] ?? 0);
  return {
    accuracy: accuracy(given, expected),
    f1: labels.length === 2 ? f1(given, expected, 1) : macroF1(given, expected),
    matthews: matthews(given, expected),
  };
}

/** The mean of the F1 of every label that occurs. */
function macroF1(given: readonly number[], expected: readonly number[]): number {
  const occurring = [...new Set([...given, ...expected])];
  return occurring.reduce((sum, label) => sum + f1(given, expected, label), 0) / Math.max(1, occurring.length);
}
