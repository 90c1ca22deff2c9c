import type { Value } from "../graph/index.ts";
import type { ConfigJson } from "./config.ts";

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
}

/**
 * Attention of a layer's heads: query [batch, heads, seq, headDim], keys and values [batch, kvHeads, total, headDim] ->
 * [batch·seq, heads·headDim].
 */
export type Attend = (query: Value, cache: KeyValue, options: AttendOptions) => Value;

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
}

/** The tensor of a name in the checkpoint. */
export type Weights = (name: string) => Value;

/** A family of causal language models. Adding one is adding such a record and one line in `models/index.ts`. */
export interface Architecture<Config = unknown> {
  /** `model_type` in `config.json`. */
  readonly modelType: string;
  /** The class that transformers gives it, written into exported configs. */
  readonly className: string;
  /** Checkpoints may leave this off the front of tensor names (`transformer.` in GPT-2's own files). */
  readonly basePrefix: string;
  /** Tensors that files may hold and nobody needs (buffers of old versions). */
  readonly ignored: RegExp;
  /** The module of the output layer, which `all-linear` leaves out. */
  readonly outputModule: string;
  /** What adapters attach to unless told otherwise: the last part of module names, as PEFT's defaults. */
  readonly defaultTargets: readonly string[];
  /** Check and translate `config.json`. @throws {TuneError} `bad-config` naming every field that cannot be used. */
  readonly configure: (json: ConfigJson) => Config;
  readonly sizes: (config: Config) => ModelSizes;
  /** Every tensor a checkpoint must hold. */
  readonly tensors: (config: Config) => readonly TensorSpec[];
  readonly trunk: (config: Config, weights: Weights, inputs: TrunkInputs) => TrunkOutputs;
  /** hidden [n, hidden] -> logits [n, vocab]. */
  readonly head: (config: Config, weights: Weights, hidden: Value) => Value;
}
