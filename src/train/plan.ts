import { type Graph, sizeOf, type Value } from "../graph/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { type Machine, runSeconds } from "../plan/cost.ts";
import { type Footprint, footprint, type PlannedProgram } from "../plan/footprint.ts";
import { bytesOfValue, type Symbols } from "../plan/memory.ts";
import { laysOut } from "../runtime/program.ts";
import { kernelsOf } from "../runtime/provider.ts";
import { batchesByLength, sequencesOf, type TokenizedExample, tokensOf } from "./data/index.ts";
import { memoryChoices } from "./memory.ts";
import { scheduleOf } from "./method-schedule.ts";
import { chooseObjective } from "./objectives/index.ts";
import { evaluationLayout, privateStepOf, trainingLayout } from "./privacy.ts";
import type { RunOptions } from "./run.ts";
import { buildTraining, type StepOptions, type TrainingGraphs } from "./step.ts";
import { timetableOf } from "./timetable.ts";

/** What a run would take, said before anything of it is loaded. */
export interface RunPlan {
  readonly trainedParameters: number;
  readonly modelParameters: number;
  /** Updates of the whole run, and of an epoch. */
  readonly steps: number;
  readonly stepsPerEpoch: number;
  readonly memory: Footprint;
  /** Bytes of the forward pass kept for the backward pass, for a batch of the size that graphs are laid out for. */
  readonly savedBytes: number;
  /** Milliseconds of an update; the mean over the epoch's batches. */
  readonly stepMs: number;
  /** Milliseconds of an epoch with its evaluation, and of the whole run. */
  readonly epochMs: number;
  readonly runMs: number;
}

/** What is planned: a run, as {@link train} would be given it. */
export interface PlanOptions
  extends Pick<
    RunOptions,
    "model" | "choice" | "targets" | "objective" | "settings" | "mixture" | "validation" | "padId" | "facts"
  > {
  /** The examples, or some of them where `mixture` counts more. */
  readonly train: readonly TokenizedExample[];
}

/** Where a run would happen. */
export interface PlanSite {
  readonly machine: Machine;
  /** Bytes that the process takes before the run. */
  readonly processBytes: number;
}

/** How many batches times are averaged over, and how many of the largest memory is computed for. */
const [sampled, largest] = [12, 4];

/** How a step of private training is built; nothing for others. */
function privately(settings: PlanOptions["settings"]): Pick<StepOptions, "privacy"> {
  const privacy = privateStepOf(settings);
  return privacy ? { privacy } : {};
}

/** The graphs of a run, as they are on a CPU. */
export function graphsOf(options: PlanOptions): TrainingGraphs {
  const { model, settings } = options;
  return buildTraining(model, {
    ...options,
    optimizer: chooseOptimizer(settings.optimizer, settings.optimizerOptions),
    maxGradNorm: settings.maxGradNorm,
    memory: settings.memory,
    baseWeights: settings.baseWeights,
    accumulates: settings.accumulationSteps > 1,
    ...privately(settings),
    kernels: kernelsOf("cpu"),
    patches: true, // as on a CPU
  });
}

/** The parts of a run that its memory hangs on. */
export type RunMemory = Pick<PlanOptions, "model" | "objective" | "settings" | "train" | "padId">;

/** The batches of an epoch: examples of those that there are. */
function batchesOf({ settings, train }: RunMemory): readonly (readonly TokenizedExample[])[] {
  const { schedule } = timetableOf([{ count: train.length, weight: 1 }], settings);
  return Array.from({ length: schedule.batchesPerEpoch }, (_, i) => {
    const { indices } = schedule.at(i);
    return indices.map((index) => train[index] as TokenizedExample); // indices of examples
  });
}

/**
 * What the graphs of a run take at their peak, in a process on a CPU that takes `processBytes` before.
 * @param count largest batches that are tried: those with the most tokens, and those with the longest examples.
 */
