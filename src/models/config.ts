import { TuneError } from "../errors.ts";

/** A parsed `config.json`. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** The same configuration with an output layer of its own, apart from the embeddings. */
export function untied(json: ConfigJson): ConfigJson {
  return { ...json, tie_word_embeddings: false };
}

/** Reads typed fields out of a `config.json`, collecting every problem before it complains. */
export interface ConfigReader {
  integer(key: string, otherwise?: number): number;
  number(key: string, otherwise?: number): number;
  /** A number, or none where the file says null. */
  optional(key: string, otherwise?: number): number | undefined;
  boolean(key: string, otherwise: boolean): boolean;
  choice<T extends string>(key: string, choices: readonly T[], otherwise?: T): T;
  object(key: string): ConfigJson | undefined;
  problem(what: string): void;
  /** @throws {TuneError} `bad-config` listing every problem found. */
  finish(): void;
}

/** Start reading a `config.json`. */
export function readConfig(json: ConfigJson): ConfigReader {
  const problems: string[] = [];
  const numeric = (key: string, otherwise: number | undefined, whole: boolean): number => {
    const value = json[key] ?? otherwise;
    if (
      typeof value === "number" &&
      Number.isFinite(value) &&
      (!whole || (Number.isSafeInteger(value) && value >= 0))
    ) {
      return value;
    }
    problems.push(
      value === undefined
        ? `"${key}" is missing`
        : `"${key}" is ${JSON.stringify(value)}, not a ${whole ? "whole " : ""}number`,
    );
    return otherwise ?? 1;
  };
  return {
    integer: (key, otherwise) => numeric(key, otherwise, true),
    number: (key, otherwise) => numeric(key, otherwise, false),
    optional: (key, otherwise) => {
      const given = json[key] === undefined ? otherwise : json[key];
      return given === null || given === undefined ? undefined : numeric(key, otherwise, false);
    },
    boolean: (key, otherwise) => {
      const value = json[key] ?? otherwise;
      if (typeof value !== "boolean") problems.push(`"${key}" is ${JSON.stringify(value)}, not true or false`);
      return value === true;
    },
    choice: (key, choices, otherwise) => {
      const value = json[key] ?? otherwise;
      const found = choices.find((choice) => choice === value);
      if (found === undefined) problems.push(`"${key}" is ${JSON.stringify(value)}; supported: ${choices.join(", ")}`);
      return found ?? (choices[0] as (typeof choices)[number]); // only reached when finish() will throw
    },
    object: (key) => {
      const value = json[key];
      if (value === undefined || value === null) return undefined;
      if (typeof value === "object" && !Array.isArray(value)) return value as ConfigJson; // checked on this line
      problems.push(`"${key}" is not an object`);
      return undefined;
    },
    problem: (what) => {
      problems.push(what);
    },
    finish: () => {
      if (problems.length === 0) return;
      throw new TuneError("bad-config", `config.json cannot be used:\n  ${problems.join("\n  ")}`, {
        at: "config.json",
        fix: "take the file from the model's own repository, unchanged",
      });
    },
  };
}
