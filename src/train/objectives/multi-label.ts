import { tensor, type Value } from "../../graph/index.ts";
import {
  cast,
  concat,
  equal,
  greaterOrEqual,
  logSoftmax,
  mul,
  neg,
  reciprocal,
  reduceSum,
  reshape,
  sub,
  sumAll,
} from "../../ops/index.ts";
import { answeredBatch } from "./feed.ts";
import { defineObjective, type Objective, oneRowEach } from "./objective.ts";
import { heldAgainst } from "./regression.ts";

/**
 * Any number of labels a text or an image, each by itself: the binary cross-entropy of σ(logit), the mean over all labels of
 * all examples, as torch's `BCEWithLogitsLoss`; and how often all labels of an example are right, where those of probability
 * 0.5 and above are given. σ is written as the softmax over having a label and not, which overflows nowhere.
 */
export const multiLabelClassification: Objective = defineObjective({
  name: "multi-label-classification",
  summary: "say of each label whether a text or an image has it",
  fields: {},
  learnsFrom: "labels",
  meanOver: "examples",
  examples: oneRowEach,
  forward: (model) => model.predict(),
  loss: ({ tuned }) => {
    const logits = tuned["logits"] as Value; // [batch, labels]
    const { labels, normaliser, mean } = heldAgainst(logits);
    const column = (values: Value): Value => reshape(values, [-1, 1]);
    const likelihoods = logSoftmax(concat([mul(column(logits), 0.5), mul(column(logits), -0.5)], 1));
    const share = column(labels);
    const right = equal(cast(greaterOrEqual(logits, 0), "float32"), cast(greaterOrEqual(labels, 0.5), "float32"));
    const whole = equal(reduceSum(cast(right, "float32"), [1]), Number(logits.shape[1])); // a head's outputs are known
    return {
      inputs: [labels, normaliser],
      loss: neg(mean(mul(likelihoods, concat([share, sub(1, share)], 1)))),
      measures: { exactMatch: mul(sumAll(cast(whole, "float32")), reciprocal(normaliser)) },
    };
  },
  batch: (examples, layout) =>
    answeredBatch(examples, layout, (answers, each) => tensor("float32", [examples.length, each], answers)),
});
