import type { DataRow } from "./formats.ts";
import type { LineProblem } from "./problems.ts";

/** Rows of a file as they were read, and lines that could not be. */
export interface ParsedRows {
  readonly rows: readonly DataRow[];
  readonly problems: readonly LineProblem[];
}

/**
 * Rows of comma-, tab- or semicolon-separated values under a header (RFC 4180: quotes around fields, doubled inside
 * them, and line breaks within). Which separator it is, the file tells.
 */
export async function parseCsv(text: string): Promise<ParsedRows> {
  const { default: papa } = await import("papaparse");
  const rows: DataRow[] = [];
  const problems: LineProblem[] = [];
  const clean = text.replace(/^\uFEFF/, "");
  let header: readonly string[] | undefined;
  let [line, read] = [1, 0]; // where the next record starts: its line, its first character
  papa.parse<string[]>(clean, {
    skipEmptyLines: false,
    step: ({ data, errors, meta: { cursor } }) => {
      const start = line;
      line += clean.slice(read, cursor).split("\n").length - 1;
      read = cursor;
      if (data.every((field) => field.trim() === "")) return;
      const [error] = errors.filter(({ type }) => type === "Quotes");
      if (error) problems.push({ line: start, what: `has a quoted field that does not end well: ${error.message}` });
      else if (header === undefined) header = data.map((name) => name.trim());
      else if (data.length !== header.length)
        problems.push({ line: start, what: `has ${data.length} fields under a header of ${header.length}` });
      else rows.push({ line: start, value: Object.fromEntries(header.map((name, i) => [name, data[i] ?? ""])) });
    },
  });
  return { rows, problems };
}
