import { pearson, spearman } from "../scores.ts";
import { rowTask } from "./examples.ts";
import { checkNumber, checkTexts } from "./fields.ts";
import type { Task, TaskFormat } from "./task.ts";

function pairs(first: string, second: string, score?: string): TaskFormat {
  const keys = [first, second, ...(score === undefined ? [] : [score])];
  return {
    name: keys.join("/"),
    kind: score === undefined ? "texts" : "scored-texts",
    keys,
    optionalKeys: [],
    example: `{"${first}": "…", "${second}": "…"${score === undefined ? "" : `, "${score}": 0.8`}}`,
    check: (row) => {
      const problem = checkTexts(row, [first, second]) ?? (score === undefined ? undefined : checkNumber(row, score));
      if (problem !== undefined || score === undefined) return problem;
      return Math.abs(Number(row[score])) <= 1
        ? undefined
        : `"${score}" is ${row[score]}, but cosines are from −1 to 1`;
    },
    make: async (row, { reader, sentence }) => {
      const [one, other] = await Promise.all(
        keys.slice(0, 2).map(async (key) => (await reader()).read(sentence(String(row[key])))),
      );
      if (!one || !other) throw new Error("two keys, two texts");
      const trained = new Uint8Array(other.inputIds.length).fill(1);
      return {
        ...one,
        cut: one.cut || other.cut,
        against: [{ ...other, trained }],
        ...(score === undefined ? {} : { answers: [Number(row[score])] }),
      };
    },
  };
}

/** Texts that mean the same near each other. Said of a pair: both embeddings, one after the other. */
export const sentenceEmbedding: Task = rowTask({
  summary: "put texts that mean the same near each other",
  formats: [
    pairs("text1", "text2"),
    pairs("text1", "text2", "score"),
    pairs("text1", "text2", "label"),
    pairs("sentence1", "sentence2"),
    pairs("sentence1", "sentence2", "score"),
    pairs("anchor", "positive"),
  ],
  kindOf: ({ answers }) => (answers ? "scored-texts" : "texts"),
  show: ({ inputIds, against, answers }, reader) =>
    [inputIds, ...(against ?? []).map((other) => other.inputIds)].map((ids) => reader.show(ids)).join(" ~ ") +
    (answers ? ` → ${answers[0]}` : ""),
  judge: (judgements) => {
    const size = (judgements[0]?.said.length ?? 2) / 2;
    const firsts = judgements.map(({ said }) => said.subarray(0, size));
    const seconds = judgements.map(({ said }) => said.subarray(size));
    if (judgements[0]?.example.answers === undefined) return { nearest: nearestShare(firsts, seconds) };
    const given = firsts.map((first, i) => dot(first, seconds[i] ?? first));
    const expected = judgements.map(({ example }) => example.answers?.[0] ?? Number.NaN);
    return { pearson: pearson(given, expected), spearman: spearman(given, expected) };
  },
});

/** How many first texts are nearest to their own second text, of all second texts. */
function nearestShare(firsts: readonly Float32Array[], seconds: readonly Float32Array[]): number {
  const right = firsts.filter((first, i) => {
    const own = dot(first, seconds[i] ?? first);
    return seconds.every((second, j) => j === i || dot(first, second) <= own);
  });
  return right.length / Math.max(1, firsts.length);
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}
