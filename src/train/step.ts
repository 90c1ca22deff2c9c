import { TuneError } from "../errors.ts";
import {
  type Graph,
  graph,
  type InputValue,
  input,
  type ParameterValue,
  parameter,
  type Value,
  weight,
} from "../graph/index.ts";
import {
  type Attached,
  type AttachOptions,
  attach,
  type LiveWeight,
  type MethodChoice,
  type TargetModules,
  type Trainable,
} from "../methods/index.ts";
import { type PretrainedModel, watchedShares } from "../models/index.ts";
import { add, gather, mul } from "../ops/index.ts";
import type { OptimizerChoice } from "../optim/index.ts";
import { bytesOfValue, type Symbols } from "../plan/memory.ts";
import type { Patch, Reads, Writes } from "../runtime/device.ts";
import {
  broadcastLate,
  clippedSums,
  compose,
  differentiate,
  type ExampleLayout,
  expand,
  fold,
  gatherEarly,
  holdWeights,
  perExample,
  picksColumns,
  precise,
  readInPlace,
  recompute,
  rewrite,
  splitFew,
  stackProducts,
  sumProducts,
  takeColumnsEarly,
  useSparsity,
} from "../transforms/index.ts";
import { type BaseWeights, type BaseWeightsName, baseWeights } from "./base-weights.ts";
import { type LivePack, putColumns } from "./live-weights.ts";
import { type MemoryChoiceName, memoryChoices } from "./memory.ts";
import { chooseObjective, type ExampleAxes, type ObjectiveChoice } from "./objectives/index.ts";
import { flatten, packShape, packsOf } from "./packs.ts";
import { noiseInputs, stateName, updateOutputs } from "./update.ts";

/** What a training step is made of. */
export interface StepOptions {
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  /** What is minimised; next-token prediction unless given. */
  readonly objective?: ObjectiveChoice;
  readonly optimizer: OptimizerChoice;
  /** Gradients are scaled down to this global norm; 0 leaves them. */
  readonly maxGradNorm: number;
  /** What to spend for less memory. */
  readonly memory: MemoryChoiceName;
  /** How frozen weights are held; in float32 unless given. */
  readonly baseWeights?: BaseWeightsName;
  /** Several batches make one update: gradients are summed on the device in between. */
  readonly accumulates: boolean;
  /** Gradients are clipped example by example, and noise is added to their sums; several batches may make an update then. */
  readonly privacy?: PrivateStep;
  /** Operators beyond operator set 21 that the runtime has kernels for; none unless given. */
  readonly kernels?: ReadonlySet<string>;
  /** Operators that the runtime computes roughly; none unless given. */
  readonly rough?: ReadonlySet<string>;
  /** How many parts the runtime can split a value into at once; any number unless given. */
  readonly splitParts?: number;
  /**
   * Whether the device can replace parts of buffers, so that methods may train weights where they are, and cut outputs
   * into buffers.
   */
  readonly patches?: boolean;
}

/** How a private step is built. */
export interface PrivateStep {
  /** Matrices whose shorter side is longer have their gradients in factors; 64 unless given. */
  readonly longest?: number;
}

/** The inputs of a private step's gradients. */
export const privateInputs = { mask: "example_mask", clip: "example_clip" } as const;

/** A graph, and which of its inputs and outputs stay on the device. */
export interface StepGraph {
  readonly graph: Graph;
  /** Parameter -> the resident buffers that it reads end to end; others are read from buffers of their own names. */
  readonly reads: Reads;
  /** Output -> the resident buffer it replaces, or those it is cut into. */
  readonly writes: Writes;
  /** Output -> the parts of resident buffers that it replaces. */
  readonly patches: Readonly<Record<string, readonly Patch[]>>;
  /** Bytes of the forward pass kept for the backward pass, for a batch of {@link nominal} size. */
  readonly savedBytes: number;
}

