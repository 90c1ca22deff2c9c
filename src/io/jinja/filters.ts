import { argumentsOf } from "./arguments.ts";
import { roomForText, spend, spendText } from "./budget.ts";
import { testNamed } from "./checks.ts";
import { lineBreak } from "./lex.ts";
import { capitalize, itemOf, joined, replace, sorted, strip } from "./methods.ts";
import {
  asNumber,
  dumps,
  equal,
  iterate,
  lengthOf,
  notForSafe,
  orUndefined,
  Safe,
  str,
  TemplateError,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

type Positional = readonly Value[];
type Named = ReadonlyMap<string, Value>;
type FilterFunction = (value: Value, positional: Positional, named: Named) => Value;

/** A filter whose parameters have names. */
const filter =
  (
    name: string,
    parameters: readonly string[],
    run: (value: Value, args: readonly (Value | undefined)[]) => Value,
  ): FilterFunction =>
  (value, positional, named) =>
    run(value, argumentsOf(name, parameters, positional, named));

/** Text that a filter of text reads: Python's `soft_str`. */
function soft(value: Value): string {
  if (value instanceof Safe) throw notForSafe();
  return str(value);
}

function int(value: Value | undefined, what: string): number {
  if (typeof value === "bigint") return Number(value);
  throw new TemplateError(`${what} must be an integer, not ${value === undefined ? "missing" : typeName(value)}`);
}

/** Text in lower case, where a filter does not tell cases apart. */
const folded = (value: Value): Value => (typeof value === "string" ? value.toLowerCase() : value);

/** An attribute path of `map`, `sort`, …: `function.name`, or a number. */
function getter(attribute: Value | undefined, initial?: Value): (item: Value) => Value {
  if (attribute === undefined || attribute === null) return (item) => item;
  const parts: Value[] =
    typeof attribute === "string"
      ? attribute.split(".").map((part) => (/^\d+$/.test(part) ? BigInt(part) : part))
      : [attribute];
  return (item) => {
    const found = parts.reduce((value: Value, part) => {
      if (value instanceof Undefined) throw new TemplateError(`'${value.name}' is undefined`);
      return orUndefined(itemOf(value, part), str(part));
    }, item);
    return found instanceof Undefined && initial !== undefined ? initial : found;
  };
}

/** `select`, `reject` and the two that look at an attribute. */
const selecting =
  (byAttribute: boolean, keep: boolean): FilterFunction =>
  (value, positional, named) => {
    if (named.size > 0) throw new TemplateError("select and reject take no arguments by name");
    const rest = byAttribute ? positional.slice(1) : positional;
    if (byAttribute && positional.length === 0) throw new TemplateError("Missing parameter for attribute name");
    const read = getter(byAttribute ? positional[0] : undefined);
    const [name, ...args] = rest;
    const holds = name === undefined ? truth : (item: Value) => testNamed(str(name))(item, args);
    return new View(
      "generator",
      iterate(value).filter((item) => holds(read(item)) === keep),
    );
  };

const extreme =
  (sign: 1 | -1): FilterFunction =>
  (value, positional, named) => {
    const [caseSensitive = false, attribute] = argumentsOf(
      sign > 0 ? "max" : "min",
      ["case_sensitive", "attribute"],
      positional,
      named,
    );
    const read = getter(attribute);
    const keyOf = (item: Value): Value => (truth(caseSensitive) ? read(item) : folded(read(item)));
    const order = sorted(iterate(value), keyOf, sign > 0);
    return orUndefined(order[0], "No aggregated item, sequence was empty.");
  };

const tojson = filter("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], (value, args) => {
  const [ensureAscii = false, indent = null, separators = null, sortKeys = false] = args;
  if (indent !== null && typeof indent !== "bigint" && typeof indent !== "string")
    throw new TemplateError(`tojson: indent is ${typeName(indent)}`);
  if (typeof indent === "bigint" && indent > 100n) throw new TemplateError("tojson: an indent above 100 is refused");
  const pair = separators === null ? undefined : iterate(separators).map(str);
  if (pair && pair.length !== 2) throw new TemplateError("tojson: separators are two");
  return dumps(value, {
    ensureAscii: truth(ensureAscii),
    indent: indent === null ? undefined : typeof indent === "string" ? indent : " ".repeat(Math.max(0, Number(indent))),
    separators: (pair as [string, string] | undefined) ?? [indent === null ? ", " : ",", ": "], // two, as counted
    sortKeys: truth(sortKeys),
  });
});

/** Python's `int(value)` of text; undefined when it is none. */
function parseInteger(text: string, base: number): bigint | undefined {
  const clean = strip(text, null, "both").replace(/(?<=[\da-z])_(?=[\da-z])/gi, "");
  const [, sign = "", prefix = "", digits = ""] = /^([-+]?)(0[xobXOB])?([\da-zA-Z]+)$/.exec(clean) ?? [];
  const prefixes: Readonly<Record<string, number>> = { "0x": 16, "0o": 8, "0b": 2 };
  if (digits === "" || (prefix !== "" && prefixes[prefix.toLowerCase()] !== base)) return undefined;
  let value = 0n;
  for (const digit of digits.toLowerCase()) {
    const worth = Number.parseInt(digit, 36);
    if (!(worth < base)) return undefined;
    value = value * BigInt(base) + BigInt(worth);
  }
  return sign === "-" ? -value : value;
}

