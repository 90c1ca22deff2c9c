import type { Rng } from "../../src/linalg/rng.ts";

/** A value together with the words that say it: `{ say: "half an hour", value: 30 }`. */
export interface Spoken {
  readonly say: string;
  readonly value: string | number | boolean;
}

/** Draws one way to say a slot. */
export type Slot = (rng: Rng) => Spoken;

/** One item, every item equally likely. @throws {RangeError} when there is none. */
export function pick<T>(rng: Rng, items: readonly T[]): T {
  const index = rng.integer(items.length);
  const item = items[index];
  if (item === undefined) throw new RangeError(`No item ${index} in a list of ${items.length}.`);
  return item;
}

/** True with the given probability. */
export function chance(rng: Rng, probability: number): boolean {
  return rng.uniform() < probability;
}

/** A slot that says one of the words and means the same word. */
export function oneOf(words: readonly string[]): Slot {
  return (rng) => same(pick(rng, words));
}

/** A slot value that is said as it is written. */
export function same(say: string): Spoken {
  return { say, value: say };
}

/** What a filled template says, and the value of each slot in it. */
export interface Filled {
  readonly text: string;
  readonly values: Readonly<Record<string, Spoken["value"]>>;
}

/**
 * Fill a template: `[start|set]` becomes one of its choices (possibly empty) and `{minutes}` what the slot says.
 * A slot named `city2` uses the rule of `city` and never repeats its value.
 * @throws {RangeError} when a slot has no rule.
 */
export function fill(rng: Rng, template: string, slots: Readonly<Record<string, Slot>>): Filled {
  const values: Record<string, Spoken["value"]> = {};
  const chosen = template.replace(/\[([^\]]*)\]/g, (_, choices: string) => pick(rng, choices.split("|")));
  const text = chosen.replace(/\{(\w+)\}/g, (_, name: string) => {
    const base = name.replace(/\d$/, "");
    const slot = slots[name] ?? slots[base];
    if (slot === undefined) throw new RangeError(`The template "${template}" names a slot without a rule: ${name}.`);
    let spoken = slot(rng);
    const others = Object.keys(values).filter((other) => other.replace(/\d$/, "") === base);
    while (others.some((other) => values[other] === spoken.value)) spoken = slot(rng);
    values[name] = spoken.value;
    return spoken.say;
  });
  return { text, values };
}

/** The text with its first letter in upper case. */
export function capitalise(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