export function memoryOf(
  run: RunMemory,
  { gradient, update, attached, zeros }: TrainingGraphs,
  processBytes: number,
  count = 1,
): Footprint {
  const { laidOutBytes } = memoryChoices[run.settings.memory];
  const { objective } = run.objective ?? chooseObjective(undefined);
  const layout = trainingLayout(run);
  const sizes = largestOf(batchesOf(run), count).map((examples) => objective.batch(examples, layout).sizes);
  const planned = (graph: Graph, at: readonly Symbols[]): PlannedProgram => ({
    graph,
    sizes: at,
    prepack: laysOut(graph, laidOutBytes),
  });
  const programs = [planned(gradient.graph, sizes)];
  if (update) programs.push(planned(update.graph, [{}]));
  const { trainables, live } = attached;
  const buffers = live.flatMap(({ leaf, original }) => (leaf.kind === "parameter" ? [leaf, original] : [original]));
  const bytesOf = (values: readonly Value[]): number => sumOf(values, (value) => bytesOfValue(value, {}));
  return footprint(programs, {
    processBytes,
    trainedBytes: bytesOf([...trainables.map(({ value }) => value), ...zeros]),
    bufferBytes: bytesOf(buffers),
  });
}

/**
 * Plan a run: build its graphs, lay out its batches, and add up what they would take. Reads no weights. Memory is that
 * of a process on a CPU, where a program takes what its largest batch needs.
 */
export function planRun(options: PlanOptions, { machine, processBytes }: PlanSite): RunPlan {
  const { model, settings } = options;
  const { objective } = options.objective ?? chooseObjective(undefined);
  const graphs = graphsOf(options);
  const some = [{ count: options.train.length, weight: 1 }];
  const { steps, updatesPerEpoch, schedule: whole } = timetableOf(options.mixture ?? some, settings);
  scheduleOf(options.choice, graphs.attached.trainables, steps); // refuses options that do not fit the run
  const layout = trainingLayout(options);
  const batches = batchesOf(options);
  const sizesOf = (examples: readonly TokenizedExample[]): Symbols => objective.batch(examples, layout).sizes;
  const validation = batchesByLength(options.validation, objective.batch, {
    batchSize: settings.batchSize,
    ...evaluationLayout(options),
  });
  const validationSizes = evenly(validation, sampled).map(({ sizes }) => sizes);

  const { gradient, update } = graphs;
  const parameters = graphs.attached.trainables.flatMap(({ value, trained }) => (trained ? [value] : []));

  const seconds = (graph: Graph, sizes: readonly Symbols[]): number =>
    mean(sizes.map((at) => runSeconds(graph, at, machine)));
  const gradientSeconds = seconds(gradient.graph, evenly(batches, sampled).map(sizesOf));
  const updateSeconds = update ? runSeconds(update.graph, {}, machine) : 0;
  const evaluationSeconds = validation.length * seconds(gradient.graph, validationSizes);
  const trainingSeconds = whole.batchesPerEpoch * gradientSeconds + updatesPerEpoch * updateSeconds;
  return {
    trainedParameters: sumOf(parameters, ({ shape }) => sizeOf(shape.map(Number))),
    modelParameters: model.parameterCount,
    steps,
    stepsPerEpoch: updatesPerEpoch,
    memory: memoryOf(options, graphs, processBytes, largest),
    savedBytes: gradient.savedBytes,
    stepMs: (1000 * trainingSeconds) / updatesPerEpoch,
    epochMs: 1000 * (trainingSeconds + evaluationSeconds),
    runMs: (1000 * (trainingSeconds + evaluationSeconds) * steps) / updatesPerEpoch,
  };
}

/** The batches with the most tokens and those with the longest examples: one of them needs the most memory. */
function largestOf(
  batches: readonly (readonly TokenizedExample[])[],
  count: number,
): readonly (readonly TokenizedExample[])[] {
  const measured = batches.map((examples) => {
    const lengths = examples.flatMap(sequencesOf).map(({ inputIds }) => inputIds.length);
    return { examples, tokens: sumOf(examples, tokensOf), longest: Math.max(...lengths) };
  });
  const top = (key: "tokens" | "longest"): typeof measured =>
    measured.toSorted((a, b) => b[key] - a[key]).slice(0, count);
  return [...new Set([...top("tokens"), ...top("longest")])].map(({ examples }) => examples);
}

/** Up to `count` of the values, evenly spread. */
function evenly<T>(values: readonly T[], count: number): readonly T[] {
  if (values.length <= count) return values;
  return Array.from({ length: count }, (_, i) => values[Math.floor((i * values.length) / count)] as T); // below its length
}

function mean(values: readonly number[]): number {
  return sumOf(values, Number) / Math.max(1, values.length);
}

function sumOf<T>(values: readonly T[], of: (value: T) => number): number {
  return values.reduce((sum, value) => sum + of(value), 0);
}
