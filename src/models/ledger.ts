import { listing, nearest, TuneError } from "../errors.ts";
import type { ConfigJson } from "./config.ts";

/** A key of `config.json` that is read. */
export interface Used<T> {
  readonly kind: "used";
  readonly how: string;
  /** What transformers takes where the file says nothing. */
  readonly otherwise: T;
  /** Whether null says "none" instead of nothing. */
  readonly nullable: boolean;
  /** What is wrong with a value: the end of a sentence that begins with the key and the value. */
  readonly refuse: (value: unknown) => string | undefined;
  /** The value that a value of the file stands for. */
  readonly translate: (value: unknown) => T;
}

/** A key that changes nothing here, whatever it says. */
export interface Inert {
  readonly kind: "inert";
  readonly why: string;
}

/** A key that is read elsewhere than by the architecture. */
export interface Elsewhere {
  readonly kind: "elsewhere";
  /** The source file that reads it. */
  readonly where: string;
  readonly how: string;
}

/** A key that is supported at these values alone; null says the same as nothing. */
export interface Only {
  readonly kind: "only";
  readonly values: readonly unknown[];
  readonly why: string;
  /** What transformers takes where the file says nothing. */
  readonly otherwise: unknown;
}

/** Another name of a key. */
export interface Alias {
  readonly kind: "alias";
  readonly of: string;
}

/** What is made of a key of `config.json`. */
export type Entry = Used<unknown> | Inert | Elsewhere | Only | Alias;

/** What is made of every key that transformers' class for a family knows. */
export type Ledger = Readonly<Record<string, Entry>>;

/** A ledger whose keys that are read are those of `Settings`. */
export type LedgerOf<Settings> = Ledger & { readonly [Key in keyof Settings]: Used<Settings[Key]> };

/** What reading a configuration tells besides its result. */
export interface Notes {
  /** A key that the ledger does not have. */
  readonly unknown?: (warning: ConfigWarning) => void;
  /** A key that was read; `inner.key` inside objects. */
  readonly read?: (key: string) => void;
}

/** A key of `config.json` that nobody knows, so that it has no effect. */
export interface ConfigWarning {
  readonly code: "unknown-config-key";
  readonly key: string;
  /** The known key of nearly that name. */
  readonly nearest?: string;
}

/** Collects the problems of a configuration that is read. */
export interface ConfigReader {
  problem(what: string): void;
  /** Read an object inside the configuration by a ledger of its own. */
  inner<Settings extends object>(key: string, ledger: LedgerOf<Settings>, json: ConfigJson): Settings;
  /** Read some keys of an object whose ledger is chosen by what they say. */
  peek<Settings extends object>(ledger: LedgerOf<Settings>, json: ConfigJson): Settings;
}

/** A ledger, and what is made of a file that it describes. */
export interface Configured<Config> {
  readonly ledger: Ledger;
  /** Check and translate `config.json`. @throws {TuneError} `bad-config` naming every key that cannot be used. */
  readonly configure: (json: ConfigJson, notes?: Notes) => Config;
}

/** What a family makes of `config.json`: `make` sees the keys that the ledger says are used, and no others. */
export function configured<Settings extends object, Config>(
  ledger: LedgerOf<Settings>,
  make: (settings: Settings, reader: ConfigReader) => Config,
): Configured<Config> {
  return {
    ledger,
    configure: (json, notes = {}) => {
      const problems: string[] = [];
      const reader: ConfigReader = {
        problem: (what) => void problems.push(what),
        inner: (key, own, inside) => readLedger(own, inside, `${key}.`, reader, notes),
        peek: (own, inside) => readLedger(own, inside, "", { ...reader, problem: () => {} }, {}),
      };
      const config = make(readLedger(ledger, json, "", reader, notes), reader);
      if (problems.length === 0) return config;
      throw new TuneError("bad-config", listing(`config.json cannot be used:`, problems), {
        at: "config.json",
        fix: "use the model's own file unchanged, or a model without this setting",
      });
    },
  };
}

