import { TuneError } from "../errors.ts";
import type { Storage } from "./storage.ts";
import { readText } from "./text.ts";

/** A JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a parsed JSON value is an object (not null, not a list). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** How deep objects and lists may nest: far beyond what anybody writes, far below what overflows a stack. */
export const deepest = 512;

/**
 * Parse JSON as `JSON.parse` does (of a key given twice the last counts, as in Python), but for what nests so deep that
 * whoever walks over it would overflow the stack. Every JSON text from a file comes through here.
 * @throws {SyntaxError} as `JSON.parse`; {RangeError} for what nests deeper than {@link deepest} levels.
 */
export function parseJson(text: string): unknown {
  checkDepth(text);
  return JSON.parse(text);
}

/** Count brackets outside of strings. @throws {RangeError} when more than {@link deepest} are open. */
export function checkDepth(text: string): void {
  let open = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === openList || code === openObject) {
      if (++open > deepest) throw new RangeError(`it nests deeper than ${deepest} levels`);
    } else if (code === closeList || code === closeObject) open--;
    else if (code === quote) {
      for (i++; i < text.length && text.charCodeAt(i) !== quote; i++) if (text.charCodeAt(i) === backslash) i++;
    }
  }
}

/**
 * Parse UTF-8 JSON that must be one object, strictly: a key given twice is refused, since readers disagree on which
 * one counts.
 * @throws {TuneError} with `code`, naming `at`.
 */
export function parseJsonObject(bytes: Uint8Array, code: string, at: string): JsonObject {
  const refuse = (what: string, cause?: unknown): TuneError =>
    new TuneError(code, what, { at, fix: "fetch or write the file again; it is damaged", cause });
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw refuse("the text is not valid UTF-8.", cause);
  }
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (cause) {
    throw refuse(`it is not valid JSON: ${cause instanceof Error ? cause.message : cause}.`, cause);
  }
  if (!isJsonObject(value)) throw refuse("the JSON is not an object.");
  const duplicates = duplicateKeys(text);
  if (duplicates.length > 0)
    throw refuse(`these keys are given more than once: ${duplicates.slice(0, 20).join(", ")}.`);
  return value;
}

/**
 * Read a file that holds one JSON object. Of a key given twice the last counts, as for Python's readers.
 * @throws {TuneError} what the storage throws, `not-utf8`, and `malformed-json`.
 */
export async function readJsonObject(storage: Storage, path: string): Promise<JsonObject> {
  const text = await readText(storage, path);
  let value: unknown;
  try {
    value = parseJson(text);
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

const quote = 0x22;
const backslash = 0x5c;
const [openList, closeList] = [0x5b, 0x5d];
const [openObject, closeObject] = [0x7b, 0x7d];

/** Keys that some object of a valid JSON text holds twice. */
function duplicateKeys(text: string): string[] {
  const duplicates: string[] = [];
  const open: (Set<string> | undefined)[] = []; // the keys of each enclosing object; undefined for a list
  for (let i = 0; i < text.length; i++) {
    const char = text[i];
    if (char === "{") open.push(new Set());
    else if (char === "[") open.push(undefined);
    else if (char === "}" || char === "]") open.pop();
    else if (char === '"') {
      const start = i++;
      while (text.charCodeAt(i) !== quote) i += text.charCodeAt(i) === backslash ? 2 : 1;
      let next = i + 1;
      while (" \t\r\n".includes(text[next] ?? "x")) next++;
      if (text[next] !== ":") continue;
      const key: string = JSON.parse(text.slice(start, i + 1));
      if (open.at(-1)?.has(key)) duplicates.push(JSON.stringify(key));
      open.at(-1)?.add(key);
    }
  }
  return duplicates;
}
