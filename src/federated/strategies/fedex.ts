import { inOrder, need, pieceName } from "../factors.ts";
import { factorsIn, stacks, trainedByClients, withStacks } from "./stacked.ts";
import { defineStrategy, moved, type Strategy } from "./strategy.ts";

/**
 * Both factors are trained and averaged, and what the product of the means lacks of the mean of the products is added to the
 * weights: FedEx-LoRA, Singhal et al. 2024 (arXiv 2410.09432), §4. That is Σ wₖ·(Bₖ − B̄)·(Aₖ − Ā), a stack of factors.
 */
export const fedex: Strategy<Record<never, never>> = defineStrategy({
  name: "fedex",
  summary: "train A and B, average each, and add to the weights what that leaves out (FedEx-LoRA)",
  cite: {
    title: "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models",
    authors: "Raghav Singhal and Kaustubh Ponkshe and Praneeth Vepakomma",
    year: 2024,
    arxiv: "2410.09432",
    at: "§4",
  },
  fields: {},
  samples: [{}],
  trains: ["A", "B"],
  rules: ["mean"],
  carries: () => true,
  finish: (base, changes, context) => {
    const means = moved(base, changes, context, ["A", "B"]);
    const clients = trainedByClients(base, changes, context.aggregation);
    return inOrder([...means, ...stacks(clients, factorsIn(base, means))]);
  },
  follow: (base, news) => ({
    factors: factorsIn(base, news),
    whole: new Map([...base.whole.keys()].map((name) => [name, need(news, pieceName("W", name))])),
    residual: withStacks(base, news),
  }),
});
