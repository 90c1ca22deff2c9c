import { assert } from "../errors.ts";
import { graph, input, type LazyTensor, sizeOf, type Tensor, type Value } from "../graph/index.ts";
import {
  type Adapter,
  adaptableModules,
  attach,
  checkParameters,
  configAt,
  type LoraMatrices,
  mergeStored,
  nameInModule,
  readersOfWeights,
  type Trainable,
  withRows,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { LinearSite } from "../ops/index.ts";
import type { Device } from "../runtime/device.ts";
import { shareOf } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";
import { mergedRows, mergesByRows } from "./merge-rows.ts";

/** A model with an adapter folded into its weights. Weights are computed when they are read, one at a time. */
export interface MergedModel {
  readonly model: PretrainedModel;
  /** Free the programs that merge; weights cannot be read afterwards. */
  close(): Promise<void>;
}

/**
 * Fold an adapter into a model: W' = merge(W, parameters), by small programs on the device.
 * @throws {TuneError} `adapter-mismatch` when the adapter was made for another model.
 */
export function mergeAdapter(device: Device, model: PretrainedModel, adapter: Adapter): MergedModel {
  const { outputs } = model.predict();
  const outputModule = model.architecture.outputModule;
  const { trainables } = attach(outputs, { ...adapter, outputModule, training: false });
  checkParameters(trainables, adapter.parameters, model.folder);
  const sites = adaptableModules(outputs, adapter.choice.method);
  const share = shareOf(device);
  const merger = makeMerger(share, adapter);
  const files = new Map<string, LazyTensor>([...model.weights].map(([name, { source }]) => [name, source]));
  const tuned = new Set<LazyTensor>();
  for (const [name, own] of groupByTensor(trainables)) {
    const [{ module, weight, inPlace, rows, value }] = own as [Trainable]; // a group has members
    assert(weight.kind === "weight", "an adapter stands beside pretrained weights");
    const site = sites.get(module);
    const layout = site?.layout ?? "out,in";
    const trained = adapter.parameters.get(value.name) as Tensor; // checkParameters has found every parameter
    const inPlaceNow = async (): Promise<Tensor> =>
      rows ? withRows(await weight.source.read(), rows, trained) : copyOf(trained);
    const { dtype, shape, sizeBytes } = weight.source; // what is merged is no longer what the codes or the file say
    const update = inPlace || site === undefined ? undefined : lowRank(adapter, own, site);
    if (update && mergesByRows(weight.source, update)) files.set(name, mergedRows(weight.source, layout, update));
    else {
      const read = inPlace ? inPlaceNow : () => merger.merge(weight.source, layout, own);
      files.set(name, { dtype, shape, sizeBytes, read });
    }
    if (module !== weight.name && !rows) tuned.add(weight.source); // full tuning and rows train what modules share as one
  }
  separateReaders(outputs, tuned, files);
  const json = [...files.keys()].every((name) => model.weights.has(name)) ? model.json : model.untied();
  return { model: model.withTensors(files, json), close: () => share.close() };
}

/** The update of a weight as B·A, where the method can say it so and one module reads the weight. */
function lowRank(
  { choice, parameters }: Adapter,
  own: readonly Trainable[],
  site: Pick<LinearSite, "inFeatures">,
): LoraMatrices | undefined {
  const [module, ...others] = new Set(own.map((trainable) => trainable.module));
  if (module === undefined || others.length > 0 || choice.method.asLora === undefined) return undefined;
  const tensors = own.map(({ key, value }) => [key, parameters.get(value.name) as Tensor]); // checkParameters has found each
  return choice.method.asLora(Object.fromEntries(tensors), configAt(choice, module), site);
}

/** Whoever reads a tensor may give its memory away. */
function copyOf({ dtype, shape, data }: Tensor): Tensor {
  return { dtype, shape, data: data.slice() };
}

/** Trainables by the tensor that they change. */
function groupByTensor(trainables: readonly Trainable[]): ReadonlyMap<string, readonly Trainable[]> {
  const groups = new Map<string, Trainable[]>();
  for (const trainable of trainables) {
    const { inPlace, value, module, weight, rows } = trainable;
    assert(weight.kind === "weight", "an adapter stands beside pretrained weights");
    const name = inPlace && !rows ? value.name : nameInModule(module, weight);
    const group = groups.get(name);
    if (group) group.push(trainable);
    else groups.set(name, [trainable]);
  }
  return groups;
}

/** Where one of the modules that share a tensor (tied embeddings) was tuned, the others keep it under names of their own. */
function separateReaders(
  outputs: Readonly<Record<string, Value>>,
  tuned: ReadonlySet<LazyTensor>,
  files: Map<string, LazyTensor>,
): void {
  for (const [weight, readers] of readersOfWeights(outputs)) {
    if (!tuned.has(weight.source) || readers.size === 1) continue;
    for (const module of readers) {
      const name = nameInModule(module, weight);
      if (!files.has(name)) files.set(name, weight.source);
    }
  }
}

/** One program a shape of weight and parameters, compiled when the first such weight is merged. */
function makeMerger(
  share: Device,
  adapter: Adapter,
): { merge: (source: LazyTensor, layout: LinearSite["layout"], own: readonly Trainable[]) => Promise<Tensor> } {
  const programs = new Map<string, Promise<Program>>();
  return {
    merge: async (source, layout, own) => {
      const config = JSON.stringify(configAt(adapter.choice, moduleOf(own)));
      // Packed codes are part of the program, so each packed weight has one of its own.
      const packed = source.scaled ? moduleOf(own) : "";
      const key = [
        packed,
        config,
        layout,
        source.shape,
        ...own.map(({ key: name, value }) => [name, value.shape]),
      ].join(" ");
      let program = programs.get(key);
      if (!program) {
        program = compileGraph(share, mergeGraph(adapter, source.shape, layout, own));
        programs.set(key, program);
      }
      const compiled = await program;
      const used = new Set(compiled.graph.inputs.map(({ name }) => name));
      const feeds: Record<string, Tensor> = used.has("weight") ? { weight: await source.read() } : {};
      for (const { key: name, value } of own) {
        const values = adapter.parameters.get(value.name);
        assert(values !== undefined, "checkParameters has found every parameter");
        feeds[`parameter ${name}`] = values;
      }
      const { merged } = await compiled.run({ feeds });
      assert(merged?.data.length === sizeOf(source.shape), "a merged weight keeps its size");
      return { ...merged, shape: source.shape };
    },
  };
}

function mergeGraph(
  { choice }: Adapter,
  shape: readonly number[],
  layout: LinearSite["layout"],
  own: readonly Trainable[],
): ReturnType<typeof graph> {
  const parameters = new Map(own.map(({ key, value }) => [key, input(`parameter ${key}`, value.dtype, value.shape)]));
  const read = (key: string): Value => {
    const value = parameters.get(key);
    assert(value !== undefined, `the method has no parameter ${key}`);
    return value;
  };
  const stored = input("weight", "float32", shape);
  return graph({
    name: "merge",
    outputs: {
      merged: mergeStored(
        choice,
        { module: moduleOf(own), weight: stored, layout, pretrained: own[0]?.weight ?? stored },
        read,
      ),
    },
  });
}

/** The module that parameters of one weight belong to; where modules share a weight, the first. */
function moduleOf(own: readonly Trainable[]): string {
  return own[0]?.module ?? "";
}
