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

/** Forget what was written after `step`, when a run goes on from there; a half-written last line goes too. */
export async function trimMetrics(storage: Storage, folder: string, step: number): Promise<void> {
  const path = metricsPath(folder);
  if ((await storage.sizeBytes(path)) === undefined) return;
  const lines = (await readMetrics(storage, folder)).filter((line) => line.step <= step);
  await storage.write(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
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
