import { TuneError } from "../errors.ts";
import { type JsonObject, readJsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { Labels, PretrainedModel, TaskName } from "../models/index.ts";

/** Beside an adapter for a model with labels: what they are called. PEFT and AdapterHub read past it. */
const taskFile = "task.json";

/** The file that says what a model with labels is for, to be written beside its adapter. */
export function taskFiles({
  task,
  labels,
}: Pick<PretrainedModel, "task" | "labels">): Readonly<Record<string, JsonObject>> {
  return labels ? { [taskFile]: { task, labels } } : {};
}

/**
 * What an adapter's model is made for, and the names of its labels, where the adapter says so.
 * @throws {TuneError} `malformed-json`, and `adapter-mismatch` where it names no task and labels.
 */
export async function readAdapterTask(
  storage: Storage,
  folder: string,
): Promise<{ readonly task: TaskName; readonly labels: Labels } | undefined> {
  const path = joinPath(folder, taskFile);
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  const { task, labels } = await readJsonObject(storage, path);
  if (typeof task === "string" && Array.isArray(labels) && labels.every((label) => typeof label === "string"))
    return { task: task as TaskName, labels }; // opening the model refuses what is no task
  throw new TuneError("adapter-mismatch", "The file names no task and labels.", {
    at: path,
    fix: "save the adapter again, or remove the file and name the task and labels",
  });
}
