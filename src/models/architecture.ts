import type { Dim, InputValue, Value } from "../graph/index.ts";
import type { ConfigJson } from "./config.ts";
import type { GgufForm } from "./gguf.ts";
import type { Harmless } from "./harmless.ts";
import type { InputForm } from "./inputs.ts";
import type { Configured } from "./ledger.ts";
import type { DecodeRecipe } from "./recipe.ts";
import type { ProblemType } from "./shared-ledger.ts";
import type { SizeKeys } from "./sizes.ts";

/** A tensor that a checkpoint of the architecture holds. */
export interface TensorSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Keys and values of one layer: each [batch, kvHeads, total, headDim]. */
export interface KeyValue {
  readonly key: Value;
  readonly value: Value;
}

/** How scores become probabilities in a layer. */
export interface AttendOptions {
  /** Scores are query·key·scale. */
  readonly scale: number;
  /** A token sees this many tokens up to itself; all of its document when absent. */
  readonly window?: number;
  /** Scores are cap·tanh(score/cap). */
  readonly cap?: number;
  /** Added to the scores: broadcasts to [batch, heads, seq, total]. */
  readonly bias?: Value;
  /** Whether a token sees those after it too, as far away as the window reaches. */
  readonly bidirectional?: boolean;
  /** The layer that attends, in the order of the model's; only causal language models say so. */
  readonly layer?: number;
}

/**
 * Attention of a layer's heads: query [batch, heads, seq, headDim], keys and values [batch, kvHeads, total, headDim] ->
 * [batch·seq, heads·headDim].
 */
export type Attend = (query: Value, cache: KeyValue, options: AttendOptions) => Value;

/** How whole sequences are attended to, several documents to a row. */
export interface SequenceAttention {
  /** Sequences are padded to a multiple of this many tokens. */
  readonly multiple: number;
  /** Whether each row holds one document alone. */
  readonly alone: boolean;
  /**
   * positionIds int64 [batch, multiple·block] count from 0 in each document. What must be watched while a model is trained is
   * handed to `watch`: float32 vectors of shares of what is allowed, one an entry of `watched`, in order.
   */
  readonly attend: (positionIds: Value, watch?: (shares: Value) => void) => Attend;
  /** What is watched, such as `layer 3, key head 0`; nothing unless given. */
  readonly watched?: readonly WatchedHead[];
}

/** A head whose scores must stay within what was planned. */
export interface WatchedHead {
  readonly layer: number;
  readonly head: number;
}

/** What the trunk reads. */
export interface TrunkInputs {
  /** int64 [batch, seq]. */
  readonly inputIds: Value;
  /** int64 [batch, seq]: the position of each token in its own document. */
  readonly positionIds: Value;
  /** How queries meet keys and values. */
  readonly attend: Attend;
  /** Keys and values of earlier tokens, one a layer: [batch, kvHeads, past, headDim]. */
  readonly past?: readonly KeyValue[];
  /** With `past`: int64 [batch, past+seq], the position of every token so far. */
  readonly keyPositionIds?: Value;
}

/** What the trunk gives. */
export interface TrunkOutputs {
  /** The hidden states that the output layer reads: [batch·seq, hidden]. */
  readonly hidden: Value;
  /** Keys and values of all tokens so far, one a layer. */
  readonly present: readonly KeyValue[];
}

/** The sizes that a cache, an exporter or a planner needs. */
export interface ModelSizes {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Longest sequence the model was made for. */
  readonly contextLength: number;
  /**
   * A sequence that grows beyond it is computed otherwise from its first token on (longrope), so that what was cached
   * before does not hold.
   */
  readonly cacheHoldsTo?: number;
}

/** One of several linear maps that a checkpoint stores as one. */
export interface FusedPart {
  readonly name: string;
  /** The rows of the whole [out, in] that are its own, each [from, to). */
  readonly rows: readonly (readonly [from: number, to: number])[];
}

