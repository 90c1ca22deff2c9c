import type { DataRow } from "./formats.ts";
import type { LineProblem } from "./problems.ts";
import type { ParsedRows } from "./source.ts";

/** What earlier pieces of a file have shown. */
export interface CsvState {
  readonly header: readonly string[] | undefined;
  readonly delimiter: string;
  /** The line that comes next. */
  readonly line: number;
}

/**
 * Rows of comma-, tab- or semicolon-separated values under a header (RFC 4180: quotes around fields, doubled inside
 * them, and line breaks within). Which separator it is, the file tells. A file may come in pieces that end with a record.
 */
export async function parseCsv(text: string, before?: CsvState): Promise<ParsedRows & { readonly state: CsvState }> {
  const { default: papa } = await import("papaparse");
  const rows: DataRow[] = [];
  const problems: LineProblem[] = [];
  const clean = before ? text : text.replace(/^\uFEFF/, "");
  let { header, delimiter } = before ?? { header: undefined, delimiter: "" };
  let [line, read] = [before?.line ?? 1, 0]; // where the next record starts: its line, its first character
  papa.parse<string[]>(clean, {
    skipEmptyLines: false,
    delimiter,
    step: ({ data, errors, meta }) => {
      const start = line;
      line += clean.slice(read, meta.cursor).split("\n").length - 1;
      read = meta.cursor;
      if (data.every((field) => field.trim() === "")) return;
      const [error] = errors.filter(({ type }) => type === "Quotes");
      if (error) problems.push({ line: start, what: `has a quoted field that does not end well: ${error.message}` });
      else if (header === undefined) [header, delimiter] = [data.map((name) => name.trim()), meta.delimiter];
      else if (data.length !== header.length)
        problems.push({ line: start, what: `has ${data.length} fields under a header of ${header.length}` });
      else rows.push({ line: start, value: Object.fromEntries(header.map((name, i) => [name, data[i] ?? ""])) });
    },
  });
  return { rows, problems, state: { header, delimiter, line } };
}
