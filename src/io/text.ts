import { TuneError } from "../errors.ts";
import type { Storage } from "./storage.ts";

/**
 * Bytes as text. A byte order mark is dropped.
 * @throws {TuneError} `not-utf8`, naming the first bad line.
 */
export function decodeText(bytes: Uint8Array, at: string): string {
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
 * @throws {TuneError} what the storage throws, and `not-utf8`.
 */
export async function readText(storage: Storage, path: string): Promise<string> {
  return decodeText(await storage.read(path), path);
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
