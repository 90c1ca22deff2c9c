import { TuneError } from "../../errors.ts";
import { alpaca } from "./formats/alpaca.ts";
import type { DataFormat, DataRow, RowFormat } from "./formats/format.ts";
import { messages } from "./formats/messages.ts";
import { preference } from "./formats/preference.ts";
import { promptCompletion, questionAnswer } from "./formats/prompt-completion.ts";
import { shareGpt } from "./formats/sharegpt.ts";
import { text } from "./formats/text.ts";
import type { LineProblem } from "./problems.ts";
import { throwProblems } from "./problems.ts";

export type { DataFormat, DataRow, RowFormat };

/** Every format that training data may have. A new one is a record here; reading, training and help follow from it. */
export const dataFormats: readonly DataFormat[] = [
  messages,
  promptCompletion,
  questionAnswer,
  text,
  alpaca,
  shareGpt,
  preference,
];

/** The format of plain text files, whose documents are rows. */
export const textFormat: DataFormat = text;

/** What the keys of some rows say about their format. */
export interface KeyReport<Format extends RowFormat> {
  /** The format of most rows; undefined when no row has one. */
  readonly format: Format | undefined;
  /** Keys that the format does not know, which are ignored. */
  readonly ignoredKeys: readonly string[];
  /** Rows of another format, or of none. */
  readonly problems: readonly LineProblem[];
  /** `mixed-data-formats`, `unknown-data-format`, or `malformed-data` when rows lack keys of the others' format. */
  readonly code: string;
}

/** Look at the keys of every row. A format that is `known` from rows before them is that of all. */
export function inspectKeys<Format extends RowFormat>(
  rows: readonly DataRow[],
  formats: readonly Format[],
  known?: Format,
): KeyReport<Format> {
  const found = rows.map(({ value }) => formatsOf(value, formats));
  const countOf = (format: Format): number => found.filter((fits) => fits.length === 1 && fits[0] === format).length;
  const used = formats.filter((format) => countOf(format) > 0).sort((a, b) => countOf(b) - countOf(a));
  const format = known ?? used[0];

  const problems: LineProblem[] = [];
  const ignored = new Set<string>();
  for (const [i, { line, value }] of rows.entries()) {
    const fits = found[i] ?? [];
    const keys = Object.keys(value);
    if (fits.length > 1) {
      const names = fits.map(({ name }) => name).join(" and ");
      problems.push({ line, what: `has the keys of ${names} at once; keep those of one` });
    } else if (fits[0] === undefined) {
      const missing = format?.keys.filter((key) => !keys.includes(key)) ?? [];
      const has = keys.length === 0 ? "has no keys" : `has the keys ${keys.map((key) => `"${key}"`).join(", ")}`;
      problems.push({ line, what: missing.length > 0 ? `lacks ${quoted(missing)} (it ${has})` : has });
    } else if (fits[0] !== format) {
      problems.push({ line, what: `is a ${fits[0].name} row among ${format?.name} rows` });
    } else {
      for (const key of keys) if (!format.keys.includes(key) && !format.optionalKeys.includes(key)) ignored.add(key);
    }
  }
  const code =
    format === undefined
      ? "unknown-data-format"
      : used.some((other) => other !== format)
        ? "mixed-data-formats"
        : "malformed-data";
  return { format, ignoredKeys: [...ignored], problems, code };
}

/** Formats whose keys a row has; not those whose keys another of them has too, or knows as optional. */
function formatsOf<Format extends RowFormat>(value: DataRow["value"], formats: readonly Format[]): readonly Format[] {
  const fits = formats.filter(({ keys }) => keys.every((key) => Object.hasOwn(value, key)));
  const within = (keys: readonly string[], others: readonly string[]): boolean =>
    keys.every((key) => others.includes(key));
  return fits.filter(
    ({ keys }) =>
      !fits.some(
        (other) => within(keys, other.optionalKeys) || (other.keys.length > keys.length && within(keys, other.keys)),
      ),
  );
}

/**
 * The format that all rows have.
 * @throws {TuneError} `unknown-data-format`, `mixed-data-formats` or `malformed-data`, naming the lines that do not fit
 *   and what is accepted; `empty-data` without rows.
 */
export function detectFormat(rows: readonly DataRow[], at = "data"): DataFormat {
  if (rows.length === 0) throw emptyData(at);
  const { format, problems, code } = inspectKeys(rows, dataFormats);
  if (format !== undefined && problems.length === 0) return format;
  return throwProblems(code, problems, { at, fix: acceptedFormats() });
}

/** The formats as help for people who wrote something else. */
export function acceptedFormats(formats: readonly RowFormat[] = dataFormats): readonly string[] {
  return ["write every row in one of these forms:", ...formats.map(({ example }) => `    ${example}`)];
}

/** The error for data without a row. */
export function emptyData(at: string, formats: readonly RowFormat[] = dataFormats): TuneError {
  return new TuneError("empty-data", "There is no row in the data.", { at, fix: acceptedFormats(formats) });
}

function quoted(names: readonly string[]): string {
  return names.map((name) => `"${name}"`).join(" and ");
}
