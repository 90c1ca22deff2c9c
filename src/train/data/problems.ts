import { TuneError } from "../../errors.ts";

/** Something wrong with one line of a data file. */
export interface LineProblem {
  /** 1-based. */
  readonly line: number;
  readonly what: string;
}

const shown = 10;

/**
 * Throw one error for all problems of a file: the first ten in full, then their number.
 * @throws {TuneError} `code`, always.
 */
export function throwProblems(
  code: string,
  problems: readonly LineProblem[],
  { at, fix }: { readonly at: string; readonly fix: string | readonly string[] },
): never {
  const sorted = [...problems].sort((a, b) => a.line - b.line);
  const lines = sorted.slice(0, shown).map(({ line, what }) => `  line ${line}: ${what}`);
  if (sorted.length > shown) lines.push(`  … and ${sorted.length - shown} more`);
  const count = sorted.length === 1 ? "A row" : `${sorted.length} rows`;
  throw new TuneError(code, [`${count} of the data cannot be used:`, ...lines], { at, fix });
}

/** Line numbers as people read them, the first ten: `3, 7, 9 and 5 more`. */
export function showLines(lines: readonly number[]): string {
  const more = lines.length - shown;
  return lines.slice(0, shown).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
