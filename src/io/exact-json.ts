import { deepest, isJsonObject, parseJson } from "./json.ts";

/** A number whose spelling a JavaScript number would lose: `2512292042121000001`, `20.0`, `1e-05`. */
export class ExactNumber {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  /** The nearest JavaScript number. */
  valueOf(): number {
    return Number(this.text);
  }

  toString(): string {
    return this.text;
  }

  /** What `JSON.stringify` writes: the nearest number. {@link writeExactJson} keeps the spelling. */
  toJSON(): number {
    return Number(this.text);
  }
}

/**
 * Parse JSON as `JSON.parse` does, but for numbers that a JavaScript number would spell otherwise: these are
 * {@link ExactNumber}s.
 * @throws {SyntaxError} as `JSON.parse`; {RangeError} for what nests deeper than 512 levels.
 */
export function parseExactJson(text: string): unknown {
  if (!mayLoseSpelling(text)) return parseJson(text);
  const reader = new Reader(text);
  try {
    const value = reader.value(0);
    reader.end();
    return value;
  } catch (error) {
    if (error instanceof RangeError) throw error;
    parseJson(text); // its words for what is wrong
    throw error;
  }
}

/** Write JSON with every {@link ExactNumber} as it was spelt; `indent` as for `JSON.stringify`. */
export function writeExactJson(value: unknown, indent = 0): string {
  const write = (part: unknown, margin: string): string => {
    if (part instanceof ExactNumber) return part.text;
    const inner = margin + " ".repeat(indent);
    const lines = (open: string, entries: readonly string[], close: string): string => {
      if (entries.length === 0) return open + close;
      if (indent === 0) return open + entries.join(",") + close;
      return `${open}\n${entries.map((entry) => inner + entry).join(",\n")}\n${margin}${close}`;
    };
    if (Array.isArray(part)) {
      return lines(
        "[",
        part.map((entry) => write(entry ?? null, inner)),
        "]",
      );
    }
    if (isJsonObject(part)) {
      const known = Object.entries(part).filter(([, entry]) => entry !== undefined);
      const colon = indent === 0 ? ":" : ": ";
      return lines(
        "{",
        known.map(([name, entry]) => JSON.stringify(name) + colon + write(entry, inner)),
        "}",
      );
    }
    return JSON.stringify(part) ?? "null";
  };
  return write(value, "");
}

/**
 * The same value, with every number that stands at the same place in `written` (what {@link parseExactJson} gave) spelt as
 * it is there.
 */
export function spelledAs(value: unknown, written: unknown): unknown {
  if (typeof value === "number") {
    return written instanceof ExactNumber && Number(written.text) === value ? written : value;
  }
  if (Array.isArray(value)) {
    return Array.isArray(written) ? value.map((item, i) => spelledAs(item, written[i])) : value;
  }
  if (!isJsonObject(value) || !isJsonObject(written)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      key,
      Object.hasOwn(written, key) ? spelledAs(item, written[key]) : item,
    ]),
  );
}

/** The same value with plain numbers; numbers beyond what JavaScript holds exactly stay as they are spelt where they are whole. */
export function plainNumbers(value: unknown): unknown {
  if (value instanceof ExactNumber) {
    const number = Number(value.text);
    return Number.isFinite(number) && (!Number.isInteger(number) || Number.isSafeInteger(number)) ? number : value;
  }
  if (Array.isArray(value)) return value.map(plainNumbers);
  if (isJsonObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plainNumbers(part)]));
  }
  return value;
}

/** Whether something looks like a number that would be spelt otherwise; inside of texts too, which costs time alone. */
function mayLoseSpelling(text: string): boolean {
  return /(?:^|[[:,\s])-?(?:0(?![.\d])(?<=-0)|\d+\.\d|\d+[eE]|\d{16})/.test(text);
}

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  value(depth: number): unknown {
    if (depth > deepest) throw new RangeError(`it nests deeper than ${deepest} levels`);
    this.#space();
    const char = this.#text[this.#at];
    if (char === "{") return this.#object(depth);
    if (char === "[") return this.#list(depth);
    if (char === '"') return this.#string();
    if (char === "-" || (char !== undefined && char >= "0" && char <= "9")) return this.#number();
    for (const [word, value] of words) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    throw unexpected(this.#at);
  }

  end(): void {
    this.#space();
    if (this.#at < this.#text.length) throw unexpected(this.#at);
  }

  #object(depth: number): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    this.#at++;
    if (this.#taken("}")) return {};
    do {
      this.#space();
      const name = this.#string();
      if (!this.#taken(":")) throw unexpected(this.#at);
      entries.push([name, this.value(depth + 1)]);
    } while (this.#taken(","));
    if (!this.#taken("}")) throw unexpected(this.#at);
    return Object.fromEntries(entries);
  }

  #list(depth: number): unknown[] {
    const list: unknown[] = [];
    this.#at++;
    if (this.#taken("]")) return list;
    do list.push(this.value(depth + 1));
    while (this.#taken(","));
    if (!this.#taken("]")) throw unexpected(this.#at);
    return list;
  }

  #string(): string {
    const start = this.#at;
    if (this.#text[start] !== '"') throw unexpected(start);
    let plain = true;
    for (let i = start + 1; i < this.#text.length; i++) {
      const code = this.#text.charCodeAt(i);
      if (code === 0x22) {
        this.#at = i + 1;
        if (plain) return this.#text.slice(start + 1, i);
        return JSON.parse(this.#text.slice(start, i + 1)) as string; // between quotes
      }
      if (code === 0x5c) i++;
      if (code === 0x5c || code < 0x20) plain = false;
    }
    throw unexpected(this.#text.length);
  }

  #number(): number | ExactNumber {
    numberPattern.lastIndex = this.#at;
    const [spelt] = numberPattern.exec(this.#text) ?? [];
    if (spelt === undefined) throw unexpected(this.#at);
    this.#at += spelt.length;
    const number = Number(spelt);
    return String(number) === spelt ? number : new ExactNumber(spelt);
  }

  #taken(char: string): boolean {
    this.#space();
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    while (" \t\n\r".includes(this.#text[this.#at] ?? "x")) this.#at++;
  }
}

const numberPattern = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

const words: readonly (readonly [string, unknown])[] = [
  ["true", true],
  ["false", false],
  ["null", null],
];

function unexpected(at: number): SyntaxError {
  return new SyntaxError(`unexpected character at ${at}`);
}
