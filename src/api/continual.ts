import { memoryCache } from "../diagnose/index.ts";
import { TuneError } from "../errors.ts";
import { isJsonObject } from "../io/json.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { damaged, readSealed, writeSealed } from "../io/sealed.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { checkNames, checkWord, type NamesOf } from "../options.ts";
import type { Device } from "../runtime/device.ts";
import { storeOf, type TokenizedExample } from "../train/data/index.ts";
import { checkFingerprint, type Facts, factsOf, hashExamples } from "../train/fingerprint.ts";
import { checkMetrics, hashMetrics } from "../train/metrics.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import type { PrivacySettings } from "../train/privacy.ts";
import type { RunEvent } from "../train/run.ts";
import { describeRun, insideTuning, type TuningChoice, tuningNames } from "./describe-run.ts";
import { checkDevice } from "./device-names.ts";
import { diagnose } from "./diagnose.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import { type LoadedModel, loadModel } from "./load-model.ts";
import { factsOfModel } from "./model-facts.ts";
import { checkOutput, claimOutput } from "./outputs.ts";
import { evaluate } from "./run-model.ts";
import { exportModel } from "./save.ts";
import { type TuneOptions, tune } from "./tune.ts";

/** One of the data sets that a model is tuned on in order. */
export interface ContinualTask {
  /** What tables call it. */
  readonly name: string;
  readonly data: LoadedData;
}

/** How to tune on several data sets in order. */
export interface ContinualOptions
  extends Omit<
    TuneOptions,
    | "output"
    | "resume"
    | "initial"
    | "onEvent"
    | "trackIntruders"
    | "attention"
    | "attentionError"
    | keyof PrivacySettings
  > {
  /** Folder of the results: one folder a task in it, and `continual.json`. */
  readonly output: string;
  /**
   * `merge`: each task starts from the weights that the one before left. `apart`: each is tuned on the base by itself, and
   * its adapter is kept beside the others.
   */
  readonly between?: "merge" | "apart";
  /** Go on after the last task that is done. */
  readonly resume?: boolean;
  readonly onEvent?: (event: ContinualEvent) => void;
}

const taskNamesOf: NamesOf<ContinualTask> = { name: true, data: true };
const {
  dpEpsilon: _epsilon,
  dpDelta: _delta,
  dpClip: _clip,
  dpNoise: _noise,
  dpAccountant: _by,
  ...ownNames
} = tuningNames;
const continualNames: NamesOf<ContinualOptions> = {
  ...ownNames, // what is measured after each task is not private, and says which went well
  output: true,
  replace: true,
  inputs: true,
  between: true,
  resume: true,
  tensorboard: true,
  baseText: true,
  device: true,
  deviceOptions: true,
  signal: true,
  ignoreMemory: true,
  onEvent: true,
};

/** What happens meanwhile. */
export type ContinualEvent =
  | { readonly kind: "task"; readonly task: number; readonly name: string; readonly event: RunEvent }
  | { readonly kind: "measured"; readonly result: StageResult };

/** The state after a task. */
export interface StageResult {
  /** The task that was just tuned on. */
  readonly name: string;
  /** Loss on every task, in their order. */
  readonly losses: readonly number[];
  /** Loss on the base's texts above the base's own; absent without such texts. */
  readonly forgetting?: number;
  /** Intruders against the base that all tasks started from. */
  readonly intruders: number;
}

/** The matrix of results. */
export interface ContinualResult {
  readonly between: "merge" | "apart";
  readonly tasks: readonly string[];
  /** Loss of the base on every task. */
  readonly base: readonly number[];
  /** After each task. */
  readonly stages: readonly StageResult[];
}

/**
 * Tune on several data sets in order and measure every one of them after each, as Shuttleworth et al. 2024 (arXiv
 * 2410.21228, §4.3) do: with adapters merged in between, or each kept apart. Intruders are counted against the base that
 * all started from.
 * @throws {TuneError} `bad-option` for fewer than two tasks or names that are not their own, `run-exists` for a folder
 * that holds results when `resume` is not set, `resume-mismatch` when they are of other tasks; and as {@link tune}.
 */
