import { bytesOf } from "../graph/index.ts";
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
    weights: await hashWeights(model),
    trainData: await hashExamples(options.train),
    ...(mixture.length === 1 && mixture[0]?.weight === 1 ? {} : { mixture }),
    validationData: await hashExamples(options.validation),
  };
}

/** A hash of examples as token ids, with what is learnt of them. */
export async function hashExamples(examples: readonly TokenizedExample[] | ExampleStore): Promise<string> {
  return (await storeOf(examples)).hash;
}

/** So many bytes of weights are hashed. */
const hashedWeightBytes = 2 ** 25;

/**
 * A hash of a model's smallest tensors, up to 32 MB of them: norms, biases, the narrowest projections. Any tuning changes
 * some of these, and reading all of a large model twice would take as long as loading it.
 */
async function hashWeights({ weights }: RunOptions["model"]): Promise<string> {
  const ordered = [...weights].sort(([a, x], [b, y]) => x.source.sizeBytes - y.source.sizeBytes || (a < b ? -1 : 1));
  let before = new Uint8Array(32);
  let total = 0;
  for (const [name, { source }] of ordered) {
    total += source.sizeBytes;
    if (total > hashedWeightBytes) break;
    const label = new TextEncoder().encode(`${name} ${source.shape.join()}`);
    const bytes = bytesOf((await source.read()).data);
    const block = new Uint8Array(before.length + label.length + bytes.length);
    block.set(before);
    block.set(label, before.length);
    block.set(bytes, before.length + label.length);
    before = new Uint8Array(await crypto.subtle.digest("SHA-256", block));
  }
  return Array.from(before, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
