import { TuneError } from "../errors.ts";
import { constant, type Dim, type InputValue, input, inScope, mulDims, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  CumSum,
  concat,
  equalSplit,
  gather,
  gatherElements,
  logSoftmax,
  max,
  mul,
  neg,
  reciprocal,
  reshape,
  reshapeTo,
  slice,
  sub,
  sumAll,
  unsqueeze,
} from "../ops/index.ts";
import type {
  Architecture,
  DecodeOptions,
  Family,
  KeyValue,
  OpenGraph,
  SequenceAttention,
  Weights,
} from "./architecture.ts";
import { cachedAttention } from "./attention.ts";
import { tokenInputs } from "./inputs.ts";

/** A family of causal language models as a family of models. */
export function causalFamily<Config>(architecture: Architecture<Config>): Family<Config> {
  const { modelType, className, basePrefix, harmless, sizeKeys, inOut, outputModule, sublayers, sizes } = architecture;
  return {
    modelType,
    harmless,
    sizeKeys,
    ...(inOut ? { inOut } : {}),
    ...(sublayers ? { sublayers } : {}),
    ledger: architecture.ledger,
    configure: architecture.configure,
    tied: architecture.tied,
    untied: () => ({ tie_word_embeddings: false }),
    sizes,
    ...(architecture.fused ? { fused: architecture.fused } : {}),
    reads: (config) => tokenInputs(sizes(config).contextLength, { table: architecture.positionTable === true }),
    forms: [
      {
        task: "causal-lm",
        className,
        basePrefix,
        outputModule,
        tensors: architecture.tensors,
        ...(architecture.gguf ? { gguf: architecture.gguf } : {}),
        graphs: (config, weights, _labels, attention) => ({
          predict: () => decodeGraph(architecture, config, weights, { logits: "all" }),
          ...(architecture.wholeOnly?.(config) ? { parts: () => refuseSteps(architecture, config) } : {}),
          loss: () => lossGraph(architecture, config, weights, attention),
          likelihood: (rows) => likelihoodGraph(architecture, config, weights, attention, rows),
          hidden: (attended) => {
            const { inputs, hidden } = causalHidden(architecture, config, weights, attended);
            return { inputs, outputs: { hidden } };
          },
          recipe: () => architecture.recipe?.(config),
          distribution: () => distributionGraph(architecture, config, weights, attention),
          decode: (options) =>
            architecture.wholeOnly?.(config)
              ? refuseSteps(architecture, config)
              : decodeGraph(architecture, config, weights, options),
        }),
      },
    ],
  };
}

function refuseSteps<Config>({ modelType, wholeOnly }: Architecture<Config>, config: Config): never {
  throw new TuneError("task-mismatch", `This ${modelType} model cannot continue a text: ${wholeOnly?.(config)}.`, {
    at: "config.json",
    fix: "tune it, evaluate it, or export its adapter or its merged weights",
  });
}

/** A batch has a multiple of this many targets, so that they can be cut into as many chunks, or half as many, …. */
export const targetMultiple = 16;

/**
 * In how many chunks, one after the other, the logits of a batch are computed: as few as keep a chunk within 16384
 * logits for each of a batch's targets. Every chunk reads the output layer's weight once more.
 */
function targetChunks(vocabSize: number): number {
  let chunks = 1;
  while (chunks < targetMultiple && vocabSize / chunks > 16384) chunks *= 2;
  return chunks;
}

/** The output of training graphs whose attention is watched: shares of what is allowed, one a watched head. */
export const watchedShares = "attention_shares";

/** The log-likelihoods of labels, in chunks [targets/chunks, 1], and how to cut other values of [targets] likewise. */
interface Likelihoods {
  readonly inputs: readonly InputValue[];
  readonly targets: InputValue["shape"][number];
  readonly chunks: readonly Value[];
  readonly chunksOf: (value: Value) => readonly Value[];
  /** What else the graph gives: {@link watchedShares}, where attention is watched. */
  readonly watched: OpenGraph["outputs"];
}

