import { TuneError } from "../errors.ts";
import {
  type AggregationOptions,
  aggregationDefaults,
  aggregationRules,
  type Client,
  chooseStrategy,
  coordinate,
  type FederationPlan,
  type LocalTraining,
  openMemoryEngine,
  type RoundSummary,
  runState,
  type StrategyChoice,
  type StrategyConfig,
  strategies,
  type Tuned,
  takePart,
} from "../federated/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import type { Storage } from "../io/storage.ts";
import { type Adapter, attach, type MethodConfig, showTargets } from "../methods/index.ts";
import { checkNames, checkWord, type Inside, type NamesOf } from "../options.ts";
import { type Accountant, accountants } from "../privacy/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import { checkFingerprint, type Facts, hashExamples } from "../train/fingerprint.ts";
import type { PlanOptions } from "../train/plan.ts";
import { describeRun, insideTuning, refuseIdle, type TuningChoice, tuningNames } from "./describe-run.ts";
import { checkDevice } from "./device-names.ts";
import { openFederationFolder } from "./federation-folder.ts";
import { type ClientSpent, openFederationPrivacy } from "./federation-privacy.ts";
import {
  adapterOfTuned,
  boundOf,
  type FederationTrainer,
  federatedRun,
  federationBase,
  openFederationTrainer,
  spendOf,
} from "./federation-trainer.ts";
import type { LoadedClients } from "./load-clients.ts";
import type { LoadedModel } from "./load-model.ts";
import { admission } from "./memory.ts";
import type { OutputOptions } from "./save.ts";

/** What a federation tunes, and how its rounds go. */
export interface FederationChoice
  extends Omit<
    TuningChoice,
    | "method"
    | "schedule"
    | "warmup"
    | "epochs"
    | "maxSteps"
    | "accumulationSteps"
    | "evaluateEvery"
    | "patience"
    | "checkpointEvery"
  > {
  /** `fedsvd`, `ffa`, `fedavg`, …: a name in `strategies`; `fedsvd` unless given. */
  readonly strategy?: string;
  /** The strategy's options, such as `{ period: 2 }`. */
  readonly strategyOptions?: Partial<StrategyConfig>;
  /** LoRA's options; alpha is the rank unless given, so that the update is not scaled. */
  readonly methodOptions?: Partial<MethodConfig>;
  readonly rounds?: number;
  /** Updates that a client makes in a round. */
  readonly localSteps?: number;
  /** How many clients are asked in a round; all of them unless given, or 0. */
  readonly clientsPerRound?: number;
  /** With fewer uploads a round is tried again. */
  readonly minClients?: number;
  readonly aggregation?: Partial<AggregationOptions>;
  /** Rounds that a client's noise is made for, after which its budget is spent; all rounds unless given. */
  readonly dpRounds?: number;
}

