import { exportForms } from "../../src/export/index.ts";
import { type Fields, unlessGiven } from "../../src/fields.ts";
import { methods } from "../../src/methods/index.ts";
import { optimizers, schedules } from "../../src/optim/index.ts";
import { schemes } from "../../src/quant/index.ts";
import { baseWeights } from "../../src/train/base-weights.ts";
import { dataFormats } from "../../src/train/data/formats.ts";
import { dataEndings } from "../../src/train/data/read.ts";
import { memoryChoices } from "../../src/train/memory.ts";
import { objectives } from "../../src/train/objectives/index.ts";
import { tasks } from "../../src/train/tasks/index.ts";
import { checkOf, inWords, type Kind } from "./checked.ts";
import { code, page, table } from "./markdown.ts";

interface Described {
  readonly name: string;
  readonly summary: string;
  readonly fields?: object;
  readonly cite?: {
    readonly title: string;
    readonly authors: string;
    readonly year: number;
    readonly arxiv: string;
    readonly at: string;
  };
}

/** What a record is held against, as a sentence. */
function checkedLine(kind: Kind, name: string): string {
  return `Checked: ${inWords(checkOf(kind, name))}.`;
}

/** A section of a record: what it is, its options, its source, what it is held against. */
function section(kind: Kind, { name, summary, fields = {}, cite }: Described): string {
  const rows = Object.entries(fields as Fields<Record<string, unknown>>).map(([option, field]) => [
    code(`--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`),
    field.help,
    field.follows ? field.follows.says : String(field.initial) === "" ? "" : code(unlessGiven(field)),
  ]);
  const people = cite?.authors.split(/ and |, /) ?? [];
  const who = people.length > 2 ? `${people[0]} et al.` : people.join(" and ");
  return [
    `## ${name}`,
    `${summary[0]?.toUpperCase()}${summary.slice(1)}.`,
    ...(rows.length > 0 ? [table(["option", "what it is", "unless given"], rows)] : []),
    ...(cite
      ? [
          `${who}, *${cite.title}*, ${cite.year} ([arXiv ${cite.arxiv}](https://arxiv.org/abs/${cite.arxiv})), ${cite.at}.`,
        ]
      : []),
    checkedLine(kind, name),
  ].join("\n\n");
}

function names(records: Iterable<string>): string {
  return [...records].map(code).join(", ");
}

/** The rows that a task reads. */
function taskRows(
  name: string,
  summary: string,
  formats: readonly { readonly name: string; readonly example: string }[],
): string {
  const rows = formats.map((format) => [format.name, code(format.example)]);
  const title = `## ${name}\n\n${summary[0]?.toUpperCase()}${summary.slice(1)}.`;
  return `${title}\n\n${table(["keys", "a row"], rows)}\n\n${checkedLine("tasks", name)}`;
}

/** The endings of files, those that are checked alike in a row. */
function fileRows(): readonly (readonly string[])[] {
  const rows = new Map<string, string[]>();
  for (const ending of dataEndings) {
    const words = inWords(checkOf("files", ending));
    rows.set(words, [...(rows.get(words) ?? []), `.${ending}`]);
  }
  return [...rows].map(([words, endings]) => [names(endings), words]);
}

