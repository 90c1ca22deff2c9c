import { type Command, InvalidArgumentError } from "commander";
import type { LoadDataOptions, LoadedData } from "../index.ts";
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

/** Say what was renamed and left out. */
export function describeReading({ renamed, skipped }: Pick<LoadedData, "renamed" | "skipped">, output: Output): void {
  const names = Object.entries(renamed);
  if (names.length > 0) output.say(`Columns read: ${names.map(([key, column]) => `${column} as ${key}`).join(", ")}.`);
  if (skipped.length === 0) return;
  output.say(`Rows left out because they cannot be used: ${count(skipped.length)}.`);
  for (const { at, line, what } of skipped.slice(0, 10)) output.say(`  ${at}, line ${line}: ${what}`);
  if (skipped.length > 10) output.say(`  … and ${count(skipped.length - 10)} more`);
}