/** How a federation is simulated, and where to. */
export interface SimulateOptions extends FederationChoice, OutputOptions {
  /** Folder for the state, metrics and results; nothing is written without it. */
  readonly output?: string;
  /** Write events for TensorBoard too. */
  readonly tensorboard?: boolean;
  /** Go on from the output folder's state, when it has one. */
  readonly resume?: boolean;
  /** A device to run on; one is opened, and closed again, when it is not given. */
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  /** Go on although the run would take more memory than is free. */
  readonly ignoreMemory?: boolean;
  /** Ends after the current update when aborted; the state is that after the last round. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: FederationEvent) => void;
}

/** Every name of a choice. */
export const choiceNames: NamesOf<FederationChoice> = (() => {
  const {
    method,
    schedule,
    warmup,
    epochs,
    maxSteps,
    accumulationSteps,
    evaluateEvery,
    patience,
    checkpointEvery,
    ...own
  } = tuningNames;
  return {
    ...own,
    ...{ strategy: true, strategyOptions: true, rounds: true, localSteps: true },
    ...{ clientsPerRound: true, minClients: true, aggregation: true },
    ...{ dpEpsilon: true, dpDelta: true, dpClip: true, dpNoise: true, dpAccountant: true, dpRounds: true },
  } as const;
})();

/** Every name of these options. */
export const simulateNames: NamesOf<SimulateOptions> = {
  ...choiceNames,
  ...{ output: true, replace: true, inputs: true, tensorboard: true, resume: true, device: true, deviceOptions: true },
  ...{ ignoreMemory: true, signal: true, onEvent: true },
};

/** What a federation does unless told otherwise: the paper's local training, plain gradient descent at a constant rate. */
export const federationDefaults: {
  readonly [Name in
    | "rounds"
    | "localSteps"
    | "clientsPerRound"
    | "minClients"
    | "learningRate"
    | "batchSize"
    | "maxGradNorm"
    | "seed"]: number;
} & { readonly strategy: string; readonly optimizer: string } = {
  strategy: "fedsvd",
  rounds: 50,
  localSteps: 10,
  clientsPerRound: 0,
  minClients: 1,
  learningRate: 0.5,
  batchSize: 8,
  optimizer: "sgd",
  maxGradNorm: 1,
  seed: 0,
};

/** What happens during a simulation. */
export type FederationEvent =
  | {
      readonly kind: "start";
      readonly clients: Readonly<Record<string, number>>;
      readonly firstRound: number;
      readonly trainedParameters: number;
      readonly plan: FederationPlan;
    }
  | {
      readonly kind: "training";
      readonly client: string;
      readonly round: number;
      readonly done: number;
      readonly of: number;
    }
  | { readonly kind: "round"; readonly rounds: number; readonly summary: RoundSummary }
  | { readonly kind: "end"; readonly ended: FederationEnd; readonly round: number; readonly rounds: number };

/** How a federation ended. */
export type FederationEnd = "finished" | "interrupted" | "too-few-clients";

/** What a federation came to. */
export interface FederationResult {
  readonly adapter: Adapter;
  readonly ended: FederationEnd;
  /** Rounds that were closed. */
  readonly rounds: number;
  readonly history: readonly RoundSummary[];
  /** Measures of the base model, before the first round. */
  readonly base: Readonly<Record<string, number>>;
  readonly plan: FederationPlan;
  /** Why it ended early, where it did. */
  readonly why?: string;
  /** What each client's data have spent, of a private federation. */
  readonly privacy?: readonly ClientSpent[];
}

/** Names that belong into objects in a choice. */
export function insideFederation(): Inside {
  return {
    ...insideTuning(),
    strategyOptions: [...strategies.values()].flatMap(({ fields }) => Object.keys(fields)),
    aggregation: Object.keys(aggregationDefaults),
  };
}

/** What is known of those who take part: their data, or how many are expected at least. */
export type FederationParties = Pick<LoadedClients, "clients" | "validation"> & {
  readonly kind: LoadedClients["kind"] | undefined;
  readonly expected?: number;
};

/** A federation with everything settled but what differs between its clients. */
export interface SettledFederation {
  readonly choice: StrategyChoice;
  /** The model with LoRA as the strategy wants it trained. */
  readonly run: PlanOptions;
  readonly plan: FederationPlan;
}

/**
 * Settle a federation of a model.
 * @throws {TuneError} `bad-option` listing every problem, and as `tune`.
 */
export async function settleFederation(
  model: LoadedModel,
  { clients, validation, kind, expected }: FederationParties,
  given: FederationChoice,
  where: { readonly device?: Device | undefined; readonly deviceOptions?: DeviceOptions | undefined } = {},
): Promise<SettledFederation> {
  checkNames(given, choiceNames, "federation", insideFederation());
  const {
    strategy,
    strategyOptions,
    rounds,
    localSteps,
    clientsPerRound,
    minClients,
    aggregation = {},
    dpEpsilon,
    dpDelta,
    dpClip,
    dpNoise,
    dpAccountant,
    dpRounds,
    ...tuning
  } = given;
  const settled = { ...federationDefaults, ...defined({ rounds, localSteps, clientsPerRound, minClients }) };
  const choice = chooseStrategy(strategy ?? federationDefaults.strategy, strategyOptions);
  const problems: string[] = [];
  const whole = (name: string, value: number, least: number): void => {
    if (!(Number.isSafeInteger(value) && value >= least)) {
      problems.push(`${name} is ${value}, but it must be a whole number from ${least}`);
    }
  };
  whole("rounds", settled.rounds, 1);
  whole("localSteps", settled.localSteps, 1);
  whole("clientsPerRound", settled.clientsPerRound, 0);
  whole("minClients", settled.minClients, 1);
  const count = expected ?? clients.length;
  const asked = settled.clientsPerRound === 0 ? count : settled.clientsPerRound;
  if (count === 0) problems.push("there is no client");
  if (asked > count) problems.push(`clientsPerRound is ${asked}, and there are ${count} clients`);
  if (settled.minClients > asked)
    problems.push(`minClients is ${settled.minClients}, and ${asked} are asked in a round`);
  for (const { name, train } of clients) {
    if (train.length === 0) problems.push(`${name} has no examples: it cannot take part`);
  }
  const aggregated = { ...aggregationDefaults, ...aggregation };
  problems.push(...aggregationProblems(aggregated, choice));
  const dp = { dpEpsilon, dpDelta, dpClip, dpNoise, dpAccountant, dpRounds };
  problems.push(...privacyProblems(dp, settled.rounds, given.maxGradNorm));
  const isPrivate = dpEpsilon !== undefined || dpNoise !== undefined;
  const options = tuning.methodOptions ?? {};
  for (const [name, why] of Object.entries(notFederated)) {
    if (options[name] !== undefined && options[name] !== why.only)
      problems.push(`${name} is ${String(options[name])}: ${why.says}`);
  }
  const rank = Number(options["rank"] ?? 8);
  const check = choice.strategy.check?.(rank, choice.config);
  if (check) problems.push(check);
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, { at: "federation", fix: "change the values named above" });
  }
  const optimizer = tuning.optimizer ?? federationDefaults.optimizer;
  const described = await describeRun(
    model,
    { train: clients.flatMap(({ train }) => train), validation, ...(kind === undefined ? {} : { kind }) },
    {
      ...{ batchSize: federationDefaults.batchSize, maxGradNorm: isPrivate ? 0 : federationDefaults.maxGradNorm },
      ...(optimizer === "sgd" ? { learningRate: federationDefaults.learningRate } : {}),
      ...tuning,
      optimizer,
      optimizerOptions: { ...(optimizer === "sgd" ? { momentum: 0 } : {}), ...tuning.optimizerOptions },
      method: "lora",
      methodOptions: { alpha: rank, ...options },
      ...{ schedule: "constant", warmup: 0 },
    },
    where,
  );
  // Gradients of single examples are known of attention that computes all scores at once.
  const run = { ...described, model: model.pretrained };
  const own = federatedRun(run, choice);
  const { settings } = own;
  const plain: FederationPlan = {
    strategy: choice.strategy.name,
    config: choice.config,
    ...{ rounds: settled.rounds, localSteps: settled.localSteps, minClients: settled.minClients },
    clientsPerRound: settled.clientsPerRound,
    ...{ learningRate: settings.learningRate, batchSize: settings.batchSize, seed: settings.seed },
    ...{ roundMs: 0, attempts: 3, aggregation: aggregated },
    base: await federationBase(model, own),
    training: {
      optimizer: settings.optimizer,
      optimizerOptions: settings.optimizerOptions,
      maxGradNorm: settings.maxGradNorm,
      ...tuned(own),
    },
    ...(isPrivate
      ? {
          privacy: {
            ...{ epsilon: dpEpsilon ?? 0, noiseMultiplier: dpNoise ?? 0, delta: dpDelta ?? 1e-5, clip: dpClip ?? 1 },
            ...{ maxRounds: dpRounds ?? settled.rounds, accountant: dpAccountant ?? "prv" },
          },
        }
      : {}),
  };
  const bound = boundOf(plain, own, {
    parameters: trainedCount(model, own),
    // Of clients that are yet to come nothing is known: the bound is that of the smallest.
    examples: expected === undefined ? clients.map(({ train }) => train.length) : [1],
  });
  return { choice, run: own, plan: { ...plain, ...(bound === undefined ? {} : { normBound: bound }) } };
}

