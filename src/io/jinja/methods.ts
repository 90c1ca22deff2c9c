import { argumentsOf } from "./arguments.ts";
import { roomForItems, roomForText, spend, spendText } from "./budget.ts";
import { lineBreak, whitespace } from "./lex.ts";
import {
  Callable,
  compare,
  equal,
  lookUp,
  str,
  TemplateError,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

/** A method: what it is given in order and by name, and what it makes of it. */
type Method<Of> = (self: Of, positional: readonly Value[], named: ReadonlyMap<string, Value>) => Value;

const spaces = new RegExp(`[${whitespace}]+`);

/** Cut characters off a text's ends: those given, or white space. */
export function strip(text: string, characters: Value, sides: "both" | "left" | "right"): string {
  if (characters !== null && typeof characters !== "string")
    throw new TemplateError(`strip arg must be None or str, not ${typeName(characters)}`);
  const set = characters === null ? undefined : new Set(characters);
  const cut = (char: string): boolean => (set ? set.has(char) : spaces.test(char));
  // A character of two halves is cut as one, as Python counts it.
  const last = (end: number): string => {
    const pair = text.slice(Math.max(0, end - 2), end);
    return pair.length === 2 && (pair.codePointAt(0) ?? 0) > 0xffff ? pair : text.slice(end - 1, end);
  };
  const first = (start: number): string => String.fromCodePoint(text.codePointAt(start) ?? 0);
  let [start, end] = [0, text.length];
  if (sides !== "right") while (start < end && cut(first(start))) start += first(start).length;
  if (sides !== "left") while (end > start && cut(last(end))) end -= last(end).length;
  spend((start + text.length - end) / 4);
  return text.slice(start, end);
}

function split(text: string, separator: Value, most: Value, fromRight: boolean): Value[] {
  const limit = typeof most === "bigint" ? Number(most) : -1;
  if (separator !== null && typeof separator !== "string")
    throw new TemplateError(`must be str or None, not ${typeName(separator)}`);
  if (separator === "") throw new TemplateError("empty separator");
  if (separator === null) {
    spend(text.length / 2);
    const words = [...text.matchAll(new RegExp(`[^${whitespace}]+`, "g"))];
    spend(words.length);
    const cut = limit >= 0 && words.length > limit;
    if (!cut) return words.map(([word]) => word);
    if (!fromRight) {
      const rest = words[limit];
      return [...words.slice(0, limit).map(([word]) => word), text.slice(rest?.index)];
    }
    const kept = words.slice(words.length - limit).map(([word]) => word);
    const before = words[words.length - limit - 1];
    return [text.slice(0, (before?.index ?? 0) + (before?.[0].length ?? 0)), ...kept];
  }
  spend(text.length / 2);
  const parts = text.split(separator);
  if (limit < 0 || parts.length <= limit + 1) return parts;
  return fromRight
    ? [parts.slice(0, parts.length - limit).join(separator), ...parts.slice(parts.length - limit)]
    : [...parts.slice(0, limit), parts.slice(limit).join(separator)];
}

/** Texts in one, once there is room for it. */
export function joined(parts: readonly string[], separator: string): string {
  spend(parts.length);
  roomForText(parts.reduce((sum, part) => sum + part.length, 0) + Math.max(0, parts.length - 1) * separator.length);
  return parts.join(separator);
}

/** Python's `str.replace`. */
export function replace(text: string, from: string, to: string, count = -1): string {
  spend(text.length / 4);
  if (count < 0 && from !== "") return joined(text.split(from), to);
  if (count < 0) {
    roomForText(text.length * (1 + to.length));
    return to + [...text].map((char) => char + to).join("");
  }
  let [result, rest] = ["", text];
  for (let done = 0; done < count; done++) {
    const at = rest.indexOf(from);
    if (at < 0) break;
    const step = from === "" && rest !== "" ? String.fromCodePoint(rest.codePointAt(0) ?? 0) : "";
    roomForText(result.length + at + to.length);
    result += rest.slice(0, at) + to + step;
    rest = rest.slice(at + from.length + step.length);
    if (from === "" && step === "") break;
  }
  return result + rest;
}

/** Python's `str.title`: letters after anything but letters are upper-cased, others lower-cased. */
function title(text: string): string {
  return text.replace(/\p{L}+/gu, (word) => {
    const [first = "", ...rest] = [...word];
    return first.toUpperCase() + rest.join("").toLowerCase();
  });
}

/** Python's `str.capitalize`. */
export function capitalize(text: string): string {
  const [first = "", ...rest] = [...text];
  return first.toUpperCase() + rest.join("").toLowerCase();
}

function affixed(affixes: Value, has: (affix: string) => boolean, name: string): boolean {
  const all = affixes instanceof Tuple ? affixes.items : [affixes];
  return all.some((affix) => {
    if (typeof affix !== "string")
      throw new TemplateError(`${name} first arg must be str or a tuple of str, not ${typeName(affix)}`);
    return has(affix);
  });
}

function text(value: Value | undefined, what: string): string {
  if (typeof value === "string") return value;
  throw new TemplateError(`${what} must be str, not ${value === undefined ? "missing" : typeName(value)}`);
}

function whole(value: Value | undefined, initial: number): number {
  if (value === undefined || value === null) return initial;
  if (typeof value === "bigint") return Number(value);
  throw new TemplateError(`'${typeName(value)}' object cannot be interpreted as an integer`);
}

const every =
  (pattern: RegExp): Method<string> =>
  (self) =>
    self !== "" && pattern.test(self);
const cased = (self: string): boolean => /[\p{Lu}\p{Ll}\p{Lt}]/u.test(self);
const pad =
  (side: "left" | "right" | "both"): Method<string> =>
  (self, [width, fill = " "]) => {
    const missing = Math.max(0, whole(width, 0) - [...self].length);
    if (missing > 10_000) throw new TemplateError("a width of more than 10000 is refused");
    const mark = text(fill, "the fill character");
    // CPython puts the odd one to the left where the width is odd.
    const left =
      side === "left" ? missing : side === "right" ? 0 : Math.floor(missing / 2) + (missing & whole(width, 0) & 1);
    return mark.repeat(left) + self + mark.repeat(missing - left);
  };

const find = (self: string, wanted: Value | undefined, last: boolean): number => {
  const at = last ? self.lastIndexOf(text(wanted, "argument")) : self.indexOf(text(wanted, "argument"));
  return at < 0 ? -1 : [...self.slice(0, at)].length;
};
const noRange = (args: readonly Value[], name: string): void => {
  if (args.length > 1) throw new TemplateError(`str.${name} with a start is not supported`);
};

/** Methods of text. */
const textMethods: Readonly<Record<string, Method<string>>> = {
  upper: (self) => self.toUpperCase(),
  lower: (self) => self.toLowerCase(),
  casefold: (self) => self.toLowerCase().replaceAll("ß", "ss"),
  swapcase: (self) =>
    [...self].map((char) => (char === char.toUpperCase() ? char.toLowerCase() : char.toUpperCase())).join(""),
  title: (self) => title(self),
  capitalize: (self) => capitalize(self),
  strip: (self, [characters = null]) => strip(self, characters, "both"),
  lstrip: (self, [characters = null]) => strip(self, characters, "left"),
  rstrip: (self, [characters = null]) => strip(self, characters, "right"),
  split: (self, positional, named) => {
    const [separator = null, most = -1n] = argumentsOf("split", ["sep", "maxsplit"], positional, named);
    return split(self, separator, most, false);
  },
  rsplit: (self, positional, named) => {
    const [separator = null, most = -1n] = argumentsOf("rsplit", ["sep", "maxsplit"], positional, named);
    return split(self, separator, most, true);
  },
  splitlines: (self, positional, named) => {
    const [keep = false] = argumentsOf("splitlines", ["keepends"], positional, named);
    spend(self.length / 2);
    const parts = self.split(new RegExp(`(${lineBreak})`)); // lines and what ends them, in turn
    const lines = parts.flatMap((part, i) => (i % 2 === 0 ? [part + (keep === true ? (parts[i + 1] ?? "") : "")] : []));
    return lines.at(-1) === "" ? lines.slice(0, -1) : lines;
  },
  startswith: (self, args) => {
    noRange(args, "startswith");
    return affixed(args[0] ?? null, (affix) => self.startsWith(affix), "startswith");
  },
  endswith: (self, args) => {
    noRange(args, "endswith");
    return affixed(args[0] ?? null, (affix) => self.endsWith(affix), "endswith");
  },
  removeprefix: (self, [prefix]) =>
    self.startsWith(text(prefix, "prefix")) ? self.slice(text(prefix, "").length) : self,
  removesuffix: (self, [suffix]) =>
    text(suffix, "suffix") !== "" && self.endsWith(text(suffix, "")) ? self.slice(0, -text(suffix, "").length) : self,
  replace: (self, positional, named) => {
    const [from, to, count = -1n] = argumentsOf("replace", ["old", "new", "count"], positional, named);
    return replace(self, text(from, "replace() argument 1"), text(to, "replace() argument 2"), whole(count, -1));
  },
  count: (self, args) => {
    noRange(args, "count");
    const wanted = text(args[0], "argument");
    return BigInt(wanted === "" ? [...self].length + 1 : self.split(wanted).length - 1);
  },
  find: (self, args) => {
    noRange(args, "find");
    return BigInt(find(self, args[0], false));
  },
  rfind: (self, args) => {
    noRange(args, "rfind");
    return BigInt(find(self, args[0], true));
  },
  index: (self, args) => {
    noRange(args, "index");
    const at = find(self, args[0], false);
    if (at < 0) throw new TemplateError("substring not found");
    return BigInt(at);
  },
  join: (self, [items]) => {
    const all =
      items instanceof View || items instanceof Tuple ? items.items : items instanceof Map ? [...items.keys()] : items;
    if (typeof all === "string") {
      spend(all.length);
      return joined([...all], self);
    }
    if (!Array.isArray(all)) throw new TemplateError("can only join an iterable");
    return joined(
      all.map((item: Value) => text(item, "sequence item")),
      self,
    );
  },
  partition: (self, [separator]) => {
    const at = self.indexOf(text(separator, "separator"));
    if (at < 0) return new Tuple([self, "", ""]);
    return new Tuple([self.slice(0, at), text(separator, ""), self.slice(at + text(separator, "").length)]);
  },
  rpartition: (self, [separator]) => {
    const at = self.lastIndexOf(text(separator, "separator"));
    if (at < 0) return new Tuple(["", "", self]);
    return new Tuple([self.slice(0, at), text(separator, ""), self.slice(at + text(separator, "").length)]);
  },
  isdigit: every(/^[\p{Nd}²³¹⁰-⁹₀-₉]+$/u),
  isdecimal: every(/^\p{Nd}+$/u),
  isnumeric: every(/^\p{N}+$/u),
  isalpha: every(/^\p{L}+$/u),
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isspace: every(new RegExp(`^[${whitespace}]+$`)),
  isupper: (self) => cased(self) && self === self.toUpperCase(),
  islower: (self) => cased(self) && self === self.toLowerCase(),
  ljust: pad("right"),
  rjust: pad("left"),
  center: pad("both"),
  zfill: (self, [width]) => {
    const sign = /^[+-]/.exec(self)?.[0] ?? "";
    const missing = Math.min(10_000, Math.max(0, whole(width, 0) - [...self].length));
    return sign + "0".repeat(missing) + self.slice(sign.length);
  },
  format: (self, positional, named) => formatted(self, positional, named),
};

/** `str.format` with fields by number and by name, without attributes, conversions and widths. */
function formatted(self: string, positional: readonly Value[], named: ReadonlyMap<string, Value>): string {
  let next = 0;
  const fields = [...self.matchAll(/\{(\w*)\}/g)].map(([, field]) => field ?? "");
  if (fields.includes("") && fields.some((field) => /^\d+$/.test(field)))
    throw new TemplateError("cannot switch from automatic field numbering to manual field specification");
  return self.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (all, field: string | undefined) => {
    if (all === "{{" || all === "}}") return all.slice(1);
    if (field === undefined || !/^\w*$/.test(field))
      throw new TemplateError(`str.format with the field ${all} is not supported`);
    const value =
      field === "" ? positional[next++] : /^\d+$/.test(field) ? positional[Number(field)] : named.get(field);
    if (value === undefined) throw new TemplateError(`str.format has no value for ${all}`);
    return counted(str(value));
  });
}

