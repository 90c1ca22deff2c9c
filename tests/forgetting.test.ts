import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Device,
  evaluate,
  exportModel,
  findRuns,
  type LoadedData,
  type LoadedModel,
  loadModel,
  measureForgetting,
  type StageResult,
  tune,
  tuneInOrder,
} from "../src/index.ts";
import type { TextTokenizer } from "../src/io/tokenizer.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let device: Device;
let folder: string;
let base: LoadedModel;
let data: LoadedData;
let texts: LoadedData;
const settings = {
  method: "lora",
  methodOptions: { rank: 1, alpha: 64 },
  learningRate: 0.02,
  batchSize: 4,
  maxSteps: 4,
};

beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  folder = await mkdtemp(join(tmpdir(), "scion-forgetting-"));
  base = inMemory(await randomModel());
  data = dataOf(randomExamples(8, 64, 1));
  texts = dataOf(randomExamples(4, 64, 2));
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

/** A model in memory as the commands have it; of its tokenizer only the padding is asked for. */
function inMemory(pretrained: PretrainedModel): LoadedModel {
  const tokenizer = { padId: 0, eosId: 0 } as TextTokenizer;
  return { pretrained, platform: nodePlatform, source: "memory", folder: "memory", tokenizer: async () => tokenizer };
}

async function open(path: string): Promise<LoadedModel> {
  return { ...(await loadModel(path, { platform: nodePlatform })), tokenizer: base.tokenizer };
}

/** What `loadData` gives, as far as tuning and measuring look at it. */
function dataOf(train: readonly TokenizedExample[]): LoadedData {
  return { train, validation: [], kind: "sequence", format: "text" } as unknown as LoadedData;
}

describe("forgetting", () => {
  it("is the loss above the base's on the same tokens, of an adapter and of the merged model alike", async () => {
    const { adapter } = await tune(base, data, { ...settings, device });
    const apart = await measureForgetting(base, texts.train, { adapter, device });
    expect(apart.baseLoss).toBeCloseTo((await evaluate(base, texts.train, { device })).loss, 6);
    expect(apart.tunedLoss).toBeCloseTo((await evaluate(base, texts.train, { adapter, device })).loss, 6);
    expect(apart.forgetting).toBe(apart.tunedLoss - apart.baseLoss);
    const merged = join(folder, "merged");
    await exportModel(base, "safetensors", merged, { adapter, device });
    const tuned = await open(merged);
    const whole = await measureForgetting(base, texts.train, { tuned, device, baseLoss: apart.baseLoss });
    expect(whole.forgetting).toBeCloseTo(apart.forgetting, 4);
    const none = await measureForgetting(base, texts.train, { tuned: base, device });
    expect(none.forgetting).toBe(0);
  });

  it("is tracked during training, beside the intruders", async () => {
    const output = join(folder, "run");
    const tracked = { baseText: texts.train, trackIntruders: true, evaluateEvery: 2, output };
    const { adapter } = await tune(base, data, { ...settings, ...tracked, device });
    const lines = (await readFile(join(output, "metrics.jsonl"), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { kind: string; step: number; measures: Record<string, number> });
    const observed = lines.filter(({ kind }) => kind === "observation");
    expect(observed.map(({ step }) => step)).toEqual([2, 4]);
    const { forgetting } = await measureForgetting(base, texts.train, { adapter, device });
    expect(observed[1]?.measures["forgetting"]).toBeCloseTo(forgetting, 4);
    expect(Number.isInteger(observed[1]?.measures["intruders"])).toBe(true);
    const [run] = await findRuns(nodePlatform.storage, output);
    expect(run?.observed).toEqual(observed[1]?.measures);
  });
});

describe("several data sets in order", () => {
  it("give a matrix of losses, and go on where they were stopped", async () => {
    const second = { ...data, train: texts.train };
    const tasks = [
      { name: "first", data },
      { name: "second", data: second },
    ];
    const options = { ...settings, maxSteps: 2, baseText: texts.train, device };
    const stop = new AbortController();
    const output = join(folder, "merged-between");
    const half = await tuneInOrder(base, tasks, {
      ...options,
      output,
      signal: stop.signal,
      onEvent: (event) => {
        if (event.kind === "measured") stop.abort();
      },
    });
    expect(half.stages.length).toBe(1);
    await expect(tuneInOrder(base, tasks, { ...options, output })).rejects.toMatchObject({ code: "run-exists" });
    const whole = await tuneInOrder(base, tasks, { ...options, output, resume: true });
    expect(whole.stages[0]).toEqual(half.stages[0]);
    expect(whole.tasks).toEqual(["first", "second"]);
    for (const { losses, forgetting, intruders } of whole.stages as readonly StageResult[]) {
      expect([losses.length, typeof forgetting, Number.isInteger(intruders)]).toEqual([2, "number", true]);
    }
    // What a stage measured is what its model gives; the second started from the first's weights.
    const last = await open(join(output, "2-second", "model"));
    expect((await evaluate(last, data.train, { device })).loss).toBeCloseTo(whole.stages[1]?.losses[0] ?? 0, 5);
    const apart = await tuneInOrder(base, tasks, { ...options, output: join(folder, "apart"), between: "apart" });
    expect(apart.stages[0]?.losses).toEqual(whole.stages[0]?.losses);
    expect(apart.stages[1]?.losses[0]).not.toBeCloseTo(whole.stages[1]?.losses[0] ?? 0, 3);
    await expect(tuneInOrder(base, [...tasks].reverse(), { ...options, output, resume: true })).rejects.toMatchObject({
      code: "resume-mismatch",
    });
    await expect(tuneInOrder(base, tasks.slice(1), { ...options, output })).rejects.toMatchObject({
      code: "bad-option",
    });
  });
});
