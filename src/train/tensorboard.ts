import { joinPath, type Storage } from "../io/storage.ts";
import { tfRecord } from "../io/tfevents.ts";
import type { MetricLine } from "./metrics.ts";

/** Writes what a run reports for TensorBoard, in a file of its own for each start. */
export interface EventsFile {
  add(line: MetricLine): Promise<void>;
}

/** Start a file of events in a run's folder; what earlier ones say of steps from `firstStep` on is taken back. */
export async function openEvents(
  storage: Storage,
  folder: string,
  { firstStep, now }: { readonly firstStep: number; readonly now: () => number },
): Promise<EventsFile> {
  const path = joinPath(folder, `events.out.tfevents.${String(Math.floor(now())).padStart(10, "0")}.scion`);
  await storage.append(path, tfRecord({ step: 0, wallTime: now(), fileVersion: "brain.Event:2" }));
  await storage.append(path, tfRecord({ step: firstStep, wallTime: now(), starts: true }));
  return {
    add: (line) => storage.append(path, tfRecord({ step: line.step, wallTime: now(), scalars: scalarsOf(line) })),
  };
}

/** By the tags that Hugging Face's Trainer uses. */
function scalarsOf(line: MetricLine): Readonly<Record<string, number>> {
  const side = line.kind === "step" ? "train" : "eval";
  const own: Readonly<Record<string, number>> =
    line.kind === "step"
      ? { loss: line.loss, grad_norm: line.gradNorm, learning_rate: line.learningRate, epoch: line.epoch }
      : line.kind === "evaluation"
        ? { loss: line.loss }
        : {};
  return Object.fromEntries(
    Object.entries({ ...own, ...line.measures }).map(([name, value]) => [`${side}/${name}`, value]),
  );
}
