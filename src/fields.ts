import { TuneError } from "./errors.ts";

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

/**
 * Fill in defaults and check every value.
 * @throws {TuneError} `bad-option` listing every problem.
 */
export function resolveFields<Config extends object>(
  owner: string,
  fields: Fields<Config>,
  given: Partial<Config>,
): Config {
  const problems: string[] = [];
  const known = Object.entries<Field<unknown>>(fields);
  const values = given as Readonly<Record<string, unknown>>; // read by the names that `fields` lists
  for (const name of Object.keys(values)) {
    if (!known.some(([key]) => key === name)) problems.push(`there is no option "${name}"`);
  }
  const resolved = known.map(([name, field]): [string, unknown] => {
    const value = values[name] ?? field.initial;
    const problem = problemWith(field, value);
    if (problem) problems.push(`${name} is ${JSON.stringify(value)}, but ${problem}`);
    return [name, value];
  });
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems.join("\n"), {
      at: owner,
      fix: `options: ${known.map(([name, field]) => `${name} (${field.help})`).join("; ")}`,
    });
  }
  return Object.fromEntries(resolved) as Config; // one checked value a field
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
