import { TuneError } from "../errors.ts";
import { readAdapterTask } from "../export/index.ts";
import { guardOutputs, putBack } from "../io/outputs/index.ts";
import { loadTokenizer, type TextTokenizer } from "../io/tokenizer.ts";
import { type Labels, openModel, type PretrainedModel, type TaskName, withVocabulary } from "../models/index.ts";
import { checkNames, checkWhole, checkWord, type NamesOf } from "../options.ts";
import type { Platform } from "../runtime/platform.ts";
import { type Data, type DataSource, filesOf, type ReadOptions, sourcesOf } from "../train/data/index.ts";
import { mergeLabels, tasks } from "../train/tasks/index.ts";
import { adapterFolder } from "./adapter-folder.ts";
import { chooseVocabulary } from "./vocabulary.ts";

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
  /** Ids of tokens whose rows tuning trains: {@link LoadModelOptions.newTokens}. */
  readonly newTokens?: readonly number[];
  /** Whether its chat template is another than its files': {@link LoadModelOptions.chatTemplate}. */
  readonly hasOwnTemplate?: true;
}

/** How a model is found. */
export interface LoadModelOptions {
  readonly platform: Platform;
  /** What the model is for; what `config.json` says unless given. */
  readonly task?: TaskName;
  /** Names of the labels of its head; those of the model unless given. */
  readonly labels?: Labels;
  /**
   * An adapter's folder, or several: task and labels are those that the first was trained for. The vocabulary is that of an
   * adapter which brings a tokenizer of its own, or rows of more tokens.
   */
  readonly forAdapter?: string | readonly string[];
  /** How {@link labelsFrom} is read, where its columns are called otherwise or rows of it cannot be used. */
  readonly readOptions?: Pick<ReadOptions, "columns" | "skipBadRows">;
  /**
   * Data whose labels the head is for, as `loadData` takes it, or several files: the model's labels are checked, or a head
   * that starts anew has those of the data. Rows that can be gone through only once (a generator's) are used up by this.
   */
  readonly labelsFrom?: Data | readonly string[];
  /** Let the head start anew, whatever the files hold. */
  readonly newHead?: boolean;
  /** Draws a head that starts anew. */
  readonly seed?: number;
  /**
   * Tokens to add to the vocabulary, such as `<think>`, or that it has already: tuning trains their rows in the embeddings
   * and the output layer, besides what its method trains.
   */
  readonly newTokens?: readonly string[];
  /**
   * A chat template in place of the model's, for those that came with none or with another: a name (`chatml`, `llama-3`,
   * `mistral`, `gemma`, `alpaca`, `zephyr`, …), or the text of one. What is exported has it too.
   */
  readonly chatTemplate?: string;
  /** Called while files are fetched from the hub. */
  readonly onDownload?: (progress: DownloadProgress) => void;
}

const loadNames: NamesOf<LoadModelOptions> = {
  platform: true,
  task: true,
  labels: true,
  forAdapter: true,
  labelsFrom: true,
  newHead: true,
  seed: true,
  newTokens: true,
  chatTemplate: true,
  readOptions: true,
  onDownload: true,
};

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
  checkNames(options, loadNames, "loadModel");
  checkWord("task", options.task, Object.keys(tasks), "loadModel");
  checkWhole("seed", options.seed, 0, "loadModel");
  const {
    onDownload,
    forAdapter = [],
    labelsFrom,
    labels: given,
    newTokens = [],
    readOptions = {},
    chatTemplate,
    ...choice
  } = options;
  const { platform: base, ...head } = choice;
  await putBack(base.storage, source);
  const folder = await base.findModel(source, onDownload ? { onDownload } : {});
  const named = typeof forAdapter === "string" ? [forAdapter] : forAdapter;
  const adapters = await Promise.all(named.map((adapter) => adapterFolder(base.storage, adapter)));
  const vocabulary = await chooseVocabulary(base.storage, folder, {
    newTokens,
    adapters,
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
  });
  const labelled = labelsFrom === undefined ? [] : labelSources(labelsFrom);
  // Whatever is written with this model, its own files stay as they are.
  const storage = guardOutputs(vocabulary.storage, { inputs: [folder, ...adapters, ...filesOf(labelled)] });
  const platform = { ...base, storage };
  const inData = async (task: TaskName): Promise<Labels | undefined> => {
    const { labels, read } = tasks[task];
    if (!labels || labelsFrom === undefined) return undefined;
    return mergeLabels(
      await Promise.all(labelled.map(async (source) => labels(await read(platform.storage, source, readOptions)))),
    );
  };
  const made = adapters[0] === undefined ? undefined : await readAdapterTask(platform.storage, adapters[0]);
  const labels = given ?? made?.labels ?? inData;
  const opened = await openModel(platform.storage, folder, {
    ...(made ? { task: made.task } : {}),
    ...head,
    labels,
  });
  if (chatTemplate !== undefined && opened.task !== "causal-lm") {
    throw new TuneError("bad-option", `A model for ${opened.task} reads no conversations.`, {
      at: "chatTemplate",
      fix: "leave the chat template away, or choose a model that continues texts",
    });
  }
  const idle = [
    ...(given !== undefined && opened.labels === undefined ? [`labels: a model for ${opened.task} has none`] : []),
    ...(options.readOptions !== undefined && labelsFrom === undefined ? ["readOptions: there is no labelsFrom"] : []),
  ];
  if (idle.length > 0) {
    const problems = idle.map((problem) => `This would do nothing: ${problem}.`);
    throw new TuneError("bad-option", problems, { at: "loadModel", fix: "leave these options out" });
  }
  const pretrained = withVocabulary(opened, vocabulary.size);
  let tokenizer: Promise<TextTokenizer> | undefined;
  return {
    pretrained,
    platform,
    source,
    folder,
    ...(vocabulary.newTokens.length > 0 ? { newTokens: vocabulary.newTokens } : {}),
    ...(chatTemplate === undefined ? {} : { hasOwnTemplate: true as const }),
    tokenizer: openTokenizer,
  };

  function openTokenizer(): Promise<TextTokenizer> {
    tokenizer ??= loadTokenizer(platform.storage, folder).then((loaded) => fitting(loaded, pretrained, folder));
    return tokenizer;
  }
}

function labelSources(data: Data | readonly string[]): readonly DataSource[] {
  const isFile = (value: unknown): value is string => typeof value === "string";
  if (Array.isArray(data) && data.length > 0 && data.every(isFile)) return data.map((path) => ({ path }));
  return sourcesOf(data);
}

function fitting(tokenizer: TextTokenizer, model: PretrainedModel, folder: string): TextTokenizer {
  if (tokenizer.vocabSize <= model.sizes.vocabSize) return tokenizer;
  throw new TuneError(
    "tokenizer-mismatch",
    `The tokenizer has ${tokenizer.vocabSize} tokens, the model ${model.sizes.vocabSize}.`,
    { at: folder, fix: "use the tokenizer files of the model itself" },
  );
}

/** The number that fills rows of a batch up. */
export async function padIdOf({ pretrained, tokenizer }: LoadedModel): Promise<number> {
  if (pretrained.reads.kind !== "tokens") return 0;
  const { padId, eosId } = await tokenizer();
  return padId ?? eosId ?? 0;
}
