import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";
import { decodeText } from "../../io/text.ts";
import { type CsvState, type ParsedRows, parseCsv } from "./csv.ts";
import { parquetRows } from "./parquet.ts";
import { parseLines } from "./read.ts";

/** How much of a file is read at once, and the longest that one row may be. Bytes. */
const [pieceBytes, longestRowBytes] = [2 ** 22, 2 ** 28];

/** Kinds of data files that are read in pieces, by their ending. */
export const streamedEndings: ReadonlyMap<string, (storage: Storage, path: string) => AsyncGenerator<ParsedRows>> =
  new Map([
    ["jsonl", jsonPieces],
    ["ndjson", jsonPieces],
    ["csv", csvPieces],
    ["tsv", csvPieces],
    ["parquet", parquetPieces],
  ]);

async function* jsonPieces(storage: Storage, path: string): AsyncGenerator<ParsedRows> {
  let line = 1;
  for await (const text of texts(storage, path, lastLine)) {
    const piece = parseLines(text, line);
    line += text.split("\n").length - 1;
    yield piece;
  }
}

async function* csvPieces(storage: Storage, path: string): AsyncGenerator<ParsedRows> {
  let state: CsvState | undefined;
  for await (const text of texts(storage, path, lastRecord)) {
    const piece = await parseCsv(text, state);
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
  const sizeBytes = (await storage.sizeBytes(path)) ?? 0;
  let rest = new Uint8Array();
  for (let start = 0; start < sizeBytes; ) {
    // A row longer than a piece: twice as much at a time, so that it is not looked through again and again.
    const end = Math.min(sizeBytes, start + Math.max(pieceBytes, rest.length));
    const bytes = new Uint8Array(rest.length + end - start);
    bytes.set(rest);
    bytes.set(await storage.read(path, { start, end }), rest.length);
    start = end;
    const whole = end === sizeBytes ? bytes.length : endOf(bytes);
    if (bytes.length - whole > longestRowBytes) {
      throw new TuneError("malformed-data", `A row is longer than ${longestRowBytes} bytes.`, {
        at: path,
        fix: "check that the file has a row a line, and that quotes are closed",
      });
    }
    if (whole > 0) yield decodeText(bytes.subarray(0, whole), path);
    rest = bytes.slice(whole);
  }
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
