import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadData } from "../src/api/load-data.ts";
import { loadModel } from "../src/api/load-model.ts";
import { tune } from "../src/api/tune.ts";
import { compare, findLearningRate, tuneInOrder } from "../src/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import type { Storage } from "../src/io/storage.ts";
import { chooseMethod } from "../src/methods/index.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { keyFileContent, openGenerator, prvEpsilon, rdpEpsilon } from "../src/privacy/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { drawPoisson } from "../src/train/data/poisson.ts";
import { readMetrics } from "../src/train/metrics.ts";
import { keyFile, privacyOf } from "../src/train/privacy.ts";
import { type RunEvent, type RunOptions, type RunResult, train } from "../src/train/run.ts";
import { resolveSettings, type TrainSettings } from "../src/train/settings.ts";
import { golden } from "./helpers/golden.ts";
import { root } from "./helpers/root.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let device: Device;
let model: PretrainedModel;
let folder: string;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = await randomModel();
  folder = await mkdtemp(join(tmpdir(), "scion-private-"));
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const key = new Uint8Array(32).fill(9);
const examples = randomExamples(60);

function run(
  storage: Storage,
  settings: Partial<TrainSettings> = {},
  extra: Partial<RunOptions> = {},
): Promise<RunResult> {
  return train({
    device,
    model,
    choice: chooseMethod("lora", { rank: 4, dropout: 0.1 }),
    targets: "all-linear",
    settings: resolveSettings({
      ...{ learningRate: 5e-3, batchSize: 3, accumulationSteps: 2, maxSteps: 8, checkpointEvery: 3 },
      ...{ dpNoise: 0.8, dpClip: 0.5, ...settings },
    }),
    train: examples.slice(0, 40),
    validation: examples.slice(40),
    padId: 0,
    folder: { storage, path: "run" },
    ...extra,
  });
}

describe("Poisson batches", () => {
  it("draw each example by itself, the same ones under the same key", async () => {
    const generator = openGenerator(key);
    const counts = new Float64Array(50);
    let [drawn, empty] = [0, 0];
    for (let step = 1; step <= 400; step++) {
      const indices = await drawPoisson(generator, { count: 50, rate: 0.02, step });
      for (const index of indices) counts[index] = (counts[index] ?? 0) + 1;
      drawn += indices.length;
      if (indices.length === 0) empty += 1;
    }
    expect(Math.abs(drawn - 400)).toBeLessThan(5 * Math.sqrt(400 * 0.98)); // five deviations
    expect(Math.abs(empty / 400 - 0.98 ** 50)).toBeLessThan(0.12);
    expect(Math.min(...counts)).toBeGreaterThan(0);
    const draw = (of: Uint8Array, step: number): Promise<readonly number[]> =>
      drawPoisson(openGenerator(of), { count: 500, rate: 0.5, step });
    expect(await draw(key, 3)).toEqual(await draw(key, 3));
    expect(await draw(key, 3)).not.toEqual(await draw(key, 4));
    expect(await draw(key, 3)).not.toEqual(await draw(new Uint8Array(32), 3));
    expect(await drawPoisson(generator, { count: 5, rate: 1, step: 1 })).toEqual([0, 1, 2, 3, 4]);
  });
});

/** A run that has not made an update, whose secret is known. */
async function begun(): Promise<Storage> {
  const storage = memoryStorage();
  const { ended, step } = await run(storage, {}, { signal: AbortSignal.abort() });
  expect({ ended, step }).toEqual({ ended: "interrupted", step: 0 });
  await storage.write(`run/${keyFile}`, keyFileContent(key));
  return storage;
}

