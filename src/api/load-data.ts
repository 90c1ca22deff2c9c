import {
  type DataReport,
  type DataWarning,
  type ExampleKind,
  previewExample,
  readDataset,
  reportData,
  splitDataset,
  type TokenizedExample,
  tokenizeDataset,
} from "../train/data/index.ts";
import type { LoadedModel } from "./load-model.ts";

/** How a data file becomes examples. */
export interface LoadDataOptions {
  /** Longest sequence in tokens; the model's context unless given. */
  readonly maxLength?: number;
  /** Share (below 1) or number of rows to hold back for validation; 0 keeps all for training. */
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
  /** Name of the format that was recognised, such as `messages`. */
  readonly format: string;
  /** What its rows become, which decides what can be learnt from them. */
  readonly kind: ExampleKind;
  readonly train: readonly TokenizedExample[];
  readonly validation: readonly TokenizedExample[];
  /** Lengths, duplicates and the share of what is learnt, of the training examples. */
  readonly report: DataReport;
  readonly warnings: readonly DataWarning[];
  /** Keys of the rows that nothing reads. */
  readonly ignoredKeys: readonly string[];
  /** The first example as text, the trained part marked. */
  readonly preview: string;
}

/**
 * Read training data for a model: JSONL with `messages`, `prompt`/`completion` or `text`, or plain text.
 * @throws {TuneError} for files and rows that cannot be used, naming their lines.
 */
export async function loadData(model: LoadedModel, path: string, options: LoadDataOptions = {}): Promise<LoadedData> {
  const { storage } = model.platform;
  const tokenizer = await model.tokenizer();
  const maxLength = options.maxLength ?? model.pretrained.sizes.contextLength;
  const all = await readDataset(storage, path);
  const held = options.validationPath === undefined ? (options.validation ?? 0) : 0;
  const parts =
    held > 0
      ? splitDataset(all, { validation: held, seed: options.seed ?? 0 })
      : {
          train: all,
          validation:
            options.validationPath === undefined ? undefined : await readDataset(storage, options.validationPath),
        };
  const tooLong = options.tooLong ?? (all.format.name === "text" ? "split" : "truncate");
  const train = tokenizeDataset(parts.train, tokenizer, { maxLength, tooLong });
  const validation = parts.validation && tokenizeDataset(parts.validation, tokenizer, { maxLength, tooLong });
  const [first] = train.examples;
  return {
    format: all.format.name,
    kind: all.format.kind ?? "sequence",
    train: train.examples,
    validation: validation?.examples ?? [],
    report: reportData(train.examples),
    warnings: [...train.warnings, ...(validation?.warnings ?? [])],
    ignoredKeys: all.ignoredKeys,
    preview: first ? previewExample(first, tokenizer) : "",
  };
}
