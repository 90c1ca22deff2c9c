import {
  graph,
  type InputValue,
  input,
  isFloat,
  type ParameterValue,
  sizeOf,
  type Value,
} from "../../src/graph/index.ts";
import { createRng } from "../../src/linalg/index.ts";
import { attach, initialTensor, type MethodChoice, type TargetModules } from "../../src/methods/index.ts";
import type { PretrainedModel } from "../../src/models/index.ts";
import { type Reference, reference, toReference } from "../../src/ops/index.ts";
import type { Batch, TokenizedExample } from "../../src/train/data/index.ts";
import type { ObjectiveChoice } from "../../src/train/objectives/index.ts";
import {
  clippedSums,
  compose,
  differentiate,
  type ExampleLayout,
  evaluate,
  expand,
  fold,
  perExample,
  stackProducts,
} from "../../src/transforms/index.ts";

/** What is tuned how, and how its examples lie. */
export interface Tuned {
  readonly model: PretrainedModel;
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  readonly objective: ObjectiveChoice;
  /** Shorter sides of matrices from which on gradients are kept in factors. */
  readonly longest?: number | undefined;
}

/** Gradients of a batch in float64, by what is trained, end to end. */
export interface Gradients {
  readonly names: readonly string[];
  /** Of each example. */
  readonly each: readonly Float64Array[];
}

/** Compares a pass over a whole batch with a backward pass for every example, in float64. */
export async function openExampleGradients({ model, choice, targets, objective: chosen, longest }: Tuned): Promise<{
  readonly names: readonly string[];
  /** The gradients of one example after the other, each from a batch of its own. */
  readonly oneByOne: (examples: readonly TokenizedExample[]) => readonly Float64Array[];
  /** Σ mask·min(1, C/(‖g‖ + 1e-6))·g and the lengths ‖g‖, from one pass. */
  readonly clipped: (
    examples: readonly TokenizedExample[],
    options: { readonly clip: number; readonly mask: readonly number[] },
  ) => { readonly sum: Float64Array; readonly norms: Float64Array };
  /** How many trained tensors have their gradients in factors. */
  readonly inFactors: number;
}> {
  const { objective, config } = chosen;
  const rows = objective.examples;
  if ("refused" in rows) throw new Error(rows.refused);
  const open = objective.forward(model, { alone: true });
  const { outputModule } = model.architecture;
  const attached = attach(open.outputs, { choice, targets, outputModule, training: true });
  const defined = objective.loss({ tuned: attached.outputs, pretrained: open.outputs }, config);
  const [loss] = stackProducts(compose([defined.loss])) as [Value];
  const trained = attached.trainables.flatMap(({ value, trained: is }) => (is ? [value] : []));
  const masks = new Set(attached.dropoutMasks.flatMap(({ value, scale }) => [value, scale]));
  if (masks.size > 0) throw new Error("no dropout here");
  const inputs: InputValue[] = [...open.inputs, ...defined.inputs];
  const layout: ExampleLayout = { ...rows, sources: inputs };
  const done = (values: readonly Value[]): readonly Value[] => fold(expand(values, new Set()));
  const name = (value: ParameterValue): string => `gradient ${value.name}`;

  const plainGradients = done(differentiate(loss, trained));
  const plain = graph({
    inputs,
    outputs: new Map(trained.map((value, i) => [name(value), plainGradients[i] as Value])),
  });
  const mask = input("example_mask", "float32", [rows.examples, 1]);
  const clip = input("clip", "float32", []);
  const { outputs, gradients } = perExample([loss], trained, layout, longest === undefined ? {} : { longest });
  const { sums, norms } = clippedSums(
    gradients.map((of, i) => ({ of, shape: (trained[i] as ParameterValue).shape.map(Number) })),
    { mask, clip, layout },
  );
  const all = done([...sums, norms, ...outputs]);
  const named = new Map([...trained.map(name), "norms"].map((key, i) => [key, all[i] as Value]));
  const private_ = graph({ inputs: [...inputs, mask, clip], outputs: named });

  const values = new Map<string, Reference>();
  for (const trainable of attached.trainables) {
    const { dtype, shape, data } = await initialTensor(trainable, 1);
    const rng = createRng(2, trainable.value.name);
    const moved = trainable.trained && isFloat(dtype);
    values.set(trainable.value.name, {
      dtype,
      shape,
      data: Float64Array.from(Array.from(data, Number), (value) => value + (moved ? 0.1 * rng.normal() : 0)),
    });
  }
  for (const of of [plain, private_]) {
    for (const weight of of.weights) {
      if (!values.has(weight.name)) values.set(weight.name, toReference(await weight.source.read()));
    }
  }
  const feedsOf = (batch: Batch): Map<string, Reference> => {
    const feeds = new Map(values);
    for (const [key, tensor] of Object.entries(batch.feeds)) feeds.set(key, toReference(tensor));
    return feeds.set("normaliser", reference([], [1]));
  };
  const batchOf = (examples: readonly TokenizedExample[]): Batch =>
    objective.batch(examples, { padId: 0, feed: model.reads.feed, alone: true });
  const joined = (results: ReadonlyMap<string, Reference>): Float64Array => {
    const parts = trained.map((value) => (results.get(name(value)) as Reference).data);
    const whole = new Float64Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  };
  return {
    names: trained.flatMap((value) => Array<string>(sizeOf(value.shape.map(Number))).fill(value.name)),
    oneByOne: (examples) => examples.map((example) => joined(evaluate(plain, feedsOf(batchOf([example]))))),
    clipped: (examples, options) => {
      const feeds = feedsOf(batchOf(examples));
      feeds.set("example_mask", reference([options.mask.length, 1], options.mask));
      feeds.set("clip", reference([], [options.clip]));
      const results = evaluate(private_, feeds);
      return { sum: joined(results), norms: (results.get("norms") as Reference).data };
    },
    inFactors: gradients.filter((of) => "factors" in of).length,
  };
}