describe("a private run", () => {
  it("says what it is made with, and what was spent", async () => {
    const events: RunEvent[] = [];
    const storage = memoryStorage();
    const result = await run(storage, {}, { onEvent: (event) => events.push(event) });
    const numbers = { samplingRate: 6 / 40, noiseMultiplier: 0.8, steps: 8 };
    expect(events[0]).toMatchObject({
      kind: "start",
      privacy: { unit: "example", expectedBatch: 6, clip: 0.5, ...numbers },
    });
    const spent = { rdp: rdpEpsilon([numbers], 1e-5).epsilon, prv: prvEpsilon([numbers], 1e-5).epsilon };
    expect(result.privacy).toMatchObject({ made: 8, delta: 1e-5, spent });
    expect(result.adapter.run?.privacy).toEqual(result.privacy);
    // A record goes with the adapter: nothing that was measured on examples is in it.
    expect(JSON.stringify(result.adapter.run)).not.toMatch(/trainData|validationData|"loss"/);
    expect(await storage.sizeBytes(`run/${keyFile}`)).toBeUndefined();
    // Another run of the same settings draws others: its secret is its own.
    const other = memoryStorage();
    await run(other);
    expect(await readMetrics(other, "run")).not.toEqual(await readMetrics(storage, "run"));
  });

  it("interrupted anywhere and resumed, draws the same examples and the same noise", async () => {
    const whole = await begun();
    const reference = await run(whole, {}, { resume: true });
    for (const stop of [1, 4, 7]) {
      const storage = await begun();
      const controller = new AbortController();
      const first = await run(
        storage,
        {},
        {
          resume: true,
          signal: controller.signal,
          onEvent: (event) => {
            if (event.kind === "step" && event.step === stop) controller.abort();
          },
        },
      );
      expect(first).toMatchObject({ ended: "interrupted", step: stop, privacy: { made: stop } });
      const second = await run(storage, {}, { resume: true });
      expect(await readMetrics(storage, "run")).toEqual(await readMetrics(whole, "run"));
      expect(second.adapter.parameters).toEqual(reference.adapter.parameters);
      expect(second.privacy).toEqual(reference.privacy);
    }
  });

  it("cut off between two checkpoints, makes the same updates again", async () => {
    const whole = await begun();
    const reference = await run(whole, {}, { resume: true });
    const storage = await begun();
    const cut = run(
      storage,
      {},
      {
        resume: true,
        onEvent: (event) => {
          if (event.kind === "step" && event.step === 5) throw new Error("cut off");
        },
      },
    );
    await expect(cut).rejects.toThrow("cut off");
    expect((await readMetrics(storage, "run")).filter(({ kind }) => kind === "step")).toHaveLength(5);
    const second = await run(storage, {}, { resume: true });
    expect(await readMetrics(storage, "run")).toEqual(await readMetrics(whole, "run"));
    expect(second.adapter.parameters).toEqual(reference.adapter.parameters);
    expect(second.privacy?.made).toBe(8);
  });

  it("does not go on without its secret, or with other settings of privacy", async () => {
    const storage = memoryStorage();
    const controller = new AbortController();
    const stopped = await run(
      storage,
      {},
      {
        signal: controller.signal,
        onEvent: (event) => {
          if (event.kind === "step" && event.step === 3) controller.abort();
        },
      },
    );
    expect(stopped.ended).toBe("interrupted");
    await expect(run(storage, { dpNoise: 0.5 }, { resume: true })).rejects.toMatchObject({
      code: "resume-mismatch",
      message: expect.stringContaining("dpNoise: 0.8 then, 0.5 now"),
    });
    await storage.remove(`run/${keyFile}`);
    await expect(run(storage, {}, { resume: true })).rejects.toMatchObject({ code: "no-privacy-key" });
    for (const bad of [new Uint8Array(), key, keyFileContent(key).fill(7, 3, 4)]) {
      await storage.write(`run/${keyFile}`, bad);
      await expect(run(storage, {}, { resume: true })).rejects.toThrow(/damaged/);
    }
  });

  it("keeps its secret from others, and only until it has finished", async () => {
    const path = join(folder, "secret");
    const modes: number[] = [];
    await run(
      nodeStorage,
      {},
      {
        folder: { storage: nodeStorage, path },
        onEvent: () => undefined,
        observe: async () => {
          modes.push((await stat(join(path, keyFile))).mode & 0o777);
          return {};
        },
      },
    );
    expect(modes[0]).toBe(0o600);
    await expect(stat(join(path, keyFile))).rejects.toThrow();
  });

  it("makes updates of nothing where nobody is drawn", async () => {
    const result = await run(
      memoryStorage(),
      { batchSize: 1, accumulationSteps: 1, maxSteps: 12 },
      { train: examples.slice(0, 40) },
    );
    expect(result.ended).toBe("finished");
    const all = await run(memoryStorage(), { batchSize: 100 }, { train: examples.slice(0, 5) });
    expect(all.privacy?.samplingRate).toBe(1);
  });

  it.each([
    [{ dpEpsilon: 0 }, "dpEpsilon is 0, but it must be a number above 0"],
    [{ dpEpsilon: Number.NaN }, "dpEpsilon is NaN"],
    [{ dpEpsilon: -1 }, "dpEpsilon is -1"],
    [{ dpEpsilon: 3, dpDelta: 1 }, "dpDelta is 1, but it must be between 0 and 1"],
    [{ dpEpsilon: 3, dpDelta: 0 }, "dpDelta is 0"],
    [{ dpEpsilon: 3, dpDelta: Number.NaN }, "dpDelta is NaN"],
    [{ dpEpsilon: 3, dpClip: 0 }, "dpClip is 0"],
    [{ dpNoise: 0 }, "dpNoise is 0"],
    [{ dpNoise: Number.POSITIVE_INFINITY }, "dpNoise is Infinity"],
    [{ dpEpsilon: 3, dpNoise: 1 }, "dpEpsilon and dpNoise are both given"],
    [{ dpNoise: 1, dpAccountant: "rdp" }, "dpAccountant is rdp, which would do nothing"],
    [{ dpClip: 1 }, "dpClip is 1, which would do nothing"],
    [{ dpDelta: 1e-6 }, "dpDelta is 0.000001, which would do nothing"],
    [{ dpEpsilon: 3, maxGradNorm: 1 }, "maxGradNorm is 1, which would do nothing"],
    [{ dpEpsilon: 3, dpAccountant: "moments" as never }, "dpAccountant is"],
  ] as [Partial<TrainSettings>, string][])("refuses %j", (settings, says) => {
    expect(() => resolveSettings(settings)).toThrow(says);
  });

  it("refuses a budget that no noise keeps to, and warns of a delta that promises nothing", () => {
    const settings = resolveSettings({ dpEpsilon: 1e-9, dpDelta: 1e-7, dpAccountant: "rdp", batchSize: 10 });
    expect(() => privacyOf(settings, { count: 10, steps: 1000 })).toThrow(/No noise up to/);
    const plan = privacyOf(resolveSettings({ dpNoise: 1, dpDelta: 0.05 }), { count: 50, steps: 10 });
    expect(plan?.warnings).toEqual([expect.stringContaining("not below one over the 50 examples")]);
    expect(privacyOf(resolveSettings({}), { count: 50, steps: 10 })).toBeUndefined();
  });
});

