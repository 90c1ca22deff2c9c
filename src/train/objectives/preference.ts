import { type InputValue, input, tensor, type Value } from "../../graph/index.ts";
import type { OpenGraph, PretrainedModel } from "../../models/index.ts";
import { cast, gemm, greater, mul, reciprocal, sub, sumAll } from "../../ops/index.ts";
import { type Batch, type LayoutOptions, makeBatch, sequencesOf, type TokenizedExample } from "../data/index.ts";
import type { Computed, Loss } from "./objective.ts";

/**
 * What learning from preferences reads of a pair: log π(y|x) − log π_ref(y|x) of the chosen and of the rejected answer,
 * each [pairs, 1] (the reference being the model with its adapter off).
 */
export interface LogRatios {
  readonly chosen: Value;
  readonly rejected: Value;
}

/**
 * The log-likelihood of every target, for {@link preferenceLoss}. Where examples are alone, the answers of a pair are rows
 * next to each other.
 */
export function preferenceForward(model: PretrainedModel, { alone = false }: { alone?: boolean } = {}): OpenGraph {
  return model.likelihood(alone ? "2*pair" : undefined);
}

/**
 * The mean over pairs of a loss of their log-ratios, [pairs, 1]. Measures, as TRL reports them: the implicit rewards
 * β·log(π/π_ref) of the chosen and the rejected answers, the margin between them, and the share of pairs whose chosen
 * answer has the larger one (Rafailov et al. 2023, arXiv 2305.18290, §5).
 */
export function preferenceLoss(
  { tuned, pretrained }: Computed,
  beta: number,
  lossOf: (ratios: LogRatios) => Value,
): Loss {
  const gain = sub(tuned["likelihood"] as Value, pretrained["likelihood"] as Value); // as `preferenceForward` names it
  const targets = gain.shape[0] as string;
  const sides = {
    chosen: input("chosen", "float32", ["pair", targets]),
    rejected: input("rejected", "float32", ["pair", targets]),
  };
  const normaliser = input("normaliser", "float32", []);
  const ratios: LogRatios = { chosen: gemm(sides.chosen, gain), rejected: gemm(sides.rejected, gain) };
  const mean = (value: Value): Value => mul(sumAll(value), reciprocal(normaliser));
  const inputs: readonly InputValue[] = [sides.chosen, sides.rejected, normaliser];
  return {
    inputs,
    loss: mean(lossOf(ratios)),
    measures: {
      reward_chosen: mul(mean(ratios.chosen), beta),
      reward_rejected: mul(mean(ratios.rejected), beta),
      reward_margin: mul(mean(sub(ratios.chosen, ratios.rejected)), beta),
      reward_accuracy: mean(cast(greater(ratios.chosen, ratios.rejected), "float32")),
    },
  };
}

/**
 * Lay pairs out as twice as many documents, the prompt in front of both answers. Feeds, besides what the model reads:
 * chosen and rejected [pairs, targets], where each row adds up the targets of one answer (or, `averaged`, takes their
 * mean).
 */
export function preferenceBatch(
  examples: readonly TokenizedExample[],
  layout: LayoutOptions,
  { averaged }: { readonly averaged: boolean },
): Batch {
  const sequences = examples.flatMap(sequencesOf);
  const { feeds, sizes, tokens, owners } = makeBatch(sequences, layout);
  const { label_weights: _weights, ...read } = feeds;
  const labelled = sequences.map((_, i) => owners.filter((owner) => owner === i).length);
  const side = (offset: 0 | 1): Float32Array => {
    const rows = new Float32Array(examples.length * feeds.labels.data.length);
    owners.forEach((owner, target) => {
      if (owner % 2 !== offset) return;
      rows[((owner - offset) / 2) * feeds.labels.data.length + target] = averaged ? 1 / (labelled[owner] as number) : 1;
    });
    return rows;
  };
  const shape = [examples.length, feeds.labels.data.length];
  return {
    feeds: { ...read, chosen: tensor("float32", shape, side(0)), rejected: tensor("float32", shape, side(1)) },
    sizes: { ...sizes, pair: examples.length },
    tokens,
    targets: examples.length,
  };
}