/**
 * Log-likelihoods of labels given hidden states [n, hidden].
 * Inputs: target_positions int64 [targets], the rows that count; labels int64 [targets], the tokens after them. Targets
 * are a multiple of {@link targetMultiple}; a large vocabulary's logits exist of one chunk of them at a time, and only
 * at the targets.
 */
function likelihoodsOf(hidden: Value, head: (rows: Value) => Value, vocabSize: number): Likelihoods {
  const targets = mulDims("chunk", targetMultiple);
  const targetPositions = input("target_positions", "int64", [targets]);
  const labels = input("labels", "int64", [targets]);
  const chunks = targetChunks(vocabSize);
  const chunksOf = (value: Value): readonly Value[] => (chunks === 1 ? [value] : equalSplit(value, chunks, 0));
  const chunkLabels = chunksOf(unsqueeze(labels, [1]));
  const likelihoods = chunksOf(gather(hidden, targetPositions)).map(
    (chunk, i) => gatherElements(logSoftmax(head(chunk)), chunkLabels[i] as Value, 1), // as many chunks of each
  );
  return { inputs: [targetPositions, labels], targets, chunks: likelihoods, chunksOf, watched: {} };
}

/**
 * The likelihoods of a causal language model. Inputs, besides those of {@link likelihoodsOf}: input_ids and
 * position_ids int64 [batch, seq], right-padded to a multiple of what `attention` takes, where a document begins at
 * every position 0.
 */
function causalLikelihoods<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  attention: SequenceAttention,
  rows?: Dim,
): Likelihoods {
  const { inputs: read, hidden, watched } = causalHidden(architecture, config, weights, attention, rows);
  const head = (rows: Value): Value => architecture.head(config, weights, rows);
  const { inputs, ...rest } = likelihoodsOf(hidden, head, architecture.sizes(config).vocabSize);
  return { ...rest, inputs: [...read, ...inputs], watched };
}

/** The hidden states of whole sequences, and the inputs they are computed from. */
function causalHidden<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  { multiple, attend }: SequenceAttention,
  rows: Dim = "batch",
): { readonly inputs: readonly InputValue[]; readonly hidden: Value; readonly watched: OpenGraph["outputs"] } {
  const seq = mulDims("block", multiple);
  const inputIds = input("input_ids", "int64", [rows, seq]);
  const positionIds = input("position_ids", "int64", [rows, seq]);
  const shares: Value[] = [];
  const attended = attend(positionIds, (share) => void shares.push(share));
  const { hidden } = architecture.trunk(config, weights, { inputIds, positionIds, attend: attended });
  const watched = shares.length === 0 ? {} : { [watchedShares]: concat(shares, 0) };
  return { inputs: [inputIds, positionIds], hidden, watched };
}

/**
 * The weighted negative log-likelihood of labels given hidden states [n, hidden], summed over targets and divided by
 * `normaliser`. Inputs: those of {@link likelihoodsOf}, label_weights float32 [targets] and normaliser float32 [].
 * Output: loss float32 [].
 */
export function negativeLikelihood(hidden: Value, head: (rows: Value) => Value, vocabSize: number): OpenGraph {
  return weighted(likelihoodsOf(hidden, head, vocabSize));
}

/** The training objective of a causal language model: {@link negativeLikelihood} of {@link causalLikelihoods}. */
export function lossGraph<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  attention: SequenceAttention,
): OpenGraph {
  return weighted(causalLikelihoods(architecture, config, weights, attention));
}

function weighted({ inputs, targets, chunks, chunksOf, watched }: Likelihoods): OpenGraph {
  const labelWeights = input("label_weights", "float32", [targets]);
  const normaliser = input("normaliser", "float32", []);
  const chunkWeights = chunksOf(unsqueeze(labelWeights, [1]));
  const sums = chunks.map((likelihood, i) => {
    // Adds nothing; but the gradient of a chunk's logits now depends on their likelihood, so that the logits are not
    // kept for it beyond.
    const tied = add(chunkWeights[i] as Value, mul(likelihood, 0)); // as many chunks of each
    return sumAll(mul(likelihood, tied));
  });
  const loss = mul(neg(sums.reduce((total, sum) => add(total, sum))), reciprocal(normaliser));
  return { inputs: [...inputs, labelWeights, normaliser], outputs: { loss, ...watched } };
}

