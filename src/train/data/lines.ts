import { parseExactJson } from "../../io/exact-json.ts";
import { isJsonObject } from "../../io/json.ts";
import type { DataRow } from "./formats.ts";
import { checkCounts, type LineProblem } from "./problems.ts";
import type { ParsedRows } from "./source.ts";

/**
 * Objects, one a line; the first of the text is `firstLine`. Lines are looked at one by one: millions of blank ones take no
 * memory. @throws {TuneError} as {@link checkCounts}.
 */
export function parseLines(text: string, at: string, firstLine = 1): ParsedRows {
  const rows: DataRow[] = [];
  const problems: LineProblem[] = [];
  let line = firstLine;
  let start = text.startsWith("\uFEFF") ? 1 : 0;
  for (let i = start; i < text.length; ) {
    const code = text.charCodeAt(i);
    if (code === lineBreak) {
      line++;
      start = ++i;
      continue;
    }
    if (code === space || code === tab || code === carriageReturn) {
      i++;
      continue;
    }
    const found = text.indexOf("\n", i);
    i = found < 0 ? text.length : found;
    checkCounts(at, rows.length, problems);
    const source = text.slice(start, text.charCodeAt(i - 1) === carriageReturn ? i - 1 : i);
    if (source.trim() === "") continue;
    try {
      const value = parseExactJson(source);
      if (isJsonObject(value)) rows.push({ line, value });
      else problems.push({ line, what: "is JSON, but not an object" });
    } catch (error) {
      problems.push({ line, what: `is not JSON: ${error instanceof Error ? error.message : String(error)}` });
    }
  }
  return { rows, problems };
}

const [tab, lineBreak, carriageReturn, space] = [9, 10, 13, 32];

/** How many lines end in a part of a text, each with `mark`. */
export function lineBreaks(text: string, start = 0, end: number = text.length, mark = "\n"): number {
  let count = 0;
  for (let at = text.indexOf(mark, start); at >= 0 && at < end; at = text.indexOf(mark, at + 1)) count++;
  return count;
}
