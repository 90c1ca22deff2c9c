import { ExactNumber } from "../../io/exact-json.ts";
import { isJsonObject, type JsonObject } from "../../io/json.ts";

/**
 * The same row with plain numbers, for those who compute with them. Whole numbers beyond what JavaScript holds exactly stay
 * as they are spelt: they may be names of labels.
 */
export function plainNumbers(row: JsonObject): JsonObject {
  return plain(row) as JsonObject; // an object stays one
}

function plain(value: unknown): unknown {
  if (value instanceof ExactNumber) {
    const number = Number(value.text);
    return Number.isFinite(number) && (!Number.isInteger(number) || Number.isSafeInteger(number)) ? number : value;
  }
  if (Array.isArray(value)) return value.map(plain);
  if (!isJsonObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
}
