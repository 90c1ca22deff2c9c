import { TuneError } from "../../errors.ts";
import { parseExactJson } from "../../io/exact-json.ts";
import { isJsonObject } from "../../io/json.ts";
import type { Storage } from "../../io/storage.ts";
import { decodeText } from "../../io/text.ts";
import { append } from "./append.ts";
import { type Columns, createRenamer } from "./columns.ts";
import { compressedEndings, dataEnding, wholeFile } from "./compressed.ts";
import { parseCsv, tabSeparated } from "./csv.ts";
import {
  acceptedFormats,
  type DataFormat,
  type DataRow,
  dataFormats,
  emptyData,
  inspectKeys,
  type KeyReport,
  type RowFormat,
  textFormat,
} from "./formats.ts";
import { lineBreaks, parseLines } from "./lines.ts";
import { parquetRows } from "./parquet.ts";
import { checkCounts, type LineProblem, throwProblems } from "./problems.ts";
import { allRows, type DataSource, nameOf, type ParsedRows } from "./source.ts";

/** Rows of one format, checked. */
export interface Dataset<Format extends RowFormat = DataFormat> {
  /** Where they came from, for messages. */
  readonly at: string;
  readonly format: Format;
  readonly rows: readonly DataRow[];
  /** Keys that rows have and the format does not know: worth a word to the user. */
  readonly ignoredKeys: readonly string[];
  /** Rows that were left out because they cannot be used, where that was asked for. */
  readonly skipped?: readonly LineProblem[];
}

/** How data is read. */
export interface ReadOptions extends TextOptions {
  /** Names of columns that are not the format's. */
  readonly columns?: Columns;
  /** Leave rows out that cannot be used, and tell them, instead of refusing the file. */
  readonly skipBadRows?: boolean;
}

/** How a plain text file is cut into documents. */
export interface TextOptions {
  /** What stands between documents; `<|endoftext|>` where the file holds it, else a blank line. "" keeps the file whole. */
  readonly separator?: string;
}

/**
 * Read training data: `.jsonl` and `.ndjson` (a JSON object a line), `.json` (that, or a list of objects), `.csv` and
 * `.tsv` (a header, then rows), `.parquet`, or `.txt` (documents); each but Parquet may be compressed (`.gz`, `.zst`). Or
 * rows in memory.
 * @throws {TuneError} `unknown-data-file`, `not-utf8`, `malformed-data`, what the storage throws, and what
 *   {@link parseJsonLines} and {@link parseDocuments} throw.
 */
export async function readDataset(
  storage: Storage,
  source: string | DataSource,
  options: ReadOptions = {},
): Promise<Dataset> {
  const path = pathOf(source);
  if (path !== undefined && dataEnding(path).ending === "txt") {
    if (options.columns !== undefined && Object.keys(options.columns).length > 0) {
      throw new TuneError("bad-option", "A text file has no columns to rename.", {
        at: path,
        fix: "leave the columns away, or give rows (.jsonl, .csv, .parquet)",
      });
    }
    return parseDocuments(decodeText(await wholeFile(storage, path), path), path, options);
  }
  return readRows(storage, source, dataFormats, options);
}

/** Read rows of one of the formats given, from any file but plain text, or from memory. @throws as {@link readDataset}. */
export async function readRows<Format extends RowFormat>(
  storage: Storage,
  source: string | DataSource,
  formats: readonly Format[],
  options: ReadOptions = {},
): Promise<Dataset<Format>> {
  const path = pathOf(source);
  if (path === undefined) {
    const given = source as Exclude<DataSource, { path: string }>; // it has no path
    return checkRows(await allRows(given.rows), nameOf(given), formats, options);
  }
  const { ending, compression } = dataEnding(path);
  const parse = Object.hasOwn(parsers, ending) ? parsers[ending] : undefined;
  if (parse === undefined || (ending === "parquet" && compression !== undefined)) {
    throw new TuneError("unknown-data-file", `The ending of the file does not tell what it holds.`, {
      at: path,
      fix: `use one of ${dataEndings.map((name) => `.${name}`).join(", ")}; all but .parquet also with ${compressedEndings.map((name) => `.${name}`).join(" or ")} behind`,
    });
  }
  return checkRows(await parse(await wholeFile(storage, path), path), path, formats, options);
}

function pathOf(source: string | DataSource): string | undefined {
  if (typeof source === "string") return source;
  return "path" in source ? source.path : undefined;
}

type Parser = (bytes: Uint8Array, at: string) => ParsedRows | Promise<ParsedRows>;

const jsonLines: Parser = (bytes, at) => parseJsonRows(decodeText(bytes, at), at);
const commas: Parser = (bytes, at) => parseCsv(decodeText(bytes, at), at);
const tabs: Parser = (bytes, at) => parseCsv(decodeText(bytes, at), at, tabSeparated);
const parquet: Parser = async (bytes, at) => {
  const rows: DataRow[] = [];
  const read = async (start: number, end: number): Promise<Uint8Array> => bytes.subarray(start, end);
  for await (const group of parquetRows({ sizeBytes: bytes.length, read }, at)) {
    append(rows, group);
    checkCounts(at, rows.length, []);
  }
  return { rows, problems: [] };
};

/** By the ending of a file's name. */
const parsers: Readonly<Record<string, Parser>> = {
  jsonl: jsonLines,
  ndjson: jsonLines,
  json: jsonLines,
  csv: commas,
  tsv: tabs,
  parquet,
};

/** Endings of the files that {@link readDataset} reads. */
export const dataEndings: readonly string[] = [...Object.keys(parsers), "txt"];