function parseFloatText(text: string): number | undefined {
  const clean = strip(text, null, "both").replace(/(?<=\d)_(?=\d)/g, "");
  if (/^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(clean)) return Number(clean);
  const [, sign, word] = /^([-+]?)(inf(?:inity)?|nan)$/i.exec(clean) ?? [];
  if (word === undefined) return undefined;
  return word.toLowerCase() === "nan" ? Number.NaN : sign === "-" ? -Infinity : Infinity;
}

/** Python's rounding: to even where a number is exactly between two. */
function round(value: number, precision: number, method: string): number {
  const factor = 10 ** precision;
  if (method === "ceil") return Math.ceil(value * factor) / factor;
  if (method === "floor") return Math.floor(value * factor) / factor;
  if (precision !== 0) return Number(value.toFixed(precision));
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** The filters of Jinja 3.1 and transformers' `tojson`, by name. Those that are not here are refused by name. */
const filters: Readonly<Record<string, FilterFunction>> = {
  tojson,
  abs: filter("abs", [], (value) => {
    const number = asNumber(value);
    if (number === undefined) throw new TemplateError(`bad operand type for abs(): '${typeName(value)}'`);
    return number < 0 ? -number : number;
  }),
  batch: filter("batch", ["linecount", "fill_with"], (value, [count, fill]) => {
    const size = int(count, "batch: linecount");
    if (size < 1) throw new TemplateError("batch: linecount must be at least 1");
    const items = iterate(value);
    const rows = Array.from({ length: Math.ceil(items.length / size) }, (_, i): Value[] =>
      items.slice(i * size, (i + 1) * size),
    );
    const last = rows.at(-1);
    while (last && fill !== undefined && fill !== null && last.length < size) last.push(fill);
    return new View("generator", rows);
  }),
  capitalize: filter("capitalize", [], (value) => capitalize(soft(value))),
  default: filter("default", ["default_value", "boolean"], (value, [initial = "", boolean = false]) =>
    value instanceof Undefined || (truth(boolean) && !truth(value)) ? initial : value,
  ),
  dictsort: filter(
    "dictsort",
    ["case_sensitive", "by", "reverse"],
    (value, [caseSensitive = false, by = "key", reverse = false]) => {
      if (!(value instanceof Map)) throw new TemplateError(`dictsort: a ${typeName(value)} is no dict`);
      if (by !== "key" && by !== "value") throw new TemplateError('You can only sort by either "key" or "value"');
      const entries: Value[] = [...value].map((entry) => new Tuple(entry));
      const keyOf = (entry: Value): Value => {
        const part = orUndefined(itemOf(entry, by === "key" ? 0n : 1n), by);
        return truth(caseSensitive) ? part : folded(part);
      };
      return sorted(entries, keyOf, truth(reverse));
    },
  ),
  first: filter("first", [], (value) => orUndefined(iterate(value)[0], "No first item, sequence was empty.")),
  float: filter("float", ["default"], (value, [initial = 0]) => {
    const number = asNumber(value);
    if (number !== undefined) return Number(number);
    return typeof value === "string" ? (parseFloatText(value) ?? initial) : initial;
  }),
  indent: filter("indent", ["width", "first", "blank"], (value, [width = 4n, first = false, blank = false]) => {
    const margin =
      typeof width === "string" ? width : " ".repeat(Math.max(0, Math.min(1000, int(width, "indent: width"))));
    const whole = soft(value);
    spend(whole.length);
    const lines = `${whole}\n`.split(new RegExp(lineBreak)).slice(0, -1);
    roomForText(whole.length + lines.length * margin.length);
    const [start = "", ...rest] = lines;
    const others = rest.map((line) => (truth(blank) || line !== "" ? margin + line : line));
    const text = [start, ...others].join("\n");
    return truth(first) ? margin + text : text;
  }),
  int: filter("int", ["default", "base"], (value, [initial = 0n, base = 10n]) => {
    if (typeof value === "string") {
      const whole = parseInteger(value, int(base, "int: base"));
      if (whole !== undefined) return whole;
      const float = parseFloatText(value);
      return float !== undefined && Number.isFinite(float) ? BigInt(Math.trunc(float)) : initial;
    }
    const number = asNumber(value);
    if (typeof number === "number") return Number.isFinite(number) ? BigInt(Math.trunc(number)) : initial;
    return number ?? initial;
  }),
  items: filter("items", [], (value) => {
    if (value instanceof Undefined) return new View("generator", []);
    if (!(value instanceof Map)) throw new TemplateError("Can only get item pairs from a mapping.");
    return new View(
      "generator",
      [...value].map((entry) => new Tuple(entry)),
    );
  }),
  join: filter("join", ["d", "attribute"], (value, [separator = "", attribute]) =>
    joined(iterate(value).map(getter(attribute)).map(soft), soft(separator)),
  ),
  last: filter("last", [], (value) => orUndefined(iterate(value).at(-1), "No last item, sequence was empty.")),
  length: filter("length", [], (value) => BigInt(lengthOf(value))),
  list: filter("list", [], (value) => [...iterate(value)]),
  lower: filter("lower", [], (value) => soft(value).toLowerCase()),
  map: (value, positional, named) => {
    if (positional.length === 0) {
      const [attribute, initial] = ["attribute", "default"].map((name) => named.get(name));
      const strangers = [...named.keys()].filter((name) => name !== "attribute" && name !== "default");
      if (attribute === undefined || strangers.length > 0)
        throw new TemplateError(`map: unexpected argument ${strangers[0] ?? "(none)"}`);
      return new View("generator", iterate(value).map(getter(attribute, initial)));
    }
    const [name, ...rest] = positional;
    const inner = filterNamed(str(name as Value)); // there is one
    return new View(
      "generator",
      iterate(value).map((item) => inner(item, rest, named)),
    );
  },
  max: extreme(1),
  min: extreme(-1),
  reject: selecting(false, false),
  rejectattr: selecting(true, false),
  replace: filter("replace", ["old", "new", "count"], (value, [from, to, count = null]) => {
    if (from === undefined || to === undefined) throw new TemplateError("replace needs two arguments");
    return replace(soft(value), soft(from), soft(to), count === null ? -1 : int(count, "replace: count"));
  }),
  reverse: filter("reverse", [], (value) => {
    if (typeof value === "string") return [...value].reverse().join("");
    return new View("generator", [...iterate(value)].reverse());
  }),
  round: filter("round", ["precision", "method"], (value, [precision = 0n, method = "common"]) => {
    const number = asNumber(value);
    if (number === undefined) throw new TemplateError(`type ${typeName(value)} doesn't define __round__ method`);
    if (!["common", "ceil", "floor"].includes(str(method)))
      throw new TemplateError("method must be common, ceil or floor");
    const rounded = round(Number(number), int(precision, "round: precision"), str(method));
    return typeof number === "bigint" && method === "common" ? BigInt(rounded) : rounded;
  }),
  safe: filter("safe", [], (value) => new Safe(str(value))),
  select: selecting(false, true),
  selectattr: selecting(true, true),
  sort: filter(
    "sort",
    ["reverse", "case_sensitive", "attribute"],
    (value, [reverse = false, caseSensitive = false, attribute]) => {
      const paths = typeof attribute === "string" ? attribute.split(",") : [attribute];
      const readers = paths.map((path) => getter(path));
      const keyOf = (item: Value): Value => {
        const parts = readers.map((read) => (truth(caseSensitive) ? read(item) : folded(read(item))));
        return parts.length === 1 ? (parts[0] as Value) : new Tuple(parts);
      };
      return sorted(iterate(value), keyOf, truth(reverse));
    },
  ),
  string: filter("string", [], (value) => (value instanceof Safe ? value : str(value))),
  sum: filter("sum", ["attribute", "start"], (value, [attribute, start = 0n]) => {
    let total = asNumber(start);
    for (const item of iterate(value).map(getter(attribute))) {
      const number = asNumber(item);
      if (number === undefined || total === undefined)
        throw new TemplateError(`unsupported operand type(s) for +: 'int' and '${typeName(item)}'`);
      total = typeof total === "bigint" && typeof number === "bigint" ? total + number : Number(total) + Number(number);
    }
    return total ?? null;
  }),
  title: filter("title", [], (value) =>
    // Unlike `str.title`, words are what stands between spaces and some signs.
    soft(value)
      .split(/([-\s({[<]+)/)
      .map(capitalize)
      .join(""),
  ),
  trim: filter("trim", ["chars"], (value, [characters = null]) => strip(soft(value), characters, "both")),
  unique: filter("unique", ["case_sensitive", "attribute"], (value, [caseSensitive = false, attribute]) => {
    const read = getter(attribute);
    const seen: Value[] = [];
    const items = iterate(value).filter((item) => {
      const key = truth(caseSensitive) ? read(item) : folded(read(item));
      if (seen.some((known) => equal(known, key))) return false;
      seen.push(key);
      return true;
    });
    return new View("generator", items);
  }),
  upper: filter("upper", [], (value) => soft(value).toUpperCase()),
  wordcount: filter("wordcount", [], (value) => BigInt(soft(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)),
};

const aliases: Readonly<Record<string, string>> = { d: "default", count: "length" };

/** A filter by its name. @throws {TemplateError} for one that Jinja does not have, or that is not supported. */
export function filterNamed(name: string): FilterFunction {
  const own = aliases[name] ?? name;
  const found = Object.hasOwn(filters, own) ? filters[own] : undefined;
  if (found) {
    return (value, positional, named) => {
      spend(1);
      for (const part of [value, ...positional]) if (typeof part === "string") spendText(part);
      return found(value, positional, named);
    };
  }
  throw new TemplateError(`the filter "${name}" is unknown, or not supported`);
}
