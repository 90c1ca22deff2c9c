import { TuneError } from "../../errors.ts";
import type { TextTokenizer } from "../../io/tokenizer.ts";
import { append } from "./append.ts";
import type { EncodedRow, EncodeNote } from "./encode.ts";
import { type LineProblem, showLines, throwProblems } from "./problems.ts";
import type { Dataset } from "./read.ts";
import { sequencesOf } from "./store.ts";

/** Tokens, and which of them are to be learnt. */
export interface Sequence {
  /** Token ids [seq]. */
  readonly inputIds: Int32Array;
  /** [seq]: 1 where the token is a label, learnt from the tokens before it. The first is always 0. */
  readonly trained: Uint8Array;
  /** [seq]: 0 for tokens of a first text, 1 for those of a second, where a row has two. */
  readonly typeIds?: Uint8Array;
}

/** What to train on: a sequence by itself, or held against others. */
export interface TokenizedExample extends Sequence {
  /** What it is preferred to, or goes with: the rejected answer, the similar text, the text that it becomes. */
  readonly against?: readonly Sequence[];
  /** What is to be said of it: the number of its label, how much it has of every label, its scores, or a label for every token (−1 for none). */
  readonly answers?: readonly number[];
  /** Line of the data where its row stands. */
  readonly line: number;
}

/**
 * What the rows of some data become: a `sequence` to continue, a `pair` of a preferred one and another; and for other
 * tasks than continuing texts, something with a `label`, with any number of `labels`, with a `score` (or several), with `tags` on its tokens, `texts` that go
 * together, `scored-texts`, or a text and its `target`.
 */
export type ExampleKind =
  | "sequence"
  | "pair"
  | "label"
  | "labels"
  | "score"
  | "tags"
  | "texts"
  | "scored-texts"
  | "target";

/** Something that happened to rows and that a user should hear of, without its being an error. */
export interface DataWarning {
  /** `truncated`: cut at `maxLength`. `dropped`: no trained token is left within `maxLength`. The rest: how it was encoded. */
  readonly code: EncodeNote | "truncated" | "dropped";
  /** Lines of the rows it happened to. */
  readonly lines: readonly number[];
}

/** How rows become sequences. */
export interface TokenizeOptions {
  /** Longest sequence, in tokens: at most the model's context. */
  readonly maxLength: number;
  /**
   * What happens to longer rows: `truncate` keeps their first tokens, `split` cuts them into consecutive sequences
   * (for plain text), `error` refuses them.
   */
  readonly tooLong?: "truncate" | "split" | "error";
  /** End texts and completions with EOS (default true); conversations end as their template says. */
  readonly appendEos?: boolean;
  /** The date that chat templates may write; without it they write their fixed one. */
  readonly now?: Date;
  /** Leave rows out that cannot be used, and tell them, instead of refusing all. */
  readonly skipBadRows?: boolean;
}

/** Sequences to train on, in the order of the rows. */
export interface TokenizedDataset {
  readonly examples: readonly TokenizedExample[];
  readonly warnings: readonly DataWarning[];
  /** Rows that were left out, where that was asked for. */
  readonly skipped?: readonly LineProblem[];
}

/**
 * Turn rows into sequences of tokens with the tokens to learn marked.
 * @throws {TuneError} `sequence-too-long` naming the lines, when that is an error; `nothing-to-train` when no row has a
 *   trained token; `no-chat-template` and `malformed-chat-template` for conversations; and with all rows that the
 *   tokenizer or the template refuses `text-not-encodable`, `chat-template-failed`, `untrainable-conversation`, or
 *   `malformed-data` when the reasons differ.
 */
export function tokenizeDataset(
  dataset: Dataset,
  tokenizer: TextTokenizer,
  options: TokenizeOptions,
): TokenizedDataset {
  const { examples, warnings, failures } = tokenizeRows(dataset, tokenizer, options);
  const skipped = options.skipBadRows === true && examples.length > 0 ? failedRows(failures, options.maxLength) : [];
  if (skipped.length === 0) throwFailures(failures, dataset.at, options.maxLength, examples.length > 0);
  if (examples.length === 0) throw nothingToTrain(dataset.at, options.maxLength);
  return { examples, warnings, ...(skipped.length > 0 ? { skipped } : {}) };
}

/** Rows that cannot be used, by what is wrong with them. */
export interface RowFailures {
  readonly refused: readonly { readonly line: number; readonly error: TuneError }[];
  readonly overlong: readonly { readonly line: number; readonly length: number }[];
}