describe("tuning privately, as people do it", () => {
  it("is refused where examples have no gradient of their own, where files have weights, and beside a plan of attention", async () => {
    const of = await loadModel(golden("llama-tiny"), { platform: nodePlatform });
    const loaded = { ...of, tokenizer: async () => ({ padId: 0, eosId: 0 }) as never };
    const data = { train: examples.slice(0, 10), validation: [], kind: "sequence" } as never;
    const weighted = { ...(data as object), mixture: [{ count: 10, weight: 0.5 }] } as never;
    await expect(tune(loaded, weighted, { dpNoise: 1, device })).rejects.toThrow(/files have weights/);
    await expect(tune(loaded, data, { dpNoise: 1, device, attention: "auto" })).rejects.toThrow(
      /cannot attend by a plan/,
    );
    const texts = await loadModel(golden("encoders/bert-base"), { platform: nodePlatform });
    const pairs = {
      train: examples.slice(0, 4).map((one) => ({ ...one, against: [one] })),
      validation: [],
      kind: "texts",
    };
    await expect(
      tune({ ...texts, tokenizer: loaded.tokenizer }, pairs as never, { dpNoise: 1, device }),
    ).rejects.toMatchObject({
      code: "no-per-example",
      message: expect.stringContaining("contrastive"),
    });
    const name = expect.stringMatching(/dpNoise/);
    const options = { dpNoise: 1 } as never;
    await expect(findLearningRate(loaded, data, options)).rejects.toMatchObject({ message: name });
    await expect(
      compare(loaded, data, { ...(options as object), methods: [], output: "x" } as never),
    ).rejects.toMatchObject({ message: name });
    await expect(tuneInOrder(loaded, [], options)).rejects.toMatchObject({ message: name });
  });

  it("lowers the loss at epsilon 8", async () => {
    const quickstart = join(root, "assets/quickstart");
    const of = await loadModel(join(quickstart, "model"), { platform: nodePlatform });
    const data = await loadData(of, join(quickstart, "train.jsonl"), { validation: 0.1 });
    const losses: number[] = [];
    const result = await tune(of, data, {
      ...{
        dpEpsilon: 8,
        dpDelta: 1e-4,
        dpClip: 0.5,
        learningRate: 1e-2,
        batchSize: 16,
        accumulationSteps: 2,
        maxSteps: 20,
      },
      ...{ methodOptions: { freezeA: true }, evaluateEvery: 10, schedule: "constant", device },
      onEvent: (event) => {
        if (event.kind === "evaluation") losses.push(event.loss);
      },
    });
    expect(result.privacy?.spent.prv).toBeLessThanOrEqual(8);
    expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 0.02);
  });
});
