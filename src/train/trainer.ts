import { assert, TuneError } from "../errors.ts";
import { resolveDim, sizeOf, type Tensor, tensor } from "../graph/index.ts";
import {
  type Adapter,
  besideWholeWeights,
  type DropoutMask,
  initialTensor,
  type MethodChoice,
  type TargetModules,
  type Trainable,
} from "../methods/index.ts";
import { type PretrainedModel, watchedShares } from "../models/index.ts";
import { operatorSet } from "../ops/index.ts";
import type { OptimizerChoice } from "../optim/index.ts";
import type { Generator } from "../privacy/index.ts";
import type { Device, Patch, Reads, Writes } from "../runtime/device.ts";
import { onShare } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";
import { kernelsOf, roughKernelsOf, splitPartsOf } from "../runtime/provider.ts";
import type { BaseWeightsName } from "./base-weights.ts";
import type { Batch } from "./data/index.ts";
import { fillDropoutMasks, openDropoutMasks } from "./dropout.ts";
import { addUp, type Evaluator, type Measured, meanLoss, measuredIn } from "./evaluator.ts";
import { liveWeights } from "./live-weights.ts";
import { type MemoryChoiceName, memoryChoices } from "./memory.ts";
import { scheduleOf } from "./method-schedule.ts";
import { chooseObjective, type ExampleAxes, type ObjectiveChoice } from "./objectives/index.ts";
import {
  buildTraining,
  type NoisedPack,
  type PrivateStep,
  privateInputs,
  type StepGraph,
  type TrainingGraphs,
} from "./step.ts";
import { noiseInputs } from "./update.ts";

/** What a trainer needs to know; see {@link openTrainer}. */
export interface TrainerOptions {
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
  /** Whether updates may be made of several batches. */
  readonly accumulates: boolean;
  /** Updates are private: each step is given its clip, its noise and its expected batch. */
  readonly privacy?: PrivateStep;
  /** Draws initial values and dropout masks. */
  readonly seed: number;
  /** Updates of the whole run: methods with a schedule need to know. */
  readonly steps?: number;
  /** Looks at the step's graphs before anything of them is compiled or a weight is read; what it throws ends the run. */
  readonly admit?: (graphs: TrainingGraphs) => void;
}

/**
 * What one update reports: the loss and the objective's measures as means over its targets, and among the measures what
 * the method reports, such as its penalty.
 */
export interface StepReport extends Measured {
  /** Global norm of the gradients before clipping. */
  readonly gradNorm: number;
  /** Of each head whose attention is watched ({@link SequenceAttention}): the share of what is allowed, the largest of all batches. */
  readonly attentionShares?: Float32Array;
}

/** The privacy of one update (DP-SGD). */
export interface StepPrivacy {
  /** An example's gradient is scaled down to this length. */
  readonly clip: number;
  /** Standard deviation of the noise over the clip. */
  readonly noiseMultiplier: number;
  /** Examples that a batch has on average; sums are divided by it, whatever was drawn. */
  readonly expectedBatch: number;
  /** Draws the noise: the same for the same key, purpose and step. */
  readonly generator: Pick<Generator, "normals">;
  /** What sets this noise apart from any other under the same key. */
  readonly purpose: string;
}

/** One model being trained on one device: its parameters and optimiser state live there between steps. */
export interface Trainer {
  readonly trainables: readonly Trainable[];
  /** Number of trained values. */
  readonly trainedParameters: number;
  /** The first update after which the adapter is what the method promises; 0 for methods without a schedule. */
  readonly settledFrom: number;
  /**
   * One update from one or more batches. `step` counts from 1. Of a private step, the loss is a mean over the examples that
   * were drawn, 0 where none was; it is told to nobody but the caller, and is not private.
   * @throws {TuneError} `not-finite-loss` when the loss or the gradients are NaN or infinite.
   */
  step(step: number, batches: readonly Batch[], learningRate: number, privacy?: StepPrivacy): Promise<StepReport>;
  /** Start with an empty optimiser, as a new run does; what is trained stays. */
  reset(): Promise<void>;
  /** Mean loss and measures over batches, with dropout off. */
  evaluate(batches: readonly Batch[]): Promise<Measured>;
  /** Copy the trained tensors back. */
  parameters(): Promise<ReadonlyMap<string, Tensor>>;
  /** The adapter of the trained tensors, those now on the device unless given, beside the pretrained weights as they are. */
  adapter(parameters?: ReadonlyMap<string, Tensor>): Promise<Adapter>;
  /** Replace the trained tensors. */
  load(parameters: ReadonlyMap<string, Tensor>): Promise<void>;
  /** Everything that a later run needs to go on: parameters and optimiser state, by buffer name. */
  state(): Promise<ReadonlyMap<string, Tensor>>;
  /** Go on from an earlier state. */
  restore(state: ReadonlyMap<string, Tensor>): Promise<void>;
  /** Free programs and buffers; the device stays open. */
  close(): Promise<void>;
}

