import { type Command, InvalidArgumentError } from "commander";
import { TuneError } from "../errors.ts";
import type { DataWarning, LoadDataOptions, LoadedData, LoadedModel } from "../index.ts";
import type { Output } from "./output.ts";
import { count } from "./progress.ts";

/** Options of every command that reads data. */
export interface DataFlags {
  readonly columns?: Readonly<Record<string, string>>;
  readonly skipBadRows?: boolean;
}

/** Add them to a command. */
export function withData(command: Command): Command {
  return command
    .option(
      "--columns <list>",
      "names of columns that are not the format's: prompt=question,completion=answer",
      columnList,
    )
    .option("--skip-bad-rows", "leave out rows that cannot be used, and tell which, instead of refusing the data");
}

/** How the flags read data. */
export function readingOf({ columns, skipBadRows }: DataFlags): Pick<LoadDataOptions, "columns" | "skipBadRows"> {
  return { ...(columns === undefined ? {} : { columns }), ...(skipBadRows === true ? { skipBadRows } : {}) };
}

/** `prompt=question,completion=answer` */
function columnList(text: string): Readonly<Record<string, string>> {
  const entries = text.split(",").map((part): [string, string] => {
    const [, key, column] = /^\s*([^=]+?)\s*=\s*(.+?)\s*$/.exec(part) ?? [];
    if (key === undefined || column === undefined)
      throw new InvalidArgumentError(`"${part}" is not a key=column, such as prompt=question.`);
    return [key, column];
  });
  return Object.fromEntries(entries);
}

/** Which columns and rows a command reads besides its texts, as flags: what `--columns` and `--skip-bad-rows` are about. */
interface Reads {
  /** Whether there is data that has columns to rename. */
  readonly renames: boolean;
  /** Whether there is data at all. */
  readonly reads: boolean;
}

/** @throws {TuneError} `bad-option` for flags about data where none is read. */
export function refuseIdleReading({ columns, skipBadRows }: DataFlags, { renames, reads }: Reads): void {
  const problems = [
    ...(columns !== undefined && !renames ? ["--columns would do nothing: there is no --data."] : []),
    ...(skipBadRows === true && !reads ? ["--skip-bad-rows would do nothing: no data is read."] : []),
  ];
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems.join("\n"), { at: "options", fix: "leave them out, or give data" });
}

/**
 * Read texts of the base's, on which forgetting is measured, and say what was left out of them. `--columns` is not about
 * these.
 */
export async function readBaseText(
  model: LoadedModel,
  file: string | undefined,
  { skipBadRows, maxLength }: DataFlags & { readonly maxLength?: number },
  output: Output,
): Promise<LoadedData | undefined> {
  if (file === undefined) return undefined;
  const { loadData } = await import("../index.ts");
  const data = await loadData(model, file, {
    ...readingOf({ ...(skipBadRows === undefined ? {} : { skipBadRows }) }),
    ...(maxLength === undefined ? {} : { maxLength }),
  });
  describeReading(data, output);
  return data;
}

/** What reading is told about as JSON: rows left out, columns renamed, keys that nothing reads, and what was done to rows. */
export function readingRecord({
  files,
  ignoredKeys,
  warnings,
  skipped,
  renamed,
}: LoadedData): Readonly<Record<string, unknown>> {
  return { files, ignoredKeys, warnings, skipped, renamed };
}

/** Say the same. */
export function describeReading(
  { renamed, skipped, ignoredKeys, warnings }: Pick<LoadedData, "renamed" | "skipped" | "ignoredKeys" | "warnings">,
  output: Output,
): void {
  const names = Object.entries(renamed);
  if (names.length > 0) output.say(`Columns read: ${names.map(([key, column]) => `${column} as ${key}`).join(", ")}.`);
  if (skipped.length > 0) output.say(`Rows left out because they cannot be used: ${count(skipped.length)}.`);
  for (const { at, line, what } of skipped.slice(0, 10)) output.say(`  ${at}, line ${line}: ${what}`);
  if (skipped.length > 10) output.say(`  … and ${count(skipped.length - 10)} more`);
  if (ignoredKeys.length > 0) output.say(`Ignored keys: ${ignoredKeys.join(", ")}.`);
  for (const { code, lines } of warnings) {
    output.say(`${warningWords[code]}: ${count(lines.length)} (${showLines(lines)}).`);
  }
}

/** The first lines of some. */
export function showLines(of: readonly number[]): string {
  return `line ${of.slice(0, 5).join(", ")}${of.length > 5 ? ", …" : ""}`;
}

const warningWords: Readonly<Record<DataWarning["code"], string>> = {
  truncated: "Rows cut at the longest length",
  dropped: "Rows left out, for no trained token is within the longest length",
  "border-moved": "Rows where a token spans the end of the prompt",
  "earlier-turns-not-trained": "Conversations whose template rewrites earlier turns, which are not trained",
  "generation-prompt-differs": "Conversations whose answers start otherwise than the generation prompt",
  "no-end-of-turn": "Rows without a token that ends the answer",
  "weight-zero": "Conversations with answers of weight 0 (or train false), which are not trained",
  "empty-turns": "Conversations with answers that say nothing, which are not trained",
  "no-preference": "Rows left out, for their two answers are the same",
};
