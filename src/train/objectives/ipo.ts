import { real } from "../../fields.ts";
import { mul, sub } from "../../ops/index.ts";
import { defineObjective, type Objective } from "./objective.ts";
import { preferenceBatch, preferenceForward, preferenceLoss } from "./preference.ts";

/** Options of {@link ipo}. */
export interface IpoConfig {
  readonly beta: number;
}

/**
 * Identity preference optimisation: (r_chosen − r_rejected − 1/(2β))², r = log(π/π_ref) as a mean over the answer's
 * tokens. Azar et al. 2023, eq. (17), where β is τ; the means over tokens are TRL's, after the authors' advice.
 */
export const ipo: Objective<IpoConfig> = defineObjective<IpoConfig>({
  name: "ipo",
  summary: "as dpo, towards a fixed margin instead of an ever larger one",
  cite: {
    title: "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    authors: "Azar, Rowland, Piot, Guo, Calandriello, Valko, Munos",
    year: 2023,
    arxiv: "2310.12036",
    at: "§5 eq. (17)",
  },
  fields: { beta: real(0.1, "how dearly leaving the pretrained model is paid", { min: 1e-6 }) },
  learnsFrom: "pair",
  rateFactor: 0.1,
  meanOver: "pairs",
  examples: { rows: "2*pair", examples: "pair", pairs: "neighbours" },
  forward: preferenceForward,
  loss: (computed, { beta }) =>
    preferenceLoss(computed, beta, ({ chosen, rejected }) => {
      const short = sub(sub(chosen, rejected), 1 / (2 * beta));
      return mul(short, short);
    }),
  batch: (examples, layout) => preferenceBatch(examples, layout, { averaged: true }),
});