function readLedger<Settings extends object>(
  ledger: LedgerOf<Settings>,
  json: ConfigJson,
  prefix: string,
  { problem }: ConfigReader,
  notes: Notes,
): Settings {
  for (const [key, value] of Object.entries(json)) {
    if (Object.hasOwn(ledger, key) || value === null) continue;
    const [near] = nearest(key, Object.keys(ledger), 1);
    notes.unknown?.({ code: "unknown-config-key", key: prefix + key, ...(near ? { nearest: prefix + near } : {}) });
  }
  const given = new Map(Object.entries(json));
  for (const [key, entry] of Object.entries(ledger)) {
    const value = given.get(key);
    if (entry.kind !== "alias" || value === undefined || value === null) continue;
    const own = given.get(entry.of);
    if (own !== undefined && own !== null && !same(own, value)) {
      problem(`"${prefix}${key}" is ${shown(value)} and "${prefix}${entry.of}", the same setting, is ${shown(own)}`);
    }
    given.set(entry.of, value);
  }
  const settings = {};
  for (const [key, entry] of Object.entries(ledger)) {
    const value = given.get(key);
    if (entry.kind === "only") {
      const held = value ?? entry.otherwise ?? null;
      if ((held === null && entry.otherwise === null) || entry.values.some((allowed) => same(allowed, held))) continue;
      const supported = entry.values.map(shown).join(", ") || "nothing";
      problem(`"${prefix}${key}" is ${shown(held)}; supported: ${supported} (${entry.why})`);
    }
    if (entry.kind !== "used") continue;
    const refused = value === undefined || value === null ? undefined : entry.refuse(value);
    if (refused !== undefined) problem(`"${prefix}${key}" is ${shown(value)}${refused}`);
    const usable = value !== undefined && refused === undefined && (value !== null || entry.nullable);
    const read = usable ? (value === null ? undefined : entry.translate(value)) : entry.otherwise;
    Object.defineProperty(settings, key, {
      enumerable: true,
      get: () => {
        notes.read?.(prefix + key);
        return read;
      },
    });
  }
  return settings as Settings; // the ledger has an entry for every key of it
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "absent";
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function used<T>(
  how: string,
  otherwise: T,
  refuse: Used<T>["refuse"],
  options: { readonly nullable?: boolean; readonly translate?: Used<T>["translate"] } = {},
): Used<T> {
  return {
    kind: "used",
    how,
    otherwise,
    nullable: options.nullable ?? false,
    refuse,
    translate: options.translate ?? ((value) => value as T), // `refuse` has passed it
  };
}

const isWhole = (value: unknown): string | undefined =>
  Number.isSafeInteger(value) && Number(value) >= 0 ? undefined : ", not a whole number";
const isNumber = (value: unknown): string | undefined =>
  typeof value === "number" && Number.isFinite(value) ? undefined : ", not a number";

/** A whole number that is not negative. */
export function integer(how: string, otherwise: number): Used<number> {
  return used(how, otherwise, isWhole);
}

/** A whole number, or none. */
export function optionalInteger(how: string, otherwise?: number): Used<number | undefined> {
  return used(how, otherwise, isWhole, { nullable: true });
}

/** A number. */
export function real(how: string, otherwise: number): Used<number> {
  return used(how, otherwise, isNumber);
}

/** A number, or none. */
export function optionalReal(how: string, otherwise?: number): Used<number | undefined> {
  return used(how, otherwise, isNumber, { nullable: true });
}

/** True or false. */
export function flag(how: string, otherwise: boolean): Used<boolean> {
  return used(how, otherwise, (value) => (typeof value === "boolean" ? undefined : ", not true or false"));
}

/** True, false, or neither. */
export function optionalFlag(how: string): Used<boolean | undefined> {
  return used<boolean | undefined>(how, undefined, (value) =>
    typeof value === "boolean" ? undefined : ", not true or false",
  );
}

/** A name out of a table, which says what it stands for. */
export function oneOf<T>(how: string, table: Readonly<Record<string, T>>, otherwise: string): Used<T> {
  return used(how, table[otherwise] as T, named(table), { translate: (name) => table[String(name)] as T }); // `named` has it
}

/** A name out of a table, or none. */
export function optionalOneOf<T>(how: string, table: Readonly<Record<string, T>>): Used<T | undefined> {
  return used<T | undefined>(how, undefined, named(table), {
    nullable: true,
    translate: (name) => table[String(name)],
  });
}

function named(table: Readonly<Record<string, unknown>>): Used<unknown>["refuse"] {
  return (value) =>
    typeof value === "string" && Object.hasOwn(table, value)
      ? undefined
      : `; supported: ${Object.keys(table).join(", ")}`;
}

/** A list whose items are all well, or none. */
export function optionalList<T>(
  how: string,
  what: string,
  isItem: (item: unknown) => item is T,
): Used<readonly T[] | undefined> {
  return used<readonly T[] | undefined>(how, undefined, (value) =>
    Array.isArray(value) && value.every(isItem) ? undefined : `, not a list of ${what}`,
  );
}

/** A text. */
export function text(how: string, otherwise: string): Used<string> {
  return used(how, otherwise, (value) => (typeof value === "string" ? undefined : ", not a text"));
}

/** A text, or none. */
export function optionalText(how: string): Used<string | undefined> {
  return used<string | undefined>(how, undefined, (value) => (typeof value === "string" ? undefined : ", not a text"));
}

/** A text or a list of texts, as a list; none where there is nothing. */
export function texts(how: string): Used<readonly string[] | undefined> {
  const isText = (item: unknown): item is string => typeof item === "string";
  return used<readonly string[] | undefined>(
    how,
    undefined,
    (value) => ([value].flat().every(isText) ? undefined : ", not a text"),
    { translate: (value) => [value].flat().map(String) },
  );
}

/** An object that a ledger of its own describes; see {@link ConfigReader.inner}. */
export function optionalObject(how: string): Used<ConfigJson | undefined> {
  return used<ConfigJson | undefined>(how, undefined, (value) =>
    typeof value === "object" && !Array.isArray(value) ? undefined : ", not an object",
  );
}

/** A whole number, or the same one twice: the side of a square. */
export function side(how: string, otherwise: number): Used<number> {
  return used(
    how,
    otherwise,
    (value) => {
      const sides: unknown[] = [value].flat();
      if (sides.length > 2 || sides.length === 0 || sides.some((item) => isWhole(item) !== undefined)) {
        return ", not a whole number or two";
      }
      return sides[0] === sides.at(-1) ? undefined : "; supported: squares";
    },
    { translate: (value) => Number([value].flat()[0]) },
  );
}

/** A key that changes nothing. */
export function inert(why: string): Inert {
  return { kind: "inert", why };
}

/** A key that another file reads. */
export function elsewhere(where: string, how: string): Elsewhere {
  return { kind: "elsewhere", where, how };
}

/** A key that is supported at these values alone; nothing in the file is `otherwise`, the first of them unless given. */
export function only(values: readonly unknown[], why: string, otherwise: unknown = values[0] ?? null): Only {
  return { kind: "only", values, why, otherwise };
}

/** Another name of a key. */
export function alias(of: string): Alias {
  return { kind: "alias", of };
}