/** The output that holds the gradients' global norm. */
const normName = "grad_norm";

interface Compiled {
  readonly program: Program;
  readonly reads: Reads;
  readonly writes: Writes;
  readonly patches: Readonly<Record<string, readonly Patch[]>>;
}

/**
 * Compile a model's training step on a device and place initial parameters there.
 * @throws {TuneError} what attaching the method or compiling its graphs throws.
 */
export function openTrainer(device: Device, model: PretrainedModel, options: TrainerOptions): Promise<Trainer> {
  return onShare(device, (share) => makeTrainer(share, model, options));
}

/** The same on a device, or a share of one, that the trainer has for itself and closes. */
async function makeTrainer(device: Device, model: PretrainedModel, options: TrainerOptions): Promise<Trainer> {
  const { provider, patches = false } = device;
  const graphs = buildTraining(model, {
    ...options,
    kernels: kernelsOf(provider),
    rough: roughKernelsOf(provider),
    splitParts: splitPartsOf(provider),
    patches,
  });
  const { trainables, dropoutMasks } = graphs.attached;
  const { optimizer, config } = options.optimizer;
  if (trainables.length === 0) {
    throw new TuneError("nothing-to-train", `${options.choice.method.name} attached to no layer.`, {
      at: model.folder,
      fix: "choose other target modules",
    });
  }
  const schedule = scheduleOf(options.choice, trainables, options.steps);
  options.admit?.(graphs);
  const { laidOutBytes } = memoryChoices[options.memory];
  const gradient = await compileStep(device, graphs.gradient, laidOutBytes);
  const update = graphs.update && (await compileStep(device, graphs.update, laidOutBytes));

  await placeInitial(device, graphs, options.seed);
  const live = liveWeights(device, graphs.attached.live, graphs.live);
  await live.place();

  // A scalar that no parameter's update uses (decay, when nothing decays) is not an input of the graph.
  const taken = new Set((update ?? gradient).program.graph.inputs.map(({ name }) => name));
  const optimizerFeeds = (step: number, learningRate: number): Record<string, Tensor> =>
    scalarFeeds({ ...optimizer.scalars(step, learningRate, config), ...schedule?.scalars(step) }, taken);

  const { examples: lie } = (options.objective ?? chooseObjective(undefined)).objective;
  const axes = options.privacy && !("refused" in lie) ? lie : undefined;
  const privateFeeds = (batch: Batch, clip: number): Readonly<Record<string, Tensor>> => {
    assert(axes !== undefined, "a private step has gradients by example");
    return { [privateInputs.mask]: exampleMask(batch, axes, batch.blank ? 0 : 1), [privateInputs.clip]: scalar(clip) };
  };
  const ofUpdate = [normName, ...graphs.reports];
  const besides = [...ofUpdate, watchedShares];
  // Sums of gradients without noise are kept nowhere: the first batch of an update overwrites them.
  const secret = new Set(graphs.noised.map(({ sums }) => sums));
  const kept = graphs.zeros.filter(({ name }) => !secret.has(name));
  const buffers = [...trainables.map(({ value }) => value), ...kept];
  const download = async (names: readonly string[]): Promise<ReadonlyMap<string, Tensor>> => {
    const tensors = new Map<string, Tensor>();
    for (const name of names) tensors.set(name, await device.download(name));
    return tensors;
  };

  const trainer: Trainer = {
    trainables,
    settledFrom: schedule?.settledFrom ?? 0,
    trainedParameters: trainables.reduce(
      (sum, { value, trained }) => sum + Number(trained) * value.shape.map(Number).reduce((a, b) => a * b, 1),
      0,
    ),

    step: async (step, batches, learningRate, privacy) => {
      assert(
        batches.length > 0 && (batches.length === 1 || update !== undefined),
        "this trainer takes one batch a step",
      );
      assert((privacy !== undefined) === (options.privacy !== undefined), "a private step has its noise, and no other");
      const targets = batches.reduce((sum, batch) => sum + (batch.blank ? 0 : batch.targets), 0);
      // Drawn while the device computes.
      const noise = privacy && noiseFeeds(privacy, graphs.noised, step);
      noise?.catch(() => undefined); // awaited below, unless something else fails first
      const measured: Measured[] = [];
      const shares: Float32Array[] = [];
      let last: Readonly<Record<string, Tensor>> = {};
      for (const [i, batch] of batches.entries()) {
        last = await runStep(gradient, {
          ...batch.feeds,
          ...(privacy
            ? { normaliser: scalar(1), ...privateFeeds(batch, privacy.clip) }
            : { normaliser: scalar(targets) }),
          ...fillDropoutMasks(dropoutMasks, batch.sizes, { seed: options.seed, step, batch: i }),
          ...(update ? { carry: scalar(i === 0 ? 0 : 1) } : optimizerFeeds(step, learningRate)),
        });
        if (!batch.blank) measured.push(measuredIn(omit(last, besides)));
        const { [watchedShares]: watched } = last;
        if (watched) shares.push(watched.data as Float32Array); // float32, as the graph says
      }
      const { loss, measures } = addUp(measured, privacy ? Math.max(1, targets) : 1);
      if (Number.isFinite(loss) && update)
        last = await runStep(update, { ...optimizerFeeds(step, learningRate), ...(await noise) });
      const { [normName]: gradNorm = Number.NaN, ...reports } = Object.fromEntries(
        ofUpdate.map((name) => [name, Number(last[name]?.data[0])]),
      );
      const [first] = shares;
      const most = first?.map((_, i) => Math.max(...shares.map((share) => share[i] ?? Number.NaN)));
      const report: StepReport = {
        ...{ loss, measures: { ...measures, ...reports }, gradNorm },
        ...(most ? { attentionShares: most } : {}),
      };
      refuseNotFinite(report, step, learningRate);
      return report;
    },

    evaluate: async (batches) => {
      const evaluator = stepEvaluator(
        gradient,
        dropoutMasks,
        besides,
        axes && ((batch) => exampleMask(batch, axes, 1)),
      );
      const { loss, measures } = await meanLoss(evaluator, batches);
      return { loss, measures };
    },

    parameters: () => download(trainables.map(({ value }) => value.name)),

    adapter: async (given) => {
      const { choice, targets } = options;
      const steps = schedule && options.steps !== undefined ? { steps: options.steps } : {};
      const adapter = { choice, targets, ...steps, parameters: given ?? (await trainer.parameters()) };
      return besideWholeWeights(model.predict().outputs, adapter, model.architecture.outputModule);
    },

    load: async (parameters) => {
      for (const { value } of trainables)
        await device.upload(value.name, expectTensor(parameters, value.name, value.shape));
      await live.place();
    },

    reset: async () => {
      for (const { name, dtype, shape } of graphs.zeros) await device.upload(name, tensor(dtype, shape.map(Number), 0));
    },

    state: () => download(buffers.map(({ name }) => name)),

    restore: async (state) => {
      for (const { name, shape } of buffers) await device.upload(name, expectTensor(state, name, shape));
      await live.place();
    },

    close: () => device.close(),
  };
  return trainer;
}

