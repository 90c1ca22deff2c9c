import { nearest, TuneError } from "./errors.ts";
import { habits, inCode } from "./habits.ts";

/** The names of an options object, all of them: TypeScript refuses a list that lacks one or has another. */
export type NamesOf<Options> = Readonly<Record<keyof Required<Options>, true>>;

/** Names that belong into an object of options inside another, such as a method's into `methodOptions`. */
export type Inside = Readonly<Record<string, Iterable<string>>>;

/** Which of some options another name stands for: the same spelt otherwise, or what another tool calls it. */
export function standsFor(name: string, known: Iterable<string>): string | undefined {
  const names = [...known];
  const spelt = inCode(name).toLowerCase();
  const [, targets = []] = Object.entries(habits).find(([habit]) => habit.toLowerCase() === spelt) ?? [];
  return names.find((other) => other.toLowerCase() === spelt) ?? targets.find((target) => names.includes(target));
}

/** What {@link standsFor} says, or the nearest name. */
export function meant(name: string, known: Iterable<string>): string | undefined {
  const names = [...known];
  return standsFor(name, names) ?? nearest(inCode(name), names, 1)[0];
}

/**
 * Check that an options object has no other names than its own.
 * @param inside names that belong into objects in it.
 * @throws {TuneError} `bad-option` listing every name that is not one, with the one that is meant.
 */
export function checkNames(
  given: object,
  names: Readonly<Record<string, unknown>>,
  at: string,
  inside: Inside = {},
): void {
  const known = Object.keys(names);
  const fix = `options: ${known.join(", ")}`;
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new TuneError("bad-option", "The options are no object of names and values.", { at, fix });
  }
  const problems = Object.keys(given).flatMap((name) => {
    if (Object.hasOwn(names, name)) return [];
    const homes = Object.entries(inside).flatMap(([home, those]) => {
      const found = standsFor(name, those);
      return found === undefined ? [] : [`${home}: { ${found} }`];
    });
    const near = standsFor(name, known) ?? (homes.length > 0 ? undefined : meant(name, known));
    const hint = near ? ` (nearest: ${near})` : homes.length > 0 ? ` (it belongs into ${homes.join(" or ")})` : "";
    return [`there is no option "${name}"${hint}`];
  });
  if (problems.length > 0) throw new TuneError("bad-option", problems, { at, fix });
}

/**
 * Check that a value, where it is given, is one of some words.
 * @throws {TuneError} `bad-option` naming the words.
 */
export function checkWord(name: string, value: unknown, words: readonly string[], at: string): void {
  if (value === undefined || (typeof value === "string" && words.includes(value))) return;
  const [near] = nearest(String(value), words, 1);
  throw new TuneError("bad-option", `${name} is ${JSON.stringify(value) ?? String(value)}, which it cannot be.`, {
    at,
    fix: `use ${words.join(", ")}${near ? ` (nearest: ${near})` : ""}`,
  });
}

/**
 * Check that a number, where it is given, is a whole one from `least`.
 * @throws {TuneError} `bad-option`.
 */
export function checkWhole(name: string, value: unknown, least: number, at: string): void {
  if (value === undefined || (Number.isSafeInteger(value) && Number(value) >= least)) return;
  throw new TuneError("bad-option", `${name} is ${String(value)}, but it must be a whole number from ${least}.`, {
    at,
    fix: `change ${name}, or leave it out`,
  });
}
