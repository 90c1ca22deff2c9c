/** An expression that has parts which are not read, or too many. */
export class UnreadExpression extends Error {}

/** A part of an expression. */
export type Part =
  /** One character, of those that `source` matches. */
  | { readonly kind: "character"; readonly source: string }
  /** A place: an anchor or a word boundary. */
  | { readonly kind: "place"; readonly source: string }
  | { readonly kind: "group"; readonly ways: readonly (readonly Part[])[] }
  /** What has to follow (or stand before, `behind`), or must not (`not`). */
  | {
      readonly kind: "look";
      readonly behind: boolean;
      readonly not: boolean;
      readonly ways: readonly (readonly Part[])[];
    }
  | { readonly kind: "repeat"; readonly of: Part; readonly min: number; readonly max: number };

const [longest, deepest] = [10_000, 50];

/**
 * The parts of a regular expression, which JavaScript has found valid.
 * @throws {UnreadExpression} for references back to groups, and for what is too long or nests too deep.
 */
export function partsOf({ source }: RegExp): readonly (readonly Part[])[] {
  if (source.length > longest) throw new UnreadExpression(`it is longer than ${longest} characters`);
  return new Reader(source).ways(0);
}

class Reader {
  readonly #source: string;
  #at = 0;

  constructor(source: string) {
    this.#source = source;
  }

  /** Alternatives up to a closing bracket or the end. */
  ways(depth: number): readonly (readonly Part[])[] {
    if (depth > deepest) throw new UnreadExpression(`its groups nest deeper than ${deepest} levels`);
    const ways: Part[][] = [[]];
    while (this.#at < this.#source.length && this.#source[this.#at] !== ")") {
      if (this.#source[this.#at] === "|") {
        this.#at++;
        ways.push([]);
        continue;
      }
      const part = this.#repeated(this.#part(depth));
      if (part) ways.at(-1)?.push(part);
    }
    return ways;
  }

  #part(depth: number): Part {
    const rest = this.#source.slice(this.#at);
    const opening = /^\((?:\?(?:<?[=!]|:|<[^>]*>|[a-z-]*:))?/.exec(rest)?.[0];
    if (opening !== undefined) {
      this.#at += opening.length;
      const ways = this.ways(depth + 1);
      this.#at++; // the closing bracket
      const look = /\?(<?)([=!])$/.exec(opening);
      return look ? { kind: "look", behind: look[1] === "<", not: look[2] === "!", ways } : { kind: "group", ways };
    }
    const place = /^(?:[$^]|\\[bB])/.exec(rest)?.[0];
    if (place !== undefined) {
      this.#at += place.length;
      return { kind: "place", source: place };
    }
    if (/^\\(?:[1-9]|k<)/.test(rest)) throw new UnreadExpression("it refers back to a group");
    const source =
      /^(?:\[(?:\\.|[^\]\\])*\]|\\(?:[pP]\{[^}]*\}|u\{[^}]*\}|u[\da-fA-F]{4}|x[\da-fA-F]{2}|c[A-Za-z]|.)|.)/su.exec(
        rest,
      )?.[0] ?? "";
    this.#at += source.length;
    return { kind: "character", source };
  }

  #repeated(of: Part): Part {
    const found = /^(?:[*+?]|\{(\d+)(,)?(\d*)\})\??/.exec(this.#source.slice(this.#at));
    if (!found) return of;
    this.#at += found[0].length;
    const [sign, least = "", comma, most = ""] = found;
    if (sign.startsWith("*")) return { kind: "repeat", of, min: 0, max: Number.POSITIVE_INFINITY };
    if (sign.startsWith("+")) return { kind: "repeat", of, min: 1, max: Number.POSITIVE_INFINITY };
    if (sign.startsWith("?")) return { kind: "repeat", of, min: 0, max: 1 };
    const max = comma === undefined ? Number(least) : most === "" ? Number.POSITIVE_INFINITY : Number(most);
    return { kind: "repeat", of, min: Number(least), max };
  }
}
