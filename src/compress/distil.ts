import { type InputValue, input, topologicalOrder, type Value, type WeightValue, weight } from "../graph/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { exp, mul, reciprocal, reduceSum, reshape, sub, sumAll } from "../ops/index.ts";
import { makeBatch, sequencesOf } from "../train/data/index.ts";
import type { ObjectiveChoice } from "../train/objectives/index.ts";
import { rewrite } from "../transforms/index.ts";

/**
 * Learn another model's distribution over the next token: KL(teacher ‖ student), the mean over labelled tokens, in nats.
 * Both are computed in one graph, from the same tokens. Hinton et al. 2015 (arXiv 1503.02531), §2, at temperature 1.
 */
export function distillation(teacher: PretrainedModel): ObjectiveChoice {
  return {
    objective: {
      name: "distillation",
      summary: "learn the distribution of the model before it was quantised",
      fields: {},
      learnsFrom: "sequence",
      examples: { refused: "it learns from a model, not from labels" },
      meanOver: "tokens",
      forward: (model) => model.distribution(),
      loss: ({ tuned }) => {
        const student = tuned["distribution"] as Value; // as `forward` names it
        const taught = onInputsOf(student, teacher.distribution().outputs["distribution"] as Value); // likewise
        const targets = student.shape[0] ?? 1;
        const labelWeights = input("label_weights", "float32", [targets]);
        const normaliser = input("normaliser", "float32", []);
        const divergence = reduceSum(mul(exp(taught), sub(taught, student)), [1]);
        const weighted = mul(divergence, reshape(labelWeights, [-1, 1]));
        const loss = mul(sumAll(weighted), reciprocal(normaliser));
        return { inputs: [labelWeights, normaliser], loss, measures: {} };
      },
      batch: (examples, layout) => {
        const batch = makeBatch(examples.flatMap(sequencesOf), layout);
        const { labels: _labels, ...feeds } = batch.feeds;
        return { ...batch, feeds };
      },
    },
    config: {},
  };
}

/** The teacher's value on the inputs of the student's, its weights under names of their own. */
function onInputsOf(student: Value, taught: Value): Value {
  const inputs = new Map<string, InputValue>();
  for (const node of topologicalOrder([student])) {
    for (const value of node.inputs) if (value?.kind === "input") inputs.set(value.name, value);
  }
  const weights = new Map<WeightValue, WeightValue>();
  const [result] = rewrite([taught], {
    leaf: (value) => {
      if (value.kind === "input") return inputs.get(value.name);
      if (value.kind !== "weight") return undefined;
      const own = weights.get(value) ?? weight(`teacher.${value.name}`, value.source);
      weights.set(value, own);
      return own;
    },
  });
  return result ?? taught;
}