/**
 * The log-likelihood of each label, for objectives that weigh answers against each other. Inputs: those of
 * {@link causalLikelihoods}, with `rows` rows ("batch" unless given). Output: likelihood float32 [targets, 1].
 */
export function likelihoodGraph<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  attention: SequenceAttention,
  rows?: Dim,
): OpenGraph {
  const { inputs, chunks, watched } = causalLikelihoods(architecture, config, weights, attention, rows);
  const [only] = chunks as [Value]; // there is one at least
  return { inputs, outputs: { likelihood: chunks.length === 1 ? only : concat(chunks, 0), ...watched } };
}

/**
 * The log-probability of every token after each target, to learn from another model's. Inputs: input_ids and position_ids
 * as {@link lossGraph}'s, target_positions int64 [targets]. Output: distribution float32 [targets, vocab]: unlike the
 * loss, all of it at once.
 */
export function distributionGraph<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  attention: SequenceAttention,
): OpenGraph {
  const { inputs, hidden, watched } = causalHidden(architecture, config, weights, attention);
  const targetPositions = input("target_positions", "int64", [mulDims("chunk", targetMultiple)]);
  const distribution = logSoftmax(architecture.head(config, weights, gather(hidden, targetPositions)));
  return { inputs: [...inputs, targetPositions], outputs: { distribution, ...watched } };
}

/**
 * One decoding step, with the names that transformers.js and optimum use.
 * Inputs: input_ids, position_ids int64 [batch, seq]; attention_mask int64 [batch, past+seq];
 * past_key_values.N.key and .value float32 [batch, kvHeads, past, headDim].
 * Outputs: logits float32 [batch, seq or 1, vocab]; present.N.key and .value [batch, kvHeads, past+seq, headDim].
 */
export function decodeGraph<Config>(
  architecture: Architecture<Config>,
  config: Config,
  weights: Weights,
  { logits }: DecodeOptions,
): OpenGraph {
  const { layers, kvHeads, headDim, hiddenSize, vocabSize } = architecture.sizes(config);
  const inputIds = input("input_ids", "int64", ["batch", "seq"]);
  const attentionMask = input("attention_mask", "int64", ["batch", "past+seq"]);
  const positionIds = input("position_ids", "int64", ["batch", "seq"]);
  const cached = (i: number, part: string): InputValue =>
    input(`past_key_values.${i}.${part}`, "float32", ["batch", kvHeads, "past", headDim]);
  const past = Array.from({ length: layers }, (_, i) => ({ key: cached(i, "key"), value: cached(i, "value") }));
  const attend = cachedAttention(inputIds, attentionMask);
  const keyPositionIds = inScope("mask", () => {
    const counted = apply(CumSum, [attentionMask, constant(1, "int64")]);
    return max(sub(counted, 1), 0); // padding on the left counts for nothing
  });
  const { hidden, present } = architecture.trunk(config, weights, {
    inputIds,
    positionIds,
    attend,
    past,
    keyPositionIds,
  });
  const rows = reshapeTo(hidden, ["batch", "seq", hiddenSize], [inputIds]);
  const read = logits === "all" ? hidden : reshape(slice(rows, [-1], [2 ** 31 - 1], [1]), ["batch", hiddenSize]);
  const flat = architecture.head(config, weights, read);
  const outputs: Record<string, Value> = {
    logits: reshapeTo(flat, ["batch", logits === "all" ? "seq" : 1, vocabSize], [inputIds]),
  };
  present.forEach(({ key, value }: KeyValue, i) => {
    outputs[`present.${i}.key`] = key;
    outputs[`present.${i}.value`] = value;
  });
  return { inputs: [inputIds, attentionMask, positionIds, ...past.flatMap(({ key, value }) => [key, value])], outputs };
}
