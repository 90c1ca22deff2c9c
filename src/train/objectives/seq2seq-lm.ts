import { assert } from "../../errors.ts";
import { tensor, type Value } from "../../graph/index.ts";
import { targetMultiple } from "../../models/index.ts";
import { labelWeights } from "../data/index.ts";
import { countTokens, feedSequences } from "./feed.ts";
import { defineObjective, type Objective, oneRowEach } from "./objective.ts";

/**
 * A text from another: the mean negative log-likelihood of the target's tokens, each given those before it, behind
 * the token that the model's decoder begins with.
 */
export const seq2seqLm: Objective = defineObjective({
  name: "seq2seq-lm",
  summary: "turn a text into another",
  fields: {},
  learnsFrom: "target",
  perplexity: true,
  meanOver: "tokens",
  examples: oneRowEach,
  forward: (model) => model.loss(),
  loss: ({ tuned: { loss } }) => {
    assert(loss !== undefined, "the graph of the loss has one");
    return { inputs: [], loss: loss satisfies Value, measures: {} };
  },
  batch: (examples, layout) => {
    const { feeds, sizes } = feedSequences(examples, layout);
    const targets = examples.map(({ against }) => against?.[0]?.inputIds ?? new Int32Array());
    const longest = targets.reduce((most, { length }) => Math.max(most, length), 1);
    const given = new Int32Array(examples.length * longest).fill(layout.padId);
    const places: number[] = [];
    const labels: number[] = [];
    const owners: number[] = [];
    for (const [row, target] of targets.entries()) {
      given[row * longest] = layout.startId ?? layout.padId;
      given.set(target.subarray(0, longest - 1), row * longest + 1);
      for (const [i, token] of target.entries()) {
        places.push(row * longest + i);
        labels.push(token);
        owners.push(row);
      }
    }
    const labelled = labels.length;
    const weights = labelWeights(owners, layout.alone === true);
    while (labels.length % targetMultiple > 0 || labels.length === 0) {
      places.push(0);
      labels.push(0);
      weights.push(0);
    }
    const count = [labels.length];
    return {
      feeds: {
        ...feeds,
        decoder_input_ids: tensor("int64", [examples.length, longest], given),
        target_positions: tensor("int64", count, places),
        labels: tensor("int64", count, labels),
        label_weights: tensor("float32", count, weights),
      },
      sizes: { ...sizes, target: longest, chunk: labels.length / targetMultiple },
      tokens: countTokens(examples),
      targets: layout.alone ? examples.length : labelled,
    };
  },
});
