import { TuneError } from "../../errors.ts";
import { writeExactJson } from "../../io/exact-json.ts";
import type { Storage } from "../../io/storage.ts";
import type { TextTokenizer } from "../../io/tokenizer.ts";
import { append } from "./append.ts";
import { type Columns, createRenamer } from "./columns.ts";
import { dataEnding } from "./compressed.ts";
import { type DataFormat, dataFormats, emptyData } from "./formats.ts";
import type { Share } from "./order.ts";
import { piecesOf, streamedEndings } from "./pieces.ts";
import { checkCounts, type LineProblem, throwProblems } from "./problems.ts";
import { fixFor, inspectRows } from "./read.ts";
import { createReporter, type DataReport, hashNumber } from "./report.ts";
import { type DataSource, nameOf, type SkippedRow } from "./source.ts";
import { type ExampleStore, fileStore, tokensOf } from "./store.ts";
import {
  type DataWarning,
  failedRows,
  nothingToTrain,
  type RowFailures,
  type TokenizedExample,
  type TokenizeOptions,
  throwFailures,
  tokenizeRows,
} from "./tokenize.ts";

/** How files are streamed. */
export interface StreamOptions extends TokenizeOptions {
  readonly tokenizer: TextTokenizer;
  /** A file for the examples, replaced when it is there. */
  readonly cache: string;
  /** Share of the rows to hold back (below 1); rows of the same content stay together. */
  readonly validation: number;
  /** Decides which rows are held back. */
  readonly seed: number;
  /** Names of columns that are not the format's. */
  readonly columns?: Columns;
}

/** Files as examples, of which only those asked for are in memory. */
export interface StreamedDataset {
  readonly format: DataFormat;
  readonly store: ExampleStore;
  /** What is held back, in memory. */
  readonly validation: readonly TokenizedExample[];
  readonly mixture: readonly Share[];
  readonly report: DataReport;
  readonly warnings: readonly DataWarning[];
  readonly ignoredKeys: readonly string[];
  readonly skipped: readonly SkippedRow[];
  /** A thousand of the examples, evenly spread, and the longest: what plans are made of. */
  readonly sample: readonly TokenizedExample[];
  readonly first: TokenizedExample | undefined;
}

/** So many problems of a file are told; past them only that there are more. */
const toldProblems = 1000;

/** Of how many examples plans are made, and how many of the longest these hold. */
const [sampled, longest] = [1000, 16];

/** Whether a file, or rows, can be read in pieces. */
export function canStream(source: DataSource): boolean {
  if ("rows" in source) return true;
  const { ending, compression } = dataEnding(source.path);
  return streamedEndings.has(ending) && !(ending === "parquet" && compression !== undefined);
}

/**
 * Read data of any size: a few megabytes at a time (a row group at a time, of Parquet) they are checked, turned into
 * tokens, and written to a cache that examples are read from in whatever order.
 * @throws {TuneError} `unknown-data-file` for a kind of file that cannot be read in pieces, and what reading it whole throws.
 */
