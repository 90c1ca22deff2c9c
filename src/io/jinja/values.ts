import { ExactNumber } from "../exact-json.ts";
import { isJsonObject } from "../json.ts";
import { roomForText, spend, spendText } from "./budget.ts";

/**
 * A value of a template, as Python has it: whole numbers are bigints, numbers are floats, lists arrays, dictionaries maps.
 */
export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | Value[]
  | Map<Value, Value>
  | Tuple
  | View
  | Namespace
  | Callable
  | Safe
  | Undefined;

/** What a name or key stands for that there is not. */
export class Undefined {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/** A Python tuple. */
export class Tuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** What Python iterates over without its being a list: `dict.items()`, `range(3)`, what `map` gives. */
export class View {
  readonly kind: string;
  readonly items: readonly Value[];
  constructor(kind: string, items: readonly Value[]) {
    this.kind = kind;
    this.items = items;
  }
}

/** What `namespace()` gives, whose fields may be set. Of others (`loop`, `cycler`) they may not. */
export class Namespace {
  readonly fields: Map<string, Value>;
  readonly isOpen: boolean;
  constructor(fields: Map<string, Value>, isOpen = true) {
    this.fields = fields;
    this.isOpen = isOpen;
  }
}

/** Text that `safe` has marked; it can be written and nothing else, since to others it would be escaped. */
export class Safe {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** What a call is given: values in order, and by name. */
export type Call = (positional: readonly Value[], named: ReadonlyMap<string, Value>) => Value;

/** Something to call. */
export class Callable {
  readonly name: string;
  readonly call: Call;
  constructor(name: string, call: Call) {
    this.name = name;
    this.call = call;
  }
}

/** A mistake of the template or of what it is given, in Python's words where it has any. */
export class TemplateError extends Error {}

/** A value of the host as a template sees it. @throws {TemplateError} for what has no such value. */
export function toValue(value: unknown): Value {
  if (value === undefined) return new Undefined("undefined");
  if (value === null || typeof value === "boolean" || typeof value === "string" || typeof value === "bigint")
    return value;
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value) : value;
  if (value instanceof ExactNumber) return /^-?\d+$/.test(value.text) ? BigInt(value.text) : Number(value.text);
  if (Array.isArray(value)) return value.map(toValue);
  if (value instanceof Callable || value instanceof Namespace) return value;
  if (isJsonObject(value) && !(value instanceof Date)) {
    const entries = Object.entries(value).filter(([, part]) => part !== undefined);
    return new Map(entries.map(([name, part]) => [name, toValue(part)]));
  }
  throw new TemplateError(`a value of type ${value instanceof Date ? "date" : typeof value} cannot be written`);
}

/** Python's name of a value's type. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (typeof value === "string") return "str";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof View) return value.kind;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Safe) return "Markup";
  return value instanceof Callable ? "function" : "Namespace";
}

/** Whether `if` takes a value for true. */
export function truth(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === "bigint") return value !== 0n;
  if (typeof value === "number" || typeof value === "boolean" || typeof value === "string")
    return Number.isNaN(value) || Boolean(value);
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof Map) return value.size > 0;
  if (value instanceof Tuple) return value.items.length > 0;
  if (value instanceof View) return value.kind === "generator" || value.items.length > 0;
  return true;
}

/** What a loop goes through. @throws {TemplateError} for what cannot be iterated. */
export function iterate(value: Value): readonly Value[] {
  if (Array.isArray(value)) return charged(value);
  if (value instanceof Tuple || value instanceof View) return charged(value.items);
  if (value instanceof Map) {
    spend(value.size);
    return [...value.keys()];
  }
  if (typeof value === "string") {
    spend(value.length);
    return [...value];
  }
  if (value instanceof Undefined) return [];
  throw new TemplateError(`'${typeName(value)}' object is not iterable`);
}

function charged(items: readonly Value[]): readonly Value[] {
  spend(items.length);
  return items;
}

