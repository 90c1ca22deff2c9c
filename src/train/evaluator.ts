import { assert } from "../errors.ts";
import { type Graph, graph, tensor, type Value } from "../graph/index.ts";
import { type Adapter, type Attached, attach, checkParameters } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { compileGraph } from "../runtime/program.ts";
import { fold, gatherEarly, readInPlace } from "../transforms/index.ts";
import type { Batch } from "./data/index.ts";

/** Measures a model's loss on a device. */
export interface Evaluator {
  /** Sum of the negative log-likelihoods of a batch's labels, in nats. */
  sum(batch: Batch): Promise<number>;
  /** Free the program, and the parameters when the evaluator placed them; the device stays open. */
  close(): Promise<void>;
}

/** What is measured: the adapter's parameters are in resident buffers of their own names, or come with it. */
export interface EvaluatorOptions {
  readonly adapter?: Pick<Adapter, "choice" | "targets"> & Partial<Pick<Adapter, "parameters">>;
}

/**
 * Compile the objective of a model, with an adapter attached or not, dropout off.
 * @throws {TuneError} `adapter-mismatch` when the adapter's tensors do not fit the model.
 */
export async function openEvaluator(
  device: Device,
  model: PretrainedModel,
  { adapter }: EvaluatorOptions = {},
): Promise<Evaluator> {
  const { graph: objective, attached } = buildEvaluation(model, adapter);
  const program = await compileGraph(device, objective);
  const names = (attached?.trainables ?? []).map(({ value }) => value.name);
  let prefix = "";
  if (attached && adapter?.parameters) {
    checkParameters(attached.trainables, adapter.parameters, model.folder);
    prefix = `evaluator ${++opened} `;
    for (const [name, values] of adapter.parameters) await device.upload(prefix + name, values);
  }
  const reads = Object.fromEntries(names.map((name) => [name, prefix + name]));
  return {
    sum: async ({ feeds }) => {
      const result = await program.run({ feeds: { ...feeds, normaliser: tensor("float32", [], [1]) }, reads });
      return Number(result["loss"]?.data[0]);
    },
    close: async () => {
      await program.release();
      if (prefix !== "") await device.discard(Object.values(reads));
    },
  };
}

let opened = 0;

/** The objective of a model as a graph, with an adapter attached or not, dropout off. */
export function buildEvaluation(
  model: PretrainedModel,
  adapter: EvaluatorOptions["adapter"],
): { readonly graph: Graph; readonly attached: Attached | undefined } {
  const { inputs, outputs } = model.loss();
  const { outputModule } = model.architecture;
  const attached = adapter && attach(outputs, { ...adapter, outputModule, training: false });
  const [loss] = readInPlace(fold(gatherEarly([(attached?.outputs ?? outputs)["loss"] as Value]))); // every objective has one
  assert(loss !== undefined, "folding keeps every output");
  return { graph: graph({ name: "evaluate", inputs, outputs: { loss } }), attached };
}

/** Mean loss over the labels of batches. */
export async function meanLoss(
  evaluator: Evaluator,
  batches: readonly Batch[],
  onProgress?: (done: number, total: number) => void,
): Promise<{ readonly loss: number; readonly targets: number }> {
  let sum = 0;
  let targets = 0;
  for (const [i, batch] of batches.entries()) {
    sum += await evaluator.sum(batch);
    targets += batch.targets;
    onProgress?.(i + 1, batches.length);
  }
  return { loss: sum / Math.max(1, targets), targets };
}
