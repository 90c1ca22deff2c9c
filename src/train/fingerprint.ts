import { showTargets } from "../methods/index.ts";
import { type ExampleStore, storeOf, type TokenizedExample } from "./data/index.ts";
import type { RunOptions } from "./run.ts";

/**
 * What decides a run's losses, small enough to keep in its checkpoint: the settings, the method, the model's shape and
 * a hash of the data as token ids. Two runs with equal fingerprints on equal machines go through equal losses.
 */
export async function fingerprintOf(
  options: Required<
    Pick<RunOptions, "settings" | "choice" | "targets" | "objective" | "model" | "train" | "mixture" | "validation">
  >,
): Promise<Readonly<Record<string, unknown>>> {
  const { settings, choice, targets, objective, model, mixture } = options;
  const { optimizerOptions, ...rest } = settings;
  // What only decides when a run looks at itself or stops may change between its parts.
  const { checkpointEvery: _checkpointEvery, patience: _patience, ...decisive } = rest;
  return {
    ...decisive,
    ...optimizerOptions,
    objective: objective.objective.name,
    ...objective.config,
    method: choice.method.name,
    ...choice.config,
    ...(choice.patterns === undefined ? {} : { patterns: choice.patterns }),
    ...(choice.inPlace === undefined ? {} : { inPlace: choice.inPlace }),
    targetModules: Array.isArray(targets) ? targets : showTargets(targets),
    modelType: model.modelType,
    ...model.sizes,
    trainData: await hashExamples(options.train),
    ...(mixture.length === 1 && mixture[0]?.weight === 1 ? {} : { mixture }),
    validationData: await hashExamples(options.validation),
  };
}

/** A hash of examples as token ids, with what is learnt of them. */
export async function hashExamples(examples: readonly TokenizedExample[] | ExampleStore): Promise<string> {
  return (await storeOf(examples)).hash;
}
