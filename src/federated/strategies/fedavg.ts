import { anyRule, defineStrategy, moved, replaced, type Strategy } from "./strategy.ts";

/**
 * Both factors are trained and averaged: FedIT, Zhang et al. 2023 (arXiv 2305.05644), §3.2. The product of two means is not the
 * mean of the products.
 */
export const fedavg: Strategy<Record<never, never>> = defineStrategy({
  name: "fedavg",
  summary: "train A and B, average each (FedIT)",
  cite: {
    title: "Towards Building the Federated GPT: Federated Instruction Tuning",
    authors:
      "Jianyi Zhang and Saeed Vahidian and Martin Kuo and Chunyuan Li and Ruiyi Zhang and Tong Yu and Yufan Zhou and Guoyin Wang and Yiran Chen",
    year: 2023,
    arxiv: "2305.05644",
    at: "§3.2",
  },
  fields: {},
  samples: [{}],
  trains: ["A", "B"],
  rules: anyRule,
  carries: () => false,
  finish: (base, changes, context) => moved(base, changes, context, ["A", "B"]),
  follow: replaced,
});
