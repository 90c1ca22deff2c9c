import { type Part, partsOf, UnreadExpression } from "./regexp-parts.ts";

/*
 * Regular expressions come with tokenizers of strangers, and JavaScript matches by trying: (a+)+b takes longer than anybody
 * waits for thirty letters. Whether an expression can do so is a question of its shape. What is refused here is more than
 * what is dangerous; the patterns of published tokenizers are none of it.
 */

/** What a part of a sequence takes: how many characters, and which. */
interface Item {
  readonly sources: readonly string[];
  readonly min: number;
  readonly max: number;
}

/** More characters than this one way or the other count as any number. */
const wide = 8;
/** Ways to spread a text over the optional parts of a sequence. */
const mostWays = 256;

/**
 * Why a regular expression might take very long to match; undefined for one that takes no more than the square of a run
 * of characters.
 */
export function slowShape(expression: RegExp): string | undefined {
  try {
    checkWays(partsOf(expression), new Characters(expression));
    return undefined;
  } catch (error) {
    if (error instanceof Slow || error instanceof UnreadExpression) return error.message;
    throw error;
  }
}

class Slow extends Error {}

/** Which characters have members in common, under the flags of an expression. */
class Characters {
  readonly #flags: string;
  readonly #overlaps = new Map<string, boolean>();

  constructor({ flags }: RegExp) {
    this.#flags = flags.replace(/[gyd]/g, "");
  }

  /** Whether a character can be in both. */
  meet(a: Item, b: Item): boolean {
    return a.sources.some((one) => b.sources.some((other) => one === other || this.#overlap(one, other)));
  }

  #overlap(one: string, other: string): boolean {
    const key = `${one}\n${other}`;
    const known = this.#overlaps.get(key);
    if (known !== undefined) return known;
    const found = new RegExp(`(?=${one})${other}`, this.#flags).test(everything());
    this.#overlaps.set(key, found);
    return found;
  }
}

let known = "";

/** Every character of the basic plane, and every sixteenth of the one that follows. */
function everything(): string {
  if (known === "") {
    const codes = Array.from({ length: 2 ** 16 + 2 ** 12 }, (_, i) => (i < 2 ** 16 ? i : 2 ** 16 + 16 * (i - 2 ** 16)));
    // A half of a pair would make one character of two with what follows it.
    known = codes.map((code) => (code < 0xd800 || code > 0xdfff ? String.fromCodePoint(code) : "")).join("");
  }
  return known;
}

function checkWays(ways: readonly (readonly Part[])[], characters: Characters): void {
  for (const way of ways) checkSequence(way, characters);
}

/** Parts one after another: no more than two that share characters may both take any number of them. */
function checkSequence(parts: readonly Part[], characters: Characters): void {
  for (const [i, part] of parts.entries()) {
    if (part.kind === "group" || part.kind === "look") checkWays(part.ways, characters);
    if (part.kind === "repeat") checkRepeat(part, characters);
    // What looks ahead is tried at every place where what stands before it may end.
    if (part.kind === "look")
      for (const way of part.ways) checkItems([...itemsOf(parts.slice(0, i)), ...itemsOf(way)], characters);
  }
  checkItems(itemsOf(parts), characters);
}

function checkItems(items: readonly (Item | "place")[], characters: Characters): void {
  const ways = items.reduce(
    (product, item) => product * (item === "place" || isWide(item) ? 1 : item.max - item.min + 1),
    1,
  );
  if (ways > mostWays) throw new Slow("there are too many ways to spread a text over its optional parts");
  const open = items.flatMap((item, at) => (item !== "place" && isWide(item) ? [{ item, at }] : []));
  let shared = 0;
  for (const [i, first] of open.entries()) {
    for (const second of open.slice(i + 1)) {
      if (!characters.meet(first.item, second.item)) continue;
      const between = items.slice(first.at + 1, second.at);
      const parted = between.some(
        (item) =>
          item !== "place" && item.min > 0 && !characters.meet(item, first.item) && !characters.meet(item, second.item),
      );
      if (parted) continue;
      shared++;
      const after = items.slice(second.at + 1);
      if (shared > 1 || after.some((item) => item === "place" || item.min > 0))
        throw new Slow("several of its repetitions can match the same characters");
    }
  }
}

function isWide({ min, max }: Item): boolean {
  return max - min > wide;
}

/** A repetition of more than one character is unambiguous if every round is as long, or has an end that is nowhere else in it. */
function checkRepeat({ of, max }: Extract<Part, { kind: "repeat" }>, characters: Characters): void {
  if (of.kind === "character") return;
  if (of.kind !== "group") throw new Slow("it repeats a place or a repetition");
  checkWays(of.ways, characters);
  if (max <= 1) return;
  const ways = of.ways.map((way) => {
    if (hasLook(way)) throw new Slow("it looks around inside of a repetition");
    return itemsOf(way).filter((item) => item !== "place");
  });
  for (const items of ways) {
    const loose = items.filter(({ min, max: most }) => min !== most);
    const marks = items.filter(
      (item) => item.min > 0 && item.min === item.max && !loose.some((other) => characters.meet(item, other)),
    );
    if (marks.length === 0 || (ways.length > 1 && loose.length > 0))
      throw new Slow("it repeats a repetition, and nothing parts one round from the next");
  }
  for (const [i, items] of ways.entries()) {
    for (const other of ways.slice(i + 1)) {
      if (items[0] && other[0] && characters.meet(items[0], other[0]))
        throw new Slow("it repeats a choice of which two can begin alike");
    }
  }
}

function hasLook(parts: readonly Part[]): boolean {
  return parts.some((part) => part.kind === "look" || (part.kind === "group" && part.ways.some(hasLook)));
}

/** What the parts of a sequence take, one after another; a choice counts as one part of any of its characters. */
function itemsOf(parts: readonly Part[]): readonly (Item | "place")[] {
  return parts.flatMap((part): readonly (Item | "place")[] => {
    if (part.kind === "character") return [{ sources: [part.source], min: 1, max: 1 }];
    if (part.kind === "place" || part.kind === "look") return ["place"];
    if (part.kind === "group") {
      const [only = [], ...others] = part.ways;
      return others.length === 0 ? itemsOf(only) : [whole(part)];
    }
    const { min, max } = part;
    // Of a part that may be missing, everything may be.
    if (part.of.kind === "group" && part.of.ways.length === 1 && max === 1)
      return itemsOf(part.of.ways[0] ?? []).map((item) => (item === "place" ? item : { ...item, min: 0 }));
    const { sources, min: least, max: most } = whole(part.of);
    return [{ sources, min: min * least, max: max === 0 ? 0 : max * most }];
  });
}

function whole(part: Part): Item {
  if (part.kind === "place" || part.kind === "look") return { sources: [], min: 0, max: 0 };
  if (part.kind === "character") return { sources: [part.source], min: 1, max: 1 };
  if (part.kind === "repeat") {
    const { sources, min, max } = whole(part.of);
    return { sources, min: part.min * min, max: part.max === 0 || max === 0 ? 0 : part.max * max };
  }
  const ways = part.ways.map((way) => itemsOf(way).filter((item) => item !== "place"));
  const sum = (items: readonly Item[], of: (item: Item) => number): number =>
    items.reduce((total, item) => total + of(item), 0);
  return {
    sources: ways.flat().flatMap(({ sources }) => sources),
    min: Math.min(...ways.map((items) => sum(items, ({ min }) => min))),
    max: Math.max(...ways.map((items) => sum(items, ({ max }) => max))),
  };
}