/** The graphs of training: either one that does everything, or one for gradients and one for the update. */
export interface TrainingGraphs {
  /** Forward, loss and backward; with the update too when nothing accumulates. Outputs loss, measures (and grad_norm). */
  readonly gradient: StepGraph;
  /** Clipping and the optimiser, when gradients accumulate. Outputs grad_norm. */
  readonly update: StepGraph | undefined;
  readonly attached: Attached;
  /** Resident buffers that start at zero: optimiser state and gradient sums. */
  readonly zeros: readonly ParameterValue[];
  /** Scalar outputs of the update that the method reports. */
  readonly reports: readonly string[];
  /** Weights whose columns an update writes, by packs of what is trained. */
  readonly live: readonly LivePack[];
  /** Of a private step: what its update is fed noise for. */
  readonly noised: readonly NoisedPack[];
}

/** A vector of noise that the update of a private step reads. */
export interface NoisedPack {
  readonly input: string;
  readonly shape: readonly number[];
  /** The buffer of the sums that it is added to, which never leave the device: they have no noise. */
  readonly sums: string;
}

/** The sizes at which what to keep and what to recompute is weighed: one row of 512 tokens, all of them labels. */
const nominal: Symbols = { batch: 1, seq: 128, pair: 1, pairs: 1, target: 64, block: 128, chunk: 32 };

/**
 * A model's outputs as it was pretrained, beside the same model as it is tuned: a weight that is trained where it stands is
 * there under its own name, so the frozen one has another.
 */
function asPretrained(
  outputs: Readonly<Record<string, Value>>,
  { trainables }: Attached,
): Readonly<Record<string, Value>> {
  const taken = new Set(trainables.map(({ value }) => value.name));
  const [names, values] = [Object.keys(outputs), Object.values(outputs)];
  const apart = rewrite(values, {
    leaf: (value) =>
      value.kind === "weight" && taken.has(value.name)
        ? weight(`${value.name}#pretrained`, value.source, value.dtype)
        : undefined,
  });
  return Object.fromEntries(names.map((name, i) => [name, apart[i] as Value])); // as many as before
}

/**
 * Build the training step of a model as graphs: forward, loss, backward, clipping by global norm and the optimiser.
 * Scalars of the optimiser (`keep`, `step_size`, …) and `carry` (0 on the first batch of an update, 1 after) are inputs.
 * @throws {TuneError} `no-per-example` where a private step has no gradients by example.
 */
export function buildTraining(model: PretrainedModel, options: StepOptions): TrainingGraphs {
  const { choice, targets, accumulates, privacy } = options;
  const { objective, config } = options.objective ?? chooseObjective(undefined);
  const axes = privacy && axesOf(objective);
  const open = objective.forward(model, { alone: privacy !== undefined });
  const outputModule = model.architecture.outputModule;
  const live = liveMode(options);
  const attached = attach(open.outputs, { choice, targets, outputModule, training: true, ...(live ? { live } : {}) });
  const defined = objective.loss({ tuned: attached.outputs, pretrained: asPretrained(open.outputs, attached) }, config);
  const { [watchedShares]: watched } = attached.outputs;
  const measured = { ...defined.measures, ...(watched ? { [watchedShares]: watched } : {}) };
  const composed = compose([defined.loss, ...Object.values(measured)]);
  // Rows that are gathered early are no longer laid out by example.
  const scalars = stackProducts(axes ? composed : gatherEarly(composed));
  const loss = scalars[0] as Value; // as many as before
  const measures = Object.fromEntries(Object.keys(measured).map((name, i) => [name, scalars[i + 1] as Value]));
  const parameters = attached.trainables.flatMap(({ value, trained }) => (trained ? [value] : []));
  const dropout = new Set(attached.dropoutMasks.flatMap(({ value, scale }) => [value, scale]));
  const inputs = [...open.inputs, ...defined.inputs, ...dropout];
  if (axes) return privateTraining({ loss, measures, inputs, axes, attached, options });
  const gradients = differentiate(loss, parameters);

  if (!accumulates) {
    const update = updateOutputs(attached, gradients, options);
    return {
      gradient: close("step", inputs, { loss, ...measures, ...update.outputs }, update, options, attached),
      update: undefined,
      attached,
      zeros: update.state,
      reports: update.reports,
      live: update.live,
      noised: [],
    };
  }
  const carry = input("carry", "float32", []);
  const sums = parameters.map((value) =>
    parameter(stateName(value.name, "gradient"), "float32", value.shape.map(Number)),
  );
  const summed = gradients.map((gradient, i) => add(gradient, mul(sums[i] as Value, carry))); // one sum a parameter
  const outputs = Object.fromEntries(sums.map((sum, i) => [`next ${sum.name}`, summed[i] as Value])); // likewise
  const writes = Object.fromEntries(sums.map((sum) => [`next ${sum.name}`, sum.name]));
  const update = updateOutputs(attached, sums, options);
  return {
    gradient: close(
      "gradient",
      [...inputs, carry],
      { loss, ...measures, ...outputs },
      { reads: {}, writes, patches: {} },
      options,
      attached,
    ),
    update: close("update", [], update.outputs, update, options, attached),
    attached,
    zeros: [...update.state, ...sums],
    reports: update.reports,
    live: update.live,
    noised: [],
  };
}

