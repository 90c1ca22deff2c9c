import {
  type Graph,
  graph,
  type InputValue,
  input,
  type ParameterValue,
  parameter,
  type Value,
} from "../graph/index.ts";
import {
  type Attached,
  type AttachOptions,
  attach,
  type LiveWeight,
  type MethodChoice,
  type TargetModules,
} from "../methods/index.ts";
import { type PretrainedModel, watchedShares } from "../models/index.ts";
import { add, gather, mul } from "../ops/index.ts";
import type { OptimizerChoice } from "../optim/index.ts";
import { bytesOfValue, type Symbols } from "../plan/memory.ts";
import type { Patch, Reads, Writes } from "../runtime/device.ts";
import {
  broadcastLate,
  compose,
  differentiate,
  expand,
  fold,
  gatherEarly,
  holdWeights,
  picksColumns,
  precise,
  readInPlace,
  recompute,
  stackProducts,
  sumProducts,
  takeColumnsEarly,
  useSparsity,
} from "../transforms/index.ts";
import { type BaseWeights, type BaseWeightsName, baseWeights } from "./base-weights.ts";
import { type LivePack, putColumns } from "./live-weights.ts";
import { type MemoryChoiceName, memoryChoices } from "./memory.ts";
import { chooseObjective, type ObjectiveChoice } from "./objectives/index.ts";
import { stateName, updateOutputs } from "./update.ts";

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
  /** Operators beyond operator set 21 that the runtime has kernels for; none unless given. */
  readonly kernels?: ReadonlySet<string>;
  /** Operators that the runtime computes roughly; none unless given. */
  readonly rough?: ReadonlySet<string>;
  /**
   * Whether the device can replace parts of buffers, so that methods may train weights where they are, and cut outputs
   * into buffers.
   */
  readonly patches?: boolean;
}

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
}

/** The sizes at which what to keep and what to recompute is weighed: one row of 512 tokens, all of them labels. */
const nominal: Symbols = { batch: 1, seq: 128, pairs: 1, target: 64, block: 128, chunk: 32 };

/**
 * Build the training step of a model as graphs: forward, loss, backward, clipping by global norm and the optimiser.
 * Scalars of the optimiser (`keep`, `step_size`, …) and `carry` (0 on the first batch of an update, 1 after) are inputs.
 */
export function buildTraining(model: PretrainedModel, options: StepOptions): TrainingGraphs {
  const { choice, targets, accumulates } = options;
  const { objective, config } = options.objective ?? chooseObjective(undefined);
  const open = objective.forward(model);
  const outputModule = model.architecture.outputModule;
  const live = liveMode(options);
  const attached = attach(open.outputs, { choice, targets, outputModule, training: true, ...(live ? { live } : {}) });
  const defined = objective.loss({ tuned: attached.outputs, pretrained: open.outputs }, config);
  const { [watchedShares]: watched } = attached.outputs;
  const measured = { ...defined.measures, ...(watched ? { [watchedShares]: watched } : {}) };
  const scalars = stackProducts(gatherEarly(compose([defined.loss, ...Object.values(measured)])));
  const loss = scalars[0] as Value; // as many as before
  const measures = Object.fromEntries(Object.keys(measured).map((name, i) => [name, scalars[i + 1] as Value]));
  const parameters = attached.trainables.flatMap(({ value, trained }) => (trained ? [value] : []));
  const gradients = differentiate(loss, parameters);
  const dropout = new Set(attached.dropoutMasks.flatMap(({ value, scale }) => [value, scale]));
  const inputs = [...open.inputs, ...defined.inputs, ...dropout];

  if (!accumulates) {
    const update = updateOutputs(attached, gradients, options);
    return {
      gradient: close("step", inputs, { loss, ...measures, ...update.outputs }, update, options, attached),
      update: undefined,
      attached,
      zeros: update.state,
      reports: update.reports,
      live: update.live,
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
  }: Pick<StepOptions, "memory" | "baseWeights" | "kernels" | "rough">,
  { live }: Pick<Attached, "live">,
): StepGraph {
  const names = Object.keys(outputs);
  const resident = { reads, writes, patches };
  const hold = holdLive(baseWeights[held].hold, live);
  const plain = precise(expand(Object.values(outputs), kernels), rough);
  const lean = sumProducts(broadcastLate(useSparsity(fold(plain))));
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
