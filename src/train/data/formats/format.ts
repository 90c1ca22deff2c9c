import { ExactNumber } from "../../../io/exact-json.ts";
import type { JsonObject } from "../../../io/json.ts";
import type { EncodeContext, EncodedRow } from "../encode.ts";
import type { ExampleKind } from "../tokenize.ts";

/** One object of a data file. */
export interface DataRow {
  /** 1-based line where it stands (for plain text, where it starts). */
  readonly line: number;
  readonly value: JsonObject;
}

/** A shape that rows may have, recognised by its keys. */
export interface RowFormat {
  readonly name: string;
  /** What its rows become; sequences unless given. */
  readonly kind?: ExampleKind;
  /** Keys that every row has; no other format has all of them. */
  readonly keys: readonly string[];
  /** Further keys that mean something; all others are ignored. */
  readonly optionalKeys: readonly string[];
  /** A row as it stands in a file. */
  readonly example: string;
  /** What is wrong with the fields of a row; undefined when it can be used. */
  check(row: JsonObject): string | undefined;
}

/** A shape of rows that continue a text. */
export interface DataFormat extends RowFormat {
  /**
   * Get ready to turn rows that passed `check` into tokens.
   * @throws {TuneError} `no-chat-template`, `malformed-chat-template`; the function it returns throws
   *   `text-not-encodable`, `chat-template-failed` and `untrainable-conversation`.
   */
  encoder(context: EncodeContext): (row: JsonObject) => EncodedRow;
}

/** What keeps a field from being text that says something. */
export function checkText(row: JsonObject, key: string): string | undefined {
  const value = row[key];
  if (typeof value !== "string") return `"${key}" is ${kindOf(value)}, not text`;
  return value.trim() === "" ? `"${key}" is empty` : undefined;
}

/** What a value is, for messages. */
export function kindOf(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (value instanceof ExactNumber) return "a number";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
