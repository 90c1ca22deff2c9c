import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { LoadedData, LoadedModel, RunPlan, TuningPlan } from "../src/index.ts";
import { planTuning } from "../src/index.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { reportData } from "../src/train/data/index.ts";
import { randomExamples, randomModel, tinyLlama } from "./helpers/tiny-model.ts";

/** A model whose weights throw when they are read: a plan reads none. */
async function unreadable(): Promise<LoadedModel> {
  const model = await randomModel();
  for (const { source } of model.weights.values()) {
    Object.assign(source, { read: () => Promise.reject(new Error("a plan reads no weights")) });
  }
  return loaded(model);
}

function loaded(pretrained: PretrainedModel): LoadedModel {
  const tokenizer = { padId: 0, eosId: 0 } as Awaited<ReturnType<LoadedModel["tokenizer"]>>; // all that is asked of it
  const place = { platform: nodePlatform, source: "memory", folder: "memory" };
  return { pretrained, ...place, tokenizer: async () => tokenizer };
}

const data: LoadedData = {
  format: "text",
  kind: "sequence",
  train: randomExamples(64),
  validation: randomExamples(8),
  report: reportData(randomExamples(64)),
  warnings: [],
  ignoredKeys: [],
  skipped: [],
  renamed: {},
  preview: "",
};

describe("planTuning", () => {
  let device: Device;
  let model: LoadedModel;
  beforeAll(async () => {
    device = await openNodeDevice({ worker: false, threads: 1 });
    model = await unreadable();
  });
  afterAll(() => device.close());

  it("says what is trained, how long it takes and what memory it needs, and reads no weight", async () => {
    const plan = await planTuning(model, data, {
      device,
      batchSize: 8,
      accumulationSteps: 2,
      epochs: 3,
      methodOptions: { rank: 2 },
      targetModules: "all-linear",
    });
    expect([plan.steps, plan.stepsPerEpoch]).toEqual([12, 4]);
    // Rank 2 on q, k, v, o, gate, up and down of two layers: 2·Σ(in + out).
    expect(plan.trainedParameters).toBe(2 * 2 * (64 + 48 + 48 + 64 + 80 + 80 + 80));
    expect(plan.fits).toBe(true);
    expect(plan.remedy).toBeUndefined();
    expect(plan.stepMs).toBeGreaterThan(0);
    expect(plan.epochMs).toBeGreaterThan(4 * plan.stepMs);
    expect(plan.runMs).toBeCloseTo(3 * plan.epochMs);
    const sum = Object.values(plan.memory.parts).reduce((total, bytes) => total + bytes, 0);
    expect(plan.memory.peakBytes).toBe(sum);
  });

  it("weighs the choices of memory", async () => {
    const { choices } = await planTuning(model, { ...data, validation: [] }, { device, batchSize: 64 });
    const activations = (choice: RunPlan): number => choice.memory.parts.activations;
    expect(activations(choices.balanced)).toBeLessThan(activations(choices.fast));
    expect(activations(choices.small)).toBeLessThan(activations(choices.fast));
    expect(choices.small.stepMs).toBeGreaterThan(choices.fast.stepMs);
  });

  it("finds settings that fit, keeping the examples of an update, and says when none do", async () => {
    const long = Array.from({ length: 512 }, () => ({
      inputIds: new Int32Array(64).fill(1),
      trained: new Uint8Array(64).fill(1, 1),
      line: 1,
    }));
    const options = { device, batchSize: 512, memory: "fast" } as const;
    const plan = (availableBytes: number): Promise<TuningPlan> =>
      planTuning(model, { ...data, train: long, validation: [] }, { ...options, availableBytes });
    const needs = ({ memory }: RunPlan): number => memory.peakBytes - memory.parts.process;
    const roomy = await plan(1e12);
    const { choices } = roomy;
    expect(roomy.fits).toBe(true);

    const balanced = await plan((needs(choices.fast) + needs(choices.balanced)) / 2);
    expect([balanced.fits, balanced.remedy?.settings]).toEqual([false, { memory: "balanced" }]);

    const halved = await plan(needs(choices.small) - choices.small.memory.parts.activations / 3);
    expect(halved.remedy?.settings).toEqual({ memory: "small", batchSize: 256, accumulationSteps: 2 });

    const halves = { ...model, pretrained: await randomModel({ ...tinyLlama, vocab_size: 40000 }, 0, "float16") };
    const held = await planTuning(halves, { ...data, validation: [] }, { device, memory: "small" });
    const tight = await planTuning(
      halves,
      { ...data, validation: [] },
      { device, memory: "small", availableBytes: needs(held) - 1e6 },
    );
    expect([tight.fits, tight.remedy?.settings]).toEqual([false, { baseWeights: "f16" }]);
    expect(held.baseWeights.f16.memory.parts.weights / held.memory.parts.weights).toBeCloseTo(0.5, 2);

    const hopeless = await plan(1e6);
    expect([hopeless.fits, hopeless.remedy]).toEqual([false, undefined]);
  });
});
