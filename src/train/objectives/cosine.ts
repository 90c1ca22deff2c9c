import { input, tensor } from "../../graph/index.ts";
import { mul, reciprocal, reduceSum, squeeze, sub, sumAll } from "../../ops/index.ts";
import { embeddingForward, pairBatch, sides } from "./embedding.ts";
import { defineObjective, type Objective } from "./objective.ts";

/**
 * The cosine of two texts is to be the score of the pair: the mean squared error. Reimers & Gurevych 2019
 * (arXiv 1908.10084), §3; `CosineSimilarityLoss` in sentence-transformers.
 */
export const cosine: Objective = defineObjective({
  name: "cosine",
  summary: "make the cosine of two texts how alike they are",
  fields: {},
  learnsFrom: "scored-texts",
  meanOver: "pairs",
  examples: { rows: "2*pairs", examples: "pairs", pairs: "halves" },
  forward: embeddingForward,
  loss: ({ tuned }) => {
    const [first, second] = sides(tuned);
    const labels = input("labels", "float32", ["pairs"]);
    const normaliser = input("normaliser", "float32", []);
    const error = sub(squeeze(reduceSum(mul(first, second), [1]), [1]), labels);
    return {
      inputs: [labels, normaliser],
      loss: mul(sumAll(mul(error, error)), reciprocal(normaliser)),
      measures: {},
    };
  },
  batch: (examples, layout) => {
    const batch = pairBatch(examples, layout);
    const scores = examples.map(({ answers }) => answers?.[0] ?? 0);
    return { ...batch, feeds: { ...batch.feeds, labels: tensor("float32", [scores.length], scores) } };
  },
});
