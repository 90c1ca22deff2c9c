import { TuneError } from "../errors.ts";
import { loadTokenizer, type TextTokenizer } from "../io/tokenizer.ts";
import { openModel, type PretrainedModel } from "../models/index.ts";
import type { Platform } from "../runtime/platform.ts";

/** A model ready to be tuned, run or exported: its graph and weights, its tokenizer, and where it runs. */
export interface LoadedModel {
  readonly pretrained: PretrainedModel;
  /** @throws {TuneError} `tokenizer-not-found` and the like, when it is first asked for. */
  tokenizer(): Promise<TextTokenizer>;
  readonly platform: Platform;
  /** The folder or hub id that was asked for; adapters name it as their base. */
  readonly source: string;
  /** The local folder that holds its files. */
  readonly folder: string;
}

/** How a model is found. */
export interface LoadModelOptions {
  readonly platform: Platform;
  /** Called while files are fetched from the hub. */
  readonly onDownload?: (progress: DownloadProgress) => void;
}

/** Progress of one file that is being fetched. */
export interface DownloadProgress {
  readonly file: string;
  readonly doneBytes: number;
  readonly totalBytes: number | undefined;
}

/**
 * Load a model from a folder in the Hugging Face layout, or by hub id (`owner/name`, optionally `@revision`).
 * Weights stay on disk until something computes with them.
 * @throws {TuneError} what finding, checking and reading its files throws.
 */
export async function loadModel(source: string, options: LoadModelOptions): Promise<LoadedModel> {
  const { platform, onDownload } = options;
  const folder = await platform.findModel(source, onDownload ? { onDownload } : {});
  const pretrained = await openModel(platform.storage, folder);
  let tokenizer: Promise<TextTokenizer> | undefined;
  return {
    pretrained,
    platform,
    source,
    folder,
    tokenizer: () => {
      tokenizer ??= loadTokenizer(platform.storage, folder).then((loaded) => fitting(loaded, pretrained, folder));
      return tokenizer;
    },
  };
}

function fitting(tokenizer: TextTokenizer, model: PretrainedModel, folder: string): TextTokenizer {
  if (tokenizer.vocabSize <= model.sizes.vocabSize) return tokenizer;
  throw new TuneError(
    "tokenizer-mismatch",
    `The tokenizer has ${tokenizer.vocabSize} tokens, the model ${model.sizes.vocabSize}.`,
    { at: folder, fix: "use the tokenizer files of the model itself" },
  );
}
