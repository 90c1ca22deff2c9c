import { exportForms } from "../../src/export/index.ts";
import type { Fields } from "../../src/fields.ts";
import { methods } from "../../src/methods/index.ts";
import { optimizers, schedules } from "../../src/optim/index.ts";
import { schemes } from "../../src/quant/index.ts";
import { baseWeights } from "../../src/train/base-weights.ts";
import { dataFormats } from "../../src/train/data/formats.ts";
import { memoryChoices } from "../../src/train/memory.ts";
import { objectives } from "../../src/train/objectives/index.ts";
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

/** A section of a record: what it is, its options, its source. */
function section({ name, summary, fields = {}, cite }: Described): string {
  const rows = Object.entries(fields as Fields<Record<string, unknown>>).map(([option, field]) => [
    code(`--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`),
    field.help,
    String(field.initial) === "" ? "" : code(String(field.initial)),
  ]);
  const people = cite?.authors.split(/ and |, /) ?? [];
  const who = people.length > 2 ? `${people[0]} et al.` : people.join(" and ");
  return [
    `## ${name}`,
    `${summary}.`,
    ...(rows.length > 0 ? [table(["option", "what it is", "unless given"], rows)] : []),
    ...(cite
      ? [
          `${who}, *${cite.title}*, ${cite.year} ([arXiv ${cite.arxiv}](https://arxiv.org/abs/${cite.arxiv})), ${cite.at}.`,
        ]
      : []),
  ].join("\n\n");
}

function names(records: Iterable<string>): string {
  return [...records].map(code).join(", ");
}

/** The pages made of tables of records, by file name. */
export function recordPages(): Readonly<Record<string, string>> {
  const all = (records: ReadonlyMap<string, unknown>): readonly Described[] => [...records.values()] as Described[]; // each has these
  const choices = (title: string, records: Readonly<Record<string, { readonly summary: string }>>): string =>
    `## ${title}\n\n${table(
      ["choice", "what it does"],
      Object.entries(records).map(([name, { summary }]) => [code(name), summary]),
    )}`;
  return {
    "methods.md": page(
      "Methods",
      "What `--method` chooses, with the options that each adds to the command line.",
      ...all(methods).map(section),
    ),
    "training.md": page(
      "Training",
      "What is minimised (`--objective`), how parameters are updated (`--optimizer`), and what is spent for less memory.",
      ...all(objectives).map(section),
      ...all(optimizers).map(section),
      choices("--memory", memoryChoices),
      choices("--base-weights", baseWeights),
      `## --schedule\n\n${names(Object.keys(schedules))}`,
    ),
    "quantisation.md": page(
      "Quantisation",
      "What `scion quantize --scheme` chooses. Packed models are described in [packed-format.md](../packed-format.md).",
      ...all(schemes).map(section),
    ),
    "data.md": page(
      "Data",
      "Rows are recognised by their keys, in JSONL, JSON, CSV and Parquet files; plain text is cut into documents.",
      ...dataFormats.map(({ name, keys, optionalKeys, example }) =>
        [
          `## ${name}`,
          `Every row has ${names(keys)}${optionalKeys.length > 0 ? `, and may have ${names(optionalKeys)}` : ""}.`,
          `\`\`\`json\n${example}\n\`\`\``,
        ].join("\n\n"),
      ),
    ),
    "exports.md": page(
      "Exports",
      "What `scion export --to` writes, and `exportModel` in code. Every folder has a model card with the run's settings, a hash of its data, the licence that the base model states and the papers to cite.",
      ...Object.entries(exportForms).map(([name, { summary, use, dtypes, checked, holds }]) =>
        [
          `## ${name}`,
          `${summary[0]?.toUpperCase()}${summary.slice(1)}${holds === "adapter" ? "; the base model goes with it" : ""}.`,
          `\`\`\`\n${use}\n\`\`\``,
          ...(dtypes.length > 0 ? [`\`--dtype\`: ${names(dtypes)}; several with commas between them.`] : []),
          `Checked: ${checked}.`,
        ].join("\n\n"),
      ),
    ),
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
