import { assert } from "../../errors.ts";
import { makeBatch } from "../data/index.ts";
import { defineObjective, type Objective, oneRowEach } from "./objective.ts";

/** Next-token prediction: the mean negative log-likelihood of the labelled tokens, in nats. */
export const causalLm: Objective = defineObjective({
  name: "causal-lm",
  summary: "predict the labelled tokens from those before them",
  fields: {},
  learnsFrom: "sequence",
  meanOver: "tokens",
  perplexity: true,
  examples: oneRowEach,
  forward: (model) => model.loss(),
  loss: ({ tuned: { loss } }) => {
    assert(loss !== undefined, "the graph of the loss has one");
    return { inputs: [], loss, measures: {} };
  },
  batch: makeBatch,
});