/** 1 for every example of a batch, or 0 where none is one. */
function exampleMask({ sizes }: Batch, { examples }: ExampleAxes, value: 0 | 1): Tensor {
  const count = resolveDim(examples, sizes);
  assert(count !== undefined, `a batch says how many ${examples} it has`);
  return tensor("float32", [count, 1], value);
}

/** The noise of an update, a vector a pack, and what its sums are divided by. */
async function noiseFeeds(
  { clip, noiseMultiplier, expectedBatch, generator, purpose }: StepPrivacy,
  packs: readonly NoisedPack[],
  step: number,
): Promise<Readonly<Record<string, Tensor>>> {
  const feeds: Record<string, Tensor> = { [noiseInputs.share]: scalar(1 / expectedBatch) };
  for (const { input, shape } of packs) {
    const data = new Float32Array(sizeOf(shape));
    // Without noise the clip may be infinite, and 0 times that is no number.
    if (noiseMultiplier > 0) await generator.normals(data, `${purpose} ${input}`, step, noiseMultiplier * clip);
    feeds[input] = { dtype: "float32", shape, data };
  }
  return feeds;
}

async function compileStep(device: Device, step: StepGraph, laidOutBytes: number): Promise<Compiled> {
  const { graph, writes, patches } = step;
  // ONNX Runtime's own rewriting takes longer than a hundred steps of a deep model, finds little that is left to do,
  // and merges what was put there twice to save memory.
  const tuning = { optimization: "disabled" } as const;
  const opset = operatorSet(graph.nodes, 21);
  const residentOutputs = Object.keys({ ...writes, ...patches });
  const program = await compileGraph(device, graph, { residentOutputs, tuning, opset, laidOutBytes });
  const reads = { ...Object.fromEntries(graph.parameters.map(({ name }) => [name, name])), ...step.reads };
  return { program, reads, writes, patches };
}

