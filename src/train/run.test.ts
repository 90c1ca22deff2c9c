import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { openSafetensors } from "../io/safetensors.ts";
import type { Storage } from "../io/storage.ts";
import { chooseMethod } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { makeBatch } from "./data/index.ts";
import { readMetrics } from "./metrics.ts";
import { checkpointPath, type RunOptions, type RunResult, train } from "./run.ts";
import { resolveSettings, type TrainSettings } from "./settings.ts";

let device: Device;
let model: PretrainedModel;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = await randomModel();
});
afterAll(() => device.close());

const examples = randomExamples(30);

function run(storage: Storage, settings: Partial<TrainSettings>, extra: Partial<RunOptions> = {}): Promise<RunResult> {
  return train({
    device,
    model,
    choice: chooseMethod("lora", { rank: 4, dropout: 0.1 }),
    targets: "all-linear",
    settings: resolveSettings({ learningRate: 5e-3, batchSize: 4, maxSteps: 14, checkpointEvery: 3, ...settings }),
    train: examples.slice(0, 24),
    validation: examples.slice(24),
    padId: 0,
    folder: { storage, path: "run" },
    ...extra,
  });
}

describe("a run", () => {
  it("lowers the loss and keeps the best parameters", async () => {
    const storage = memoryStorage();
    const { adapter, ended, best, step } = await run(storage, { maxSteps: 30 });
    const metrics = await readMetrics(storage, "run");
    const losses = metrics.flatMap((line) => (line.kind === "step" ? [line.loss] : []));
    expect(ended).toBe("finished");
    expect(step).toBe(30);
    expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) - 0.3);
    expect(best?.loss).toBe(Math.min(...metrics.flatMap((line) => (line.kind === "evaluation" ? [line.loss] : []))));
    expect(adapter.parameters.size).toBe(2 * 7 * 2);
  });

  it.each([
    { name: "one batch an update", settings: {} },
    { name: "two batches an update", settings: { accumulationSteps: 2 } },
  ])("interrupted anywhere and resumed, has bit-equal metrics and parameters ($name)", async ({ settings }) => {
    const whole = memoryStorage();
    const reference = await run(whole, settings);
    for (const stop of [1, 4, 9, 13]) {
      const storage = memoryStorage();
      const controller = new AbortController();
      const first = await run(storage, settings, {
        signal: controller.signal,
        onEvent: (event) => {
          if (event.kind === "step" && event.step === stop) controller.abort();
        },
      });
      expect(first).toMatchObject({ ended: "interrupted", step: stop });
      const second = await run(storage, settings, { resume: true });
      expect(await readMetrics(storage, "run")).toEqual(await readMetrics(whole, "run"));
      expect(second.adapter.parameters).toEqual(reference.adapter.parameters);
    }
  });

  it("goes back to the last checkpoint when metrics ran ahead of it", async () => {
    const whole = memoryStorage();
    await run(whole, {});
    const storage = memoryStorage();
    const failing: Storage = {
      ...storage,
      append: async (path, text) => {
        if (String(text).includes('"step":8,')) throw new Error("killed");
        await storage.append(path, text);
      },
    };
    await expect(run(failing, {})).rejects.toThrow("killed");
    await storage.append("run/metrics.jsonl", '{"kind":"step","st'); // a line that a kill cut short
    await run(storage, {}, { resume: true });
    expect(await readMetrics(storage, "run")).toEqual(await readMetrics(whole, "run"));
  });

  it("gives the same update whether it is cut into batches or not", async () => {
    const plain = chooseMethod("lora", { rank: 4 });
    const settings = { maxSteps: 6, schedule: "constant", warmup: 0 } as const;
    const a = memoryStorage();
    const b = memoryStorage();
    await run(a, { ...settings, batchSize: 4 }, { choice: plain });
    await run(b, { ...settings, batchSize: 2, accumulationSteps: 2 }, { choice: plain });
    const losses = async (storage: Storage): Promise<number[]> =>
      (await readMetrics(storage, "run")).flatMap((line) => (line.kind === "step" ? [line.loss] : []));
    const [left, right] = [await losses(a), await losses(b)];
    // Float32 sums in another order.
    left.forEach((loss, i) => {
      expect(right[i]).toBeCloseTo(loss, 5);
    });
  });

  it("stops early when the validation loss no longer falls", async () => {
    const { ended, step, best } = await run(memoryStorage(), {
      learningRate: 0.5,
      maxSteps: 40,
      evaluateEvery: 2,
      patience: 2,
      warmup: 0,
    });
    expect(ended).toBe("early-stop");
    expect(step - (best?.step ?? 0)).toBe(4);
  });

  it("stops at a loss that is not finite and keeps the last good checkpoint", async () => {
    const storage = memoryStorage();
    const settings = { maxSteps: 60, learningRate: 1e30, maxGradNorm: 0, warmup: 0, schedule: "constant" } as const;
    const broken = run(storage, { ...settings, checkpointEvery: 1 });
    await expect(broken).rejects.toMatchObject({ code: "not-finite-loss", message: expect.stringMatching(/\b2\b/) });
    const metrics = await readMetrics(storage, "run");
    expect(metrics.map(({ step }) => step)).toEqual([1]);
    const { tensors } = await openSafetensors(storage, checkpointPath("run"));
    expect(tensors.size).toBeGreaterThan(0);
    for (const lazy of tensors.values()) {
      const { dtype, data } = await lazy.read();
      if (dtype === "float32") expect(Array.from(data, Number).every(Number.isFinite)).toBe(true);
    }
  });

  it("refuses a folder that holds another run, and to resume with other settings", async () => {
    const storage = memoryStorage();
    await run(storage, { maxSteps: 3 });
    await expect(run(storage, { maxSteps: 3 })).rejects.toMatchObject({ code: "run-exists" });
    await expect(run(storage, { maxSteps: 3, learningRate: 1e-3 }, { resume: true })).rejects.toMatchObject({
      code: "resume-mismatch",
      message: expect.stringContaining("learningRate: 0.005 then, 0.001 now"),
    });
  });

  it("lets what is trained be looked at whenever an evaluation is due, resumed or not", async () => {
    const observed = async (storage: Storage, resume = false): Promise<unknown[]> => {
      const observe: RunOptions["observe"] = async ({ step, evaluate, adapter }) => ({
        loss: await evaluate([makeBatch(examples.slice(0, 4), { padId: 0 })]),
        length: (await adapter()).parameters.size,
        step,
      });
      await run(storage, { evaluateEvery: 4 }, { observe, resume });
      return (await readMetrics(storage, "run")).filter(({ kind }) => kind === "observation");
    };
    const whole = await observed(memoryStorage());
    expect(whole.map((line) => (line as { step: number }).step)).toEqual([4, 8, 12, 14]);
    expect(whole[0]).toMatchObject({ measures: { length: 28, loss: expect.any(Number) } });
    const storage = memoryStorage();
    const controller = new AbortController();
    const early = run(
      storage,
      { evaluateEvery: 4 },
      {
        signal: controller.signal,
        onEvent: (event) => {
          if (event.kind === "step" && event.step === 6) controller.abort();
        },
      },
    );
    await early;
    expect(await observed(storage, true)).toEqual(whole.slice(1));
  });

  it("starts at the base model's loss", async () => {
    const first = async (method: string, options: Record<string, number>): Promise<number> => {
      const storage = memoryStorage();
      await run(storage, { maxSteps: 1 }, { choice: chooseMethod(method, options) });
      const [line] = await readMetrics(storage, "run");
      return line?.kind === "step" ? line.loss : Number.NaN;
    };
    expect(await first("lora", { rank: 2 })).toBeCloseTo(await first("full", {}), 6);
  });
});
