import { TuneError } from "../errors.ts";
import type { Storage } from "./storage.ts";

/** A parsed JSON object whose fields are still to be checked. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a value is a JSON object (not null, not an array). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

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

/**
 * Read a file that holds one JSON object.
 * @throws {TuneError} what the storage throws, `not-utf8`, and `malformed-json`.
 */
export async function readJsonObject(storage: Storage, path: string): Promise<JsonObject> {
  const text = await readText(storage, path);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TuneError("malformed-json", `The file is not valid JSON: ${reason}.`, {
      at: path,
      fix: "fetch or write the file again; it may have been cut short",
      cause,
    });
  }
  if (!isJsonObject(value)) {
    throw new TuneError("malformed-json", "The file does not hold a JSON object.", { at: path, fix: "check the file" });
  }
  return value;
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
