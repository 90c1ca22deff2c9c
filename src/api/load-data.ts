import { TuneError } from "../errors.ts";
import { joinPath } from "../io/storage.ts";
import { checkNames, checkWhole, checkWord, type NamesOf } from "../options.ts";
import {
  type Columns,
  canStream,
  type Data,
  type DataReport,
  type DataSource,
  type DataWarning,
  type ExampleKind,
  type ExampleStore,
  filesOf,
  type LineProblem,
  mixedKinds,
  nameOf,
  previewExample,
  removeCache,
  reportData,
  type Share,
  type SkippedRow,
  sequencesOf,
  sourcesOf,
  splitDataset,
  streamDataset,
  type TokenizedExample,
} from "../train/data/index.ts";
import { tasks } from "../train/tasks/index.ts";
import type { LoadedModel } from "./load-model.ts";

export type { Data };

/** How a data file becomes examples. */
export interface LoadDataOptions {
  /** Longest sequence in tokens; the model's context unless given. */
  readonly maxLength?: number;
  /** Share (below 1) or number of rows to hold back for validation, of each file; 0 keeps all for training. */
  readonly validation?: number;
  /** A file to validate on instead of rows held back. */
  readonly validationPath?: string;
  /** What happens to rows longer than `maxLength`; plain text is split unless told otherwise, the rest truncated. */
  readonly tooLong?: "truncate" | "split" | "error";
  /** Decides which rows are held back. */
  readonly seed?: number;
  /** Names of columns that are not the format's: `{ prompt: "question", completion: "answer" }`. */
  readonly columns?: Columns;
  /** Leave rows out that cannot be used, and tell them (`skipped`), instead of refusing all. */
  readonly skipBadRows?: boolean;
}

const loadDataNames: NamesOf<LoadDataOptions> = {
  maxLength: true,
  validation: true,
  validationPath: true,
  tooLong: true,
  seed: true,
  columns: true,
  skipBadRows: true,
};

/** @throws {TuneError} `bad-option` for unknown names, values out of range, and options that would do nothing. */
function checkDataOptions(options: LoadDataOptions, at: string): void {
  checkWord("tooLong", options.tooLong, ["truncate", "split", "error"], at);
  checkWhole("maxLength", options.maxLength, 1, at);
  checkWhole("seed", options.seed, 0, at);
  const { validation, validationPath } = options;
  const problem =
    validation !== undefined && !(Number.isFinite(validation) && validation >= 0)
      ? `validation is ${validation}, but it must be a share below 1 or a number of rows`
      : validation && validationPath !== undefined
        ? `validation is ${validation}, which would do nothing: ${validationPath} is validated on`
        : undefined;
  if (problem) throw new TuneError("bad-option", problem, { at, fix: "change it, or leave it out" });
}

/** Examples to train and validate on. */
export interface LoadedData {
  /** Name of the format that was recognised, such as `messages`; of several files the first's. */
  readonly format: string;
  /** What its rows become, which decides what can be learnt from them. */
  readonly kind: ExampleKind;
  readonly train: readonly TokenizedExample[];
  /** How often the examples come in an epoch, in their order; all of them once unless given. */
  readonly mixture?: readonly Share[];
  readonly validation: readonly TokenizedExample[];
  /** Lengths, duplicates and the share of what is learnt, of the training examples. */
  readonly report: DataReport;
  readonly warnings: readonly DataWarning[];
  /** Keys of the rows that nothing reads. */
  readonly ignoredKeys: readonly string[];
  /** Rows that were left out because they cannot be used: `skipBadRows`. */
  readonly skipped: readonly SkippedRow[];
  /** Columns that were read as keys of the format: `columns`. */
  readonly renamed: Columns;
  /** The first example as text, the trained part marked. */
  readonly preview: string;
  /** The files that it was read from. */
  readonly files?: readonly string[];
}

/** Examples of which only those in use are in memory; `train` holds a sample of them, for plans. */
export interface StreamedData extends LoadedData {
  readonly store: ExampleStore;
  /** Remove the cache. */
  close(): Promise<void>;
}

/**
 * Read training data for a model, in the forms of what it is for: texts to continue (`messages`, `prompt`/`completion`,
 * `text`, plain text), texts or images with labels, pairs, …; a file or folder, rows in memory, or several with weights.
 * @throws {TuneError} for files and rows that cannot be used, naming their lines.
 */