/** What is tuned of the model, as clients far away must know it to tune the same. */
function tuned({ choice, targets, objective }: PlanOptions): FederationPlan["training"] {
  const { freezeA: _strategys, ...methodOptions } = choice.config as Readonly<Record<string, unknown>>;
  return {
    methodOptions,
    ...(choice.patterns === undefined ? {} : { patterns: choice.patterns }),
    ...(choice.inPlace === undefined ? {} : { inPlace: choice.inPlace }),
    targetModules: showTargets(targets),
    ...(objective ? { objective: objective.objective.name, objectiveOptions: objective.config } : {}),
  };
}

/** How many values a client trains. */
function trainedCount(model: LoadedModel, { choice, targets }: PlanOptions): number {
  const { outputModule } = model.pretrained.architecture;
  const { trainables } = attach(model.pretrained.predict().outputs, { choice, targets, outputModule, training: true });
  return trainables.reduce(
    (sum, { value, trained }) => sum + (trained ? value.shape.map(Number).reduce((a, b) => a * b, 1) : 0),
    0,
  );
}

type PrivacyOptions = {
  readonly [Name in `dp${"Epsilon" | "Delta" | "Clip" | "Noise" | "Rounds"}`]: number | undefined;
} & {
  readonly dpAccountant: Accountant | undefined;
};

