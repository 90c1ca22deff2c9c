import { TuneError } from "../errors.ts";

/** One thing wrong with an input, kept until all of it has been looked at. */
export interface Problem {
  readonly code: string;
  readonly what: string | readonly string[];
  readonly fix?: string;
}

const shown = 20;

/**
 * Throw every problem of an input as one error; nothing happens when there is none.
 * @throws {TuneError} with the first problem's code, all their descriptions (the first 20) and all their fixes.
 */
export function throwProblems(problems: readonly Problem[], at: string): void {
  const [first] = problems;
  if (first === undefined) return;
  const listed = problems
    .slice(0, shown)
    .flatMap(({ what }) => [what].flat().map((line, i) => (i === 0 ? `- ${line}` : line)));
  if (problems.length > shown) listed.push(`- and ${problems.length - shown} more`);
  const fixes = new Set(problems.map(({ fix }) => fix).filter((fix) => fix !== undefined));
  throw new TuneError(first.code, problems.length === 1 ? first.what : [`${problems.length} problems:`, ...listed], {
    at,
    ...(fixes.size > 0 && { fix: [...fixes].slice(0, 5).join("; ") }),
  });
}

/** What an error says, without where it was and how to mend it, to list it among other problems. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof TuneError)) throw error;
  return { code: error.code, what: error.what.split("\n"), ...(error.fix !== undefined && { fix: error.fix }) };
}
