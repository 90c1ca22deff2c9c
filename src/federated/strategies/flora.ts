import { createRng, emptyLike, type Floats, type Matrix } from "../../linalg/index.ts";
import { inOrder, need, pieceName } from "../factors.ts";
import { stacks, trainedByClients, withStacks } from "./stacked.ts";
import { defineStrategy, moved, type Strategy } from "./strategy.ts";

/**
 * Both factors are trained; the clients' products are added to the weights, without loss as a stack of factors, and every round
 * begins with a new A and no update: FLoRA, Wang et al. 2024 (arXiv 2409.05976), §3.2.
 */
export const flora: Strategy<Record<never, never>> = defineStrategy({
  name: "flora",
  summary: "train A and B, add the products to the weights as a stack, begin anew every round (FLoRA)",
  cite: {
    title: "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations",
    authors: "Ziyao Wang and Zheyu Shen and Yexiao He and Guoheng Sun and Hongyi Wang and Lingjuan Lyu and Ang Li",
    year: 2024,
    arxiv: "2409.05976",
    at: "§3.2",
  },
  fields: {},
  samples: [{}],
  trains: ["A", "B"],
  rules: ["mean"],
  carries: () => true,
  finish: (base, changes, context) => {
    const whole = [...moved(base, changes, context, ["A", "B"])].filter(([name]) => name.startsWith("W/"));
    return inOrder([...whole, ...stacks(trainedByClients(base, changes, context.aggregation))]);
  },
  follow: (base, news, { round, seed }) => ({
    factors: new Map(
      [...base.factors].map(([module, { A, B }]) => [
        module,
        { A: kaiming(A, seed, round, module), B: { ...B, data: emptyLike(B.data, B.data.length) } },
      ]),
    ),
    whole: new Map([...base.whole.keys()].map((name) => [name, need(news, pieceName("W", name))])),
    residual: withStacks(base, news),
  }),
});

/** LoRA's own start, uniform in ±1/√in, by a seed that everybody knows. */
function kaiming<T extends Floats>(like: Matrix<T>, seed: number, round: number, module: string): Matrix<T> {
  const rng = createRng(seed, "flora", round, module);
  const bound = 1 / Math.sqrt(like.cols);
  return { ...like, data: like.data.map(() => bound * (2 * rng.uniform() - 1)) as T }; // its own type
}