/**
 * Parse JSON Lines, or one list of objects, and check every row. Blank lines, CRLF and a byte order mark are fine.
 * @throws {TuneError} `empty-data`; `malformed-data`, `unknown-data-format` or `mixed-data-formats` with all problems:
 *   lines that are not JSON objects, rows of another format, fields that are missing, empty or of the wrong type.
 */
export function parseJsonLines(text: string, at = "data"): Dataset {
  return checkRows(parseJsonRows(text, at), at, dataFormats);
}

function parseJsonRows(text: string, at: string): ParsedRows {
  return parseList(text) ?? parseLines(text, at);
}

/** Hold rows against their format. @throws as {@link parseJsonLines}. */
export function checkRows<Format extends RowFormat>(
  parsed: ParsedRows,
  at: string,
  formats: readonly Format[],
  { columns = {}, skipBadRows = false }: ReadOptions = {},
): Dataset<Format> {
  const renamer = createRenamer(columns, formats);
  if (parsed.rows.length === 0 && parsed.problems.length === 0) throw emptyData(at, formats);
  const renamed = { ...parsed, rows: renamer.rename(parsed.rows) };
  renamer.finish(at);
  const { format, rows, ignoredKeys, problems, code } = inspectRows(renamed, formats);
  if (format !== undefined && problems.length === 0) return { at, format, rows, ignoredKeys };
  const bad = new Set(problems.map(({ line }) => line));
  const good = rows.filter(({ line }) => !bad.has(line));
  if (skipBadRows && format !== undefined && good.length > 0)
    return { at, format, rows: good, ignoredKeys, skipped: problems };
  return throwProblems(code, problems, { at, fix: fixFor(formats, good.length > 0) });
}

/** What to do about rows that cannot be used. */
export function fixFor(formats: readonly RowFormat[], someGood: boolean): readonly string[] {
  const without = someGood ? ["  or leave the rows out: --skip-bad-rows (skipBadRows in code)"] : [];
  return [...acceptedFormats(formats), ...without];
}

/**
 * Rows held against the format of most of them, or one that is known from rows before, with everything that is wrong with
 * them.
 */
export function inspectRows<Format extends RowFormat>(
  { rows, problems: badLines }: ParsedRows,
  formats: readonly Format[],
  known?: Format,
): KeyReport<Format> & Pick<ParsedRows, "rows"> {
  const { format, ignoredKeys, problems: badKeys, code } = inspectKeys(rows, formats, known);
  const strangers = new Set(badKeys.map(({ line }) => line));
  const badFields: LineProblem[] = [];
  for (const { line, value } of rows) {
    if (strangers.has(line) || format === undefined) continue;
    const halves = [...format.keys, ...format.optionalKeys].find((key) => hasHalfCharacter(value[key]));
    const what =
      halves === undefined
        ? format.check(value)
        : `"${halves}" holds half of a character (a surrogate such as \\ud83d without its other half), which no tokenizer takes`;
    if (what !== undefined) badFields.push({ line, what });
  }
  const problems = [...badLines, ...badKeys, ...badFields];
  return { format, rows, ignoredKeys, problems, code: rows.length === 0 ? "malformed-data" : code };
}

function hasHalfCharacter(value: unknown): boolean {
  if (typeof value === "string") return /\p{Surrogate}/u.test(value);
  if (Array.isArray(value)) return value.some(hasHalfCharacter);
  return isJsonObject(value) && Object.entries(value).some((entry) => entry.some(hasHalfCharacter));
}

/**
 * Cut plain text into documents, each without its outer white space.
 * @throws {TuneError} `empty-data` when nothing is left.
 */
export function parseDocuments(text: string, at = "data", { separator }: TextOptions = {}): Dataset {
  const clean = text.replace(/^\uFEFF/, "").replace(/\r\n/g, "\n");
  const mark = separator ?? (clean.includes(endOfText) ? endOfText : undefined);
  const boundary = mark === undefined ? /\n[^\S\n]*\n\s*/g : new RegExp(mark === "" ? "$" : literally(mark), "g");
  const rows: DataRow[] = [];
  let start = 0;
  let line = 1;
  for (const { index, 0: matched } of [...clean.matchAll(boundary), { index: clean.length, 0: "" }]) {
    const piece = clean.slice(start, index);
    const leading = piece.length - piece.trimStart().length;
    if (leading < piece.length) {
      rows.push({ line: line + lineBreaks(piece.slice(0, leading)), value: { text: piece.trim() } });
    }
    line += lineBreaks(piece + matched);
    start = index + matched.length;
  }
  if (rows.length === 0) throw emptyData(at);
  return { at, format: textFormat, rows, ignoredKeys: [] };
}

const endOfText = "<|endoftext|>";

/** The elements of one JSON list, counted from 1 as lines; undefined when the text is none. */
function parseList(text: string): ParsedRows | undefined {
  const content = text.replace(/^\uFEFF/, "").trim();
  if (!content.startsWith("[") || !content.endsWith("]")) return undefined;
  try {
    const list = parseExactJson(content) as readonly unknown[]; // it begins with a bracket
    const values = list.map((value, i) => ({ line: i + 1, value }));
    return {
      rows: values.filter((row): row is DataRow => isJsonObject(row.value)),
      problems: values
        .filter(({ value }) => !isJsonObject(value))
        .map(({ line }) => ({ line, what: "is an element of a list, but not an object" })),
    };
  } catch {
    return undefined;
  }
}

function literally(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
}
