import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { checkClaim, claimFolder, type FolderClaim } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { Adapter, MethodChoice, RunRecord, TargetModules } from "../methods/index.ts";
import type { HeadPlan, PretrainedModel } from "../models/index.ts";
import { chooseOptimizer, learningRateAt } from "../optim/index.ts";
import { openGenerator } from "../privacy/index.ts";
import type { Device } from "../runtime/device.ts";
import { takeTurn } from "../runtime/device-turns.ts";
import type { StopSignal } from "../signal.ts";
import { attendingBy, type LeftHead } from "./attending.ts";
import { type Checkpoint, type Progress, readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import {
  type Batch,
  type BatchSchedule,
  batchesByLength,
  type ExampleStore,
  layoutOf,
  type Share,
  storeOf,
  type TokenizedExample,
} from "./data/index.ts";
import { drawPoisson } from "./data/poisson.ts";
import { checkFingerprint, type Facts, factsOf, hashWeights, hashWhileReading } from "./fingerprint.ts";
import { appendMetric, hashMetric, type MetricLine, trimMetrics } from "./metrics.ts";
import { chooseObjective, type ObjectiveChoice } from "./objectives/index.ts";
import {
  evaluationLayout,
  forgetKey,
  keyFile,
  keyOf,
  type PrivacyPlan,
  privacyOf,
  privateStepOf,
  type RunPrivacy,
  refusePlanned,
  spentBy,
  trainingLayout,
} from "./privacy.ts";
import type { TrainSettings } from "./settings.ts";
import { openEvents } from "./tensorboard.ts";
import { timetableOf } from "./timetable.ts";
import { openTrainer, type Trainer, type TrainerOptions } from "./trainer.ts";

/** What to train, on what, where. */
export interface RunOptions {
  readonly device: Device;
  readonly model: PretrainedModel;
  readonly choice: MethodChoice;
  readonly targets: TargetModules;
  /** What is minimised; next-token prediction unless given. */
  readonly objective?: ObjectiveChoice;
  readonly settings: TrainSettings;
  readonly train: readonly TokenizedExample[] | ExampleStore;
  /** How often the examples come in an epoch, in their order; all of them once unless given. */
  readonly mixture?: readonly Share[];
  /** Held back for evaluation; may be empty. */
  readonly validation: readonly TokenizedExample[];
  /** The token that fills rows up. */
  readonly padId: number;
  /** Where checkpoints and metrics go; without it nothing is written. */
  readonly folder?: { readonly storage: Storage; readonly path: string };
  /** Write events for TensorBoard into the folder too. */
  readonly tensorboard?: boolean;
  /** Go on from the folder's checkpoint, when it has one. */
  readonly resume?: boolean;
  /** What else decides the losses, such as the tokenizer's files; a run resumes only where it is the same. */
  readonly facts?: Facts;
  /** Heads that attend by a polynomial; each goes on exactly once an update finds its scores beyond what it was planned for. */
  readonly attention?: HeadPlan;
  /** Initial values instead of the method's own, by parameter name. */
  readonly initial?: ReadonlyMap<string, Tensor>;
  /** When it is aborted, the run saves after the current update and ends. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: RunEvent) => void;
  /** Looks at the step's graphs before anything of them is compiled; what it throws ends the run. */
  readonly admit?: TrainerOptions["admit"];
  /** Looks at what is trained, whenever an evaluation is due; what it measures goes with the metrics. */
  readonly observe?: (trained: Observed) => Promise<Readonly<Record<string, number>>>;
}

/** What an observer may look at. */
export interface Observed {
  readonly step: number;
  /** Mean loss of the run's objective over batches, dropout off. */
  readonly evaluate: (batches: readonly Batch[]) => Promise<number>;
  /** A copy of the trained tensors. */
  readonly adapter: () => Promise<Adapter>;
}

/** What happens during a run. */
export type RunEvent =
  | {
      readonly kind: "start";
      readonly steps: number;
      readonly firstStep: number;
      readonly trainedParameters: number;
      readonly modelParameters: number;
      readonly trainExamples: number;
      readonly validationExamples: number;
      /** What is tuned how, defaults filled in. */
      readonly method: { readonly name: string } & MethodChoice["config"];
      readonly objective: { readonly name: string } & ObjectiveChoice["config"];
      readonly settings: TrainSettings;
      /** The privacy that it is made with, where it is private. */
      readonly privacy?: PrivacyPlan;
    }
  | {
      readonly kind: "step";
      readonly step: number;
      readonly steps: number;
      readonly epoch: number;
      readonly loss: number;
      /** What else the objective measures, such as the accuracy of rewards, and what the method reports, such as its penalty. */
      readonly measures?: Readonly<Record<string, number>>;
      readonly gradNorm: number;
      readonly learningRate: number;
      readonly tokensPerSecond: number;
      readonly remainingMs: number;
    }
  | {
      readonly kind: "evaluation";
      readonly step: number;
      readonly loss: number;
      readonly measures?: Readonly<Record<string, number>>;
      readonly best: boolean;
    }
  | { readonly kind: "observation"; readonly step: number; readonly measures: Readonly<Record<string, number>> }
  | {
      /** Heads whose scores grew beyond what they were planned for: they attend exactly from the next update on. At step 0: none yet. */
      readonly kind: "attention";
      readonly step: number;
      readonly left: readonly LeftHead[];
      /** Heads that still attend by a polynomial. */
      readonly remaining: number;
    }
  | { readonly kind: "checkpoint"; readonly step: number; readonly path: string };

/** How a run ended. */
export interface RunResult {
  /** The trained tensors: those of the best evaluation, or the last ones when nothing was held back. */
  readonly adapter: Adapter;
  readonly step: number;
  readonly steps: number;
  readonly ended: "finished" | "early-stop" | "interrupted";
  readonly best: Progress["best"];
  /** What a private run has spent. */
  readonly privacy?: RunPrivacy;
}

/** The file of a run folder that keeps its plan of attention. */
export const planFile = "attention.json";

/** What a run's folder holds, together with what the commands add to it. */
export const runFolder: FolderClaim = {
  kind: "run",
  names: [
    ...["checkpoint.safetensors", "metrics.jsonl", "events.out.tfevents.*.scion", "outcome.json"],
    ...["run.json", planFile, keyFile, "lengths.svg", "ranks.svg", "adapter/", "model/"],
  ],
};

/** The checkpoint of a run folder. */
export function checkpointPath(folder: string): string {
  return joinPath(folder, "checkpoint.safetensors");
}

/** @throws {TuneError} `run-exists` when the folder holds a run. */
export async function refuseOtherRun(storage: Storage, folder: string): Promise<void> {
  if ((await storage.sizeBytes(checkpointPath(folder))) === undefined) return;
  throw new TuneError("run-exists", "This folder holds a run already.", {
    at: folder,
    fix: "go on with it (resume), or choose another output folder",
  });
}

/**
 * Train: update after update, with evaluation, early stop, checkpoints and metrics. A run that is killed at any moment
 * and resumed goes through the same losses, bit for bit, as one that was left alone. One run has a device at a time: a
 * second one waits.
 * @throws {TuneError} `output-exists` and the like when something else is in the folder; `run-exists` when the folder holds
 * a run and `resume` is not set, `resume-mismatch`,
 * `in-use` when another run is writing there, `not-finite-loss` (the last checkpoint stays as it was), and what compiling and the device throw.
 */
export async function train(options: RunOptions): Promise<RunResult> {
  const { folder, resume = false } = options;
  const claim = { ...runFolder, fresh: !resume };
  if (folder) await checkClaim(folder.storage, folder.path, claim);
  const lock = await folder?.storage.lock(joinPath(folder.path, "run"));
  try {
    if (folder) await claimFolder(folder.storage, folder.path, claim);
    if (folder && options.attention) {
      const plan = `${JSON.stringify(options.attention, null, 2)}\n`;
      await folder.storage.write(joinPath(folder.path, planFile), plan);
    }
    return await takeTurn(options.device, () => trainAlone(options), options.signal);
  } finally {
    await lock?.release();
  }
}

async function trainAlone(options: RunOptions): Promise<RunResult> {
  const { device, choice, targets, settings, folder, onEvent } = options;
  const objective = options.objective ?? chooseObjective(undefined);
  const examples = await storeOf(options.train);
  const mixture = options.mixture ?? [{ count: examples.count, weight: 1 }];
  const facts = await factsOf({ ...options, train: examples, mixture, objective });
  const saved = await findCheckpoint(options, facts);
  hashWhileReading(options.model);
  const { settings: asked } = options;
  if (options.attention) refusePlanned(asked);
  let attending = attendingBy(options.model, options.attention, saved?.progress.exactHeads);
  const { batchSize, accumulationSteps, seed } = settings;
  const { schedule, updatesPerEpoch, steps } = timetableOf(mixture, settings);
  const warmupSteps = settings.warmup < 1 ? Math.ceil(settings.warmup * steps) : settings.warmup;
  const rate = { peak: settings.learningRate, schedule: settings.schedule, warmupSteps, totalSteps: steps };
  const layout = evaluationLayout({ ...options, model: attending.model, objective });
  const validation = batchesByLength(options.validation, objective.objective.batch, { batchSize, ...layout });
  const privacy = privacyOf(settings, { count: examples.count, steps });
  const privateStep = privateStepOf(settings);

  const open = (): Promise<Trainer> =>
    openTrainer(device, attending.model, {
      choice,
      targets,
      objective,
      optimizer: chooseOptimizer(settings.optimizer, settings.optimizerOptions),
      maxGradNorm: settings.maxGradNorm,
      memory: settings.memory,
      baseWeights: settings.baseWeights,
      accumulates: accumulationSteps > 1 || privacy !== undefined, // as many are drawn as chance has it
      ...(privateStep ? { privacy: privateStep } : {}),
      seed,
      steps,
      ...(options.admit ? { admit: options.admit } : {}),
    });
  let trainer = await open();
  try {
    const fingerprint = { ...facts, weights: await hashWeights(options.model) };
    if (saved) checkFingerprint(saved.fingerprint, fingerprint, checkpointPath(options.folder?.path ?? ""));
    if (options.initial) await trainer.load(options.initial);
    if (saved) await trainer.restore(saved.state);
    let metrics = folder
      ? await trimMetrics(folder.storage, folder.path, saved?.progress.step ?? 0, saved?.metrics)
      : undefined;

    const events =
      folder && options.tensorboard
        ? await openEvents(folder.storage, folder.path, {
            firstStep: (saved?.progress.step ?? 0) + 1,
            now: () => Date.now() / 1000,
          })
        : undefined;
    const note = async (line: MetricLine): Promise<void> => {
      if (folder) await appendMetric(folder.storage, folder.path, line);
      if (metrics !== undefined) metrics = hashMetric(metrics, line);
      await events?.add(line);
    };
    let progress: Progress = saved?.progress ?? { step: 0, best: undefined, evaluationsWithoutGain: 0 };
    let best = saved?.best;
    let savedStep = saved?.progress.step ?? -1;
    const save = async (): Promise<void> => {
      if (!folder || savedStep === progress.step) return;
      const path = checkpointPath(folder.path);
      const state = await trainer.state();
      await writeCheckpoint(folder.storage, path, { progress, fingerprint, metrics, state, best });
      savedStep = progress.step;
      onEvent?.({ kind: "checkpoint", step: progress.step, path });
    };
    const evaluate = async (): Promise<void> => {
      const { loss, measures } = await trainer.evaluate(validation);
      const counts = progress.step >= trainer.settledFrom;
      const improved = counts && (progress.best === undefined || loss < progress.best.loss);
      if (improved) best = await trainer.parameters();
      progress = {
        ...progress,
        best: improved ? { step: progress.step, loss } : progress.best,
        evaluationsWithoutGain: improved || !counts ? 0 : progress.evaluationsWithoutGain + 1,
      };
      const line = { kind: "evaluation", step: progress.step, loss, ...measuresOf(measures), best: improved } as const;
      await note(line);
      onEvent?.(line);
    };

    const observe = async (): Promise<void> => {
      const measures = await options.observe?.({
        step: progress.step,
        evaluate: async (batches) => (await trainer.evaluate(batches)).loss,
        adapter: () => trainer.adapter(),
      });
      if (measures === undefined) return;
      const line = { kind: "observation", step: progress.step, measures } as const;
      await note(line);
      onEvent?.(line);
    };

    const letHeadsLeave = async (left: readonly LeftHead[]): Promise<void> => {
      if (left.length === 0) return;
      attending = attending.without(left);
      progress = { ...progress, exactHeads: attending.left };
      const state = await trainer.state();
      await trainer.close();
      trainer = await open();
      await trainer.restore(state);
      const { step } = progress;
      await note({ kind: "observation", step, measures: { polynomial_heads: attending.remaining } });
      onEvent?.({ kind: "attention", step, left, remaining: attending.remaining });
    };

    onEvent?.({
      kind: "start",
      steps,
      firstStep: progress.step + 1,
      trainedParameters: trainer.trainedParameters,
      modelParameters: options.model.parameterCount,
      trainExamples: examples.count,
      validationExamples: options.validation.length,
      method: { name: choice.method.name, ...choice.config },
      objective: { name: objective.objective.name, ...objective.config },
      settings,
      ...(privacy ? { privacy } : {}),
    });
    const meter = startMeter(steps - progress.step);
    const stopsEarly = (): boolean => settings.patience > 0 && progress.evaluationsWithoutGain >= settings.patience;
    let ended: RunResult["ended"] = stopsEarly() ? "early-stop" : "finished";
    const goesOn = progress.step < steps && !stopsEarly();
    const key =
      privacy && goesOn
        ? await keyOf(folder, { resume: options.resume === true, begun: progress.step > 0 })
        : undefined;
    const generator = key && openGenerator(key);
    while (progress.step < steps && !stopsEarly()) {
      if (options.signal?.aborted) {
        ended = "interrupted";
        break;
      }
      const step = progress.step + 1;
      const epoch = Math.floor((step - 1) / updatesPerEpoch);
      const on = { ...options, model: attending.model, examples };
      const batches =
        privacy && generator
          ? await privateBatches(
              on,
              objective.objective,
              await drawPoisson(generator, { count: examples.count, rate: privacy.samplingRate, step }),
            )
          : await updateBatches(on, objective.objective, schedule, {
              epoch,
              update: (step - 1) % updatesPerEpoch,
              updatesPerEpoch,
            });
      const learningRate = learningRateAt(step - 1, rate);
      const noise = privacy && generator ? { ...privacy, generator, purpose: "noise" } : undefined;
      const report = await trainer.step(step, batches, learningRate, noise).catch((error: unknown) => {
        throw withCheckpoint(error, folder && savedStep >= 0 ? checkpointPath(folder.path) : undefined);
      });
      const { loss, gradNorm, measures } = report;
      progress = { ...progress, step };
      const tokens = sumOf(
        batches.filter(({ blank }) => !blank),
        "tokens",
      );
      const line = {
        kind: "step",
        step,
        epoch,
        loss,
        ...measuresOf({ ...measures, ...largestShare(report.attentionShares) }),
        gradNorm,
        learningRate,
        tokens,
        targets: sumOf(
          batches.filter(({ blank }) => !blank),
          "targets",
        ),
      } as const;
      await note(line);
      onEvent?.({ ...line, steps, ...meter.tick(tokens) });
      await letHeadsLeave(attending.leaving(report.attentionShares));

      const endsEpoch = step % updatesPerEpoch === 0 || step === steps;
      const due = settings.evaluateEvery > 0 ? step % settings.evaluateEvery === 0 || step === steps : endsEpoch;
      const evaluates = validation.length > 0 && due;
      if (evaluates) await evaluate();
      if (due) await observe();
      const checkpointDue = settings.checkpointEvery > 0 && step % settings.checkpointEvery === 0;
      if (evaluates || checkpointDue) await save();
      if (stopsEarly()) ended = "early-stop";
    }
    await save();
    if (privacy && folder && ended !== "interrupted") await forgetKey(folder);
    const spent = privacy && spentBy(privacy, progress.step);
    const trained = await trainer.adapter(best);
    const ending = { step: progress.step, steps, ended };
    const cites = [
      choice.method.cite,
      objective.objective.cite,
      chooseOptimizer(settings.optimizer, settings.optimizerOptions).optimizer.cite,
    ];
    const run: RunRecord = {
      ...ending,
      // A record goes with the adapter: what was measured on examples, and hashes of them, have no noise.
      ...(progress.best && !spent ? { best: progress.best } : {}),
      ...(spent ? { privacy: spent } : {}),
      facts: spent ? withoutData(fingerprint) : fingerprint,
      cites: cites.filter((cite) => cite !== undefined),
    };
    return { adapter: { ...trained, run }, ...ending, best: progress.best, ...(spent ? { privacy: spent } : {}) };
  } finally {
    await trainer.close();
  }
}

async function findCheckpoint({ folder, resume }: RunOptions, facts: Facts): Promise<Checkpoint | undefined> {
  if (!folder) return undefined;
  const path = checkpointPath(folder.path);
  if (!resume) {
    await refuseOtherRun(folder.storage, folder.path);
    return undefined;
  }
  const saved = await readCheckpoint(folder.storage, path);
  // The weights are compared once they have been read.
  if (saved) checkFingerprint(saved.fingerprint, { ...facts, weights: saved.fingerprint["weights"] }, path);
  return saved;
}

async function updateBatches(
  { settings, examples, padId, model }: Omit<RunOptions, "train"> & { readonly examples: ExampleStore },
  objective: ObjectiveChoice["objective"],
  schedule: BatchSchedule,
  { epoch, update, updatesPerEpoch }: { epoch: number; update: number; updatesPerEpoch: number },
): Promise<readonly Batch[]> {
  const first = update * settings.accumulationSteps;
  const last = update === updatesPerEpoch - 1 ? schedule.batchesPerEpoch : first + settings.accumulationSteps;
  const rows = Array.from({ length: last - first }, (_, i) =>
    examples.at(schedule.at(epoch * schedule.batchesPerEpoch + first + i).indices),
  );
  return (await Promise.all(rows)).map((some) => objective.batch(some, layoutOf(model, padId)));
}

/** The examples that were drawn for an update, a few rows at a time; where none was, a row that counts for nothing. */
async function privateBatches(
  run: Omit<RunOptions, "train"> & { readonly examples: ExampleStore },
  objective: ObjectiveChoice["objective"],
  drawn: readonly number[],
): Promise<readonly Batch[]> {
  const { settings, examples } = run;
  const layout = trainingLayout(run);
  if (drawn.length === 0) return [{ ...objective.batch(await examples.at([0]), layout), blank: true }];
  const parts = Array.from({ length: Math.ceil(drawn.length / settings.batchSize) }, (_, i) =>
    examples.at(drawn.slice(i * settings.batchSize, (i + 1) * settings.batchSize)),
  );
  return (await Promise.all(parts)).map((some) => objective.batch(some, layout));
}

function withoutData({ trainData: _train, validationData: _held, ...facts }: Facts): Facts {
  return facts;
}

/** How far the heads of a plan have come of what it allows. */
function largestShare(shares: Float32Array | undefined): Readonly<Record<string, number>> {
  return shares === undefined || shares.length === 0 ? {} : { attention_share: Math.max(...shares) };
}

/** Absent where there are none. */
function measuresOf(measures: Readonly<Record<string, number>>): { readonly measures?: typeof measures } {
  return Object.keys(measures).length === 0 ? {} : { measures };
}

function sumOf(batches: readonly Batch[], key: "tokens" | "targets"): number {
  return batches.reduce((sum, batch) => sum + batch[key], 0);
}

/** Tell where the last good state is. */
function withCheckpoint(error: unknown, path: string | undefined): unknown {
  if (!(error instanceof TuneError) || path === undefined || error.at === undefined) return error;
  const [what = ""] = error.message.split("\n  at ");
  return new TuneError(error.code, what, {
    at: `${error.at}; last checkpoint ${path}`,
    ...(error.fix ? { fix: error.fix } : {}),
    cause: error,
  });
}

/** Throughput over the last updates, and the time left at that pace. */
function startMeter(total: number): { tick: (tokens: number) => { tokensPerSecond: number; remainingMs: number } } {
  const window: { at: number; tokens: number }[] = [{ at: performance.now(), tokens: 0 }];
  let done = 0;
  return {
    tick: (tokens) => {
      done += 1;
      window.push({ at: performance.now(), tokens });
      if (window.length > 21) window.shift();
      const elapsedMs = Math.max(1e-3, (window.at(-1)?.at ?? 0) - (window[0]?.at ?? 0));
      const counted = window.slice(1).reduce((sum, entry) => sum + entry.tokens, 0);
      return {
        tokensPerSecond: (1000 * counted) / elapsedMs,
        remainingMs: ((total - done) * elapsedMs) / (window.length - 1),
      };
    },
  };
}