/** How many items a value has. */
export function lengthOf(value: Value): number {
  if (value instanceof Map) return value.size;
  if (value instanceof View && value.kind === "generator")
    throw new TemplateError("object of type 'generator' has no len()");
  if (
    value === null ||
    ["boolean", "bigint", "number"].includes(typeof value) ||
    value instanceof Callable ||
    value instanceof Namespace
  )
    throw new TemplateError(`object of type '${typeName(value)}' has no len()`);
  return iterate(value).length;
}

/** A number, for arithmetic: booleans are 0 and 1. */
export function asNumber(value: Value): bigint | number | undefined {
  if (typeof value === "boolean") return value ? 1n : 0n;
  return typeof value === "bigint" || typeof value === "number" ? value : undefined;
}

/** Python's `==`. */
export function equal(a: Value, b: Value): boolean {
  spend(1);
  if (typeof a === "string" && typeof b === "string" && a.length === b.length) spendText(a);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined && y !== undefined) return x <= y && x >= y; // a bigint and a number by what they are worth
  if (Array.isArray(a) && Array.isArray(b))
    return a.length === b.length && a.every((item, i) => equal(item, b[i] as Value));
  if (a instanceof Tuple && b instanceof Tuple) return equal([...a.items], [...b.items]);
  if (a instanceof Map && b instanceof Map) {
    if (a.size !== b.size) return false;
    return [...a].every(([key, item]) => {
      const other = lookUp(b, key);
      return other !== undefined && equal(item, other);
    });
  }
  if (a instanceof Undefined && b instanceof Undefined) return true;
  if (a instanceof Safe || b instanceof Safe) throw notForSafe();
  return a === b;
}

/** The value of a key, which equals itself as a number of another type. */
export function lookUp(map: ReadonlyMap<Value, Value>, key: Value): Value | undefined {
  const found = map.get(key);
  if (found !== undefined || asNumber(key) === undefined) return found;
  spend(map.size);
  return [...map].find(([other]) => equal(other, key))?.[1];
}

/** A dictionary; of keys that are equal (1, 1.0 and true) the first stays, with the last's value. */
export function dictOf(entries: Iterable<readonly [Value, Value]>): Map<Value, Value> {
  const map = new Map<Value, Value>();
  for (const [key, item] of entries) {
    if (Array.isArray(key) || key instanceof Map) throw new TemplateError(`unhashable type: '${typeName(key)}'`);
    const known = asNumber(key) === undefined ? key : [...map.keys()].find((other) => equal(other, key));
    map.set(known ?? key, item);
  }
  return map;
}

/** A value, or what a template sees where there is none. */
export function orUndefined(value: Value | undefined, name: string): Value {
  return value === undefined ? new Undefined(name) : value;
}

/** Python's `<` as a number below, at or above 0. @throws {TemplateError} for what has no order. */
export function compare(a: Value, b: Value, operator = "<"): number {
  spend(1);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined && y !== undefined) return x < y ? -1 : x > y ? 1 : x <= y ? 0 : Number.NaN;
  if (typeof a === "string" && typeof b === "string") return compareText(a, b);
  const [left, right] = [a, b].map((value) =>
    value instanceof Tuple ? value.items : Array.isArray(value) ? value : undefined,
  );
  if (left && right && typeName(a) === typeName(b)) {
    for (const [i, item] of left.entries()) {
      const other = right[i];
      if (other === undefined) return 1;
      if (!equal(item, other)) return compare(item, other, operator);
    }
    return left.length - right.length;
  }
  throw new TemplateError(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** By code points, as Python orders text. */
function compareText(a: string, b: string): number {
  spend((a.length + b.length) / 4);
  const [x, y] = [[...a], [...b]];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const difference = (x[i]?.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return x.length - y.length;
}

/** Python's `str()`, which is what `{{ }}` writes. */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Undefined) return "";
  if (value instanceof Safe) return value.text;
  return repr(value);
}

