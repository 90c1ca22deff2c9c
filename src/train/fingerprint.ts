import { showTargets } from "../methods/index.ts";
import { sequencesOf, type TokenizedExample } from "./data/index.ts";
import type { RunOptions } from "./run.ts";

/**
 * What decides a run's losses, small enough to keep in its checkpoint: the settings, the method, the model's shape and
 * a hash of the data as token ids. Two runs with equal fingerprints on equal machines go through equal losses.
 */
export async function fingerprintOf(
  options: Required<
    Pick<RunOptions, "settings" | "choice" | "targets" | "objective" | "model" | "train" | "validation">
  >,
): Promise<Readonly<Record<string, unknown>>> {
  const { settings, choice, targets, objective, model } = options;
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
    validationData: await hashExamples(options.validation),
  };
}

/** A hash of examples as token ids, with what is learnt of them. */
export async function hashExamples(examples: readonly TokenizedExample[]): Promise<string> {
  const sequences = examples.flatMap(sequencesOf);
  const total = sequences.reduce((sum, { inputIds }) => sum + inputIds.length + 1, 0);
  const words = new Int32Array(total);
  let at = 0;
  for (const { inputIds, trained } of sequences) {
    words[at++] = -inputIds.length;
    for (let i = 0; i < inputIds.length; i++) words[at++] = ((inputIds[i] ?? 0) << 1) | (trained[i] ?? 0);
  }
  const digest = await crypto.subtle.digest("SHA-256", words);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
