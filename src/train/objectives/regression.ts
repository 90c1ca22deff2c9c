import { input, tensor, type Value } from "../../graph/index.ts";
import { mul, reciprocal, squeeze, sub, sumAll } from "../../ops/index.ts";
import { answeredBatch } from "./feed.ts";
import { defineObjective, type Objective } from "./objective.ts";

/** One score a text: the mean squared error. */
export const regression: Objective = defineObjective({
  name: "regression",
  summary: "give a text a score",
  fields: {},
  learnsFrom: "score",
  meanOver: "examples",
  forward: (model) => model.predict(),
  loss: ({ tuned }) => {
    const logits = tuned["logits"] as Value; // [batch, 1]
    const labels = input("labels", "float32", [logits.shape[0] ?? 1]);
    const normaliser = input("normaliser", "float32", []);
    const error = sub(squeeze(logits, [1]), labels);
    return {
      inputs: [labels, normaliser],
      loss: mul(sumAll(mul(error, error)), reciprocal(normaliser)),
      measures: {},
    };
  },
  batch: (examples, layout) => answeredBatch(examples, layout, (answers, shape) => tensor("float32", shape, answers)),
});
