import { memoryCache } from "../diagnose/index.ts";
import { nearest, TuneError } from "../errors.ts";
import { exportForms } from "../export/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { readSealed, writeSealed } from "../io/sealed.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type Adapter, type MethodConfig, methods } from "../methods/index.ts";
import { optimizers } from "../optim/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Device } from "../runtime/device.ts";
import { storeOf, type TokenizedExample } from "../train/data/index.ts";
import { checkFingerprint, fingerprintOf, hashExamples } from "../train/fingerprint.ts";
import { checkMetrics, hashMetrics } from "../train/metrics.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import { planRun } from "../train/plan.ts";
import type { PrivacySettings } from "../train/privacy.ts";
import { ratesOf } from "../train/rates.ts";
import { checkpointPath, type RunEvent } from "../train/run.ts";
import { trainDefaults } from "../train/settings.ts";
import { type HandedEvent, handOut, takeRuns, type WorkersOptions } from "./compare-workers.ts";
import { type ComparedRow, type RunOutcome, tabulate } from "./comparison-table.ts";
import { describeRun, idleDecay, insideTuning, refuseIdle, type TuningChoice, tuningNames } from "./describe-run.ts";
import { checkDevice } from "./device-names.ts";
import { diagnose } from "./diagnose.ts";
import { measureForgetting } from "./forgetting.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";
import { checkOutput, claimOutput } from "./outputs.ts";
import { evaluate } from "./run-model.ts";
import { exportModel, type OutputOptions } from "./save.ts";
import { type TuneOptions, tune } from "./tune.ts";

/** One of the methods that are compared. */
export interface ComparedMethod {
  /** A name in `methods`. */
  readonly method: string;
  /** What the table calls it; the method's name unless given. */
  readonly name?: string;
  /** Its options; they win over those that match it with the others. */
  readonly methodOptions?: Partial<MethodConfig>;
  /** Rates to sweep; those of the comparison, or the method's own grid, unless given. */
  readonly learningRates?: readonly number[];
}

/** What is compared, and how each run is made. */
export interface CompareOptions
  extends Omit<TuningChoice, "method" | "methodOptions" | "learningRate" | "seed" | keyof PrivacySettings>,
    OutputOptions,
    Pick<TuneOptions, "deviceOptions" | "signal" | "ignoreMemory"> {
  readonly methods: readonly ComparedMethod[];
  /** Folder of the results: a folder a run in it, and `comparison.json`. */
  readonly output: string;
  /** Rates that every method without its own sweeps. */
  readonly learningRates?: readonly number[];
  /** Every run is made with each; 0, 1 and 2 unless given. */
  readonly seeds?: readonly number[];
  /** Rank of every method that has such a thing; 8 unless given. */
  readonly rank?: number;
  /** Their alpha / rank; 2 unless given. */
  readonly scale?: number;
  /** What the chosen runs are measured on; the rows that rates are chosen on unless given. */
  readonly test?: readonly TokenizedExample[];
  /** Texts that the base is good at: forgetting of them, and intruder dimensions, are measured after each run. */
  readonly baseText?: readonly TokenizedExample[];
  /** Go on after the last run that is done, and within one that is not. */
  readonly resume?: boolean;
  /**
   * Have other machines make the runs, which call this with the same model, data and options: the transport's party is
   * `coordinator` where runs are handed out, and a worker's name where they are made.
   */
  readonly workers?: WorkersOptions;
  readonly onEvent?: (event: CompareEvent) => void;
}

const workersNames: NamesOf<WorkersOptions> = { transport: true, silenceMs: true };
const comparedNames: NamesOf<ComparedMethod> = { method: true, name: true, methodOptions: true, learningRates: true };
const compareNames: NamesOf<CompareOptions> = (() => {
  // Every run would spend the privacy of the same examples again, and choosing among them would not be private.
  const { method, methodOptions, learningRate, seed, ...shared } = tuningNames;
  const { dpEpsilon, dpDelta, dpClip, dpNoise, dpAccountant, ...own } = shared;
  return {
    ...own,
    methods: true,
    output: true,
    replace: true,
    inputs: true,
    learningRates: true,
    seeds: true,
    rank: true,
    scale: true,
    test: true,
    baseText: true,
    resume: true,
    workers: true,
    deviceOptions: true,
    signal: true,
    ignoreMemory: true,
    onEvent: true,
  } as const;
})();