/** What is wrong with the options of a private federation. */
function privacyProblems(dp: PrivacyOptions, rounds: number, maxGradNorm: number | undefined): readonly string[] {
  const { dpEpsilon, dpNoise, dpDelta, dpClip, dpRounds, dpAccountant } = dp;
  checkWord("dpAccountant", dpAccountant, Object.keys(accountants), "federation");
  const isPrivate = dpEpsilon !== undefined || dpNoise !== undefined;
  const positive = (name: string, value: number | undefined): readonly string[] =>
    value === undefined || (value > 0 && value < Infinity)
      ? []
      : [`${name} is ${value}, but it must be a number above 0`];
  const idle = Object.entries(dp).filter(([, value]) => !isPrivate && value !== undefined);
  return [
    ...positive("dpEpsilon", dpEpsilon),
    ...positive("dpNoise", dpNoise),
    ...positive("dpClip", dpClip),
    ...(dpDelta === undefined || (dpDelta > 0 && dpDelta < 1)
      ? []
      : [`dpDelta is ${dpDelta}, but it must be between 0 and 1, below one over a client's number of examples`]),
    ...(dpRounds === undefined || (Number.isSafeInteger(dpRounds) && dpRounds >= 1 && dpRounds <= rounds)
      ? []
      : [`dpRounds is ${dpRounds}, but it must be a whole number from 1 to the ${rounds} rounds`]),
    ...(dpEpsilon !== undefined && dpNoise !== undefined
      ? ["dpEpsilon and dpNoise are both given: a budget decides the noise"]
      : []),
    ...(isPrivate && maxGradNorm
      ? [`maxGradNorm is ${maxGradNorm}, which would do nothing: examples are clipped one by one (dpClip)`]
      : []),
    ...idle.map(([name, value]) => `${name} is ${String(value)}, which would do nothing without dpEpsilon or dpNoise`),
  ];
}

/** Options of LoRA that a federation cannot honour. */
const notFederated: Readonly<Record<string, { readonly only: unknown; readonly says: string }>> = {
  freezeA: { only: undefined, says: "which factors are trained is the strategy's matter (ffa, fedsvd train B alone)" },
  dropout: { only: 0, says: "clients share one program and one stream of masks; use 0" },
  init: {
    only: "kaiming",
    says: "a start that takes a part out of the weights differs from client to client; use kaiming",
  },
};

function aggregationProblems(
  { rule, weighting, maxWeight, trim }: AggregationOptions,
  { strategy }: StrategyChoice,
): string[] {
  checkWord("rule", rule, aggregationRules, "aggregation");
  checkWord("weighting", weighting, ["examples", "equal"], "aggregation");
  const problems: string[] = [];
  if (!strategy.rules.includes(rule))
    problems.push(`${strategy.name} adds up products of factors, which have no ${rule}`);
  if (!(maxWeight > 0 && maxWeight <= 1))
    problems.push(`maxWeight is ${maxWeight}, but it must be above 0 and at most 1`);
  if (!(trim >= 0 && trim < 0.5)) problems.push(`trim is ${trim}, but it must be from 0 to below 0.5`);
  if (rule !== "mean" && (weighting !== "examples" || maxWeight !== 1))
    problems.push(`a ${rule} has no weights: leave weighting and maxWeight out`);
  if (rule !== "trimmed-mean" && trim !== aggregationDefaults.trim)
    problems.push(`trim is ${trim}, which would do nothing: nothing is trimmed`);
  return problems;
}

