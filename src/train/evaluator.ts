import { type Graph, type Tensor, tensor, type Value } from "../graph/index.ts";
import { type Adapter, type Attached, attach, checkParameters } from "../methods/index.ts";
import { type PretrainedModel, watchedShares } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { onShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import { roughKernelsOf, splitPartsOf } from "../runtime/provider.ts";
import { expand, fold, gatherEarly, precise, readInPlace, splitFew } from "../transforms/index.ts";
import { type BaseWeightsName, heldGraph } from "./base-weights.ts";
import type { Batch } from "./data/index.ts";
import { chooseObjective, type ObjectiveChoice } from "./objectives/index.ts";

/** Measures a model's loss on a device. */
export interface Evaluator {
  /** The loss and the measures of a batch, summed over its targets (for causal language models nats over labels). */
  sums(batch: Batch): Promise<Measured>;
  /** Free the program and the parameters; the device stays open. */
  close(): Promise<void>;
}

/** A loss, and what else the objective measures. */
export interface Measured {
  readonly loss: number;
  readonly measures: Readonly<Record<string, number>>;
  /** Of a model that attends by a plan: each head's bound on |score| over what the plan allows, the largest of all batches. */
  readonly attentionShares?: Float32Array;
}

/** What is measured. */
export interface EvaluatorOptions {
  readonly adapter?: Pick<Adapter, "choice" | "targets" | "parameters">;
  /** Next-token prediction unless given. */
  readonly objective?: ObjectiveChoice;
  /** How frozen weights are held; in float32 unless given. */
  readonly baseWeights?: BaseWeightsName;
}

/**
 * Compile the objective of a model, with an adapter attached or not, dropout off.
 * @throws {TuneError} `adapter-mismatch` when the adapter's tensors do not fit the model.
 */
export async function openEvaluator(
  device: Device,
  model: PretrainedModel,
  options: EvaluatorOptions = {},
): Promise<Evaluator> {
  const { adapter } = options;
  const { graph: evaluation, attached } = buildEvaluation(device.provider, model, options);
  return onShare(device, async (share) => {
    const program = await compileGraph(share, evaluation);
    if (attached && adapter) {
      checkParameters(attached.trainables, adapter.parameters, model.folder);
      for (const [name, values] of adapter.parameters) await share.upload(name, values);
    }
    const reads = Object.fromEntries((attached?.trainables ?? []).map(({ value: { name } }) => [name, name]));
    return {
      sums: async ({ feeds }) =>
        measuredIn(await program.run({ feeds: { ...feeds, normaliser: tensor("float32", [], [1]) }, reads })),
      close: () => share.close(),
    };
  });
}

/** The scalars that an objective's program gave. */
export function measuredIn({ [watchedShares]: shares, ...outputs }: Readonly<Record<string, Tensor>>): Measured {
  const { loss = Number.NaN, ...measures } = Object.fromEntries(
    Object.entries(outputs).map(([name, { data }]) => [name, Number(data[0])]),
  );
  return { loss, measures, ...(shares ? { attentionShares: shares.data as Float32Array } : {}) };
}

/** The objective of a model as a graph, with an adapter attached or not, dropout off. */
function buildEvaluation(
  provider: string,
  model: PretrainedModel,
  { adapter, objective: choice = chooseObjective(undefined), baseWeights }: EvaluatorOptions,
): { readonly graph: Graph; readonly attached: Attached | undefined } {
  const { objective, config } = choice;
  const { inputs, outputs } = objective.forward(model);
  const { outputModule } = model.architecture;
  const attached = adapter && attach(outputs, { ...adapter, outputModule, training: false });
  const defined = objective.loss({ tuned: attached?.outputs ?? outputs, pretrained: outputs }, config);
  const { [watchedShares]: watched } = attached?.outputs ?? outputs;
  const named = { loss: defined.loss, ...defined.measures, ...(watched ? { [watchedShares]: watched } : {}) };
  const written = fold(expand(gatherEarly(Object.values(named)), new Set()));
  const folded = readInPlace(splitFew(precise(written, roughKernelsOf(provider)), splitPartsOf(provider)));
  return {
    graph: heldGraph(baseWeights, {
      name: "evaluate",
      inputs: [...inputs, ...defined.inputs],
      outputs: Object.fromEntries(Object.keys(named).map((name, i) => [name, folded[i] as Value])), // one a name
    }),
    attached,
  };
}

/** Mean loss and measures over the targets of batches. */
export async function meanLoss(
  evaluator: Evaluator,
  batches: readonly Batch[],
  onProgress?: (done: number, total: number) => void,
): Promise<Measured & { readonly targets: number }> {
  const all: Measured[] = [];
  let targets = 0;
  for (const [i, batch] of batches.entries()) {
    all.push(await evaluator.sums(batch));
    targets += batch.targets;
    onProgress?.(i + 1, batches.length);
  }
  const { loss, measures } = addUp(all, Math.max(1, targets));
  const shares = all.flatMap(({ attentionShares }) => attentionShares ?? []);
  return { loss, measures, targets, ...(shares.length > 0 ? { attentionShares: largest(shares) } : {}) };
}

/** The largest of each entry of vectors of one length. */
function largest(vectors: readonly Float32Array[]): Float32Array {
  const [first = new Float32Array(0), ...others] = vectors;
  return first.map((value, i) => others.reduce((most, vector) => Math.max(most, vector[i] ?? 0), value));
}

/** The sum of what was measured of several batches, divided by a number. */
export function addUp(all: readonly Measured[], by = 1): Measured {
  const total = (of: (measured: Measured) => number): number =>
    all.reduce((sum, measured) => sum + of(measured), 0) / by;
  const names = Object.keys(all[0]?.measures ?? {});
  const measures = names.map((name) => [name, total((measured) => measured.measures[name] ?? Number.NaN)]);
  return { loss: total(({ loss }) => loss), measures: Object.fromEntries(measures) };
}
