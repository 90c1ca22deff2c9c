import { kindOf } from "../data/formats/format.ts";
import { accuracy, type Span, spanF1, spansOf } from "../scores.ts";
import { rowTask } from "./examples.ts";
import type { Task, TaskFormat } from "./task.ts";

function tagged(words: string, tags: string): TaskFormat {
  return {
    name: `${words}/${tags}`,
    kind: "tags",
    keys: [words, tags],
    optionalKeys: [],
    example: `{"${words}": ["Ada", "codes"], "${tags}": ["B-PER", "O"]}`,
    check: (row) => {
      const [tokens, labels] = [row[words], row[tags]];
      if (!Array.isArray(tokens) || tokens.some((token) => typeof token !== "string"))
        return `"${words}" is ${kindOf(tokens)}, not a list of words`;
      if (!Array.isArray(labels) || labels.some((label) => typeof label !== "string" && !Number.isSafeInteger(label)))
        return `"${tags}" is ${kindOf(labels)}, not a list of names or numbers of labels`;
      if (tokens.length === 0) return `"${words}" is empty`;
      return tokens.length === labels.length
        ? undefined
        : `"${words}" has ${tokens.length} entries, "${tags}" ${labels.length}`;
    },
    labels: (row) => (row[tags] as readonly unknown[]).map(String), // a list, as `check` has found
    make: async (row, { reader, labelNumber }) => {
      const labels = (row[tags] as readonly unknown[]).map((label) => labelNumber(String(label))); // checked
      const { begins, ...read } = (await reader()).readWords(row[words] as readonly string[]); // checked
      return { ...read, answers: begins.map((word) => (word < 0 ? -1 : (labels[word] ?? -1))) };
    },
  };
}

/** A label for every word; the first token of a word speaks for it. */
export const tokenClassification: Task = rowTask({
  summary: "say which of some labels each word has",
  formats: [tagged("tokens", "tags"), tagged("tokens", "ner_tags"), tagged("words", "labels")],
  show: ({ inputIds, answers = [] }, reader, labels) =>
    Array.from(inputIds, (id, i) => {
      const label = labels[answers[i] ?? -1];
      return `${reader.show(Int32Array.of(id)).trim()}${label === undefined ? "" : `/${label}`}`;
    }).join(" "),
  judge: (judgements, labels) => {
    const given: number[] = [];
    const expected: number[] = [];
    const spans: { given: readonly Span[]; expected: readonly Span[] }[] = [];
    let exact = 0;
    for (const { said, example } of judgements) {
      const answers = example.answers ?? [];
      const places = answers.flatMap((answer, i) => (answer < 0 ? [] : [i]));
      const own = places.map((i) => {
        const row = said.subarray(i * labels.length, (i + 1) * labels.length);
        return row.indexOf(Math.max(...row));
      });
      const right = places.map((i) => answers[i] ?? -1);
      given.push(...own);
      expected.push(...right);
      if (own.every((label, i) => label === right[i])) exact += 1;
      const named = (numbers: readonly number[]): readonly string[] => numbers.map((label) => labels[label] ?? "O");
      spans.push({ given: spansOf(named(own)), expected: spansOf(named(right)) });
    }
    return {
      accuracy: accuracy(given, expected),
      f1: spanF1(spans),
      exactMatch: exact / Math.max(1, judgements.length),
    };
  },
});