export async function streamDataset(
  storage: Storage,
  sources: readonly DataSource[],
  options: StreamOptions,
): Promise<StreamedDataset> {
  const { tokenizer, cache, validation: share, seed, columns = {}, skipBadRows = false } = options;
  if (!(share >= 0 && share < 1)) {
    throw new TuneError("bad-option", `${share} rows cannot be held back of data that is streamed.`, {
      at: "validation",
      fix: "give a share below 1, or a file of its own",
    });
  }
  const reporter = createReporter();
  const warnings = new Map<string, DataWarning & { readonly lines: number[] }>();
  const ignoredKeys = new Set<string>();
  const skipped: SkippedRow[] = [];
  const validation: TokenizedExample[] = [];
  const mixture: Share[] = [];
  let first: TokenizedExample | undefined;
  let format: DataFormat | undefined;
  let long: readonly TokenizedExample[] = [];

  async function* examplesOf(source: DataSource): AsyncGenerator<readonly TokenizedExample[]> {
    const at = nameOf(source);
    const { weight = 1 } = source;
    const pieces = piecesOf(storage, source);
    if (pieces === undefined) {
      throw new TuneError("unknown-data-file", "A file of this kind cannot be read in pieces.", {
        at,
        fix: `use one of ${[...streamedEndings.keys()].map((ending) => `.${ending}`).join(", ")}`,
      });
    }
    const renamer = createRenamer(columns, dataFormats);
    const problems: LineProblem[] = [];
    const failures = {
      refused: [] as RowFailures["refused"][number][],
      overlong: [] as RowFailures["overlong"][number][],
    };
    let own: DataFormat | undefined;
    let code = "malformed-data";
    let [count, good] = [0, 0];
    for await (const piece of pieces) {
      const found = inspectRows({ ...piece, rows: renamer.rename(piece.rows) }, dataFormats, own);
      own ??= found.format;
      const bad = new Set(found.problems.map(({ line }) => line));
      const rows = found.rows.filter(({ line }) => !bad.has(line));
      good += rows.length;
      if (found.problems.length > 0) code = found.code;
      if (skipBadRows)
        append(
          skipped,
          found.problems.map((problem) => ({ at, ...problem })),
        );
      else append(problems, found.problems);
      checkCounts(at, 0, skipped);
      for (const key of found.ignoredKeys) ignoredKeys.add(key);
      if (problems.length > toldProblems) break;
      if (own === undefined || problems.length > 0) continue; // more problems may follow; no more is read than looked at
      const tokenized = tokenizeRows({ format: own, rows }, tokenizer, options);
      if (skipBadRows) {
        append(
          skipped,
          failedRows(tokenized.failures, options.maxLength).map((problem) => ({ at, ...problem })),
        );
      } else {
        append(failures.refused, tokenized.failures.refused.slice(0, toldProblems));
        append(failures.overlong, tokenized.failures.overlong.slice(0, toldProblems));
      }
      if (failures.refused.length + failures.overlong.length > toldProblems) break;
      for (const { code: what, lines } of tokenized.warnings) {
        const known = warnings.get(what);
        if (known) append(known.lines, lines);
        else warnings.set(what, { code: what, lines: [...lines] });
      }
      const held = new Set(
        rows
          .filter(({ value }) => share > 0 && shareOf(own as DataFormat, value, seed) < share)
          .map(({ line }) => line),
      );
      append(
        validation,
        tokenized.examples.filter(({ line }) => held.has(line)),
      );
      const kept = tokenized.examples.filter(({ line }) => !held.has(line));
      for (const example of kept) reporter.add(example);
      long = [...long, ...kept].sort((a, b) => tokensOf(b) - tokensOf(a)).slice(0, longest);
      first ??= kept[0];
      count += kept.length;
      yield kept;
    }
    renamer.finish(at);
    if (own === undefined && skipBadRows) append(problems, skipped);
    if (problems.length > 0) throwProblems(code, problems, { at, fix: fixFor(dataFormats, good > 0) });
    throwFailures(failures, at, options.maxLength, count > 0);
    if (own === undefined) throw emptyData(at);
    if (count === 0) throw nothingToTrain(at, options.maxLength);
    if (format !== undefined && (format.kind ?? "sequence") !== (own.kind ?? "sequence")) throw mixedKinds(at);
    format ??= own;
    mixture.push({ count, weight });
  }

  async function* all(): AsyncGenerator<readonly TokenizedExample[]> {
    for (const source of sources) yield* examplesOf(source);
  }
  const store = await fileStore(storage, cache, all());
  if (format === undefined) throw emptyData(sources.map(nameOf).join(", "));
  const step = Math.max(1, store.count / sampled);
  const spread = Array.from({ length: Math.min(sampled, store.count) }, (_, i) => Math.floor(i * step));
  return {
    format,
    store,
    sample: [...(await store.at(spread)), ...(store.count > sampled ? long : [])],
    validation,
    mixture,
    report: reporter.report(),
    warnings: [...warnings.values()],
    ignoredKeys: [...ignoredKeys],
    skipped,
    first,
  };
}

/** The error for files whose rows cannot be learnt from together. */
export function mixedKinds(at: string): TuneError {
  return new TuneError("mixed-data-formats", "One file holds preferences, another texts.", {
    at,
    fix: "tune on files of one kind",
  });
}

/** From 0 to 1, the same for rows of the same content. */
function shareOf({ keys, optionalKeys }: DataFormat, value: Readonly<Record<string, unknown>>, seed: number): number {
  const content = writeExactJson([...keys, ...optionalKeys].map((key) => value[key] ?? null));
  const codes = Array.from(content, (letter) => letter.codePointAt(0) ?? 0);
  return hashNumber(codes, seed + 1) / 2 ** 53;
}
