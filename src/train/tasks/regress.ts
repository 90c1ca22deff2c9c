import { meanSquaredError, pearson, spearman } from "../scores.ts";
import { rowTask } from "./examples.ts";
import { checkNumber, checkTexts } from "./fields.ts";
import type { Task, TaskFormat } from "./task.ts";

function scored(texts: readonly [string] | readonly [string, string], score: string): TaskFormat {
  const keys = [...texts, score];
  return {
    name: keys.join("/"),
    kind: "score",
    keys,
    optionalKeys: [],
    example: `{${texts.map((key) => `"${key}": "…"`).join(", ")}, "${score}": 3.5}`,
    check: (row) => checkTexts(row, texts) ?? checkNumber(row, score),
    make: async (row, { reader }) => ({
      ...(await reader()).read(String(row[texts[0]]), texts[1] === undefined ? undefined : String(row[texts[1]])),
      answers: [Number(row[score])],
    }),
  };
}

/** A score for a text, or for two. */
export const regression: Task = rowTask({
  summary: "give a text a score",
  formats: (["score", "label"] as const).flatMap((name) => [
    scored(["text"], name),
    scored(["text1", "text2"], name),
    scored(["sentence1", "sentence2"], name),
  ]),
  show: ({ inputIds, answers }, reader) => `${reader.show(inputIds)} → ${answers?.[0]}`,
  judge: (judgements) => {
    const given = judgements.map(({ said }) => said[0] ?? Number.NaN);
    const expected = judgements.map(({ example }) => example.answers?.[0] ?? Number.NaN);
    return {
      pearson: pearson(given, expected),
      spearman: spearman(given, expected),
      mse: meanSquaredError(given, expected),
    };
  },
});
