import type { DataRow } from "./formats.ts";
import { lineBreaks } from "./lines.ts";
import { checkCounts, type LineProblem } from "./problems.ts";
import type { ParsedRows } from "./source.ts";

/** What is known of a file before its next piece. */
export interface CsvState {
  /** The names of its columns, once they have been read. */
  readonly header?: readonly string[];
  /** What stands between fields; unless it is known, the header tells. */
  readonly delimiter?: string;
  /** The line that comes next. */
  readonly line: number;
}

/** A file whose fields stand between tabs, whatever else its first lines hold. */
export const tabSeparated: CsvState = { delimiter: "\t", line: 1 };

/** What may stand between fields; the first where a header holds none. */
const separators = [",", "\t", ";", "|"] as const;

/**
 * Rows of comma-, tab-, semicolon- or bar-separated values under a header (RFC 4180: quotes around fields, doubled inside
 * them, and line breaks within). Which separator it is, the header tells. A file may come in pieces that end with a record.
 * @throws {TuneError} as {@link checkCounts}.
 */
export async function parseCsv(
  text: string,
  at: string,
  before?: CsvState,
): Promise<ParsedRows & { readonly state: CsvState }> {
  const { default: papa } = await import("papaparse");
  const rows: DataRow[] = [];
  const problems: LineProblem[] = [];
  const clean = before?.header ? text : text.replace(/^\uFEFF/, "");
  const first = before?.line ?? 1;
  if (clean.trim() === "") return { rows, problems, state: { ...before, line: first + lineBreaks(clean) } }; // in no time
  const delimiter = before?.delimiter ?? separatorOf(clean);
  let header = before?.header;
  let [line, read] = [first, 0]; // where the next record starts: its line, its first character
  // Not guessed: files that mix their line ends would be cut wrongly. What is left of CRLF is taken off below.
  const newline = clean.includes("\n") || !clean.includes("\r") ? "\n" : "\r";
  papa.parse<string[]>(clean, {
    skipEmptyLines: false,
    delimiter,
    newline,
    step: ({ data, errors, meta }) => {
      const start = line;
      line += lineBreaks(clean, read, meta.cursor, newline);
      const record = clean.slice(read, meta.cursor).replace(/\n$/, "");
      read = meta.cursor;
      const last = data.at(-1) ?? "";
      if (last.endsWith("\r") && record.endsWith(last)) data[data.length - 1] = last.slice(0, -1); // not of a quoted field
      if (data.every((field) => field.trim() === "")) return;
      checkCounts(at, rows.length, problems);
      const [error] = errors.filter(({ type }) => type === "Quotes");
      if (error) problems.push({ line: start, what: `has a quoted field that does not end well: ${error.message}` });
      else if (header === undefined) header = data.map((name) => name.trim());
      else if (data.length !== header.length)
        problems.push({ line: start, what: `has ${data.length} fields under a header of ${header.length}` });
      else rows.push({ line: start, value: Object.fromEntries(header.map((name, i) => [name, data[i] ?? ""])) });
    },
  });
  return { rows, problems, state: { ...(header ? { header, delimiter } : before), line } };
}

/** The separator that stands most often between the names of the first line that holds anything. */
function separatorOf(text: string): string {
  const counts = new Map<string, number>(separators.map((separator) => [separator, 0]));
  let quoted = false;
  for (let at = text.search(/\S/); at >= 0 && at < text.length; at++) {
    const letter = text.charAt(at);
    if (letter === '"') quoted = !quoted;
    else if (!quoted && (letter === "\n" || letter === "\r")) break;
    else if (!quoted && counts.has(letter)) counts.set(letter, (counts.get(letter) ?? 0) + 1);
  }
  return separators.reduce((best, one) => ((counts.get(one) ?? 0) > (counts.get(best) ?? 0) ? one : best));
}
