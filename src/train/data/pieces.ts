import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";
import { decodeText } from "../../io/text.ts";
import { dataEnding, filePieces } from "./compressed.ts";
import { type CsvState, parseCsv, tabSeparated } from "./csv.ts";
import { lineBreaks, parseLines } from "./lines.ts";
import { parquetRows } from "./parquet.ts";
import { type DataSource, type ParsedRows, rowPieces } from "./source.ts";

/** The longest that one row may be, and the least that is looked through at once. Bytes. */
const [longestRowBytes, pieceBytes] = [2 ** 28, 2 ** 22];

/** Rows of a source a piece at a time; undefined for files that cannot be read in pieces. */
export function piecesOf(storage: Storage, source: DataSource): AsyncGenerator<ParsedRows> | undefined {
  if ("rows" in source) return rowPieces(source.rows);
  const { ending, compression } = dataEnding(source.path);
  if (ending === "parquet" && compression !== undefined) return undefined; // its parts are not where it says
  return streamedEndings.get(ending)?.(storage, source.path);
}

/** Kinds of data files that are read in pieces, by their ending. */
export const streamedEndings: ReadonlyMap<string, (storage: Storage, path: string) => AsyncGenerator<ParsedRows>> =
  new Map([
    ["jsonl", jsonPieces],
    ["ndjson", jsonPieces],
    ["csv", csvPieces],
    ["tsv", (storage, path) => csvPieces(storage, path, tabSeparated)],
    ["parquet", parquetPieces],
  ]);

async function* jsonPieces(storage: Storage, path: string): AsyncGenerator<ParsedRows> {
  let line = 1;
  for await (const text of texts(storage, path, lastLine)) {
    yield parseLines(text, path, line);
    line += lineBreaks(text);
  }
}

async function* csvPieces(storage: Storage, path: string, start?: CsvState): AsyncGenerator<ParsedRows> {
  let state = start;
  for await (const text of texts(storage, path, lastRecord)) {
    const piece = await parseCsv(text, path, state);
    state = piece.state;
    yield piece;
  }
}

async function* parquetPieces(storage: Storage, path: string): AsyncGenerator<ParsedRows> {
  const sizeBytes = (await storage.sizeBytes(path)) ?? 0;
  const read = (start: number, end: number): Promise<Uint8Array> => storage.read(path, { start, end });
  for await (const rows of parquetRows({ sizeBytes, read }, path)) yield { rows, problems: [] };
}

/**
 * A text file in pieces of a few megabytes, each up to a boundary that `endOf` finds (the length of what is whole; 0 when
 * nothing is).
 */
async function* texts(storage: Storage, path: string, endOf: (bytes: Uint8Array) => number): AsyncGenerator<string> {
  let rest = new Uint8Array();
  let waiting: Uint8Array[] = [];
  let waitingBytes = 0;
  const joined = (): Uint8Array<ArrayBuffer> => {
    const bytes = new Uint8Array(rest.length + waitingBytes);
    let at = rest.length;
    bytes.set(rest);
    for (const piece of waiting) {
      bytes.set(piece, at);
      at += piece.length;
    }
    [waiting, waitingBytes] = [[], 0];
    return bytes;
  };
  for await (const piece of filePieces(storage, path)) {
    waiting.push(piece);
    waitingBytes += piece.length;
    // A row longer than a piece: twice as much at a time, so that it is not looked through again and again.
    if (waitingBytes < Math.max(pieceBytes, rest.length)) continue;
    const bytes = joined();
    const whole = endOf(bytes);
    if (bytes.length - whole > longestRowBytes) {
      throw new TuneError("malformed-data", `A row is longer than ${longestRowBytes} bytes.`, {
        at: path,
        fix: "check that the file has a row a line, and that quotes are closed",
      });
    }
    if (whole > 0) yield decodeText(bytes.subarray(0, whole), path);
    rest = bytes.slice(whole);
  }
  const last = joined();
  if (last.length > 0) yield decodeText(last, path);
}

function lastLine(bytes: Uint8Array): number {
  return bytes.lastIndexOf(10) + 1;
}

/** A line break ends a record where the quotes before it are even: those inside a quoted field are doubled. */
function lastRecord(bytes: Uint8Array): number {
  let end = 0;
  let quotes = 0;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] === 34) quotes++;
    else if (bytes[i] === 10 && quotes % 2 === 0) end = i + 1;
  }
  return end;
}
