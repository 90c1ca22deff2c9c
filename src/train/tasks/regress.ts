import { TuneError } from "../../errors.ts";
import { ExactNumber } from "../../io/exact-json.ts";
import type { JsonObject } from "../../io/json.ts";
import { kindOf } from "../data/formats/format.ts";
import { meanSquaredError, pearson, spearman } from "../scores.ts";
import { rowTask } from "./examples.ts";
import { checkNumber, checkTexts } from "./fields.ts";
import { brokenList, listed } from "./label-lists.ts";
import type { Judgement, Task, TaskFormat } from "./task.ts";

function scored(texts: readonly [string] | readonly [string, string], score: string): TaskFormat {
  const keys = [...texts, score];
  const example = score.endsWith("s") ? "[3.5, 1.0]" : "3.5";
  return {
    name: keys.join("/"),
    kind: "score",
    keys,
    optionalKeys: [],
    example: `{${texts.map((key) => `"${key}": "…"`).join(", ")}, "${score}": ${example}}`,
    check: (row) => checkTexts(row, texts) ?? checkScores(row, score),
    labels: (row) => {
      const scores = scoresIn(row, score);
      return scores.length === 1 ? [] : scores.map((_, i) => `LABEL_${i}`); // as transformers calls them; one has a name
    },
    make: async (row, { reader, labels }) => {
      const answers = scoresIn(row, score);
      if (answers.length !== labels.length) {
        const [there, wanted] = [answers.length, labels.length].map((n) => `${n} score${n === 1 ? "" : "s"}`);
        throw new TuneError("malformed-data", `"${score}" has ${there}, and the model gives ${wanted}`);
      }
      return {
        ...(await reader()).read(String(row[texts[0]]), texts[1] === undefined ? undefined : String(row[texts[1]])),
        answers,
      };
    },
  };
}

/** What keeps a field from being a number or a list of them (as text in JSON too, which is how tables hold lists). */
function checkScores(row: JsonObject, key: string): string | undefined {
  const value = listed(row[key]);
  if (value === undefined && typeof row[key] === "string") return brokenList(key);
  if (!Array.isArray(value)) return checkNumber(row, key);
  if (value.length === 0) return `"${key}" is empty`;
  const bad = value.findIndex((entry) => !Number.isFinite(numberOf(entry)));
  return bad < 0 ? undefined : `"${key}" holds ${kindOf(value[bad])} as entry ${bad + 1}, not a number`;
}

function scoresIn(row: JsonObject, key: string): readonly number[] {
  const value = listed(row[key]);
  return Array.isArray(value) ? value.map(numberOf) : [Number(value)];
}

/** Numbers in text that is a list keep their spelling. */
function numberOf(value: unknown): number {
  return typeof value === "number" || value instanceof ExactNumber ? Number(value) : Number.NaN;
}

/** A score for a text, or for two; or several. */
export const regression: Task = rowTask({
  summary: "give a text a score, or several",
  formats: (["score", "label", "scores", "labels"] as const).flatMap((name) => [
    scored(["text"], name),
    scored(["text1", "text2"], name),
    scored(["sentence1", "sentence2"], name),
  ]),
  show: ({ inputIds, answers = [] }, reader) => `${reader.show(inputIds)} → ${answers.join(", ")}`,
  judge: judgeScores,
});

/** Correlations and the mean squared error; of several scores each one's correlations, and the means of these. */
export function judgeScores(
  judgements: readonly Judgement[],
  labels: readonly string[],
): Readonly<Record<string, number>> {
  const each = labels.map((name, i) => {
    const given = judgements.map(({ said }) => said[i] ?? Number.NaN);
    const expected = judgements.map(({ example }) => example.answers?.[i] ?? Number.NaN);
    return {
      name,
      pearson: pearson(given, expected),
      spearman: spearman(given, expected),
      mse: meanSquaredError(given, expected),
    };
  });
  const mean = (of: (scores: (typeof each)[number]) => number): number =>
    each.reduce((sum, scores) => sum + of(scores), 0) / Math.max(1, each.length);
  return {
    pearson: mean((scores) => scores.pearson),
    spearman: mean((scores) => scores.spearman),
    mse: mean((scores) => scores.mse),
    ...(each.length > 1
      ? Object.fromEntries(
          each.flatMap(({ name, ...scores }) =>
            Object.entries(scores).map(([measure, value]) => [`${measure}_${name}`, value] as const),
          ),
        )
      : {}),
  };
}
