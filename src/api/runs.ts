import { isJsonObject, parseJson } from "../io/json.ts";
import { putBack } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { metricsPath, readMetrics } from "../train/metrics.ts";

/** What a run folder tells of its run. */
export interface RunSummary {
  readonly folder: string;
  /** The options that were in effect, from `run.json`; absent while the run goes on, or when it was cut short. */
  readonly options: Readonly<Record<string, unknown>> | undefined;
  /** Updates made. */
  readonly step: number;
  readonly tokens: number;
  /** Mean training loss of the last tenth of the updates, in nats. */
  readonly finalLoss: number | undefined;
  /** The lowest validation loss, and the update it was measured after. */
  readonly best: { readonly step: number; readonly loss: number } | undefined;
  /** Training losses, one an update. */
  readonly losses: readonly { readonly step: number; readonly loss: number }[];
  /** The last of what was observed besides, such as `forgetting` and `intruders`. */
  readonly observed: Readonly<Record<string, number>>;
  /** Validation losses. */
  readonly evaluations: readonly { readonly step: number; readonly loss: number }[];
}

/** The runs in a folder: itself, when it is one, and those in the folders in it, two levels deep. By name. */
export async function findRuns(storage: Storage, folder: string): Promise<readonly RunSummary[]> {
  const search = async (at: string, depth: number): Promise<readonly string[]> => {
    const own = (await storage.sizeBytes(metricsPath(at))) === undefined ? [] : [at];
    if (depth === 0) return own;
    const inside = (await storage.list(at)).filter((name) => name.endsWith("/") && !name.startsWith("."));
    const found = await Promise.all(inside.sort().map((name) => search(joinPath(at, name.slice(0, -1)), depth - 1)));
    return [...own, ...found.flat()];
  };
  await putBack(storage, folder);
  const folders = await search(folder, 2);
  return Promise.all(folders.map((at) => summarise(storage, at)));
}

async function summarise(storage: Storage, folder: string): Promise<RunSummary> {
  const lines = await readMetrics(storage, folder);
  const steps = lines.filter((line) => line.kind === "step");
  const evaluations = lines.filter((line) => line.kind === "evaluation").map(({ step, loss }) => ({ step, loss }));
  const tail = steps.slice(-Math.max(1, Math.ceil(steps.length / 10)));
  return {
    folder,
    options: await readOptions(storage, folder),
    step: steps.at(-1)?.step ?? 0,
    tokens: steps.reduce((sum, { tokens }) => sum + tokens, 0),
    finalLoss: tail.length === 0 ? undefined : tail.reduce((sum, { loss }) => sum + loss, 0) / tail.length,
    best: evaluations.reduce<RunSummary["best"]>(
      (low, at) => (low === undefined || at.loss < low.loss ? at : low),
      undefined,
    ),
    observed: lines.filter((line) => line.kind === "observation").at(-1)?.measures ?? {},
    losses: steps.map(({ step, loss }) => ({ step, loss })),
    evaluations,
  };
}

async function readOptions(storage: Storage, folder: string): Promise<RunSummary["options"]> {
  const path = joinPath(folder, "run.json");
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  try {
    const options = parseJson(new TextDecoder().decode(await storage.read(path)));
    return isJsonObject(options) ? options : undefined;
  } catch {
    return undefined; // a file that someone else wrote says nothing of the run
  }
}
