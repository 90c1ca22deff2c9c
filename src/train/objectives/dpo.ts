import { real } from "../../fields.ts";
import { constant, type Value } from "../../graph/index.ts";
import { concat, logSoftmax, mul, neg } from "../../ops/index.ts";
import { defineObjective, type Objective } from "./objective.ts";
import { preferenceBatch, preferenceForward, preferenceLoss } from "./preference.ts";

/** Options of {@link dpo}. */
export interface DpoConfig {
  readonly beta: number;
  readonly labelSmoothing: number;
}

/**
 * Direct preference optimisation: −log σ(β(r_chosen − r_rejected)), r = log(π/π_ref). Rafailov et al. 2023, eq. (7).
 * `labelSmoothing` ε takes the labels to be swapped that often: (1 − ε)·L + ε·L(swapped), the conservative loss of
 * Mitchell 2023 ("A note on DPO with noisy preferences", eq. 3). σ is written as the softmax over the two answers, the
 * Bradley-Terry model itself (eq. 1), which overflows nowhere.
 */
export const dpo: Objective<DpoConfig> = defineObjective<DpoConfig>({
  name: "dpo",
  summary: "prefer the chosen answers to the rejected ones, near the model as it was",
  cite: {
    title: "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    authors: "Rafailov, Sharma, Mitchell, Ermon, Manning, Finn",
    year: 2023,
    arxiv: "2305.18290",
    at: "§4 eq. (7)",
  },
  fields: {
    beta: real(0.1, "how dearly leaving the pretrained model is paid", { min: 0 }),
    labelSmoothing: real(0, "share of preferences taken to be the wrong way round", { min: 0, below: 0.5 }),
  },
  learnsFrom: "pair",
  rateFactor: 0.1,
  meanOver: "pairs",
  examples: { rows: "2*pair", examples: "pair", pairs: "neighbours" },
  forward: preferenceForward,
  loss: (computed, { beta, labelSmoothing }) =>
    preferenceLoss(computed, beta, ({ chosen, rejected }): Value => {
      const likelihoods = logSoftmax(mul(concat([chosen, rejected], 1), beta));
      return neg(mul(likelihoods, constant([1 - labelSmoothing, labelSmoothing])));
    }),
  batch: (examples, layout) => preferenceBatch(examples, layout, { averaged: false }),
});