export async function tuneInOrder(
  base: LoadedModel,
  tasks: readonly ContinualTask[],
  options: ContinualOptions,
): Promise<ContinualResult> {
  checkNames(options, continualNames, "tuneInOrder", insideTuning());
  for (const task of tasks) checkNames(task, taskNamesOf, "a task");
  checkWord("between", options.between, ["merge", "apart"], "tuneInOrder");
  checkDevice(options);
  const {
    output,
    between = "merge",
    resume = false,
    onEvent,
    baseText,
    device: given,
    deviceOptions,
    replace,
    inputs = [],
    ...tuning
  } = options;
  checkTasks(tasks, output);
  const storage = guardOutputs(base.platform.storage, {
    inputs: [...tasks.flatMap(({ data }) => data.files ?? []), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const model = { ...base, platform: { ...base.platform, storage } };
  const { openDevice } = model.platform;
  const kept = joinPath(output, "continual.json");
  const names = tasks.map(({ name }) => name);
  await checkOutput(storage, output, "continual");
  const lock = await storage.lock(joinPath(output, "continual"));
  try {
    await claimOutput(storage, output, "continual", {
      names: names.map((name, i) => `${i + 1}-${name}/`),
      fresh: !resume,
    });
    const fingerprint = await factsOfOrder(model, tasks, { ...tuning, between, baseText: baseText ?? [] });
    const before = await readResults(storage, kept, { fingerprint, resume });
    const device = given ?? (await openDevice(deviceOptions));
    try {
      const cache = memoryCache();
      const models = [...(before?.models ?? [])];
      const metrics = [...(before?.metrics ?? [])];
      let result: ContinualResult = before?.result ?? {
        between,
        tasks: names,
        base: await lossesOf(model, tasks, device),
        stages: [],
      };
      const baseLoss = baseText && baseText.length > 0 ? (await evaluate(model, baseText, { device })).loss : undefined;
      for (const [i, { name, data }] of tasks.entries()) {
        const folder = joinPath(output, `${i + 1}-${name}`);
        if (i < result.stages.length) {
          await checkMetrics(storage, folder, metrics[i]);
          continue;
        }
        const from =
          i === 0 || between === "apart"
            ? model
            : await mergedOf(model, joinPath(output, `${i}-${names[i - 1]}`, "model"), models[i - 1]);
        const run = await tune(from, data, {
          ...tuning,
          device,
          output: folder,
          resume: true,
          onEvent: (event) => onEvent?.({ kind: "task", task: i, name, event }),
        });
        if (run.ended === "interrupted") break;
        const after = joinPath(folder, "model");
        await exportModel(from, "safetensors", after, { adapter: run.adapter, device });
        if (run.adapter.choice.method.peft)
          await exportModel(from, "peft", joinPath(folder, "adapter"), { adapter: run.adapter });
        const tuned = { ...(await loadModel(after, { platform: model.platform })), tokenizer: model.tokenizer };
        const { total } = await diagnose(model, { tuned, device, cache });
        const forgetting =
          baseLoss === undefined
            ? {}
            : { forgetting: (await evaluate(tuned, texts(baseText), { device })).loss - baseLoss };
        const stage: StageResult = {
          name,
          losses: await lossesOf(tuned, tasks, device),
          ...forgetting,
          intruders: total,
        };
        result = { ...result, stages: [...result.stages, stage] };
        models.push(await factsOfModel(tuned));
        metrics.push(await hashMetrics(storage, folder));
        await writeSealed(storage, kept, { ...result, fingerprint, models, metrics });
        onEvent?.({ kind: "measured", result: stage });
      }
      return result;
    } finally {
      if (!given) await device.close();
    }
  } finally {
    await lock.release();
    await storage.prune(output); // it may be all that is there
  }
}

function texts(given: readonly TokenizedExample[] | undefined): readonly TokenizedExample[] {
  return given ?? [];
}

/**
 * The model that a task left.
 * @throws {TuneError} `resume-mismatch` when its weights, configuration or tokenizer are no longer those.
 */
async function mergedOf(model: LoadedModel, folder: string, facts: Facts = {}): Promise<LoadedModel> {
  const { tokenizer, newTokens, hasOwnTemplate } = model;
  const merged = await loadModel(folder, { platform: model.platform });
  checkFingerprint(facts, await factsOfModel(merged), folder);
  return { ...merged, tokenizer, ...(newTokens ? { newTokens } : {}), ...(hasOwnTemplate ? { hasOwnTemplate } : {}) };
}

/** What decides the results of an order. */
async function factsOfOrder(
  model: LoadedModel,
  tasks: readonly ContinualTask[],
  { between, baseText, device, signal: _signal, ...given }: OrderFacts,
): Promise<Facts> {
  const { tensorboard: _tensorboard, ...choice } = given;
  const runs: Facts[] = [];
  for (const { name, data } of tasks) {
    const {
      objective = chooseObjective(undefined),
      mixture,
      ...run
    } = await describeRun(model, data, choice, { device });
    const train = await storeOf("store" in data ? (data as StreamedData).store : data.train);
    const facts = await factsOf({ ...run, objective, train, mixture: mixture ?? [{ count: train.count, weight: 1 }] });
    runs.push({ name, ...facts });
  }
  const [first = {}] = runs;
  const shared = Object.keys(first).filter((key) =>
    runs.every((run) => JSON.stringify(run[key]) === JSON.stringify(first[key])),
  );
  const own = runs.map((run) => Object.fromEntries(Object.entries(run).filter(([key]) => !shared.includes(key))));
  return {
    ...Object.fromEntries(shared.map((key) => [key, first[key]])),
    ...(await factsOfModel(model)),
    between,
    tasks: Object.fromEntries(own.map((facts, i) => [String(i + 1), facts])),
    baseText: await hashExamples(baseText),
  };
}

type OrderFacts = Pick<ContinualOptions, "tensorboard" | "device" | "signal"> &
  TuningChoice & { readonly between: string; readonly baseText: readonly TokenizedExample[] };

/** Loss on each task: on what it held back, or on what it was tuned on where nothing was. */
async function lossesOf(
  model: LoadedModel,
  tasks: readonly ContinualTask[],
  device: Device,
): Promise<readonly number[]> {
  const losses: number[] = [];
  for (const { data } of tasks) {
    losses.push((await evaluate(model, data.validation.length > 0 ? data.validation : data.train, { device })).loss);
  }
  return losses;
}

function checkTasks(tasks: readonly ContinualTask[], at: string): void {
  const problems = [
    ...(tasks.length < 2
      ? [`there ${tasks.length === 1 ? "is one data set" : "is no data set"}, but an order needs two`]
      : []),
    ...tasks.flatMap(({ name }, i) =>
      tasks.findIndex((other) => other.name === name) < i ? [`"${name}" is named twice`] : [],
    ),
    ...tasks.flatMap(({ name }) => (/^[\w][\w.-]*$/.test(name) ? [] : [`"${name}" cannot name a folder`])),
  ];
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, { at, fix: "give every data set a file name of its own" });
}

/** What an order that was stopped goes on from: the facts of the model, and a hash of the metrics, that each task left. */
interface KeptOrder {
  readonly result: ContinualResult;
  readonly models: readonly Facts[];
  readonly metrics: readonly string[];
}

async function readResults(
  storage: Storage,
  path: string,
  { fingerprint, resume }: { readonly fingerprint: Facts; readonly resume: boolean },
): Promise<KeptOrder | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  if (!resume) {
    throw new TuneError("run-exists", "This folder holds results already.", {
      at: path,
      fix: "go on with them (resume), start over (replace), or choose another output folder",
    });
  }
  const found = await readSealed(storage, path);
  const { fingerprint: saved, models, metrics = [], ...result } = found ?? {};
  const whole = Array.isArray(models) && models.every(isJsonObject) && Array.isArray(metrics);
  if (!isJsonObject(saved) || !whole) throw damaged(path);
  checkFingerprint(saved, fingerprint, path);
  const kept = { models, metrics: metrics.map(String) };
  return { result: result as unknown as ContinualResult, ...kept }; // as it was written
}