export async function loadData(model: LoadedModel, data: Data, options: LoadDataOptions = {}): Promise<LoadedData> {
  checkNames(options, loadDataNames, "loadData");
  checkDataOptions(options, "loadData");
  const sources = sourcesOf(data);
  const files: LoadedData[] = [];
  for (const source of sources) files.push(await loadFile(model, source, options));
  const [first] = files as [LoadedData]; // there is one at least
  if (sources.length === 1 && (sources[0]?.weight ?? 1) === 1) return first;
  const other = files.findIndex(({ kind }) => kind !== first.kind);
  if (other > 0) throw mixedKinds(nameOf(sources[other] as DataSource)); // one of them
  const validation = options.validationPath === undefined ? files.flatMap((file) => file.validation) : first.validation;
  // A row of one file may be held back of another: it is trained on in neither.
  const held = new Set(validation.map(keyOf));
  const kept = files.map(({ train }) =>
    held.size === 0 ? train : train.filter((example) => !held.has(keyOf(example))),
  );
  const train = kept.flat();
  return {
    ...first,
    files: files.flatMap((file) => file.files ?? []),
    train,
    mixture: kept.map(({ length }, i) => ({ count: length, weight: sources[i]?.weight ?? 1 })),
    validation,
    report: reportData(train),
    warnings: files.flatMap(({ warnings }) => warnings),
    ignoredKeys: [...new Set(files.flatMap(({ ignoredKeys }) => ignoredKeys))],
    skipped: files.flatMap(({ skipped }) => skipped),
  };
}

/**
 * Read training data that need not fit into memory: it is checked and turned into tokens a few megabytes at a time and
 * kept in a cache in `folder`, which examples are read from. `validation` is a share; what it holds back is in memory.
 * @throws {TuneError} as {@link loadData}; `unknown-data-file` for kinds of files that cannot be read in pieces; `in-use`.
 */
export async function streamData(
  model: LoadedModel,
  data: Data,
  given: LoadDataOptions & { readonly folder: string },
): Promise<StreamedData> {
  checkNames(given, { ...loadDataNames, folder: true }, "streamData");
  const { folder, ...options } = given;
  checkDataOptions(options, "streamData");
  const { storage } = model.platform;
  const { task } = model.pretrained;
  if (tasks[task].streams !== true) {
    throw new TuneError("bad-option", `Data for ${task} is not read as a stream.`, {
      at: "stream",
      fix: "leave it out (loadData in code): what is read is held in memory",
    });
  }
  const tokenizer = await model.tokenizer();
  const cache = joinPath(folder, "examples.cache");
  const maxLength = lengthOf(model, options);
  const lock = await storage.lock(cache);
  const close = async (): Promise<void> => {
    await removeCache(storage, cache).finally(() => lock.release());
  };
  await removeCache(storage, cache).catch(async (error: unknown) => {
    await lock.release();
    throw error;
  });
  const streamed = await streamDataset(storage, sourcesOf(data), {
    tokenizer,
    cache,
    maxLength,
    tooLong: options.tooLong ?? "truncate",
    validation: options.validationPath === undefined ? (options.validation ?? 0) : 0,
    seed: options.seed ?? 0,
    columns: options.columns ?? {},
    skipBadRows: options.skipBadRows ?? false,
  }).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  const { format, store, sample, mixture, report, warnings, ignoredKeys, skipped, first } = streamed;
  const { validationPath, columns = {}, skipBadRows = false } = options;
  const apart =
    validationPath === undefined
      ? undefined
      : await loadFile(model, { path: validationPath }, { maxLength, columns, skipBadRows }).catch(
          async (error: unknown) => {
            await close();
            throw error;
          },
        );
  return {
    format: format.name,
    kind: format.kind ?? "sequence",
    train: sample,
    store,
    mixture,
    validation: apart?.train ?? streamed.validation,
    report,
    warnings,
    ignoredKeys,
    skipped: [...skipped, ...(apart?.skipped ?? [])],
    renamed: columns,
    preview: first ? previewExample(first, tokenizer) : "",
    files: [...filesOf(sourcesOf(data)), ...(validationPath === undefined ? [] : [validationPath])],
    close,
  };
}

