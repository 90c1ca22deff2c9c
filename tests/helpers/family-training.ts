import { createRng } from "../../src/linalg/index.ts";
import { chooseMethod } from "../../src/methods/index.ts";
import type { PretrainedModel } from "../../src/models/index.ts";
import { chooseOptimizer } from "../../src/optim/index.ts";
import type { Device } from "../../src/runtime/device.ts";
import { type Batch, type ExampleKind, layoutOf, type TokenizedExample } from "../../src/train/data/index.ts";
import { chooseObjective, type ObjectiveChoice } from "../../src/train/objectives/index.ts";
import { tasks } from "../../src/train/tasks/index.ts";
import { openTrainer } from "../../src/train/trainer.ts";
import { randomModel } from "./tiny-model.ts";

/** What a few steps gave: the loss of each, and the norm of its gradient. */
export interface FamilyRun {
  readonly losses: readonly number[];
  readonly gradNorms: readonly number[];
}

/**
 * A few steps of LoRA on a tiny model of any family, for the task that its `config.json` names; its head trained whole.
 * `changed` may make another of the model first, such as one that attends otherwise.
 */
export async function familyTraining(
  device: Device,
  config: Readonly<Record<string, unknown>>,
  steps: number,
  changed: (model: PretrainedModel) => PretrainedModel = (model) => model,
): Promise<FamilyRun> {
  const model = changed(await randomModel(config));
  const { objective } = familyBatch(model, 0);
  const { headModules: modules } = model;
  const trainer = await openTrainer(device, model, {
    choice: chooseMethod("lora", { rank: 2, alpha: 4 }, {}, modules.length > 0 ? { modules } : undefined),
    targets: "all-linear",
    objective,
    optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
    maxGradNorm: 1,
    memory: "balanced",
    accumulates: false,
    seed: 3,
    steps,
  });
  const reports = [];
  for (let step = 1; step <= steps; step++) {
    reports.push(await trainer.step(step, [familyBatch(model, 2 * step).batch], 1e-2));
  }
  await trainer.close();
  return { losses: reports.map(({ loss }) => loss), gradNorms: reports.map(({ gradNorm }) => gradNorm) };
}

/** A batch of two examples of the objective that a model's task has. */
export function familyBatch(
  model: PretrainedModel,
  seed: number,
): { readonly objective: ObjectiveChoice; readonly batch: Batch } {
  const objective = chooseObjective(undefined, {}, tasks[model.task].kindOf(randomExample(model, 0)));
  const examples = [seed, seed + 1].map((each) => paired(model, each, objective.objective.learnsFrom));
  return { objective, batch: objective.objective.batch(examples, layoutOf(model, 0)) };
}

/** One short text, or one image, with answers to whatever is asked of it. */
function randomExample({ reads, sizes, task, labels }: PretrainedModel, seed: number): TokenizedExample {
  const rng = createRng(seed, "example");
  const range = { tokens: sizes.vocabSize, characters: 128, pixels: 1 << 24 }[reads.kind];
  const length = reads.kind === "pixels" ? reads.length : 8;
  return {
    inputIds: Int32Array.from({ length }, () => rng.integer(range)),
    trained: Uint8Array.from({ length }, (_, i) => Number(i > 0)),
    // One for each token, or for each label.
    answers: Array.from(
      { length: task === "token-classification" ? length : (labels?.length ?? length) },
      () => seed % 2,
    ),
    line: 1,
  };
}

/** The same, with a second text where something is learnt from two. */
function paired(model: PretrainedModel, seed: number, kind: ExampleKind): TokenizedExample {
  const example = randomExample(model, seed);
  return kind === "sequence" ? example : { ...example, against: [randomExample(model, seed + 1000)] };
}