/** A run of a comparison. */
export interface ComparedRun {
  readonly name: string;
  readonly learningRate: number;
  readonly seed: number;
}

/** What happens meanwhile. `index` counts the runs from 0, `total` is how many there are. */
export type CompareEvent = { readonly run: ComparedRun; readonly index: number; readonly total: number } & (
  | { readonly kind: "training"; readonly event: RunEvent }
  | { readonly kind: "done"; readonly outcome: RunOutcome; readonly readBack: boolean; readonly worker?: string }
  | HandedEvent
);

/** What a comparison found. */
export interface ComparisonResult {
  readonly rows: readonly ComparedRow[];
  /** Runs that are done, of how many. */
  readonly done: number;
  readonly total: number;
  readonly seeds: readonly number[];
  /** Whether losses and measures are of rows that neither training nor the choice of rates saw. */
  readonly tested: boolean;
  /** The name of what is minimised. */
  readonly objective: string;
}

/** A method with everything about its runs settled but rate and seed. */
interface Entry {
  readonly name: string;
  readonly method: string;
  readonly rates: readonly number[];
  readonly choice: TuningChoice;
}

/**
 * Tune one model on the same data by several methods, rates and seeds, and set side by side what each costs and gives.
 * Every method sweeps as many rates as the next one unless told otherwise, and the rate with the lowest mean validation
 * loss over seeds counts. Methods with a rank get the same, and the same alpha / rank. A run whose loss is not finite is
 * kept as diverged, and a rate with such a run is never the best.
 * @throws {TuneError} `bad-option` listing every problem, `run-exists` for a folder that holds a comparison when `resume`
 * is not set, `resume-mismatch` when a run in it was started otherwise, and as {@link tune}; at a worker `base-mismatch` and
 * `turned-away`.
 */
