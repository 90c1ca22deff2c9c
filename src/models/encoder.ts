import { type Dim, type InputValue, inScope, type Value } from "../graph/index.ts";
import { gather, lengthOf, mul, places, reshapeTo } from "../ops/index.ts";
import type { Family, Form, ModelSizes, Sublayers, TaskName, TensorSpec, Weights } from "./architecture.ts";
import { dense } from "./blocks.ts";
import type { Harmless } from "./harmless.ts";
import type { InputForm } from "./inputs.ts";
import type { Configured } from "./ledger.ts";
import type { ProblemType } from "./shared-ledger.ts";
import type { SizeKeys } from "./sizes.ts";

/** What an encoder makes of a batch. */
export interface Encoded {
  readonly inputs: readonly InputValue[];
  /** [batch·seq, hidden]. */
  readonly hidden: Value;
  readonly batch: Dim;
  readonly seq: Dim;
}

/** What a head is of: tensors named from the model's root, and logits. */
export interface Head<Config> {
  /** The end of transformers' class name: `ForSequenceClassification`. */
  readonly classSuffix: string;
  /** The module that holds the labels' outputs, trained whole beside an adapter. */
  readonly module: string;
  /** What `problem_type` says of it, where heads of one class are told apart by that. */
  readonly problem?: ProblemType;
  /** Tensors besides the trunk's, for a number of labels. */
  readonly tensors: (config: Config, labels: number) => readonly TensorSpec[];
  /** [batch, labels], or [batch·seq, labels] for a head on every token. */
  readonly logits: (config: Config, weights: Weights, encoded: Encoded) => Value;
}

/** A family of encoders. */
export interface Encoder<Config> extends Configured<Config> {
  readonly modelType: string;
  /** The front of transformers' class names: `Bert`. */
  readonly className: string;
  /** The module that holds the trunk in models with a head: `bert`. */
  readonly prefix: string;
  /** Keys of `config.json` that are sizes of tensors. */
  readonly sizeKeys: SizeKeys;
  /** Tensors that files may hold and nobody needs, besides those of all families. */
  readonly harmless: readonly Harmless[];
  /** Whether transformers has classes for it; true unless given. */
  readonly inTransformers?: boolean;
  /** What checkpoints call a tensor, where that is not its module's name. */
  readonly storedName?: (name: string) => string;
  readonly sublayers?: Sublayers;
  readonly sizes: (config: Config) => ModelSizes;
  readonly reads: (config: Config) => InputForm;
  /** Tensors of the trunk, named from its module. */
  readonly tensors: (config: Config) => readonly TensorSpec[];
  /** The hidden states of `rows` texts or images. Names are from the trunk's module. */
  readonly encode: (config: Config, weights: Weights, rows: Dim) => Encoded;
  /** What models of the family can be made for, besides their hidden states. */
  readonly heads: Readonly<Partial<Record<TaskName, Head<Config>>>>;
  /** The embedding of each text where the family has one of its own: [batch, size]. Else tokens are averaged. */
  readonly embedding?: {
    readonly tensors: (config: Config) => readonly TensorSpec[];
    readonly embed: (config: Config, weights: Weights, encoded: Encoded) => Value;
  };
}