/** A text that becomes part of another. */
function counted(text: string): string {
  roomForText(text.length);
  spend(1 + text.length / 4);
  return text;
}

/** Python's `text % values`, for %s, %d, %i, %f, %x, %r and %% with flags and widths. */
export function percent(format: string, values: Value): string {
  const all = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const result = format.replace(
    /%(?:\(([^)]*)\))?([-0+ #]*)(\d*)(?:\.(\d+))?(.)/gs,
    (whole_, key: string | undefined, flags: string, width: string, precision: string | undefined, kind: string) => {
      if (kind === "%") return "%";
      const value = key === undefined ? all[next++] : values instanceof Map ? lookUp(values, key) : undefined;
      if (value === undefined) throw new TemplateError("not enough arguments for format string");
      if (Number(width) > 10_000 || Number(precision) > 100) throw new TemplateError(`the format ${whole_} is refused`);
      let written = percentValue(kind, value, precision);
      const number = kind !== "s" && kind !== "r";
      if (number && !written.startsWith("-"))
        written = (flags.includes("+") ? "+" : flags.includes(" ") ? " " : "") + written;
      if (flags.includes("-")) return written.padEnd(Number(width));
      if (!number || !flags.includes("0")) return written.padStart(Number(width));
      const sign = /^[-+ ]/.exec(written)?.[0] ?? "";
      return sign + written.slice(sign.length).padStart(Number(width) - sign.length, "0");
    },
  );
  if (!(values instanceof Map) && next < all.length && !(all.length === 1 && Array.isArray(values)))
    throw new TemplateError("not all arguments converted during string formatting");
  return result;
}

function percentValue(kind: string, value: Value, precision: string | undefined): string {
  if (kind === "s")
    return precision === undefined ? counted(str(value)) : [...str(value)].slice(0, Number(precision)).join("");
  const number = typeof value === "boolean" ? BigInt(value) : value;
  if (typeof number !== "bigint" && typeof number !== "number")
    throw new TemplateError(`%${kind} format: a real number is required, not ${typeName(value)}`);
  if ((kind === "d" || kind === "i") && precision === undefined)
    return String(typeof number === "bigint" ? number : BigInt(Math.trunc(number)));
  if (kind === "f") return Number(number).toFixed(Number(precision ?? 6));
  if (kind === "x" && typeof number === "bigint" && precision === undefined) return number.toString(16);
  throw new TemplateError(`the format %${kind} is not supported`);
}

/** Methods of dictionaries; those that change one are refused, as transformers' sandbox refuses them. */
const dictMethods: Readonly<Record<string, Method<Map<Value, Value>>>> = {
  get: (self, [key, initial = null]) => {
    if (key === undefined) throw new TemplateError("get expected at least 1 argument, got 0");
    const found = lookUp(self, key);
    return found === undefined ? initial : found;
  },
  items: (self) =>
    new View(
      "dict_items",
      [...self].map((entry) => new Tuple(entry)),
    ),
  keys: (self) => new View("dict_keys", [...self.keys()]),
  values: (self) => new View("dict_values", [...self.values()]),
  copy: (self) => new Map(self),
};

const listMethods: Readonly<Record<string, Method<readonly Value[]>>> = {
  count: (self, [wanted = null]) => BigInt(self.filter((item) => equal(item, wanted)).length),
  index: (self, [wanted = null]) => {
    const at = self.findIndex((item) => equal(item, wanted));
    if (at < 0) throw new TemplateError("the value is not in list");
    return BigInt(at);
  },
  copy: (self) => [...self],
};

/** Names of methods that Python has and that are refused: those that change their object, and those not written here. */
const refused: Readonly<Record<string, readonly string[]>> = {
  dict: ["clear", "pop", "popitem", "setdefault", "update", "fromkeys"],
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
  str: [
    "encode",
    "expandtabs",
    "format_map",
    "isascii",
    "isidentifier",
    "isprintable",
    "istitle",
    "maketrans",
    "rindex",
    "translate",
  ],
  float: ["is_integer", "hex", "as_integer_ratio", "real", "imag", "conjugate"],
  int: ["bit_length", "real", "imag", "numerator", "denominator", "conjugate", "to_bytes"],
};

/** A method of a value by its name; undefined when Python's type has none of that name. */
export function methodOf(value: Value, name: string): Callable | undefined {
  const type = typeName(value);
  if (refused[type]?.includes(name))
    return new Callable(name, () => {
      throw new TemplateError(`the method ${type}.${name} is refused, as it changes its object, or is not supported`);
    });
  const bind = <Of>(methods: Readonly<Record<string, Method<Of>>>, self: Of): Callable | undefined => {
    const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
    return (
      method &&
      new Callable(`${type}.${name}`, (positional, named) => {
        spend(1);
        for (const part of [self, ...positional] as readonly unknown[]) {
          if (typeof part === "string") spendText(part);
          else if (Array.isArray(part)) spend(part.length);
        }
        return method(self, positional, named);
      })
    );
  };
  if (typeof value === "string") return bind(textMethods, value);
  if (value instanceof Map) return bind(dictMethods, value);
  if (Array.isArray(value)) return bind(listMethods, value);
  if (value instanceof Tuple && name !== "copy") return bind(listMethods, value.items);
  return undefined;
}

/** Items by Python's indices, which count from the end where they are negative. */
export function itemOf(value: Value, key: Value): Value | undefined {
  if (value instanceof Map) {
    if (Array.isArray(key) || key instanceof Map) throw new TemplateError(`unhashable type: '${typeName(key)}'`);
    return lookUp(value, key);
  }
  const index = typeof key === "boolean" ? Number(key) : typeof key === "bigint" ? Number(key) : undefined;
  const items = indexable(value);
  return items && index !== undefined ? items.at(index < -items.length ? items.length : index) : undefined;
}

function indexable(value: Value): readonly Value[] | undefined {
  if (Array.isArray(value)) return value;
  if (typeof value === "string") {
    spend(value.length);
    return [...value];
  }
  if (value instanceof Tuple || (value instanceof View && value.kind === "range")) return value.items;
  return undefined;
}

/** Python's slices. */
export function slice(value: Value, bounds: readonly (Value | undefined)[]): Value {
  const items = indexable(value);
  if (items === undefined) throw new TemplateError(`'${typeName(value)}' object cannot be sliced`);
  const [from, to, by] = bounds.map((bound) =>
    bound === undefined || bound === null || bound instanceof Undefined ? undefined : whole(bound, 0),
  );
  const step = by ?? 1;
  if (step === 0) throw new TemplateError("slice step cannot be zero");
  const clamp = (index: number, low: number, high: number): number =>
    Math.max(low, Math.min(high, index < 0 ? index + items.length : index));
  const taken: Value[] = [];
  if (step > 0) {
    const end = clamp(to ?? items.length, 0, items.length);
    for (let i = clamp(from ?? 0, 0, items.length); i < end; i += step) taken.push(items[i] as Value);
  } else {
    const end = to === undefined ? -1 : clamp(to, -1, items.length - 1);
    for (let i = clamp(from ?? items.length - 1, -1, items.length - 1); i > end; i += step)
      taken.push(items[i] as Value);
  }
  roomForItems(taken.length);
  if (typeof value === "string") return taken.map(str).join("");
  return value instanceof Tuple ? new Tuple(taken) : value instanceof View ? new View("range", taken) : taken;
}

/** Items in order, by `compare`. */
export function sorted(items: readonly Value[], keyOf: (item: Value) => Value, reverse: boolean): Value[] {
  const keyed = items.map((item) => ({ item, key: keyOf(item) }));
  keyed.sort((a, b) => (reverse ? compare(b.key, a.key) : compare(a.key, b.key)));
  return keyed.map(({ item }) => item);
}