/** Whether all of some files can be read in pieces, and how many bytes they have. */
export async function dataSize(
  model: LoadedModel,
  data: Data,
): Promise<{ readonly sizeBytes: number; readonly streams: boolean }> {
  const task = tasks[model.pretrained.task];
  const sources = sourcesOf(data);
  const sizes = await Promise.all(
    sources.map((source) => ("path" in source ? model.platform.storage.sizeBytes(source.path) : 0)),
  );
  return {
    sizeBytes: sizes.reduce((sum: number, size) => sum + (size ?? 0), 0),
    streams: task.streams === true && sources.every(canStream),
  };
}

function keyOf(example: TokenizedExample): string {
  return sequencesOf(example)
    .map(({ inputIds }) => inputIds.join())
    .join(";");
}

/**
 * How many tokens an example may have.
 * @throws {TuneError} `bad-option` for more than a table of positions has rows.
 */
function lengthOf({ pretrained, folder }: LoadedModel, { maxLength }: Pick<LoadDataOptions, "maxLength">): number {
  const { kind, table, length } = pretrained.reads;
  if (maxLength !== undefined && kind === "pixels") {
    throw new TuneError("bad-option", `maxLength is ${maxLength}, which would do nothing: images have no tokens.`, {
      at: folder,
      fix: "leave it out",
    });
  }
  if (maxLength === undefined || !table || maxLength <= length) return maxLength ?? longestOf(pretrained);
  throw new TuneError(
    "bad-option",
    `maxLength is ${maxLength}, but the model's table of positions ends at ${length}.`,
    {
      at: folder,
      fix: `use ${length} or less, or a model that reads longer texts`,
    },
  );
}

async function loadFile(model: LoadedModel, source: DataSource, options: LoadDataOptions): Promise<LoadedData> {
  const { pretrained, platform } = model;
  const { storage } = platform;
  const task = tasks[pretrained.task];
  if (options.tooLong === "split" && task.splits !== true) {
    throw new TuneError("bad-option", `Rows for ${pretrained.task} are not split where they are too long.`, {
      at: "tooLong",
      fix: "use truncate or error",
    });
  }
  const context = {
    model: pretrained,
    storage,
    tokenizer: () => model.tokenizer(),
    maxLength: lengthOf(model, options),
    ...(options.tooLong ? { tooLong: options.tooLong } : {}),
    ...(options.skipBadRows ? { skipBadRows: true } : {}),
  };
  const { columns = {}, skipBadRows = false } = options;
  const all = await task.read(storage, source, { columns, skipBadRows });
  const held = options.validationPath === undefined ? (options.validation ?? 0) : 0;
  const parts =
    held > 0
      ? splitDataset(all, { validation: held, seed: options.seed ?? 0 })
      : {
          train: all,
          validation:
            options.validationPath === undefined
              ? undefined
              : await task.read(storage, options.validationPath, { columns, skipBadRows }),
        };
  const train = await task.examples(parts.train, context);
  const validation = parts.validation && (await task.examples(parts.validation, context));
  const [first] = train.examples;
  return {
    format: all.format.name,
    kind: all.format.kind ?? "sequence",
    train: train.examples,
    validation: validation?.examples ?? [],
    report: reportData(train.examples),
    warnings: [...train.warnings, ...(validation?.warnings ?? [])],
    ignoredKeys: all.ignoredKeys,
    skipped: [
      ...skippedIn(all.at, all, train, ...(options.validationPath === undefined ? [validation] : [])),
      ...(options.validationPath === undefined ? [] : skippedIn(options.validationPath, parts.validation, validation)),
    ],
    renamed: columns,
    preview: first ? await task.show(first, context) : "",
    files: [...filesOf([source]), ...(options.validationPath === undefined ? [] : [options.validationPath])],
  };
}

/** Rows that reading, or making examples, has left out. */
function skippedIn(
  at: string,
  ...stages: readonly ({ readonly skipped?: readonly LineProblem[] } | undefined)[]
): readonly SkippedRow[] {
  const all = stages.flatMap((stage) => stage?.skipped ?? []);
  return all.map(({ line, what }) => ({ at, line, what })).sort((a, b) => a.line - b.line);
}

/** The longest sequence unless another is asked for: the model's context, or less where sentence-transformers says so. */
function longestOf({ sizes, sentence }: LoadedModel["pretrained"]): number {
  return Math.min(sizes.contextLength, sentence?.maxLength ?? sizes.contextLength);
}
