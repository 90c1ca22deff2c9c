import { TuneError } from "../errors.ts";

/** One thing wrong with an input, kept until all of it has been looked at. */
export interface Problem {
  readonly code: string;
  readonly what: string;
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
  const listed = problems.slice(0, shown).map(({ what }) => `- ${what}`);
  if (problems.length > shown) listed.push(`- and ${problems.length - shown} more`);
  const fixes = new Set(problems.map(({ fix }) => fix).filter((fix) => fix !== undefined));
  throw new TuneError(
    first.code,
    problems.length === 1 ? first.what : `${problems.length} problems:\n${listed.join("\n")}`,
    { at, ...(fixes.size > 0 && { fix: [...fixes].slice(0, 5).join("; ") }) },
  );
}

/** What an error says, without where it was and how to mend it, to list it among other problems. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof TuneError)) throw error;
  const [what = ""] = error.message.split("\n  at ");
  return { code: error.code, what, ...(error.fix !== undefined && { fix: error.fix }) };
}
