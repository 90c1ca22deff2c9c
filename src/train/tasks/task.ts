import type { JsonObject } from "../../io/json.ts";
import type { Storage } from "../../io/storage.ts";
import type { TextTokenizer } from "../../io/tokenizer.ts";
import type { Labels, PretrainedModel } from "../../models/index.ts";
import type {
  DataSource,
  Dataset,
  ExampleKind,
  ReadOptions,
  RowFormat,
  TokenizedDataset,
  TokenizedExample,
} from "../data/index.ts";
import type { TextReader } from "../data/reader.ts";

/** What examples are made with. */
export interface ExampleContext {
  readonly model: PretrainedModel;
  readonly storage: Storage;
  readonly tokenizer: () => Promise<TextTokenizer>;
  /** Longest sequence. */
  readonly maxLength: number;
  readonly tooLong?: "truncate" | "split" | "error";
  /** Leave rows out that cannot be used. */
  readonly skipBadRows?: boolean;
}

/** What an example of a task is held against, once the model has spoken. */
export interface Judgement {
  readonly example: TokenizedExample;
  /** What the model says of it: logits of each label, of each token and label, or embeddings of its texts. */
  readonly said: Float32Array;
}

/** What the data of a task looks like, what its examples are, and how what a model says of them is judged. */
export interface Task {
  readonly summary: string;
  /** The command that shows what was learnt. */
  readonly shownBy: "chat" | "eval";
  readonly formats: readonly RowFormat[];
  /** Whether its rows may be read a few at a time. */
  readonly streams?: true;
  /** Whether what is too long may become several examples. */
  readonly splits?: true;
  /** Read rows; from a folder too where the task knows how. */
  readonly read: (storage: Storage, source: string | DataSource, options?: ReadOptions) => Promise<Dataset<RowFormat>>;
  /** Names of the labels in rows, where the task has labels. */
  readonly labels?: (dataset: Dataset<RowFormat>) => Labels;
  /** What an example is, which decides what can be learnt from it. */
  readonly kindOf: (example: TokenizedExample) => ExampleKind;
  readonly examples: (dataset: Dataset<RowFormat>, context: ExampleContext) => Promise<TokenizedDataset>;
  /** An example as people read it. */
  readonly show: (example: TokenizedExample, context: ExampleContext) => Promise<string>;
  /** Scores of what the model said; absent where texts are generated. */
  readonly judge?: (judgements: readonly Judgement[], labels: Labels) => Readonly<Record<string, number>>;
}

/** One row of a task: what it becomes, but for where it stands. */
export interface MadeExample extends Omit<TokenizedExample, "line" | "trained"> {
  /** Whether something was left out because it is too long. */
  readonly cut?: boolean;
}

/** A shape of rows that a task learns from. */
export interface TaskFormat extends RowFormat {
  /** Names of labels in a row. */
  readonly labels?: (row: JsonObject) => readonly string[];
  readonly make: (row: JsonObject, tools: ExampleTools) => MadeExample | Promise<MadeExample>;
}

/** What a row is made with. */
export interface ExampleTools {
  readonly reader: () => Promise<TextReader>;
  /** The outputs of the model's head, by name. */
  readonly labels: Labels;
  /** A text whose embedding is wanted, as the model's sentence-transformers files have it read. */
  readonly sentence: (text: string) => string;
  /** The number of a label. @throws {TuneError} `unknown-label`. */
  readonly labelNumber: (label: string) => number;
  /** An image that a row names, as pixels 0xRRGGBB of the model's size. */
  readonly image: (path: string) => Promise<Int32Array>;
}
