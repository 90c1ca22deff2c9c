import { TuneError } from "../errors.ts";
import type { Storage } from "./storage.ts";

/** The largest text that is read whole; a JavaScript string holds little more. Bytes. */
const largestText = 2 ** 29 - 32;

/**
 * Bytes as text. A byte order mark is dropped.
 * @throws {TuneError} `not-utf8`, naming the first bad line; `file-too-large`.
 */
export function decodeText(bytes: Uint8Array, at: string): string {
  if (bytes.length > largestText) throw tooLarge(at, bytes.length);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new TuneError("not-utf8", "The file is not UTF-8 text.", {
      at: `${at}, line ${firstBadLine(bytes)}`,
      fix: "save it as UTF-8, or check that it is the file you meant",
      cause,
    });
  }
}

/**
 * Read a file as text.
 * @throws {TuneError} what the storage throws, `not-utf8`, and `file-too-large`.
 */
export async function readText(storage: Storage, path: string): Promise<string> {
  return decodeText(await readBytes(storage, path), path);
}

/**
 * Read a file that is to become text; one that is too large is not read at all.
 * @throws {TuneError} what the storage throws, and `file-too-large`.
 */
export async function readBytes(storage: Storage, path: string): Promise<Uint8Array> {
  const size = (await storage.sizeBytes(path)) ?? 0;
  if (size > largestText) throw tooLarge(path, size);
  return storage.read(path);
}

function tooLarge(at: string, bytes: number): TuneError {
  return new TuneError("file-too-large", `The file has ${bytes} bytes; a text may have ${largestText}.`, {
    at,
    fix: "check that it is the file you meant; data is read in pieces with --stream, or cut it into several files",
  });
}

function firstBadLine(bytes: Uint8Array): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 1;
  for (let start = 0; start < bytes.length; line++) {
    const newline = bytes.indexOf(10, start);
    const end = newline < 0 ? bytes.length : newline + 1;
    try {
      decoder.decode(bytes.subarray(start, end));
    } catch {
      return line;
    }
    start = end;
  }
  return line;
}