/** Python's `repr()`. */
export function repr(value: Value): string {
  spend(typeof value === "string" ? 1 + value.length / 2 : 1);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") return floatText(value);
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (value instanceof Tuple) return `(${value.items.map(repr).join(", ")}${value.items.length === 1 ? "," : ""})`;
  if (value instanceof Map) return `{${[...value].map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(", ")}}`;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof View && value.kind.startsWith("dict_"))
    return `${value.kind}([${value.items.map(repr).join(", ")}])`;
  throw new TemplateError(`a ${typeName(value)} cannot be written`);
}

/** Python's shortest digits of a float: with an exponent below 1e-4 and from 1e16 on, and always with a point or one. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const [mantissa = "", exponent = "0"] = value.toExponential().split("e");
  const power = Number(exponent);
  if (value !== 0 && (power < -4 || power >= 16))
    return `${mantissa}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  const text = String(value); // JavaScript has an exponent below 1e-6 alone
  return /^-?\d+$/.test(text) ? `${text}.0` : text;
}

function quoted(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replace(/[\\\p{C}\p{Z}'"]/gu, (char) => {
    if (char === " " || ((char === "'" || char === '"') && char !== mark)) return char;
    const known = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", [mark]: `\\${mark}` }[char];
    if (known !== undefined) return known;
    const code = char.codePointAt(0) ?? 0;
    const hex = code.toString(16);
    if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
  });
  return mark + escaped + mark;
}

/** The error for text that `safe` has marked. */
export function notForSafe(): TemplateError {
  return new TemplateError("text marked by the filter safe can only be written");
}

/** How JSON is written: the arguments of Python's `json.dumps`. */
export interface JsonStyle {
  readonly ensureAscii: boolean;
  /** What a level is indented by; undefined keeps all on a line. */
  readonly indent: string | undefined;
  readonly separators: readonly [string, string];
  readonly sortKeys: boolean;
}

/** Python's `json.dumps`. @throws {TemplateError} for what JSON has no form of. */
export function dumps(value: Value, style: JsonStyle, margin = "\n"): string {
  spend(1 + margin.length / 16);
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") {
    if (Number.isFinite(value)) return floatText(value);
    return Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  }
  if (typeof value === "string") {
    roomForText(2 * value.length);
    return jsonText(value, style.ensureAscii);
  }
  const inner = style.indent === undefined ? "" : margin + style.indent;
  const wrap = (open: string, items: readonly string[], close: string): string => {
    if (items.length === 0) return open + close;
    const separator = style.separators[0] + inner;
    roomForText(items.reduce((sum, item) => sum + item.length + separator.length, 0));
    return open + inner + items.join(separator) + (style.indent === undefined ? "" : margin) + close;
  };
  const items = value instanceof Tuple ? value.items : Array.isArray(value) ? value : undefined;
  if (items)
    return wrap(
      "[",
      items.map((item) => dumps(item, style, inner)),
      "]",
    );
  if (value instanceof Map) {
    const entries = style.sortKeys ? [...value].sort(([a], [b]) => compare(a, b)) : [...value];
    const written = entries.map(
      ([key, item]) => jsonText(keyText(key), style.ensureAscii) + style.separators[1] + dumps(item, style, inner),
    );
    return wrap("{", written, "}");
  }
  throw new TemplateError(`Object of type ${typeName(value)} is not JSON serializable`);
}

function keyText(key: Value): string {
  if (typeof key === "string") return key;
  if (key === null) return "null";
  if (typeof key === "boolean") return String(key);
  if (typeof key === "bigint" || typeof key === "number") return str(key);
  throw new TemplateError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

function jsonText(text: string, ensureAscii: boolean): string {
  const written = JSON.stringify(text);
  if (!ensureAscii) return written;
  // Python escapes by UTF-16 units, as JavaScript counts them.
  return written.replace(/[\x7f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
