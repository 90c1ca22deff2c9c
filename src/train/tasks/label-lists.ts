import { TuneError } from "../../errors.ts";
import { ExactNumber, parseExactJson } from "../../io/exact-json.ts";
import type { JsonObject } from "../../io/json.ts";
import { kindOf } from "../data/formats/format.ts";
import { checkLabel } from "./fields.ts";
import type { ExampleTools } from "./task.ts";

/** The labels of a row: those that it has, by name or number, or how much it has of every label of the model, in order. */
type RowLabels =
  | { readonly named: readonly string[]; readonly vector?: undefined }
  | { readonly vector: readonly number[]; readonly named?: undefined };

/**
 * Read the labels of a row: one, or a list (as text in JSON too, which is how tables hold lists). A list of names or of whole
 * numbers says which labels there are; one of booleans or of numbers with a point (`1.0`, 0.25), and one of zeros and
 * ones in which one of them repeats, says of every label how much of it there is. Text says what is wrong.
 */
function readLabels(row: JsonObject, key: string): RowLabels | string {
  const value = listed(row[key]);
  if (value === undefined && typeof row[key] === "string") return brokenList(key);
  if (!Array.isArray(value)) return checkLabel({ [key]: plain(value) }, key) ?? { named: [String(plain(value))] };
  const entries = value.map(plain);
  if (entries.every((entry) => typeof entry === "string")) {
    const blank = entries.some((entry) => String(entry).trim() === "");
    return blank ? `"${key}" has an empty entry` : distinct(entries.map(String), key);
  }
  if (entries.every((entry) => typeof entry === "boolean")) return { vector: entries.map(Number) };
  const odd = entries.find((entry) => typeof entry !== "number");
  if (odd !== undefined) {
    const mixed = entries.some((entry) => typeof entry === "number") && typeof odd === "string";
    return `"${key}" ${mixed ? "mixes names and numbers" : `holds ${kindOf(odd)}, not names or numbers of labels`}`;
  }
  const numbers = entries as readonly number[]; // what is left
  const shares = value.some(isShare) || (numbers.every(isBit) && new Set(numbers).size < numbers.length);
  const bad = numbers.find((number) =>
    shares ? !(number >= 0 && number <= 1) : !Number.isSafeInteger(number) || number < 0,
  );
  if (bad !== undefined) {
    return `"${key}" holds ${bad}, which is ${shares ? "not between 0 and 1, as each is how much there is of a label" : "no number of a label"}`;
  }
  return shares ? { vector: numbers } : distinct(numbers.map(String), key);
}

/** What keeps a field from being labels of a row. */
export function checkLabelList(row: JsonObject, key: string): string | undefined {
  const read = readLabels(row, key);
  return typeof read === "string" ? read : undefined;
}

/** The names of labels in a row that passed the check; those of a vector are their numbers. */
export function namesIn(row: JsonObject, key: string): readonly string[] {
  const { named, vector } = checked(row, key);
  return named ?? vector.map((_, i) => String(i));
}

/**
 * How much a row that passed the check has of every label of the model.
 * @throws {TuneError} `malformed-data` for a vector of another length, and for numbers that may be either.
 */
export function sharesIn(row: JsonObject, key: string, { labels, labelNumber }: ExampleTools): readonly number[] {
  const { named, vector } = checked(row, key);
  const refuse = (what: string): never => {
    throw new TuneError("malformed-data", what);
  };
  if (vector) {
    if (vector.length === labels.length) return vector;
    refuse(`"${key}" says of ${vector.length} labels whether they are there, and the model has ${labels.length}`);
  }
  const list = listed(row[key]);
  const bits = Array.isArray(list) && list.every((entry) => isBit(plain(entry)));
  if (bits && list.length > 0 && list.length === labels.length) {
    refuse(
      `"${key}" may be numbers of labels, or say of each whether it is there: write names, or true and false (or 1.0 and 0.0)`,
    );
  }
  const present = new Set((named ?? []).map(labelNumber));
  return labels.map((_, i) => (present.has(i) ? 1 : 0));
}

function checked(row: JsonObject, key: string): RowLabels {
  const read = readLabels(row, key);
  if (typeof read === "string") throw new Error(`labels that did not pass the check: ${read}`);
  return read;
}

function distinct(names: readonly string[], key: string): RowLabels | string {
  const twice = names.find((name, i) => names.indexOf(name) < i);
  return twice === undefined ? { named: names } : `"${key}" has the label "${twice}" twice`;
}

/** What is wrong with text that {@link listed} makes nothing of. */
export function brokenList(key: string): string {
  return `"${key}" begins as a list and is none in JSON, such as ["a", "b"] with double quotes`;
}

/** A list that a table holds as text; undefined where it is none in JSON. Other values as they are. */
export function listed(value: unknown): unknown {
  if (typeof value !== "string" || !value.trim().startsWith("[")) return value;
  try {
    return parseExactJson(value);
  } catch {
    return undefined;
  }
}

/** A number as it is computed with; whole ones that JavaScript does not hold exactly stay as they are spelt. */
function plain(value: unknown): unknown {
  if (!(value instanceof ExactNumber)) return value;
  const number = Number(value.text);
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? value.text : number;
}

function isShare(value: unknown): boolean {
  if (value instanceof ExactNumber) return /[.e]/i.test(value.text);
  return typeof value === "number" && !Number.isInteger(value);
}

function isBit(value: unknown): boolean {
  return value === 0 || value === 1;
}