export async function compare(
  given: LoadedModel,
  data: LoadedData | StreamedData,
  options: CompareOptions,
): Promise<ComparisonResult> {
  const { methodOptions: _each, ...inside } = insideTuning();
  checkNames(options, compareNames, "compare", inside);
  for (const one of options.methods) checkNames(one, comparedNames, "methods of a comparison", insideTuning());
  checkDevice(options);
  if (options.workers) checkNames(options.workers, workersNames, "workers of a comparison");
  const { methods: compared, output, learningRates, seeds = [0, 1, 2], rank = 8, scale = 2, ...others } = options;
  const matched = compared.some(({ method }) => methods.get(method)?.matched !== undefined);
  refuseIdle(
    matched
      ? []
      : (["rank", "scale"] as const)
          .filter((name) => options[name] !== undefined)
          .map((name) => `${name}: none of the methods has a rank`),
    "compare",
  );
  const {
    test = [],
    baseText = [],
    resume = false,
    workers,
    signal,
    deviceOptions,
    ignoreMemory = false,
    onEvent,
    replace,
    inputs = [],
    ...shared
  } = others;
  const sweep = { compared, learningRates, seeds, rank, scale };
  const { objective } = chooseObjective(shared.objective, shared.objectiveOptions, data.kind);
  const settled = settle(shared, sweep, { at: output, validation: data.validation.length, objective });
  const entries = await withoutIdleDecay(given, data, settled);
  const storage = guardOutputs(given.platform.storage, {
    inputs: [...(data.files ?? []), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const model = { ...given, platform: { ...given.platform, storage } };
  const kept = joinPath(output, "comparison.json");
  const claim = { names: entries.map(({ name }) => `${name}/`), fresh: !resume };
  await checkOutput(storage, output, "comparison");
  const lock = await storage.lock(joinPath(output, "comparison"));
  try {
    await claimOutput(storage, output, "comparison", claim);
    if (!resume && (await storage.sizeBytes(kept)) !== undefined) {
      throw new TuneError("run-exists", "This folder holds a comparison already.", {
        at: kept,
        fix: "go on with it (resume), or choose another output folder",
      });
    }
    const costs = new Map<string, Costs>();
    for (const entry of entries) costs.set(entry.name, await costsOf(model, data, entry));
    const judged = {
      test,
      baseText,
      hashes: { test: await hashExamples(test), baseText: await hashExamples(baseText) },
    };
    const runs = runsOf(entries, seeds);
    const made = new Map<number, ComparedRun & { readonly outcome: RunOutcome }>();
    // In the order of the runs, whoever made them first: sums have the same bits.
    const inOrder = () => [...made].sort(([a], [b]) => a - b).map(([, run]) => run);
    const result = (): ComparisonResult => ({
      rows: entries.map(
        ({ name, method, rates }) => tabulate({ name, method, rates, ...(costs.get(name) as Costs) }, inOrder()), // one an entry
      ),
      done: made.size,
      total: runs.length,
      seeds,
      tested: test.length > 0,
      objective: chooseObjective(options.objective, {}, data.kind).objective.name,
    });
    const write = (): Promise<void> =>
      storage.write(kept, `${JSON.stringify({ ...result(), runs: inOrder() }, null, 2)}\n`);
    await write();
    const cache = memoryCache();
    const placeOf = (index: number) => {
      const { entry, ...run } = runs[index] as (typeof runs)[number]; // one of them
      const folder = joinPath(output, entry.name, `${run.learningRate.toExponential()}-seed-${run.seed}`);
      const choice = { ...entry.choice, learningRate: run.learningRate, seed: run.seed };
      return { run, folder, choice, at: { run, index, total: runs.length } };
    };
    const found = (index: number): Promise<RunOutcome | undefined> => {
      const { folder, choice } = placeOf(index);
      return readBack(model, data, folder, { choice, hashes: judged.hashes });
    };
    const note = async (
      index: number,
      outcome: RunOutcome,
      how: { readonly readBack: boolean; readonly worker?: string },
    ): Promise<void> => {
      const { run, at } = placeOf(index);
      made.set(index, { ...run, outcome });
      await write();
      onEvent?.({ kind: "done", outcome, ...how, ...at });
    };
    /** Make a run, unless it is done; undefined where it was interrupted. */
    const make = async (index: number): Promise<{ readonly folder: string } | undefined> => {
      const { folder, choice, at } = placeOf(index);
      if (made.has(index)) return { folder }; // a worker that is asked for it once more
      const before = resume ? await found(index) : undefined;
      const outcome =
        before ??
        (await runOne(model, data, folder, {
          ...{ choice, judged, cache, resume, ignoreMemory },
          ...(signal ? { signal } : {}),
          ...(deviceOptions ? { deviceOptions } : {}),
          onEvent: (event) => onEvent?.({ kind: "training", event, ...at }),
        }));
      if (outcome === "interrupted") return undefined;
      await note(index, outcome, { readBack: before !== undefined });
      return { folder };
    };
    if (workers === undefined) {
      for (const index of runs.keys()) if ((await make(index)) === undefined) break;
      return result();
    }
    const first = placeOf(0);
    const work = {
      ...{ ...workers, signal, runs: runs.map((_, i) => JSON.stringify([placeOf(i).run, placeOf(i).choice])) },
      facts: await factsOf(model, data, { choice: first.choice, hashes: judged.hashes }),
    };
    if (workers.transport.party !== "coordinator") {
      await takeRuns({ ...work, make, storage });
      return result();
    }
    for (const index of resume ? runs.keys() : []) {
      const outcome = await found(index);
      if (outcome) await note(index, outcome, { readBack: true });
    }
    await handOut({
      ...{ ...work, done: [...made.keys()] },
      accept: async (index, files, worker) => {
        const { folder } = placeOf(index);
        await storage.remove(folder);
        // What says that the run is done is written last.
        for (const [name, bytes] of [...files].sort(
          ([a], [b]) => Number(a === "outcome.json") - Number(b === "outcome.json"),
        ))
          await storage.write(joinPath(folder, name), bytes);
        const outcome = await found(index).catch(async (error: unknown) => {
          await storage.remove(folder);
          throw error;
        });
        if (outcome === undefined) {
          throw new TuneError("bad-message", "A worker sent a run without its outcome.", { at: worker });
        }
        await note(index, outcome, { readBack: false, worker });
      },
      onEvent: (index, event) => onEvent?.({ ...event, ...placeOf(index).at }),
    });
    return result();
  } finally {
    await lock.release();
  }
}

/**
 * The decay that all methods share is left out where a method trains nothing that decays.
 * @throws {TuneError} `bad-option` where none does.
 */
async function withoutIdleDecay(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  entries: readonly Entry[],
): Promise<readonly Entry[]> {
  const problems: (readonly string[])[] = [];
  for (const { choice } of entries)
    problems.push(idleDecay(await describeRun(model, data, choice, { compared: true })));
  if (problems.every(({ length }) => length > 0)) refuseIdle(problems.flat(), "compare");
  return entries.map((entry, i) => {
    const { optimizer = trainDefaults.optimizer, optimizerOptions = {} } = entry.choice;
    const decay = optimizers.get(optimizer)?.decay;
    if (problems[i]?.length === 0 || decay === undefined) return entry;
    const { [decay]: _idle, ...others } = optimizerOptions;
    return { ...entry, choice: { ...entry.choice, optimizerOptions: others } };
  });
}

/** What a method costs whatever its rate and seed. */
type Costs = Pick<ComparedRow, "trainedParameters" | "savedBytes" | "plannedPeakBytes" | "options">;

/** No machine is measured: of the plan only sizes are used. */
const anyMachine = { flopsPerSecond: 1e9, bytesPerSecond: 1e9, secondsPerOperator: 1e-6 };

async function costsOf(model: LoadedModel, data: LoadedData | StreamedData, { choice }: Entry): Promise<Costs> {
  const run = await describeRun(model, data, choice);
  const { processBytes } = model.platform.memory();
  const { trainedParameters, savedBytes, memory } = planRun(run, { machine: anyMachine, processBytes });
  return {
    trainedParameters,
    savedBytes,
    plannedPeakBytes: memory.peakBytes - processBytes,
    options: run.choice.config,
  };
}

/** Seed by seed and rate by rate, the methods taking turns: what is there when it is cut off can be compared. */
function runsOf(
  entries: readonly Entry[],
  seeds: readonly number[],
): readonly (ComparedRun & { readonly entry: Entry })[] {
  const most = Math.max(...entries.map(({ rates }) => rates.length));
  return seeds.flatMap((seed) =>
    Array.from({ length: most }).flatMap((_, i) =>
      entries.flatMap((entry) => {
        const learningRate = entry.rates[i];
        return learningRate === undefined ? [] : [{ entry, name: entry.name, learningRate, seed }];
      }),
    ),
  );
}

/** What a comparison goes through. */
interface Sweep {
  readonly compared: readonly ComparedMethod[];
  readonly learningRates: readonly number[] | undefined;
  readonly seeds: readonly number[];
  readonly rank: number;
  readonly scale: number;
}

/** Check everything, and settle each method's rates and options. */
function settle(
  shared: TuningChoice,
  { compared, learningRates, seeds, rank, scale }: Sweep,
  {
    at,
    validation,
    objective,
  }: { readonly at: string; readonly validation: number; readonly objective: Parameters<typeof ratesOf>[1] },
): readonly Entry[] {
  const problems: string[] = [];
  const check = (ok: boolean, problem: string): void => {
    if (!ok) problems.push(problem);
  };
  const wholes = (values: readonly number[]): boolean =>
    values.every((value) => Number.isSafeInteger(value) && value >= 0);
  check(compared.length > 0, "there is no method to compare");
  check(seeds.length > 0, "there is no seed");
  check(wholes(seeds), `seeds are ${seeds.join(", ")}, but they must be whole numbers from 0`);
  check(new Set(seeds).size === seeds.length, `seeds are ${seeds.join(", ")}, but each must be another`);
  check(Number.isSafeInteger(rank) && rank >= 1, `rank is ${rank}, but it must be a whole number from 1`);
  check(scale > 0 && Number.isFinite(scale), `alpha / rank is ${scale}, but it must be above 0`);
  check(validation > 0, "no rows are held back for validation, which rates are chosen by");
  const entries = compared.flatMap((one, i): readonly Entry[] => {
    const { method: called, name = called, methodOptions } = one;
    const method = methods.get(called);
    const near = nearest(called, methods.keys(), 1)[0];
    check(method !== undefined, `there is no method "${called}"${near ? ` (nearest: ${near})` : ""}`);
    check(/^[\w+][\w.+-]*$/.test(name), `"${name}" cannot name a folder`);
    check(
      compared.findIndex((other) => (other.name ?? other.method) === name) === i,
      `"${name}" is there twice: name one of them otherwise`,
    );
    const rates = one.learningRates ?? learningRates ?? ratesOf(method ?? {}, objective);
    check(rates.length > 0, `${name} has no learning rate`);
    check(
      rates.every((rate) => rate > 0 && Number.isFinite(rate)) && new Set(rates).size === rates.length,
      `the learning rates of ${name} are ${rates.join(", ")}, but they must be above 0 and each another`,
    );
    if (method === undefined) return [];
    const config = { ...method.matched?.(rank, scale), ...methodOptions };
    const sorted = rates.toSorted((a, b) => a - b);
    return [{ name, method: called, rates: sorted, choice: { ...shared, method: called, methodOptions: config } }];
  });
  if (problems.length === 0) return entries;
  throw new TuneError("bad-option", problems, {
    at,
    fix: `name methods of ${[...methods.keys()].join(", ")}, rates, seeds, and rows to hold back (validation)`,
  });
}

/** What is measured after a run, on what; hashes tell whether it is still the same. */
interface Judged {
  readonly test: readonly TokenizedExample[];
  readonly baseText: readonly TokenizedExample[];
  readonly hashes: Hashes;
}

interface Hashes {
  readonly test: string;
  readonly baseText: string;
}

/** The outcome that a run left, if it ended. */
async function readBack(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  folder: string,
  { choice, hashes }: { readonly choice: TuningChoice; readonly hashes: Hashes },
): Promise<RunOutcome | undefined> {
  const path = joinPath(folder, "outcome.json");
  const kept = await readSealed(model.platform.storage, path);
  if (kept === undefined) return undefined;
  const { facts, metrics, outcome } = kept as unknown as KeptOutcome; // written below
  checkFingerprint(facts, await factsOf(model, data, { choice, hashes }), path);
  await checkMetrics(model.platform.storage, folder, metrics);
  return outcome;
}

interface KeptOutcome {
  readonly facts: Readonly<Record<string, unknown>>;
  /** Hash of the run's metrics; absent where an earlier version wrote it. */
  readonly metrics?: string;
  readonly outcome: RunOutcome;
}

/** What decides an outcome. */
async function factsOf(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  { choice, hashes }: { readonly choice: TuningChoice; readonly hashes: Hashes },
): Promise<KeptOutcome["facts"]> {
  const { objective = chooseObjective(undefined), ...run } = await describeRun(model, data, choice);
  const train = await storeOf("store" in data ? data.store : data.train);
  const mixture = run.mixture ?? [{ count: train.count, weight: 1 }];
  const facts = await fingerprintOf({ ...run, objective, train, mixture });
  return { ...facts, testData: hashes.test, baseText: hashes.baseText };
}

interface OneRun extends Pick<CompareOptions, "signal" | "deviceOptions"> {
  readonly ignoreMemory: boolean;
  readonly choice: TuningChoice;
  readonly judged: Judged;
  readonly cache: ReturnType<typeof memoryCache>;
  readonly resume: boolean;
  readonly onEvent: (event: RunEvent) => void;
}

/** Make one run, or what is left of it, on a device of its own, and measure what it leaves. */
async function runOne(
  model: LoadedModel,
  data: LoadedData | StreamedData,
  folder: string,
  { choice, judged, cache, resume, ignoreMemory, signal, deviceOptions, onEvent }: OneRun,
): Promise<RunOutcome | "interrupted"> {
  const { storage, openDevice, memory } = model.platform;
  const before = memory().processBytes;
  const device = await openDevice(deviceOptions);
  const watch = watchCosts(() => memory().processBytes);
  try {
    const keep = async (outcome: RunOutcome): Promise<RunOutcome> => {
      const facts = await factsOf(model, data, { choice, hashes: judged.hashes });
      const metrics = await hashMetrics(storage, folder);
      const kept: KeptOutcome = { facts, metrics, outcome };
      await writeSealed(storage, joinPath(folder, "outcome.json"), kept);
      await storage.remove(checkpointPath(folder)); // the outcome stands for it
      return outcome;
    };
    const result = await tune(model, data, {
      ...choice,
      ...{ device, output: folder, resume, ignoreMemory },
      ...(signal ? { signal } : {}),
      onEvent: (event) => {
        watch.note(event);
        onEvent(event);
      },
    }).catch((error: unknown) => {
      if (error instanceof TuneError && error.code === "not-finite-loss") return error;
      throw error;
    });
    if (result instanceof TuneError) return await keep({ diverged: true });
    if (result.ended === "interrupted") return "interrupted";
    const costs = { ...watch.costs(before), storedBytes: await store(model, folder, result.adapter, device) };
    const validationLoss = result.best?.loss ?? Number.POSITIVE_INFINITY;
    return await keep({
      diverged: false,
      updates: result.step,
      validationLoss,
      ...costs,
      ...(await judge(result.adapter)),
    });
  } finally {
    await device.close();
  }

  async function judge(adapter: Adapter): Promise<Pick<RunOutcome & { diverged: false }, "measures">> {
    const { test, baseText } = judged;
    const { objective } = choice;
    const measured = await evaluate(model, test.length > 0 ? test : data.validation, {
      ...{ adapter, device },
      ...(objective === undefined ? {} : { objective }),
    });
    const measures: Record<string, number> = { loss: measured.loss, ...measured.measures };
    if (baseText.length > 0) {
      measures["forgetting"] = (await measureForgetting(model, baseText, { adapter, device })).forgetting;
      // Adapters that are no part of a weight leave its singular vectors alone.
      if (!adapter.choice.method.sublayers)
        measures["intruders"] = (await diagnose(model, { adapter, device, cache })).total;
    }
    return { measures };
  }
}

/** Write what the run leaves as `scion tune` does, and say how many bytes of tensors it takes. */
async function store(model: LoadedModel, folder: string, adapter: Adapter, device: Device): Promise<number> {
  const { peft, form: own } = adapter.choice.method;
  const form = own ?? (peft ? "peft" : "safetensors");
  const path = joinPath(folder, exportForms[form].holds);
  await exportModel(model, form, path, { adapter, device });
  return tensorBytes(model.platform.storage, path);
}

/** Bytes of the files with tensors in a folder: all but configurations and texts. */
async function tensorBytes(storage: Storage, folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await storage.list(folder)) {
    const path = joinPath(folder, name);
    if (name.endsWith("/")) bytes += await tensorBytes(storage, path.slice(0, -1));
    else if (!/\.(json|md|txt)$/.test(name)) bytes += (await storage.sizeBytes(path)) ?? 0;
  }
  return bytes;
}

/** Times of updates, without what happens between them, and the most memory that was seen. */
function watchCosts(processBytes: () => number): {
  readonly note: (event: RunEvent) => void;
  readonly costs: (before: number) => { readonly stepMs?: number; readonly peakBytes: number };
} {
  const times: number[] = [];
  let [last, peak] = [performance.now(), 0];
  return {
    note: ({ kind }) => {
      if (kind === "step") times.push(performance.now() - last);
      peak = Math.max(peak, processBytes());
      last = performance.now();
    },
    costs: (before) => {
      const sorted = times.toSorted((a, b) => a - b);
      const stepMs = sorted[Math.floor(sorted.length / 2)];
      return { ...(stepMs === undefined ? {} : { stepMs }), peakBytes: Math.max(0, peak - before) };
    },
  };
}
