import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";
import { readBytes } from "../../io/text.ts";
import { createUnzstd } from "./zstd.ts";

/** How much of a file is read at once. Bytes. */
const pieceBytes = 2 ** 22;

/** What a file that is read whole may unfold to. Bytes. */
const largestWhole = 2 ** 29;

/** What a compressed file may unfold to, whatever its size, and for each of its bytes; no text repeats itself so often. Bytes. */
const [unfoldedAtFirst, unfoldedForAByte] = [2 ** 24, 256];

/** Turns compressed bytes into what they hold, piece by piece. */
type Unfold = (pieces: AsyncIterable<Uint8Array>) => AsyncGenerator<Uint8Array>;

/** Ways in which a data file may be compressed, by the ending that says so. */
const compressions: Readonly<Record<string, Unfold>> = { gz: gunzip, zst: unzstd };

/** Endings of compressed files. */
export const compressedEndings: readonly string[] = Object.keys(compressions);

/** The ending that says what a file holds, and the one that says how it is compressed. */
export interface DataEnding {
  readonly ending: string;
  readonly compression?: string;
}

/** `rows.jsonl.gz` is JSON Lines, compressed by gzip. */
export function dataEnding(path: string): DataEnding {
  const [, inner = "", outer = ""] = /(?:\.([a-z0-9]+))?\.([a-z0-9]+)$/i.exec(path) ?? [];
  const last = outer.toLowerCase();
  return Object.hasOwn(compressions, last) ? { ending: inner.toLowerCase(), compression: last } : { ending: last };
}

/**
 * A file a few megabytes at a time, unfolded where it is compressed.
 * @throws {TuneError} `malformed-data`; `file-too-large` for one that unfolds without end.
 */
export async function* filePieces(storage: Storage, path: string): AsyncGenerator<Uint8Array> {
  const { compression = "" } = dataEnding(path);
  const unfold = compressions[compression];
  if (unfold === undefined) {
    yield* stored(storage, path);
    return;
  }
  let [read, unfolded] = [0, 0];
  const counted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of stored(storage, path)) {
      read += piece.length;
      yield piece;
    }
  };
  try {
    for await (const piece of unfold(counted())) {
      unfolded += piece.length;
      if (unfolded > unfoldedAtFirst + unfoldedForAByte * read) {
        throw new TuneError(
          "file-too-large",
          `The file unfolds to more than ${unfoldedForAByte} times its size, as nothing does that is worth training on.`,
          { at: path, fix: "check where it comes from; if it is what you meant, decompress it first" },
        );
      }
      yield piece;
    }
  } catch (cause) {
    if (cause instanceof TuneError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TuneError("malformed-data", `The file cannot be decompressed: ${reason}.`, {
      at: path,
      fix: "check that the file is whole, and that its ending says how it is compressed (.gz, .zst)",
      cause,
    });
  }
}

/** All of a file, unfolded where it is compressed. @throws {TuneError} as {@link filePieces}; `file-too-large` beyond 512 MB. */
export async function wholeFile(storage: Storage, path: string): Promise<Uint8Array> {
  const { ending, compression } = dataEnding(path);
  if (compression === undefined) return ending === "parquet" ? storage.read(path) : readBytes(storage, path);
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of filePieces(storage, path)) {
    pieces.push(piece);
    length += piece.length;
    if (length > largestWhole) {
      throw new TuneError("file-too-large", `The file holds more than ${largestWhole} bytes once it is decompressed.`, {
        at: path,
        fix: "read it piece by piece: --stream, or streamData() in code",
      });
    }
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

async function* stored(storage: Storage, path: string): AsyncGenerator<Uint8Array> {
  const sizeBytes = (await storage.sizeBytes(path)) ?? 0;
  if (sizeBytes === 0) await storage.read(path); // says so when there is no such file
  for (let start = 0; start < sizeBytes; start += pieceBytes)
    yield await storage.read(path, { start, end: Math.min(sizeBytes, start + pieceBytes) });
}

async function* gunzip(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { readable, writable } = new DecompressionStream("gzip");
  const writer = writable.getWriter();
  const writing = (async () => {
    for await (const piece of pieces) await writer.write(Uint8Array.from(piece));
    await writer.close();
  })();
  writing.catch(() => undefined); // told below, where it is waited for
  const reader = readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield value;
    }
    await writing;
  } finally {
    await reader.cancel().catch(() => undefined); // a reader who leaves early
  }
}

async function* unzstd(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const { Decompress } = await import("fzstd");
  const stream = createUnzstd(Decompress, "text");
  for await (const piece of pieces) yield* stream.push(piece);
  stream.end();
}
