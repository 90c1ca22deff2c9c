import { afterAll, beforeAll, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { chooseMethod } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { type RateSearchOptions, readSearch, searchLearningRate } from "./learning-rate.ts";
import { readMetrics } from "./metrics.ts";
import { type RunOptions, train } from "./run.ts";
import { resolveSettings } from "./settings.ts";

let device: Device;
let model: PretrainedModel;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = await randomModel();
});
afterAll(() => device.close());

const options = (): Omit<RunOptions, "folder"> => ({
  device,
  model,
  choice: chooseMethod("lora", { rank: 4 }),
  targets: "all-linear",
  settings: resolveSettings({ batchSize: 4, maxSteps: 30, warmup: 0, checkpointEvery: 10 }),
  train: randomExamples(24),
  validation: [],
  padId: 0,
});
const search = (changes: Partial<RateSearchOptions> = {}): ReturnType<typeof searchLearningRate> =>
  searchLearningRate({ ...options(), from: 1e-5, to: 10, steps: 60, ...changes });

it("finds a rate between those that do nothing and those that break out", async () => {
  const { points, suggested, lowest } = await search();
  expect(points[0]?.learningRate).toBe(1e-5);
  const ratios = points.slice(1).map(({ learningRate }, i) => learningRate / (points[i]?.learningRate ?? 0));
  for (const ratio of ratios) expect(ratio).toBeCloseTo(1e6 ** (1 / 59), 6);
  expect(suggested).toBeGreaterThan(1e-4);
  expect(suggested).toBeLessThanOrEqual(lowest);
  expect(lowest).toBeLessThan(2);
  // It is a good one: training with it ends lower than with a hundredth of it.
  const final = async (learningRate: number): Promise<number> => {
    const storage = memoryStorage();
    const own = options();
    const settings = { ...own.settings, learningRate };
    await train({ ...own, settings, folder: { storage, path: "run" } });
    const last = (await readMetrics(storage, "run")).at(-1);
    return last?.kind === "step" ? last.loss : Number.NaN;
  };
  expect(await final(suggested)).toBeLessThan((await final(suggested / 100)) - 0.1);
});

it("reads the steepest fall before the lowest point", () => {
  const losses = [5, 5, 5, 4.9, 4.5, 3.8, 3.2, 3, 2.95, 3.4, 6];
  const points = losses.map((smoothed, i) => ({ learningRate: 10 ** (i - 8), loss: smoothed, smoothed }));
  expect(readSearch(points)).toEqual({ suggested: 10 ** -3, lowest: 1 });
});

it("refuses searches that find nothing", async () => {
  await expect(search({ from: 1, to: 0.1 })).rejects.toMatchObject({ code: "bad-option" });
  await expect(search({ steps: 3 })).rejects.toMatchObject({ code: "bad-option" });
});

it("a run writes events for TensorBoard; one that goes on starts a file that takes back what it does again", async () => {
  const storage = memoryStorage();
  const run = (resume: boolean, signal?: AbortSignal): Promise<unknown> =>
    train({
      ...options(),
      validation: randomExamples(4),
      folder: { storage, path: "run" },
      tensorboard: true,
      resume,
      ...(signal ? { signal } : {}),
      settings: resolveSettings({ batchSize: 4, maxSteps: 5, checkpointEvery: 2 }),
    });
  await run(false);
  const [name = ""] = (await storage.list("run")).filter((file) => file.startsWith("events.out.tfevents."));
  const bytes = await storage.read(`run/${name}`);
  const view = new DataView(bytes.buffer);
  const texts: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(view.getBigUint64(at, true));
    texts.push(new TextDecoder().decode(bytes.subarray(at + 12, at + 12 + length)));
    at += 16 + length;
  }
  expect(texts[0]).toContain("brain.Event:2");
  const having = (tag: string): number => texts.filter((text) => text.includes(tag)).length;
  expect([having("train/loss"), having("train/learning_rate"), having("eval/loss")]).toEqual([5, 5, 1]);
});