/**
 * Run a whole federation in this process: every client trains with the same compiled step, in turn. The same settings, data and
 * seed give the same bits, whether it was stopped on the way or not.
 * @throws {TuneError} `bad-option` for options that do not fit; `run-exists`, `resume-mismatch`; as `tune`.
 */
export async function simulateFederation(
  model: LoadedModel,
  data: LoadedClients,
  options: SimulateOptions = {},
): Promise<FederationResult> {
  checkNames(options, simulateNames, "simulateFederation", insideFederation());
  checkDevice(options);
  const { output, tensorboard = false, resume = false, device, deviceOptions, ...others } = options;
  const { ignoreMemory = false, signal, onEvent, replace, inputs = [], ...choice } = others;
  if (output === undefined) {
    refuseIdle([
      ...(tensorboard ? ["tensorboard: there is no output folder to write events to"] : []),
      ...(resume ? ["resume: there is no output folder to go on from"] : []),
    ]);
  }
  const settled = await settleFederation(model, data, choice, { device, deviceOptions });
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...data.files, ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const opened = device ?? (await model.platform.openDevice(deviceOptions));
  try {
    const admit = ignoreMemory ? undefined : admission(model, settled.run, opened);
    const isPrivate = settled.plan.privacy !== undefined;
    const trainer = await openFederationTrainer(opened, model, settled.run, admit, isPrivate);
    try {
      return await simulateWith(trainer, settled, data, {
        ...(output === undefined ? {} : { folder: { storage, path: output } }),
        ...{ tensorboard, resume },
        ...(signal ? { signal } : {}),
        ...(onEvent ? { onEvent } : {}),
      });
    } finally {
      await trainer.close();
    }
  } finally {
    if (!device) await opened.close();
  }
}

/** Where a simulation goes, and what watches it. */
export interface SimulationPlace {
  readonly folder?: { readonly storage: Storage; readonly path: string };
  readonly tensorboard: boolean;
  readonly resume: boolean;
  readonly signal?: StopSignal;
  readonly onEvent?: (event: FederationEvent) => void;
}

