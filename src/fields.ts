import { TuneError } from "./errors.ts";
import { meant } from "./options.ts";

/** One option of a method or optimiser, declared once: flags, forms, validation and docs derive from it. */
export interface Field<T> {
  readonly kind: "integer" | "number" | "boolean" | "choice" | "text";
  readonly initial: T;
  readonly help: string;
  readonly min?: number;
  readonly max?: number;
  /** The upper bound itself is not allowed. */
  readonly below?: number;
  /** The words to choose from. */
  readonly choices?: readonly string[];
  /** What it is where it is not given, from the other options, instead of `initial`; and that in words. */
  readonly follows?: { readonly from: (others: Readonly<Record<string, unknown>>) => T; readonly says: string };
  /** Why another value than `initial` would do nothing beside the other options, if it would not. */
  readonly idle?: (others: Readonly<Record<string, unknown>>) => string | undefined;
}

/** The options of a record, by name. */
export type Fields<Config> = { readonly [Key in keyof Config]: Field<Config[Key]> };

/** A whole number. */
export function integer(initial: number, help: string, bounds: { min?: number; max?: number } = {}): Field<number> {
  return { kind: "integer", initial, help, ...bounds };
}

/** A real number. */
export function real(
  initial: number,
  help: string,
  bounds: { min?: number; max?: number; below?: number } = {},
): Field<number> {
  return { kind: "number", initial, help, ...bounds };
}

/** A yes or no. */
export function flag(initial: boolean, help: string): Field<boolean> {
  return { kind: "boolean", initial, help };
}

/** One of some words, the first unless told otherwise. */
export function oneOf<Word extends string>(choices: readonly [Word, ...Word[]], help: string): Field<Word> {
  return { kind: "choice", initial: choices[0], help, choices };
}

/** Words in a form of the option's own; none unless given. */
export function text(help: string): Field<string> {
  return { kind: "text", initial: "", help };
}

/** What has options of its own: a method, an objective, an optimiser, a scheme. */
export interface Optioned {
  readonly name: string;
  readonly fields: object;
}

/** Those of some records that take an option, by name. */
export function takersOf(option: string, records: readonly Optioned[]): readonly string[] {
  return records.filter(({ fields }) => Object.hasOwn(fields, option)).map(({ name }) => name);
}

/** What an option is where it is not given, in words. */
export function unlessGiven({ follows, initial }: Pick<Field<unknown>, "follows" | "initial">): string {
  return follows?.says ?? String(initial);
}

/**
 * Fill in defaults and check every value.
 * @param others records that may take what this one does not.
 * @throws {TuneError} `bad-option` listing every problem: an option that the record does not take, with those that do or
 * the one that is meant; a value out of range; an option that would do nothing beside the others.
 */
export function resolveFields<Config extends object>(
  owner: string,
  fields: Fields<Config>,
  given: Partial<Config>,
  others: Iterable<Optioned> = [],
): Config {
  const records = [...others];
  const problems: string[] = [];
  const known = Object.entries<Field<unknown>>(fields);
  const values = given as Readonly<Record<string, unknown>>; // read by the names that `fields` lists
  for (const name of Object.keys(values)) {
    if (Object.hasOwn(fields, name)) continue;
    const takers = takersOf(name, records);
    const near = meant(name, Object.keys(fields));
    const hint = takers.length > 0 ? `, which ${inWords(takers)} takes` : near ? ` (nearest: ${near})` : "";
    problems.push(`${owner} has no option "${name}"${hint}`);
  }
  const all = Object.fromEntries(known.map(([name, field]) => [name, values[name] ?? field.initial]));
  const resolved = known.map(([name, field]): [string, unknown] => {
    const value = values[name] ?? field.follows?.from(all) ?? field.initial;
    const problem = problemWith(field, value);
    const idle = value === field.initial || values[name] === undefined ? undefined : field.idle?.(all);
    if (problem) problems.push(`${name} is ${JSON.stringify(value)}, but ${problem}`);
    else if (idle) problems.push(`${name} is ${JSON.stringify(value)}, which would do nothing: ${idle}`);
    return [name, value];
  });
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, {
      at: owner,
      fix:
        known.length === 0
          ? `leave them out: ${owner} has no options`
          : `options: ${known.map(([name, field]) => `${name} (${field.help})`).join("; ")}`,
    });
  }
  return Object.fromEntries(resolved) as Config; // one checked value a field
}

/** `a`, `a or b`, `a, b or c`. */
function inWords(names: readonly string[]): string {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

function problemWith(field: Field<unknown>, value: unknown): string | undefined {
  if (field.kind === "boolean") return typeof value === "boolean" ? undefined : "it must be true or false";
  if (field.kind === "text") return typeof value === "string" ? undefined : "it must be text";
  if (field.choices) {
    return field.choices.includes(String(value)) ? undefined : `it must be one of ${field.choices.join(", ")}`;
  }
  if (typeof value !== "number" || !Number.isFinite(value)) return "it must be a number";
  if (field.kind === "integer" && !Number.isSafeInteger(value)) return "it must be a whole number";
  if (field.min !== undefined && value < field.min) return `it must be at least ${field.min}`;
  if (field.max !== undefined && value > field.max) return `it must be at most ${field.max}`;
  if (field.below !== undefined && value >= field.below) return `it must be below ${field.below}`;
  return undefined;
}