/** As {@link tokenizeDataset}, with the rows that cannot be used told instead of thrown. */
export function tokenizeRows(
  dataset: Pick<Dataset, "format" | "rows">,
  tokenizer: TextTokenizer,
  options: TokenizeOptions,
): TokenizedDataset & { readonly failures: RowFailures } {
  const { maxLength, tooLong = "truncate", appendEos = true, now } = options;
  if (!Number.isInteger(maxLength) || maxLength < 2) {
    throw new TuneError("bad-option", `maxLength is ${maxLength}; a sequence needs at least 2 tokens.`, {
      fix: "use a whole number from 2 to the model's context",
    });
  }
  const encode = dataset.format.encoder({ tokenizer, appendEos, ...(now === undefined ? {} : { now }) });

  const examples: TokenizedExample[] = [];
  const refused: { line: number; error: TuneError }[] = [];
  const overlong: { line: number; length: number }[] = [];
  const warned = new Map<DataWarning["code"], number[]>();
  const warn = (code: DataWarning["code"], line: number): void => {
    const lines = warned.get(code);
    if (lines === undefined) warned.set(code, [line]);
    else lines.push(line);
  };

  for (const { line, value } of dataset.rows) {
    let row: EncodedRow;
    try {
      row = encode(value);
    } catch (error) {
      if (!(error instanceof TuneError)) throw error;
      refused.push({ line, error });
      continue;
    }
    for (const note of row.notes) warn(note, line);
    const length = Math.max(row.ids.length, ...(row.against ?? []).map(({ ids }) => ids.length));
    const splits = tooLong === "split" && row.against === undefined;
    if (length > maxLength && tooLong === "error") {
      overlong.push({ line, length });
      continue;
    }
    if (length > maxLength && !splits && tooLong !== "error") warn("truncated", line);
    const against = row.against?.flatMap((other) => cut(other, maxLength, maxLength));
    const kept = cut(row, maxLength, splits ? row.ids.length : maxLength)
      .map((piece): TokenizedExample => ({ ...piece, ...(against ? { against } : {}), line }))
      .filter((example) => sequencesOf(example).every(({ trained }) => trained.includes(1)));
    if (kept.length === 0 && !row.notes.includes("no-preference")) warn("dropped", line);
    append(examples, kept);
  }

  return {
    examples,
    warnings: [...warned].map(([code, lines]) => ({ code, lines })),
    failures: { refused, overlong },
  };
}

/** Rows that cannot be used, as problems by line. */
export function failedRows({ refused, overlong }: RowFailures, maxLength: number): readonly LineProblem[] {
  return [
    ...refused.map(({ line, error }) => ({ line, what: reasonOf(error) })),
    ...overlong.map(({ line, length }) => ({ line, what: `has ${length} tokens, more than ${maxLength}` })),
  ];
}

/** @throws {TuneError} as {@link tokenizeDataset}, when there are any. `someGood` says whether other rows can be used. */
export function throwFailures(
  { refused, overlong }: RowFailures,
  at: string,
  maxLength: number,
  someGood = false,
): void {
  if (refused.length > 0) throwRefused(at, refused, someGood);
  if (overlong.length > 0) throw sequenceTooLong(at, overlong, maxLength);
}

/** The error for data of which nothing is left. */
export function nothingToTrain(at: string, maxLength: number): TuneError {
  return new TuneError("nothing-to-train", `No row has a trained token within ${maxLength} tokens.`, {
    at,
    fix: "shorten the prompts, or raise the maximum length",
  });
}

/** Cut the first `end` tokens of a row into sequences of at most `maxLength`. */
function cut(row: Pick<EncodedRow, "ids" | "trained">, maxLength: number, end: number): Sequence[] {
  const pieces = [];
  for (let start = 0; start < Math.min(end, row.ids.length); start += maxLength) {
    const stop = Math.min(start + maxLength, end);
    const trained = row.trained.slice(start, stop);
    trained[0] = 0; // nothing stands before it in its sequence
    pieces.push({ inputIds: Int32Array.from(row.ids.slice(start, stop)), trained });
  }
  return pieces;
}

function reasonOf(error: TuneError): string {
  return error.message.split("\n")[0] ?? error.code;
}

function throwRefused(at: string, refused: RowFailures["refused"], someGood: boolean): never {
  const codes = new Set(refused.map(({ error }) => error.code));
  const fixes = new Set(refused.map(({ error }) => error.fix ?? "mend or remove these rows"));
  const problems = refused.map(({ line, error }) => ({ line, what: reasonOf(error) }));
  const [code = "malformed-data"] = codes.size === 1 ? codes : [];
  if (someGood) fixes.add("leave the rows out: --skip-bad-rows (skipBadRows in code)");
  throwProblems(code, problems, { at, fix: [...fixes].join("; ") });
}

function sequenceTooLong(at: string, rows: readonly { line: number; length: number }[], maxLength: number): TuneError {
  const longest = rows.reduce((most, row) => (row.length > most.length ? row : most));
  const lines = rows.map(({ line }) => line);
  const [noun, verb, word] = rows.length === 1 ? ["row", "is", "line"] : ["rows", "are", "lines"];
  return new TuneError(
    "sequence-too-long",
    `${rows.length} ${noun} ${verb} longer than ${maxLength} tokens (the longest has ${longest.length}, line ${longest.line}).`,
    { at: `${at}, ${word} ${showLines(lines)}`, fix: "shorten them, raise the maximum length, or allow truncation" },
  );
}