/** {@link simulateFederation} with a trainer that may serve others too. */
export async function simulateWith(
  trainer: FederationTrainer,
  { run, plan }: Pick<SettledFederation, "run" | "plan">,
  data: Pick<LoadedClients, "clients" | "validation">,
  { folder, tensorboard, resume, signal, onEvent }: SimulationPlace,
): Promise<FederationResult> {
  const { clients, validation } = data;
  const facts = await factsOfFederation(run, plan, data);
  const kept = folder && (await openFederationFolder(folder.storage, folder.path, { resume, tensorboard }));
  const closing: (() => Promise<void>)[] = [];
  try {
    const saved = kept?.saved;
    if (saved && folder) checkFingerprint(saved.facts, facts, folder.path);
    const engine = openMemoryEngine();
    const coordinator = engine.connect("coordinator");
    const privacy =
      plan.privacy &&
      (await openFederationPrivacy(plan, clients, folder, {
        begun: saved !== undefined,
        finished: saved?.state.phase === "done",
      }));
    closing.push(async () => privacy?.close());
    const measure = async (tuned: Tuned): Promise<Readonly<Record<string, number>>> => {
      if (validation.length === 0) return {};
      const { loss, measures } = await trainer.evaluate(tuned, validation);
      return { loss, ...measures };
    };
    const initial = await trainer.initial(plan.seed);
    if (saved) {
      await coordinator.put(saved.object);
      await coordinator.update(runState, () => saved.state);
    }
    const base = saved?.base ?? (await measure(initial));
    const firstRound = (saved?.state.round ?? 0) + 1;
    onEvent?.({
      ...{ kind: "start", firstRound, plan, trainedParameters: trainer.trainedParameters },
      clients: Object.fromEntries(clients.map(({ name, train }) => [name, train.length])),
    });
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    let trained = 0;
    let asked = 0;
    const coordinating = coordinate({
      ...{ transport: coordinator, run: "simulation", plan, initial: async () => initial, gather: clients.length },
      now: () => 0,
      wait: (_ms, wake) => wake, // no round has a deadline here
      measure,
      ...(signal ? { signal } : {}),
      onEvent: async (event) => {
        if (event.kind === "open") {
          if (kept && !saved) await kept.begin(facts, base, event.state, await coordinator.get(event.state.base));
          open();
        }
        if (event.kind === "round") [asked, trained] = [event.state.participants.length, 0];
        if (event.kind !== "closed") return;
        const { state, summary } = event;
        await kept?.keep(state, await coordinator.get(state.base), summary);
        engine.keep([state.base.sha256, ...(state.news ? [state.news.object.sha256] : [])]);
        onEvent?.({ kind: "round", rounds: plan.rounds, summary });
      },
    });
    const joined: Client[] = [];
    let failure: { readonly error: unknown } | undefined;
    await Promise.race([opened, coordinating]);
    // Who fails otherwise than a client may ends the simulation: there is nobody to start it again.
    const failed = new Promise<void>((resolve) => {
      for (const { name, train } of clients) {
        const training: LocalTraining = {
          ...{ examples: train.length, base: plan.base },
          spend: (asked) => spendOf(asked, train.length),
          train: async (request) => {
            try {
              const own = privacy?.clients.get(name);
              const result = await trainer.train({ name, examples: train, ...(own ? { privacy: own } : {}) }, request);
              trained += 1;
              onEvent?.({ kind: "training", client: name, round: request.round, done: trained, of: asked });
              return result;
            } catch (error) {
              if (!(error instanceof TuneError && error.code === "not-finite-loss")) {
                failure ??= { error };
                resolve();
              }
              throw error;
            }
          },
        };
        const reserve = privacy?.reserve(name);
        void takePart({
          ...{ transport: engine.connect(name), training },
          ...(reserve ? { reserve } : {}),
          ...(signal ? { signal } : {}),
        }).then(
          (client) => joined.push(client),
          (error: unknown) => {
            failure ??= { error };
            resolve();
          },
        );
      }
    });
    const ended = await Promise.race([coordinating, failed]);
    if (failure && !(signal?.aborted && failure.error instanceof TuneError && failure.error.code === "interrupted")) {
      throw failure.error;
    }
    const { state, tuned, stopped } = ended ?? (await coordinating);
    for (const client of joined) await client.close();
    const how: FederationEnd = state.phase === "done" ? "finished" : stopped ? "too-few-clients" : "interrupted";
    onEvent?.({ kind: "end", ended: how, round: state.round, rounds: plan.rounds });
    if (how === "finished") await privacy?.forgetKeys();
    return {
      adapter: adapterOfTuned(run, tuned),
      ended: how,
      rounds: state.round,
      history: state.history,
      ...{ base, plan },
      ...(stopped ? { why: stopped.what } : {}),
      ...(privacy ? { privacy: privacy.spent() } : {}),
    };
  } finally {
    for (const close of closing) await close();
    await kept?.close();
  }
}

/** What decides a federation's results. */
async function factsOfFederation(
  run: PlanOptions,
  plan: FederationPlan,
  { clients, validation }: Pick<LoadedClients, "clients" | "validation">,
): Promise<Facts> {
  const { base, ...settings } = plan;
  const hashes: Record<string, string> = {};
  for (const { name, train } of clients) hashes[name] = await hashExamples(train);
  const { rank, alpha } = run.choice.config as Readonly<Record<string, unknown>>;
  return {
    ...settings,
    ...{ rank, alpha, model: base, clients: hashes },
    validationData: await hashExamples(validation as readonly TokenizedExample[]),
  };
}

function defined<T extends object>(values: T): Partial<{ [Key in keyof T]: NonNullable<T[Key]> }> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never; // those that are there
}