/** A family of encoders as a family of models. */
export function encoderFamily<Config>(encoder: Encoder<Config>): Family<Config> {
  const { modelType, harmless, sizeKeys, inTransformers = true, sublayers, sizes, reads, prefix, embedding } = encoder;
  const inTrunk = (name: string): string => `${prefix}.${name}`;
  const heads = Object.entries(encoder.heads).map(([task, head]): Form<Config> => {
    const encode = (config: Config, weights: Weights, rows: Dim): Encoded =>
      inScope(prefix, () => encoder.encode(config, (name) => weights(inTrunk(name)), rows));
    return {
      task: task as TaskName, // a key of `heads`
      className: encoder.className + head.classSuffix,
      basePrefix: `${prefix}.`,
      outputModule: head.module,
      tensors: (config) => encoder.tensors(config).map(({ name, shape }) => ({ name: inTrunk(name), shape })),
      head,
      graphs: (config, weights, labels) => ({
        predict: (rows = "batch") => {
          const encoded = encode(config, weights, rows);
          const logits = head.logits(config, weights, encoded);
          const perRow = logits.shape[0] === encoded.batch;
          const shape = perRow ? [rows, labels] : [rows, encoded.seq, labels];
          return { inputs: encoded.inputs, outputs: { logits: reshapeTo(logits, shape, encoded.inputs) } };
        },
      }),
    };
  });
  const bare: Form<Config> = {
    task: "sentence-embedding",
    className: `${encoder.className}Model`,
    basePrefix: `${prefix}.`,
    outputModule: "",
    tensors: (config) => [...encoder.tensors(config), ...(embedding?.tensors(config) ?? [])],
    graphs: (config, weights) => ({
      predict: (rows = "batch") => {
        const encoded = encoder.encode(config, weights, rows);
        const { inputs, seq, hidden } = encoded;
        if (embedding) return { inputs, outputs: { embeddings: embedding.embed(config, weights, encoded) } };
        const shape = [rows, seq, sizes(config).hiddenSize];
        return { inputs, outputs: { last_hidden_state: reshapeTo(hidden, shape, inputs) } };
      },
    }),
  };
  return {
    modelType,
    harmless,
    sizeKeys,
    inTransformers,
    ...(encoder.storedName ? { storedName: encoder.storedName } : {}),
    ...(sublayers ? { sublayers } : {}),
    ledger: encoder.ledger,
    configure: encoder.configure,
    sizes,
    reads,
    forms: encoder.heads["image-classification"] ? [...heads, bare] : [bare, ...heads],
  };
}

/** The hidden state of each row's first token: [batch, hidden]. */
export function firstTokens({ hidden, inputs, seq }: Encoded): Value {
  const rows = places(inputs[0] as Value, 0); // every encoder reads something
  return gather(hidden, mul(rows, typeof seq === "number" ? seq : lengthOf(inputs[0] as Value, 1)));
}

/** Both tensors of a linear layer [out, in]. */
export function linearTensors(module: string, out: number, into: number): readonly TensorSpec[] {
  return [
    { name: `${module}.weight`, shape: [out, into] },
    { name: `${module}.bias`, shape: [out] },
  ];
}

/** Both tensors of a layer norm. */
export function normTensors(module: string, size: number): readonly TensorSpec[] {
  return [
    { name: `${module}.weight`, shape: [size] },
    { name: `${module}.bias`, shape: [size] },
  ];
}

/** A linear layer on every token: what all encoders classify tokens with. */
export function tokenHead<Config>(sizes: (config: Config) => ModelSizes): Head<Config> {
  return {
    classSuffix: "ForTokenClassification",
    module: "classifier",
    tensors: (config, labels) => linearTensors("classifier", labels, sizes(config).hiddenSize),
    logits: (_config, weights, { hidden }) => dense(weights, "classifier", hidden, { bias: true }),
  };
}

/** Heads of whole texts are the same tensors, told apart by what is learnt: one label, several, or scores. */
export function sequenceHeads<Config>(
  head: Omit<Head<Config>, "classSuffix">,
): Pick<
  Readonly<Record<TaskName, Head<Config>>>,
  "sequence-classification" | "multi-label-classification" | "regression"
> {
  const whole = { classSuffix: "ForSequenceClassification", ...head };
  return {
    "sequence-classification": { ...whole, problem: "single_label_classification" },
    "multi-label-classification": { ...whole, problem: "multi_label_classification" },
    regression: { ...whole, problem: "regression" },
  };
}

/** Likewise of whole images. */
export function imageHeads<Config>(
  head: Omit<Head<Config>, "classSuffix">,
): Pick<Readonly<Record<TaskName, Head<Config>>>, "image-classification" | "multi-label-image-classification"> {
  const whole = { classSuffix: "ForImageClassification", ...head };
  return {
    "image-classification": { ...whole, problem: "single_label_classification" },
    "multi-label-image-classification": { ...whole, problem: "multi_label_classification" },
  };
}
