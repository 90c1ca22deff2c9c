import { type InputValue, input, tensor, type Value } from "../../graph/index.ts";
import {
  ArgMax,
  apply,
  cast,
  equal,
  gatherElements,
  logSoftmax,
  mul,
  neg,
  reciprocal,
  squeeze,
  sumAll,
  unsqueeze,
} from "../../ops/index.ts";
import { answeredBatch } from "./feed.ts";
import { defineObjective, type Loss, type Objective, oneRowEach } from "./objective.ts";

/** One label a text or an image: the mean cross-entropy, and how often the likeliest label is right. */
export const classification: Objective = defineObjective({
  name: "classification",
  summary: "say which of some labels a text or an image has",
  fields: {},
  learnsFrom: "label",
  meanOver: "examples",
  examples: oneRowEach,
  forward: (model) => model.predict(),
  loss: ({ tuned }) => {
    const logits = tuned["logits"] as Value; // of every model with labels
    return crossEntropy(logits, input("labels", "int64", [logits.shape[0] ?? 1]), undefined);
  },
  batch: (examples, layout) => answeredBatch(examples, layout, (answers) => tensor("int64", [answers.length], answers)),
});

/**
 * −Σ w·log softmax(logits)[label] / normaliser, and the share of labels that are the likeliest.
 * logits [n, labels], labels int64 [n], weights float32 [n] or none.
 */
export function crossEntropy(logits: Value, labels: InputValue, weights: InputValue | undefined): Loss {
  const normaliser = input("normaliser", "float32", []);
  const column = unsqueeze(labels, [1]);
  const likelihood = gatherElements(logSoftmax(logits), column, 1);
  const right = cast(equal(apply(ArgMax, [logits], { axis: { type: "int", value: 1 } }), column), "float32");
  const weighted = (value: Value): Value => {
    const flat = squeeze(value, [1]);
    return mul(sumAll(weights ? mul(flat, weights) : flat), reciprocal(normaliser));
  };
  return {
    inputs: [labels, ...(weights ? [weights] : []), normaliser],
    loss: neg(weighted(likelihood)),
    measures: { accuracy: weighted(right) },
  };
}
