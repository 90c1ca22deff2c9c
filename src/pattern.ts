import { type Part, partsOf } from "./regexp-parts.ts";

/** A regular expression for whole names of modules. */
export interface Pattern {
  /** Whether the expression matches all of a name. @throws {Error} where that takes too long. */
  matches(name: string): boolean;
}

/** Steps that matching one name may take: some tenths of a second. */
const mostSteps = 5e6;

const compiled = new Map<string, Pattern>();

/**
 * Compile an expression that comes with an adapter or from the command line, in Python's syntax or JavaScript's. It is
 * matched by following all ways at once, character by character, so that no expression goes through them one by one;
 * it may look ahead and behind, but not refer back to a group.
 * @throws {Error} saying what is not supported.
 */
export function compilePattern(
  source: string,
  { ignoreCase = false }: { readonly ignoreCase?: boolean } = {},
): Pattern {
  const key = `${ignoreCase} ${source}`;
  const known = compiled.get(key);
  if (known) return known;
  const inline = source.startsWith("(?i)");
  const expression = fromPython(inline ? source.slice(4) : source, ignoreCase || inline);
  const ways = partsOf(expression);
  const pattern: Pattern = {
    matches: (name) => new Matcher(name, expression.flags).ends(ways, at(name.length, 0)).at(-1) === 1,
  };
  if (compiled.size > 256) compiled.clear();
  compiled.set(key, pattern);
  return pattern;
}

/** What cannot be matched as Python would, and is said by name. */
const unsupported: readonly (readonly [RegExp, string])[] = [
  [/\(\?P=/, "a reference back to a group"],
  [/[*+?}]\+/, "a possessive repetition"],
  [/\(\?>/, "an atomic group"],
  [/\(\?\(/, "a condition on a group"],
  [/\(\?#/, "a comment"],
  [/\(\?[a-zA-Z]+[:)-]/, "flags other than (?i) at its start"],
];

/** Python's spellings as JavaScript's: `\Z`, `\A` and named groups. */
function fromPython(source: string, ignoreCase: boolean): RegExp {
  for (const [construct, what] of unsupported) {
    if (construct.test(source.replace(/\\./gs, ""))) throw new Error(`it has ${what}, which is not supported`);
  }
  const spelt: Readonly<Record<string, string>> = { "\\Z": "$", "\\A": "^", "(?P<": "(?<" };
  try {
    return new RegExp(
      source.replace(/\\.|\(\?P</gs, (found) => spelt[found] ?? found),
      ignoreCase ? "i" : "",
    );
  } catch (cause) {
    throw new Error(`it is no regular expression (${cause instanceof Error ? cause.message : cause})`);
  }
}

/** Places in a name, 0 to its length: 1 where a way has come to. */
type Places = Uint8Array;

function at(length: number, place: number): Places {
  const places = new Uint8Array(length + 1);
  places[place] = 1;
  return places;
}

/** Follows an expression through a name. */
class Matcher {
  readonly #name: string;
  readonly #flags: string;
  readonly #characters = new Map<string, RegExp>();
  #steps = 0;

  constructor(name: string, flags: string) {
    this.#name = name;
    this.#flags = flags;
  }

  /** Where alternatives end that begin at one of `places`. */
  ends(ways: readonly (readonly Part[])[], places: Places): Places {
    const found = new Uint8Array(places.length);
    for (const way of ways) {
      const ends = way.reduce((reached, part) => (reached.includes(1) ? this.#after(part, reached) : reached), places);
      for (let i = 0; i < found.length; i++) if (ends[i] === 1) found[i] = 1;
    }
    return found;
  }

  #after(part: Part, places: Places): Places {
    this.#steps += places.length;
    if (this.#steps > mostSteps) throw new Error(`it takes more than ${mostSteps} steps to match a name`);
    if (part.kind === "group") return this.ends(part.ways, places);
    if (part.kind === "repeat") return this.#repeated(part, places);
    const result = new Uint8Array(places.length);
    for (let i = 0; i < places.length; i++) {
      if (places[i] !== 1) continue;
      if (part.kind === "character") {
        if (i < this.#name.length && this.#character(part.source).test(this.#name[i] ?? "")) result[i + 1] = 1;
      } else if (part.kind === "place" ? this.#holds(part.source, i) : this.#sees(part, i)) result[i] = 1;
    }
    return result;
  }

  #repeated({ of, min, max }: Extract<Part, { kind: "repeat" }>, places: Places): Places {
    let reached = places;
    for (let round = 0; round < min && reached.includes(1); round++) reached = this.#after(of, reached);
    const all = reached.slice();
    for (let round = min; round < max && reached.includes(1); round++) {
      reached = this.#after(of, reached).map((place, i) => (all[i] === 1 ? 0 : place));
      for (let i = 0; i < all.length; i++) if (reached[i] === 1) all[i] = 1;
    }
    return all;
  }

  #sees({ behind, not, ways }: Extract<Part, { kind: "look" }>, place: number): boolean {
    const [length, last] = [this.#name.length, behind ? place : 0];
    const seen = behind
      ? Array.from({ length: last + 1 }, (_, start) => this.ends(ways, at(length, start))[place]).includes(1)
      : this.ends(ways, at(length, place)).includes(1);
    return seen !== not;
  }

  #holds(place: string, i: number): boolean {
    if (place === "^") return i === 0;
    if (place === "$") return i === this.#name.length;
    const [before, after] = [this.#name[i - 1] ?? "", this.#name[i] ?? ""].map((character) => /\w/.test(character));
    return (before !== after) === (place === "\\b");
  }

  #character(source: string): RegExp {
    const known = this.#characters.get(source);
    if (known) return known;
    const character = new RegExp(`^(?:${source})$`, this.#flags);
    this.#characters.set(source, character);
    return character;
  }
}
