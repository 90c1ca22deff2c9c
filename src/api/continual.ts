import { memoryCache } from "../diagnose/index.ts";
import { TuneError } from "../errors.ts";
import { readJsonObject } from "../io/json.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { joinPath } from "../io/storage.ts";
import type { Device } from "../runtime/device.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import type { RunEvent } from "../train/run.ts";
import { diagnose } from "./diagnose.ts";
import type { LoadedData } from "./load-data.ts";
import { type LoadedModel, loadModel } from "./load-model.ts";
import { claimOutput } from "./outputs.ts";
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
  extends Omit<TuneOptions, "output" | "resume" | "initial" | "onEvent" | "trackIntruders"> {
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
  await claimOutput(storage, output, "continual", {
    names: names.map((name, i) => `${i + 1}-${name}/`),
    fresh: !resume,
  });
  const before = await readResults(model, kept, { between, tasks: names, resume });
  const device = given ?? (await openDevice(deviceOptions));
  try {
    const cache = memoryCache();
    let result: ContinualResult = before ?? {
      between,
      tasks: names,
      base: await lossesOf(model, tasks, device),
      stages: [],
    };
    const baseLoss = baseText && baseText.length > 0 ? (await evaluate(model, baseText, { device })).loss : undefined;
    for (const [i, { name, data }] of tasks.entries()) {
      const folder = joinPath(output, `${i + 1}-${name}`);
      if (i < result.stages.length) continue;
      const from = i === 0 || between === "apart" ? model : await mergedOf(model, output, i - 1, names);
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
      await storage.write(kept, `${JSON.stringify(result, null, 2)}\n`);
      onEvent?.({ kind: "measured", result: stage });
    }
    return result;
  } finally {
    if (!given) await device.close();
  }
}

function texts(given: readonly TokenizedExample[] | undefined): readonly TokenizedExample[] {
  return given ?? [];
}

/** The model that a task left. */
async function mergedOf(
  model: LoadedModel,
  output: string,
  task: number,
  names: readonly string[],
): Promise<LoadedModel> {
  const folder = joinPath(output, `${task + 1}-${names[task]}`, "model");
  const { tokenizer, newTokens } = model;
  const merged = await loadModel(folder, { platform: model.platform });
  return { ...merged, tokenizer, ...(newTokens ? { newTokens } : {}) };
}

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
  throw new TuneError("bad-option", problems.join("\n"), { at, fix: "give every data set a file name of its own" });
}

async function readResults(
  model: LoadedModel,
  path: string,
  wanted: { readonly between: string; readonly tasks: readonly string[]; readonly resume: boolean },
): Promise<ContinualResult | undefined> {
  const { storage } = model.platform;
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  if (!wanted.resume) {
    throw new TuneError("run-exists", "This folder holds results already.", {
      at: path,
      fix: "go on with them (resume), or choose another output folder",
    });
  }
  const found = (await readJsonObject(storage, path)) as unknown as ContinualResult; // written above
  if (found.between === wanted.between && found.tasks.join() === wanted.tasks.join()) return found;
  throw new TuneError(
    "resume-mismatch",
    `It holds ${found.tasks.join(", ")} (${found.between}), not ${wanted.tasks.join(", ")} (${wanted.between}).`,
    {
      at: path,
      fix: "name the same data sets in the same order, or choose another output folder",
    },
  );
}