function runStep(
  { program, reads, writes, patches }: Compiled,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Readonly<Record<string, Tensor>>> {
  return program.run({ feeds, reads, writes, patches });
}

/**
 * Measures with the training program, which holds the weights already: nothing that the run writes is kept, so the
 * scalars of an update do not matter.
 */
function stepEvaluator(
  { program, reads }: Compiled,
  masks: readonly DropoutMask[],
  besides: readonly string[],
  maskOf?: (batch: Batch) => Tensor,
): Evaluator {
  const unused = program.graph.inputs.filter(({ shape }) => shape.length === 0).map(({ name }) => [name, scalar(1)]);
  const scalars: Readonly<Record<string, Tensor>> = Object.fromEntries(unused); // the sum's normaliser is 1 too
  return {
    sums: async (batch) => {
      const { feeds, sizes } = batch;
      const open = { ...openDropoutMasks(masks, sizes), ...(maskOf ? { [privateInputs.mask]: maskOf(batch) } : {}) };
      return measuredIn(omit(await program.run({ feeds: { ...scalars, ...feeds, ...open }, reads }), besides));
    },
    close: async () => undefined,
  };
}

function omit<T>(record: Readonly<Record<string, T>>, names: readonly string[]): Readonly<Record<string, T>> {
  return Object.fromEntries(Object.entries(record).filter(([name]) => !names.includes(name)));
}

async function placeInitial(device: Device, { attached, zeros }: TrainingGraphs, seed: number): Promise<void> {
  for (const trainable of attached.trainables) {
    await device.upload(trainable.value.name, await initialTensor(trainable, seed));
  }
  for (const { name, dtype, shape } of zeros) await device.upload(name, tensor(dtype, shape.map(Number), 0));
}

function expectTensor(tensors: ReadonlyMap<string, Tensor>, name: string, shape: readonly (number | string)[]): Tensor {
  const found = tensors.get(name);
  if (found && found.shape.join() === shape.join()) return found;
  throw new TuneError(
    "state-mismatch",
    found ? `${name} is [${found.shape.join(", ")}], not [${shape.join(", ")}].` : `${name} is missing.`,
    { at: "the saved training state", fix: "resume with the settings and the model that the run was started with" },
  );
}

function refuseNotFinite({ loss, gradNorm, measures }: StepReport, step: number, learningRate: number): void {
  const measured = Object.entries({ loss, "gradient norm": gradNorm, ...measures });
  const found = measured.find(([, value]) => !Number.isFinite(value));
  if (found === undefined) return;
  throw new TuneError("not-finite-loss", `The ${found[0]} is ${found[1]} at step ${step}.`, {
    at: `step ${step}, learning rate ${learningRate.toPrecision(3)}`,
    fix: "lower the learning rate, add warm-up steps or clip gradients (max grad norm 1), then resume from the last checkpoint",
  });
}

function scalar(value: number): Tensor {
  return tensor("float32", [], [value]);
}

function scalarFeeds(values: Readonly<Record<string, number>>, taken: ReadonlySet<string>): Record<string, Tensor> {
  const used = Object.entries(values).filter(([name]) => taken.has(name));
  return Object.fromEntries(used.map(([name, value]) => [name, scalar(value)]));
}
