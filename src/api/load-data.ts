import { TuneError } from "../errors.ts";
import { joinPath } from "../io/storage.ts";
import {
  canStream,
  type DataReport,
  type DataSource,
  type DataWarning,
  type ExampleKind,
  type ExampleStore,
  mixedKinds,
  previewExample,
  removeCache,
  reportData,
  type Share,
  sequencesOf,
  splitDataset,
  streamDataset,
  type TokenizedExample,
} from "../train/data/index.ts";
import { tasks } from "../train/tasks/index.ts";
import type { LoadedModel } from "./load-model.ts";

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
 * `text`, plain text), texts or images with labels, pairs, …; one file or folder, or several with weights.
 * @throws {TuneError} for files and rows that cannot be used, naming their lines.
 */
export async function loadData(
  model: LoadedModel,
  data: string | readonly DataSource[],
  options: LoadDataOptions = {},
): Promise<LoadedData> {
  const sources = sourcesOf(data);
  const files: LoadedData[] = [];
  for (const { path } of sources) files.push(await loadFile(model, path, options));
  const [first] = files as [LoadedData]; // there is one at least
  if (sources.length === 1 && (sources[0]?.weight ?? 1) === 1) return first;
  const other = files.findIndex(({ kind }) => kind !== first.kind);
  if (other > 0) throw mixedKinds(sources[other]?.path ?? "data");
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
  };
}

/**
 * Read training data that need not fit into memory: it is checked and turned into tokens a few megabytes at a time and
 * kept in a cache in `folder`, which examples are read from. `validation` is a share; what it holds back is in memory.
 * @throws {TuneError} as {@link loadData}; `unknown-data-file` for kinds of files that cannot be read in pieces; `in-use`.
 */
export async function streamData(
  model: LoadedModel,
  data: string | readonly DataSource[],
  { folder, ...options }: LoadDataOptions & { readonly folder: string },
): Promise<StreamedData> {
  const { storage } = model.platform;
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
  }).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  const { format, store, sample, mixture, report, warnings, ignoredKeys, first } = streamed;
  const { validationPath } = options;
  return {
    format: format.name,
    kind: format.kind ?? "sequence",
    train: sample,
    store,
    mixture,
    validation:
      validationPath === undefined ? streamed.validation : (await loadFile(model, validationPath, { maxLength })).train,
    report,
    warnings,
    ignoredKeys,
    preview: first ? previewExample(first, tokenizer) : "",
    files: [...sourcesOf(data).map(({ path }) => path), ...(validationPath === undefined ? [] : [validationPath])],
    close,
  };
}

/** Whether all of some files can be read in pieces, and how many bytes they have. */
export async function dataSize(
  model: LoadedModel,
  data: string | readonly DataSource[],
): Promise<{ readonly sizeBytes: number; readonly streams: boolean }> {
  const task = tasks[model.pretrained.task];
  const paths = sourcesOf(data).map(({ path }) => path);
  const sizes = await Promise.all(paths.map((path) => model.platform.storage.sizeBytes(path)));
  return {
    sizeBytes: sizes.reduce((sum: number, size) => sum + (size ?? 0), 0),
    streams: task.streams === true && paths.every(canStream),
  };
}

function sourcesOf(data: string | readonly DataSource[]): readonly DataSource[] {
  return typeof data === "string" ? [{ path: data }] : data;
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
  const { table, length } = pretrained.reads;
  if (maxLength === undefined || !table || maxLength <= length) return maxLength ?? pretrained.sizes.contextLength;
  throw new TuneError(
    "bad-option",
    `maxLength is ${maxLength}, but the model's table of positions ends at ${length}.`,
    {
      at: folder,
      fix: `use ${length} or less, or a model that reads longer texts`,
    },
  );
}

async function loadFile(model: LoadedModel, path: string, options: LoadDataOptions): Promise<LoadedData> {
  const { pretrained, platform } = model;
  const { storage } = platform;
  const task = tasks[pretrained.task];
  const context = {
    model: pretrained,
    storage,
    tokenizer: () => model.tokenizer(),
    maxLength: lengthOf(model, options),
    ...(options.tooLong ? { tooLong: options.tooLong } : {}),
  };
  const all = await task.read(storage, path);
  const held = options.validationPath === undefined ? (options.validation ?? 0) : 0;
  const parts =
    held > 0
      ? splitDataset(all, { validation: held, seed: options.seed ?? 0 })
      : {
          train: all,
          validation:
            options.validationPath === undefined ? undefined : await task.read(storage, options.validationPath),
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
    preview: first ? await task.show(first, context) : "",
    files: [path, ...(options.validationPath === undefined ? [] : [options.validationPath])],
  };
}
