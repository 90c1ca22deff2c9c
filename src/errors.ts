import { printableName } from "./printable.ts";

/** A person's mistake or bad input: what was wrong, where, and how to mend it. Broken invariants use {@link assert}. */
export class TuneError extends Error {
  override readonly name = "TuneError";
  /** Stable machine-readable code, listed in `docs/errors.md`. */
  readonly code: string;
  /** What was wrong, without where and how to mend it. */
  readonly what: string;
  /** Where the problem was found: a file, a line, a layer. */
  readonly at: string | undefined;
  /** How to mend it. */
  readonly fix: string | undefined;

  /**
   * A text of several lines is a list of them. Names come from files of strangers: in a line, whatever begins another, or turns
   * the direction of writing, is spelt as an escape, so that none says more than its own line.
   */
  constructor(
    code: string,
    what: string | readonly string[],
    options: { at?: string; fix?: string | readonly string[]; cause?: unknown } = {},
  ) {
    const spelt = (text: string | readonly string[]): string => [text].flat().map(printableName).join("\n");
    const lines = [spelt(what)];
    if (options.at !== undefined) lines.push(`  at ${spelt(options.at)}`);
    if (options.fix !== undefined) lines.push(`  → ${spelt(options.fix)}`);
    super(lines.join("\n"), options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.what = spelt(what);
    this.at = options.at === undefined ? undefined : spelt(options.at);
    this.fix = options.fix === undefined ? undefined : spelt(options.fix);
  }
}

/** The lines of a text that lists things: a title that ends in a colon, and an indented line for each. */
export function listing(title: string, entries: readonly string[]): readonly string[] {
  return [title, ...entries.map((entry) => `  ${entry}`)];
}

/** The error of a session, or of anything else that lives on a device, that is used after it was closed. */
export function sessionClosed(): TuneError {
  return new TuneError("session-closed", "this session has been closed.", { fix: "open another one" });
}

/** Throw when an invariant of the toolkit itself is broken (a bug in Scion, never a user's mistake). */
export function assert(condition: unknown, message: string | (() => string)): asserts condition {
  if (!condition) throw new Error(`Scion invariant broken: ${typeof message === "string" ? message : message()}`);
}

/** The candidates nearest to `name` by edit distance, best first; for "did you mean" hints. */
export function nearest(name: string, candidates: Iterable<string>, count = 3): string[] {
  const limit = Math.max(2, Math.ceil(name.length * 0.5));
  return [...new Set(candidates)]
    .map((candidate) => ({ candidate, distance: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .filter(({ candidate, distance }) => distance <= limit || candidate.includes(name))
    .sort((a, b) => a.distance - b.distance || (a.candidate < b.candidate ? -1 : 1))
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min((previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1, substitution));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
