import { nearest, TuneError } from "../../errors.ts";
import type { DataRow, RowFormat } from "./formats.ts";

/** Names of columns as they are in the data, by the keys of the format that they stand for: `{ prompt: "question" }`. */
export type Columns = Readonly<Record<string, string>>;

/** Renames columns of rows that may come in pieces. */
export interface Renamer {
  rename(rows: readonly DataRow[]): readonly DataRow[];
  /** @throws {TuneError} `unknown-column` for columns that no row had. */
  finish(at: string): void;
}

/**
 * Rename columns of rows to keys of a format.
 * @throws {TuneError} `bad-option` for keys that no format has, with the nearest that one has.
 */
export function createRenamer(columns: Columns, formats: readonly RowFormat[]): Renamer {
  const keys = [...new Set(formats.flatMap((format) => [...format.keys, ...format.optionalKeys]))];
  const strangers = Object.keys(columns).filter((key) => !keys.includes(key));
  if (strangers.length > 0) {
    const said = strangers.map((key) => {
      const [near] = nearest(key, keys, 1);
      return `no format has a key "${key}"${near === undefined ? "" : ` (nearest: ${near})`}`;
    });
    throw new TuneError("bad-option", said, {
      at: "columns",
      fix: `write key=column, with a key of ${keys.join(", ")}`,
    });
  }
  const renames = Object.entries(columns);
  const taken = new Set(Object.values(columns));
  const missing = new Set(taken);
  const seen = new Set<string>();
  return {
    rename: (rows) =>
      renames.length === 0
        ? rows
        : rows.map(({ line, value }) => {
            for (const name of Object.keys(value)) {
              missing.delete(name);
              if (seen.size < 50) seen.add(name);
            }
            const kept = Object.entries(value).filter(([name]) => !taken.has(name) && !Object.hasOwn(columns, name));
            const renamed = renames
              .filter(([, name]) => Object.hasOwn(value, name))
              .map(([key, name]) => [key, value[name]]);
            return { line, value: Object.fromEntries([...renamed, ...kept]) };
          }),
    finish: (at) => {
      if (missing.size === 0 || seen.size === 0) return;
      const said = [...missing].map((name) => {
        const [near] = nearest(name, seen, 1);
        return `"${name}"${near === undefined ? "" : ` (nearest: ${near})`}`;
      });
      throw new TuneError("unknown-column", `No row has a column ${said.join(", ")}.`, {
        at,
        fix: `choose from the columns that there are: ${[...seen].join(", ")}`,
      });
    },
  };
}
