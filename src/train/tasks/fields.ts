import { ExactNumber } from "../../io/exact-json.ts";
import type { JsonObject } from "../../io/json.ts";
import { checkText, kindOf } from "../data/formats/format.ts";

/** What keeps fields from being texts. */
export function checkTexts(row: JsonObject, keys: readonly string[]): string | undefined {
  return keys.map((key) => checkText(row, key)).find((problem) => problem !== undefined);
}

/** What keeps a field from naming a label: text, a whole number, or a yes or no. */
export function checkLabel(row: JsonObject, key: string): string | undefined {
  const value = row[key];
  if (typeof value === "boolean" || Number.isSafeInteger(value) || value instanceof ExactNumber) return undefined;
  if (typeof value !== "string") return `"${key}" is ${kindOf(value)}, not the name or number of a label`;
  return value.trim() === "" ? `"${key}" is empty` : undefined;
}

/** What keeps a field from being a number; text that spells one is fine (tables hold nothing else). */
export function checkNumber(row: JsonObject, key: string): string | undefined {
  const value = row[key];
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number)
    ? undefined
    : `"${key}" is ${typeof value === "string" ? `"${value}"` : kindOf(value)}, not a number`;
}