/** How examples lie in an objective's rows. @throws {TuneError} `no-per-example` where their gradients cannot be told apart. */
function axesOf({ name, examples }: ObjectiveChoice["objective"]): ExampleAxes {
  if (!("refused" in examples)) return examples;
  throw new TuneError("no-per-example", `${name} has no gradient per example: ${examples.refused}.`, {
    at: "private tuning",
    fix: "choose another objective, or tune without privacy",
  });
}

/**
 * A private step: gradients of every example, clipped as one vector and summed over the batches of an update, in packs; and
 * an update that adds the noise that it is fed to each pack, and divides by the expected batch (Abadi et al. 2016,
 * arXiv 1607.00133, algorithm 1).
 */
function privateTraining({
  loss: first,
  measures,
  inputs,
  axes,
  attached,
  options,
}: {
  readonly loss: Value;
  readonly measures: Readonly<Record<string, Value>>;
  readonly inputs: readonly InputValue[];
  readonly axes: ExampleAxes;
  readonly attached: Attached;
  readonly options: StepOptions;
}): TrainingGraphs {
  const trained = attached.trainables.filter((trainable) => trainable.trained);
  const names = Object.keys(measures);
  const layout: ExampleLayout = { ...axes, sources: inputs };
  const values = trained.map(({ value }) => value);
  const { longest } = options.privacy ?? {};
  const { outputs, gradients } = perExample(
    [first, ...Object.values(measures)],
    values,
    layout,
    longest === undefined ? {} : { longest },
  );
  const loss = outputs[0] as Value; // as many as given
  const measured = Object.fromEntries(names.map((name, i) => [name, outputs[i + 1] as Value])); // likewise
  const mask = input(privateInputs.mask, "float32", [axes.examples, 1]);
  const clip = input(privateInputs.clip, "float32", []);
  const carry = input("carry", "float32", []);
  const { sums } = clippedSums(
    gradients.map((of, i) => ({ of, shape: (values[i] as ParameterValue).shape.map(Number) })), // one each
    { mask, clip, layout },
  );
  const results: Record<string, Value> = {};
  const writes: Record<string, string> = {};
  const buffers: ParameterValue[] = [];
  const noised: NoisedPack[] = [];
  for (const members of packsOf(trained)) {
    const own = members.map((i) => trained[i] as Trainable); // indices of what is trained
    const { name } = (own[0] as Trainable).value; // a pack has members
    const shape = packShape(own);
    const buffer = parameter(stateName(name, "gradient"), "float32", shape);
    const sum = flatten(members.map((i) => sums[i] as Value)); // one each
    results[`next ${buffer.name}`] = add(sum, mul(buffer, carry));
    writes[`next ${buffer.name}`] = buffer.name;
    buffers.push(buffer);
    noised.push({ input: noiseInputs.noise(name), shape, sums: buffer.name });
  }
  const bufferOf = new Map(buffers.map((buffer) => [buffer.name, buffer]));
  const update = updateOutputs(
    attached,
    { sumsOf: (name) => bufferOf.get(stateName(name, "gradient")) as Value }, // packs are the same
    { ...options, maxGradNorm: 0 },
  );
  return {
    gradient: close(
      "gradient",
      [...inputs, mask, clip, carry],
      { loss, ...measured, ...results },
      { reads: {}, writes, patches: {} },
      options,
      attached,
    ),
    update: close("update", [], update.outputs, update, options, attached),
    attached,
    zeros: [...update.state, ...buffers],
    reports: update.reports,
    live: update.live,
    noised,
  };
}

