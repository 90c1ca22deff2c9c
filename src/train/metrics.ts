import { TuneError } from "../errors.ts";
import { contentHash } from "../io/content-hash.ts";
import { isJsonObject, parseJson } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";

/** One line of `metrics.jsonl`. */
export type MetricLine =
  | {
      readonly kind: "step";
      readonly step: number;
      readonly epoch: number;
      readonly loss: number;
      readonly measures?: Readonly<Record<string, number>>;
      readonly gradNorm: number;
      readonly learningRate: number;
      readonly tokens: number;
      readonly targets: number;
    }
  | {
      readonly kind: "evaluation";
      readonly step: number;
      readonly loss: number;
      readonly measures?: Readonly<Record<string, number>>;
      readonly best: boolean;
    }
  | { readonly kind: "observation"; readonly step: number; readonly measures: Readonly<Record<string, number>> };

/** The metrics file of a run folder. */
export function metricsPath(folder: string): string {
  return joinPath(folder, "metrics.jsonl");
}

/** Add a line. */
export async function appendMetric(storage: Storage, folder: string, line: MetricLine): Promise<void> {
  await storage.append(metricsPath(folder), `${JSON.stringify(line)}\n`);
}

/** A hash of lines of metrics: of that of the lines before ("" where there are none) and the next one. */
export function hashMetric(before: string, line: MetricLine): string {
  return contentHash(before, JSON.stringify(line));
}

/**
 * Forget what was written after `step`, when a run goes on from there; a half-written last line goes too.
 * @param written hash of the lines up to `step`, as the checkpoint has it; undefined where nothing is known of them.
 * @returns the hash of the lines that are left, for those that follow. A file that is no longer there has none.
 * @throws {TuneError} `bad-checkpoint` when they are others than were written.
 */
export async function trimMetrics(
  storage: Storage,
  folder: string,
  step: number,
  written: string | undefined,
): Promise<string> {
  const path = metricsPath(folder);
  if ((await storage.sizeBytes(path)) === undefined) return "";
  const lines = (await readMetrics(storage, folder)).filter((line) => line.step <= step);
  const hash = lines.reduce(hashMetric, "");
  if (written !== undefined && hash !== written) {
    throw new TuneError("bad-checkpoint", `The metrics up to update ${step} are not as they were written.`, {
      at: path,
      fix: "take the file from a backup; or remove it, and the run goes on with metrics that begin where it does",
    });
  }
  await storage.write(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return hash;
}

/** A hash of all metrics of a run that has ended; "" where there are none. */
export async function hashMetrics(storage: Storage, folder: string): Promise<string> {
  if ((await storage.sizeBytes(metricsPath(folder))) === undefined) return "";
  return (await readMetrics(storage, folder)).reduce(hashMetric, "");
}

/**
 * Check that the metrics of a run that has ended are those that were written; a file that was removed is none.
 * @throws {TuneError} `bad-checkpoint`.
 */
export async function checkMetrics(storage: Storage, folder: string, written: unknown): Promise<void> {
  if (written === undefined || (await storage.sizeBytes(metricsPath(folder))) === undefined) return;
  if ((await hashMetrics(storage, folder)) === written) return;
  throw new TuneError("bad-checkpoint", "The metrics of a run that had ended are not as they were written.", {
    at: metricsPath(folder),
    fix: "take the file from a backup; or remove it, and the results stand without it",
  });
}

/** Every whole line of the metrics of a run; what is no line of metrics is passed over, as others may have written it. */
export async function readMetrics(storage: Storage, folder: string): Promise<readonly MetricLine[]> {
  const text = new TextDecoder().decode(await storage.read(metricsPath(folder)));
  return text.split("\n").flatMap((line) => {
    try {
      const value = line === "" ? undefined : parseJson(line);
      return isMetric(value) ? [value] : [];
    } catch {
      return []; // the line that a kill cut short
    }
  });
}

function isMetric(value: unknown): value is MetricLine {
  if (!isJsonObject(value) || typeof value["step"] !== "number") return false;
  const { kind, loss, tokens, measures } = value;
  if (kind === "observation") return isJsonObject(measures);
  const measured = typeof loss === "number" || loss === null; // JSON has no NaN: it is written as null
  return measured && (kind === "evaluation" || (kind === "step" && typeof tokens === "number"));
}
