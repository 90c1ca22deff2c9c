import { TuneError } from "../../errors.ts";

/** Something wrong with one line of a data file. */
export interface LineProblem {
  /** 1-based. */
  readonly line: number;
  readonly what: string;
}

const shown = 10;

/** So many problems are kept in all; more than these, and the file is not what its ending says. */
const most = 2 ** 18;

/** So many rows of a file are in memory at once; more than these are read in pieces. */
const mostRows = 2 ** 22;

/** Stop at more than is told or held, before it fills the memory. @throws {TuneError} `malformed-data`; `file-too-large`. */
export function checkCounts(at: string, rows: number, problems: readonly LineProblem[]): void {
  if (problems.length > most) {
    const [{ line, what }] = problems as readonly [LineProblem];
    throw new TuneError(
      "malformed-data",
      [`More than ${most} rows of the data cannot be used, and reading stopped. The first:`, `  line ${line}: ${what}`],
      { at, fix: "check that the file holds what its ending says" },
    );
  }
  if (rows > mostRows) {
    throw new TuneError("file-too-large", `The file holds more than ${mostRows} rows.`, {
      at,
      fix: "read it piece by piece: --stream, or streamData() in code",
    });
  }
}

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