/** Weights held in float32 are trained in their buffers; what is decoded anew each time has its columns put in then. */
function liveMode({ patches, baseWeights: held = "f32" }: StepOptions): AttachOptions["live"] {
  if (held !== "f32") return "decoded";
  return patches ? "buffer" : undefined;
}

/** Decoded copies of weights with the columns that are trained put in. */
function holdLive(hold: BaseWeights["hold"], live: readonly LiveWeight[]): BaseWeights["hold"] {
  const decoded = new Map(live.map((weight): [Value, LiveWeight] => [weight.leaf, weight]));
  return (value) => {
    const held = hold(value);
    const weight = decoded.get(value);
    if (!weight) return held;
    const whole = held?.whole ?? (() => value);
    return {
      whole: () => putColumns(whole(), weight),
      rows: (indices) => gather(putColumns(whole(), weight), indices),
    };
  };
}

function close(
  name: string,
  inputs: readonly InputValue[],
  outputs: Readonly<Record<string, Value>>,
  { reads, writes, patches }: Pick<StepGraph, "reads" | "writes" | "patches">,
  {
    memory,
    baseWeights: held = "f32",
    kernels = new Set(),
    rough = new Set(),
    splitParts = Number.POSITIVE_INFINITY,
  }: Pick<StepOptions, "memory" | "baseWeights" | "kernels" | "rough" | "splitParts">,
  { live }: Pick<Attached, "live">,
): StepGraph {
  const names = Object.keys(outputs);
  const resident = { reads, writes, patches };
  const hold = holdLive(baseWeights[held].hold, live);
  const plain = precise(expand(Object.values(outputs), kernels), rough);
  const lean = splitFew(sumProducts(broadcastLate(useSparsity(fold(plain)))), splitParts);
  const folded = readInPlace(takeColumnsEarly(lean), {
    except: (weight) => hold(weight) !== undefined,
  });
  const [loss, ...others] = folded;
  if (names[0] !== "loss" || loss === undefined) return { graph: assemble(folded, []), ...resident, savedBytes: 0 };
  const {
    outputs: lighter,
    repeated,
    savedBytes,
  } = recompute(loss, others, {
    bytes: (value) => bytesOfValue(value, nominal),
    // Columns are narrow, and what they were picked from is wide.
    repeatable: (node) => !picksColumns(node) && memoryChoices[memory].repeatable(node),
  });
  return { graph: assemble([loss, ...lighter], [loss, ...repeated]), ...resident, savedBytes };

  function assemble(values: readonly Value[], first: readonly Value[]): Graph {
    const { values: all, decoded } = holdWeights([...values, ...first], hold);
    const named = new Map(names.map((key, i) => [key, all[i] as Value])); // one a name
    return graph({ name, inputs, outputs: named, first: [...decoded, ...all.slice(values.length)] });
  }
}
