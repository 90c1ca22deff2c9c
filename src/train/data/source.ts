import { ExactNumber } from "../../io/exact-json.ts";
import { isJsonObject } from "../../io/json.ts";
import { kindOf } from "./formats/format.ts";
import type { DataRow } from "./formats.ts";
import type { LineProblem } from "./problems.ts";

/** Rows as they were read, and those that could not be. */
export interface ParsedRows {
  readonly rows: readonly DataRow[];
  readonly problems: readonly LineProblem[];
}

/** Rows that are in memory, or come one by one; each an object as a line of JSON would hold it. */
export type Rows = Iterable<unknown> | AsyncIterable<unknown>;

/** A data file (or folder of images), or rows, and how often their examples come in an epoch (once unless given). */
export type DataSource =
  | { readonly path: string; readonly weight?: number }
  | {
      readonly rows: Rows;
      /** What messages call them; `rows` unless given. */
      readonly name?: string;
      readonly weight?: number;
    };

/**
 * Where rows come from: a file or folder; rows in memory, or that come one by one; or several of these, with how often
 * each comes in an epoch.
 */
export type Data = string | readonly DataSource[] | Rows;

/** What some data consists of. */
export function sourcesOf(data: Data): readonly DataSource[] {
  if (typeof data === "string") return [{ path: data }];
  return isSources(data) ? data : [{ rows: data }];
}

/** Whether a list is one of sources: each names a path, or holds rows, and says nothing else but its weight. */
function isSources(data: readonly DataSource[] | Rows): data is readonly DataSource[] {
  const isSource = (value: unknown): boolean =>
    isJsonObject(value) &&
    (typeof value["path"] === "string" || isRows(value["rows"])) &&
    Object.keys(value).every((key) => ["path", "rows", "name", "weight"].includes(key));
  return Array.isArray(data) && data.length > 0 && data.every(isSource);
}

function isRows(value: unknown): boolean {
  return typeof value === "object" && value !== null && (Symbol.iterator in value || Symbol.asyncIterator in value);
}

/** The files among some sources. */
export function filesOf(sources: readonly DataSource[]): readonly string[] {
  return sources.flatMap((source) => ("path" in source ? [source.path] : []));
}

/** Where rows come from, for messages. */
export function nameOf(source: DataSource): string {
  return "path" in source ? source.path : (source.name ?? "rows");
}

/** A row that was left out because it cannot be used. */
export interface SkippedRow extends LineProblem {
  /** The file, or the name of the rows. */
  readonly at: string;
}

/** How many rows are looked at together when they come one by one. */
const pieceRows = 1000;

/** Rows of memory a thousand at a time, counted from 1 as lines. */
export async function* rowPieces(rows: Rows): AsyncGenerator<ParsedRows> {
  let [good, problems]: [DataRow[], LineProblem[]] = [[], []];
  let line = 0;
  for await (const row of rows) {
    line++;
    const value = withoutBigints(row);
    if (isJsonObject(value)) good.push({ line, value });
    else problems.push({ line, what: `is ${kindOf(value)}, not an object` });
    if (good.length + problems.length < pieceRows) continue;
    yield { rows: good, problems };
    [good, problems] = [[], []];
  }
  if (good.length + problems.length > 0) yield { rows: good, problems };
}

/** All rows of memory. */
export async function allRows(rows: Rows): Promise<ParsedRows> {
  const pieces: ParsedRows[] = [];
  for await (const piece of rowPieces(rows)) pieces.push(piece);
  return { rows: pieces.flatMap((piece) => piece.rows), problems: pieces.flatMap(({ problems }) => problems) };
}

function withoutBigints(value: unknown): unknown {
  if (typeof value === "bigint")
    return Number.isSafeInteger(Number(value)) ? Number(value) : new ExactNumber(String(value));
  if (Array.isArray(value)) return value.map(withoutBigints);
  if (!isJsonObject(value) || value instanceof ExactNumber || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, withoutBigints(part)]));
}