/** Parts that lie one after the other, by name and number of rows. */
export function partsInOrder(sizes: Readonly<Record<string, number>>): readonly FusedPart[] {
  let from = 0;
  return Object.entries(sizes).map(([name, size]) => {
    from += size;
    return { name, rows: [[from - size, from]] };
  });
}

/** The tensor of a name in the checkpoint. */
export type Weights = (name: string) => Value;

/** A graph still open: its inputs, and the outputs by name. */
export interface OpenGraph {
  readonly inputs: readonly InputValue[];
  readonly outputs: Readonly<Record<string, Value>>;
}

/** What a model is made to do. */
export type TaskName =
  | "causal-lm"
  | "sequence-classification"
  | "multi-label-classification"
  | "regression"
  | "token-classification"
  | "sentence-embedding"
  | "image-classification"
  | "multi-label-image-classification"
  | "seq2seq-lm";

/** Scores after every token (as exported models give them), or after the last alone. */
export interface DecodeOptions {
  readonly logits: "all" | "last";
}

/** The graphs of a model made for a task. */
export interface ModelGraphs {
  /**
   * What the model says of its inputs, with the names that transformers.js and optimum use. `rows` names the number of
   * examples where it is not just "batch".
   */
  readonly predict: (rows?: Dim) => OpenGraph;
  /** Of those that continue a text: the negative log-likelihood of labels, and each label's likelihood. */
  readonly loss?: () => OpenGraph;
  readonly likelihood?: (rows?: Dim) => OpenGraph;
  /** Likewise: the log-probability of every token at every target. */
  readonly distribution?: () => OpenGraph;
  /** Likewise: the states that the output layer reads, [batch·seq, hidden], with attention of the caller's. Output: hidden. */
  readonly hidden?: (attention: SequenceAttention) => OpenGraph;
  /** Of those that continue a text: one decoding step. */
  readonly decode?: (options: DecodeOptions) => OpenGraph;
  /** Of those that continue a text: the same step as plain data, where it can be said so. */
  readonly recipe?: () => DecodeRecipe | undefined;
  /** The graphs of an exported model by file name, where it is not one graph of `predict`. */
  readonly parts?: () => Readonly<Record<string, OpenGraph>>;
}

/** A family's model made for one task: its class in transformers, its tensors, its graphs. */
export interface Form<Config = unknown> {
  readonly task: TaskName;
  /** The class that transformers gives it, written into exported configs. */
  readonly className: string;
  /** Checkpoints may leave this off the front of tensor names (`transformer.` in GPT-2's own files). */
  readonly basePrefix: string;
  /** The module of the output layer, which `all-linear` leaves out with all that is in it. */
  readonly outputModule: string;
  /** Every tensor a checkpoint must hold. */
  readonly tensors: (config: Config) => readonly TensorSpec[];
  /** The outputs for labels, where the task has some. */
  readonly head?: {
    /** The module that is trained whole beside an adapter (PEFT's `modules_to_save`). */
    readonly module: string;
    /** What `problem_type` says of it, where heads of one class are told apart by that. */
    readonly problem?: ProblemType;
    /** Further tensors, for a number of labels; those that a checkpoint lacks start anew. */
    readonly tensors: (config: Config, labels: number) => readonly TensorSpec[];
  };
  readonly graphs: (config: Config, weights: Weights, labels: number, attention: SequenceAttention) => ModelGraphs;
  /** What llama.cpp makes of it, if it knows the family. */
  readonly gguf?: (config: Config) => GgufForm;
}

