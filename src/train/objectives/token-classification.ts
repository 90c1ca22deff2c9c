import { input, mulDims, tensor, type Value } from "../../graph/index.ts";
import { reshape } from "../../ops/index.ts";
import { crossEntropy } from "./classification.ts";
import { countTokens, feedSequences } from "./feed.ts";
import { defineObjective, type Objective, oneRowEach } from "./objective.ts";

/** One label a token: the mean cross-entropy over tokens that have one. */
export const tokenClassification: Objective = defineObjective({
  name: "token-classification",
  summary: "say which of some labels each word has",
  fields: {},
  learnsFrom: "tags",
  meanOver: "words",
  examples: oneRowEach,
  forward: (model) => model.predict(),
  loss: ({ tuned }) => {
    const logits = tuned["logits"] as Value; // [batch, seq, labels]
    const [batch = 1, seq = 1, labels = 1] = logits.shape;
    const tokens = mulDims(batch, seq);
    const flat = reshape(logits, [-1, labels]);
    return crossEntropy(flat, input("labels", "int64", [tokens]), input("label_weights", "float32", [tokens]));
  },
  batch: (examples, layout) => {
    const { feeds, sizes } = feedSequences(examples, layout);
    const labels = new Int32Array(sizes.batch * sizes.seq);
    const weights = new Float32Array(labels.length);
    for (const [row, { answers = [] }] of examples.entries()) {
      const count = answers.filter((answer) => answer >= 0).length;
      for (const [i, answer] of answers.entries()) {
        if (answer < 0) continue;
        labels[row * sizes.seq + i] = answer;
        weights[row * sizes.seq + i] = layout.alone ? 1 / count : 1;
      }
    }
    return {
      feeds: {
        ...feeds,
        labels: tensor("int64", [labels.length], labels),
        label_weights: tensor("float32", [weights.length], weights),
      },
      sizes,
      tokens: countTokens(examples),
      targets: layout.alone ? examples.length : weights.reduce((sum, weight) => sum + weight, 0),
    };
  },
});