/** The pages made of tables of records, by file name. */
export function recordPages(): Readonly<Record<string, string>> {
  const all = (records: ReadonlyMap<string, unknown>): readonly Described[] => [...records.values()] as Described[]; // each has these
  const sections = (kind: Kind, records: ReadonlyMap<string, unknown>): readonly string[] =>
    all(records).map((record) => section(kind, record));
  const choices = (
    title: string,
    kind: Kind,
    records: Readonly<Record<string, { readonly summary: string }>>,
  ): string =>
    `## ${title}\n\n${table(
      ["choice", "what it does", "checked"],
      Object.entries(records).map(([name, { summary }]) => [code(name), summary, inWords(checkOf(kind, name))]),
    )}`;
  return {
    "methods.md": page(
      "Methods",
      "What `--method` chooses, with the options that each adds to the command line; what checks each option is in [options.md](options.md).",
      ...sections("methods", methods),
    ),
    "training.md": page(
      "Training",
      "What is minimised (`--objective`), how parameters are updated (`--optimizer`), and what is spent for less memory. What checks each option is in [options.md](options.md).",
      ...sections("objectives", objectives),
      ...sections("optimizers", optimizers),
      choices("--memory", "memory", memoryChoices),
      choices("--base-weights", "baseWeights", baseWeights),
      `## --schedule\n\n${table(
        ["choice", "checked"],
        Object.keys(schedules).map((name) => [code(name), inWords(checkOf("schedules", name))]),
      )}`,
    ),
    "quantisation.md": page(
      "Quantisation",
      "What `scion quantize --method` chooses. Packed models are described in [packed-format.md](../packed-format.md); what checks each option is in [options.md](options.md).",
      ...sections("schemes", schemes),
    ),
    "data.md": page(
      "Data",
      "Rows are recognised by their keys, in JSONL, JSON, CSV and Parquet files; plain text is cut into documents. First the rows of models that continue texts, then those of other tasks.",
      ...dataFormats.map(({ name, keys, optionalKeys, example }) =>
        [
          `## ${name}`,
          `Every row has ${names(keys)}${optionalKeys.length > 0 ? `, and may have ${names(optionalKeys)}` : ""}.`,
          `\`\`\`json\n${example}\n\`\`\``,
          checkedLine("data", name),
        ].join("\n\n"),
      ),
      ...Object.entries(tasks).flatMap(([name, { summary, formats }]) =>
        formats === dataFormats ? [] : [taskRows(name, summary, formats)],
      ),
      `## Files\n\n${table(["ending", "checked"], fileRows())}`,
    ),
    "exports.md": page(
      "Exports",
      "What `scion export --to` writes, and `exportModel` in code. Every folder has a model card with the run's settings, a hash of its data, the licence that the base model states and the papers to cite.",
      ...Object.entries(exportForms).map(([name, { summary, use, dtypes, holds }]) =>
        [
          `## ${name}`,
          `${summary[0]?.toUpperCase()}${summary.slice(1)}${holds === "adapter" ? "; the base model goes with it" : ""}.`,
          `\`\`\`\n${use}\n\`\`\``,
          ...(dtypes.length > 0 ? [`\`--dtype\`: ${names(dtypes)}; several with commas between them.`] : []),
          checkedLine("exports", name),
        ].join("\n\n"),
      ),
    ),
  };
}

/** The names of the records of each kind. */
export function recordNames(): Readonly<Record<Kind, readonly string[]>> {
  return {
    methods: [...methods.keys()],
    objectives: [...objectives.keys()],
    optimizers: [...optimizers.keys()],
    memory: Object.keys(memoryChoices),
    baseWeights: Object.keys(baseWeights),
    schedules: Object.keys(schedules),
    schemes: [...schemes.keys()],
    exports: Object.keys(exportForms),
    data: dataFormats.map(({ name }) => name),
    files: dataEndings,
    tasks: Object.keys(tasks).filter((name) => tasks[name as keyof typeof tasks].formats !== dataFormats), // its keys
  };
}

/** Rows of the README's table that the records fill. */
export function summaryRows(): readonly (readonly string[])[] {
  const link = (title: string, file: string): string => `[${title}](docs/reference/${file})`;
  return [
    [link("methods", "methods.md"), names(methods.keys())],
    [link("objectives", "training.md"), names(objectives.keys())],
    [link("update rules", "training.md"), names(optimizers.keys())],
    [link("data", "data.md"), dataFormats.map(({ name }) => name).join(", ")],
    [
      link("exports", "exports.md"),
      Object.entries(exportForms)
        .map(([name, { dtypes }]) => `${code(name)}${dtypes.length > 0 ? ` (${dtypes.join(", ")})` : ""}`)
        .join(", "),
    ],
    [link("quantisation", "quantisation.md"), names(schemes.keys())],
  ];
}
