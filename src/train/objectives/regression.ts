import { type InputValue, input, tensor, type Value } from "../../graph/index.ts";
import { mul, reciprocal, sub, sumAll } from "../../ops/index.ts";
import { answeredBatch } from "./feed.ts";
import { defineObjective, type Objective, oneRowEach } from "./objective.ts";

/** One score a text, or several: the mean squared error over all of them, as torch's `MSELoss`. */
export const regression: Objective = defineObjective({
  name: "regression",
  summary: "give a text a score, or several",
  fields: {},
  learnsFrom: "score",
  meanOver: "examples",
  examples: oneRowEach,
  forward: (model) => model.predict(),
  loss: ({ tuned }) => {
    const logits = tuned["logits"] as Value; // [batch, scores]
    const { labels, mean, normaliser } = heldAgainst(logits);
    const error = sub(logits, labels);
    return { inputs: [labels, normaliser], loss: mean(mul(error, error)), measures: {} };
  },
  batch: (examples, layout) =>
    answeredBatch(examples, layout, (answers, each) => tensor("float32", [examples.length, each], answers)),
});

/** What every output of a head is held against: logits [batch, outputs], labels float32 [batch, outputs]. */
export function heldAgainst(logits: Value): {
  readonly labels: InputValue;
  readonly normaliser: InputValue;
  /** The mean over outputs of values [batch, outputs], summed over the batch and divided by `normaliser`. */
  readonly mean: (values: Value) => Value;
} {
  const [batch = 1, outputs = 1] = logits.shape;
  const normaliser = input("normaliser", "float32", []);
  return {
    labels: input("labels", "float32", [batch, outputs]),
    normaliser,
    mean: (values) => mul(mul(sumAll(values), 1 / Number(outputs)), reciprocal(normaliser)), // a head's outputs are known
  };
}