/** A family of models as `models/table.ts` holds it, whatever it is for. */
export interface Family<Config = unknown> extends Configured<Config> {
  /** `model_type` in `config.json`. */
  readonly modelType: string;
  /** Keys of `config.json` that are sizes of tensors. */
  readonly sizeKeys: SizeKeys;
  /** Tensors that files may hold and nobody needs, besides those of all families: all others are refused. */
  readonly harmless: readonly Harmless[];
  /** Whether transformers has classes for it; true unless given. */
  readonly inTransformers?: boolean;
  /** What checkpoints call a tensor, where that is not its module's name. */
  readonly storedName?: (name: string) => string;
  /** Modules whose weights lie [in, out]; tools that quantise turn them to [out, in]. */
  readonly inOut?: RegExp;
  /** Whole paths of the linear maps that end sublayers: what they give is added to the residual. */
  readonly sublayers?: Sublayers;
  /** The output layer that is the table of embeddings, where the configuration ties them. */
  readonly tied?: (config: Config) => TiedTensors | undefined;
  /**
   * The output layer that is the table of embeddings wherever the files do not hold it, whatever the configuration says,
   * and the keys of `config.json` that say so.
   */
  readonly tiedUnlessHeld?: (config: Config) => { readonly output: string; readonly json: ConfigJson };
  /** The token that a decoder beside an encoder begins with, where the configuration names one. */
  readonly startId?: (config: Config) => number | undefined;
  /** The keys of `config.json` that say the output layer is its own. */
  readonly untied?: (config: Config) => ConfigJson;
  readonly sizes: (config: Config) => ModelSizes;
  /** How texts or images become what the model reads. */
  readonly reads: (config: Config) => InputForm;
  /** Modules that hold several linear maps, by the last part of their name. */
  readonly fused?: (config: Config) => Readonly<Record<string, readonly FusedPart[]>>;
  /** What its models can be made for; the first unless something says otherwise. */
  readonly forms: readonly Form<Config>[];
}

/** Two names of one tensor. */
export interface TiedTensors {
  readonly output: string;
  readonly embeddings: string;
}

/** Expressions for the modules that end each kind of sublayer. */
export interface Sublayers {
  readonly attention: RegExp;
  /** Of a decoder, attention to the encoder. */
  readonly crossAttention?: RegExp;
  readonly feedForward: RegExp;
  /** Whether a block norms what it adds a sublayer's output to before it goes on, as BERT does. */
  readonly normed?: true;
}

/** A family of causal language models. Adding one is adding such a record and one line in `models/index.ts`. */
export interface Architecture<Config = unknown> extends Configured<Config> {
  /** `model_type` in `config.json`. */
  readonly modelType: string;
  /** The class that transformers gives it, written into exported configs. */
  readonly className: string;
  /** Checkpoints may leave this off the front of tensor names (`transformer.` in GPT-2's own files). */
  readonly basePrefix: string;
  /** Keys of `config.json` that are sizes of tensors. */
  readonly sizeKeys: SizeKeys;
  /** Tensors that files may hold and nobody needs, besides those of all families: all others are refused. */
  readonly harmless: readonly Harmless[];
  /** Modules whose weights lie [in, out]; tools that quantise turn them to [out, in]. */
  readonly inOut?: RegExp;
  /** Whether positions are the rows of a table, so that nothing longer can be read. */
  readonly positionTable?: true;
  /** The module of the output layer, which `all-linear` leaves out. */
  readonly outputModule: string;
  /** Whole paths of the linear maps that end sublayers: what they give is added to the residual. */
  readonly sublayers?: Sublayers;
  /** The output layer that is the table of embeddings, where the configuration ties them. */
  readonly tied: (config: Config) => TiedTensors | undefined;
  readonly sizes: (config: Config) => ModelSizes;
  /** Every tensor a checkpoint must hold. */
  readonly tensors: (config: Config) => readonly TensorSpec[];
  /** Modules that hold several linear maps, by the last part of their name. */
  readonly fused?: (config: Config) => Readonly<Record<string, readonly FusedPart[]>>;
  readonly trunk: (config: Config, weights: Weights, inputs: TrunkInputs) => TrunkOutputs;
  /** Why its models cannot continue a text a token at a time, if they cannot. */
  readonly wholeOnly?: (config: Config) => string | undefined;
  /** hidden [n, hidden] -> logits [n, vocab]. */
  readonly head: (config: Config, weights: Weights, hidden: Value) => Value;
  /** What llama.cpp makes of it, if it knows the family. */
  readonly gguf?: (config: Config) => GgufForm;
  /** The model as plain data, where it can be said so; without it, packed models decode dequantised. */
  readonly recipe?: (config: Config) => DecodeRecipe | undefined;
}
