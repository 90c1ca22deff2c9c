import { nearest, TuneError } from "../../errors.ts";
import { dirname, insideFolder, type Storage } from "../../io/storage.ts";
import { type Labels, labelNumber, sentenceText } from "../../models/index.ts";
import { readImage } from "../data/image.ts";
import {
  type DataSource,
  type Dataset,
  type DataWarning,
  type ReadOptions,
  type RowFormat,
  readRows,
  type TokenizedDataset,
  type TokenizedExample,
} from "../data/index.ts";
import { plainNumbers } from "../data/numbers.ts";
import { type LineProblem, throwProblems } from "../data/problems.ts";
import { openReader, type TextReader } from "../data/reader.ts";
import type { ExampleContext, ExampleTools, MadeExample, Task, TaskFormat } from "./task.ts";

/** A task whose rows are read from files and become examples one by one. */
export function rowTask(
  options: Pick<Task, "summary" | "judge"> & {
    readonly kindOf?: Task["kindOf"];
  } & Partial<Pick<Task, "read">> & { readonly formats: readonly TaskFormat[]; readonly show?: Show },
): Task {
  const [first] = options.formats;
  const {
    formats,
    summary,
    judge,
    kindOf = () => first?.kind ?? "sequence",
    read = (storage, source, given) => readPlainRows(storage, source, formats, given),
    show = showText,
  } = options;
  const known = (format: RowFormat): TaskFormat => {
    const found = formats.find(({ name }) => name === format.name);
    if (!found) throw new Error(`${format.name} is no format of this task`);
    return found;
  };
  return {
    summary,
    shownBy: "eval",
    formats,
    read,
    kindOf,
    ...(judge ? { judge } : {}),
    ...(formats.some(({ labels }) => labels)
      ? { labels: ({ format, rows }) => sorted(rows.flatMap(({ value }) => known(format).labels?.(value) ?? [])) }
      : {}),
    examples: (dataset, context) => makeExamples({ ...dataset, format: known(dataset.format) }, context),
    show: async (example, context) => show(example, await readerOf(context), context.model.labels ?? []),
  };
}

/** Rows of formats that compute with numbers: how they were spelt does not matter to them. */
export async function readPlainRows(
  storage: Storage,
  source: string | DataSource,
  formats: readonly RowFormat[],
  options?: ReadOptions,
): Promise<Dataset<RowFormat>> {
  const checked = formats.map((format): RowFormat => ({ ...format, check: (row) => format.check(plainNumbers(row)) }));
  const dataset = await readRows(storage, source, checked, options);
  return { ...dataset, rows: dataset.rows.map(({ line, value }) => ({ line, value: plainNumbers(value) })) };
}

type Show = (example: TokenizedExample, reader: TextReader, labels: Labels) => string;

function showText({ inputIds, answers, against }: TokenizedExample, reader: TextReader, labels: Labels): string {
  const texts = [inputIds, ...(against ?? []).map((other) => other.inputIds)].map((ids) => reader.show(ids));
  const [answer] = answers ?? [];
  return [...texts, ...(answer === undefined ? [] : [labels[answer] ?? String(answer)])].join(" → ");
}

function readerOf({ model, maxLength, tokenizer }: ExampleContext): Promise<TextReader> {
  return openReader(model.reads, maxLength, tokenizer);
}

async function makeExamples(dataset: Dataset<TaskFormat>, context: ExampleContext): Promise<TokenizedDataset> {
  const { at, format, rows } = dataset;
  const { model, storage, maxLength } = context;
  let reader: Promise<TextReader> | undefined;
  const unknown = new Set<string>();
  let strange: string | undefined; // a label of the row at hand
  const tools: ExampleTools = {
    reader: () => {
      reader ??= readerOf(context);
      return reader;
    },
    labels: model.labels ?? [],
    sentence: (text) => (model.sentence ? sentenceText(text, model.sentence) : text),
    labelNumber: (label) => {
      const found = labelNumber(model.labels ?? [], label);
      if (found === undefined) strange = label;
      return found ?? 0;
    },
    image: (path) => readImage(storage, insideFolder(at.endsWith("/") ? at : dirname(at), path), model.reads.imageSize),
  };
  const examples: TokenizedExample[] = [];
  const cut: number[] = [];
  const problems: (LineProblem & { code: string })[] = [];
  for (const { line, value } of rows) {
    try {
      strange = undefined;
      const made: MadeExample = await format.make(value, tools);
      if (strange !== undefined) {
        unknown.add(strange);
        if (context.skipBadRows)
          problems.push({ line, what: `the model has no label "${strange}"`, code: "unknown-label" });
        continue;
      }
      if (made.cut && context.tooLong === "error" && context.skipBadRows) {
        problems.push({ line, what: `is longer than ${maxLength}`, code: "sequence-too-long" });
        continue;
      }
      if (made.cut) cut.push(line);
      const { cut: _cut, ...rest } = made;
      examples.push({ ...rest, trained: new Uint8Array(made.inputIds.length).fill(1), line });
    } catch (error) {
      if (!(error instanceof TuneError)) throw error;
      problems.push({ line, what: error.message.split("\n")[0] ?? error.code, code: error.code });
    }
  }
  const skips = context.skipBadRows === true && examples.length > 0;
  if (unknown.size > 0 && !skips) throw unknownLabels([...unknown], model.labels ?? [], at);
  const codes = new Set(problems.map(({ code }) => code));
  const [code = "malformed-data"] = codes.size === 1 ? codes : [];
  if (problems.length > 0 && !skips) {
    const out = examples.length > 0 ? ", or leave them out: --skip-bad-rows (skipBadRows in code)" : "";
    throwProblems(code, problems, { at, fix: `mend or remove these rows${out}` });
  }
  if (cut.length > 0 && context.tooLong === "error") {
    throw new TuneError("sequence-too-long", `${cut.length} rows are longer than ${maxLength}.`, {
      at: `${at}, line ${cut[0]}`,
      fix: "shorten them, raise the maximum length, or allow truncation",
    });
  }
  const warnings: DataWarning[] = cut.length > 0 ? [{ code: "truncated", lines: cut }] : [];
  return { examples, warnings, ...(problems.length > 0 ? { skipped: problems } : {}) };
}

function unknownLabels(unknown: readonly string[], labels: Labels, at: string): TuneError {
  const shown = unknown.slice(0, 8).map((label) => {
    const [near] = nearest(label, labels, 1);
    return `"${label}"${near ? ` (nearest: "${near}")` : ""}`;
  });
  if (unknown.length > shown.length) shown.push(`and ${unknown.length - shown.length} more`);
  return new TuneError("unknown-label", `The model has no label ${shown.join(", ")}.`, {
    at,
    fix: `its labels are ${labels.slice(0, 12).join(", ")}${labels.length > 12 ? ", …" : ""}`,
  });
}

/** Every name once: numbers by size, those of transformers' `LABEL_0`, … too; others by their characters. */
export function sorted(names: readonly string[]): Labels {
  const all = [...new Set(names)];
  const numbers = [/^(-?\d+)$/, /^LABEL_(\d+)$/].find((form) => all.every((name) => form.test(name)));
  const numberOf = (name: string): number => Number(numbers?.exec(name)?.[1]);
  return numbers ? all.sort((a, b) => numberOf(a) - numberOf(b)) : all.sort();
}
