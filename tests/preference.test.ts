import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { readMetrics } from "../src/train/metrics.ts";
import { chooseObjective } from "../src/train/objectives/index.ts";
import { type RunOptions, type RunResult, train } from "../src/train/run.ts";
import { resolveSettings } from "../src/train/settings.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden, peftName, readGolden } from "./helpers/golden.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Row `row` of a [batches, pairs, length] golden, as a sequence. */
function sequence(curve: ReadonlyMap<string, Tensor>, side: string, row: number): TokenizedExample {
  const { shape = [], data = [] } = curve.get(`${side}.ids`) ?? {};
  const length = shape[2] ?? 0;
  const part = (values: ArrayLike<number | bigint>): number[] =>
    Array.from({ length }, (_, i) => Number(values[row * length + i]));
  return {
    inputIds: Int32Array.from(part(data)),
    trained: Uint8Array.from(part(curve.get(`${side}.labels`)?.data ?? []), (label) => Number(label >= 0)),
    line: row + 1,
  };
}

describe("preference tuning goes through the losses and rewards of TRL's formulas in torch", () => {
  it.each([
    ["curve-dpo", "dpo", { beta: 0.1 }, false],
    ["curve-dpo", "dpo", { beta: 0.1 }, true],
    ["curve-dpo-smoothed", "dpo", { beta: 0.3, labelSmoothing: 0.1 }, false],
    ["curve-ipo", "ipo", { beta: 0.2 }, false],
  ] as const)("%s by %s %o (an update in parts: %s)", async (file, name, options, accumulates) => {
    const curve = await readGolden(`${file}.safetensors`);
    const { objective, config } = chooseObjective(name, options, "pair");
    const trainer = await openTrainer(device, await openModel(nodeStorage, golden("llama-tiny")), {
      choice: chooseMethod("lora", { rank: 4, alpha: 8 }),
      targets: "all-linear",
      objective: { objective, config },
      optimizer: chooseOptimizer("adamw"),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates,
      seed: 0,
    });
    await trainer.load(
      new Map(
        trainer.trainables.map(({ value, module, key }) => [
          value.name,
          curve.get(`initial.${peftName(module, key)}`) as Tensor,
        ]),
      ),
    );
    const pairs = Array.from({ length: 8 }, (_, row) => ({
      ...sequence(curve, "chosen", row),
      against: [sequence(curve, "rejected", row)],
    }));
    const at = (key: string, step: number): number => Number(curve.get(key)?.data[step]);
    const layout = { padId: 0, hiddenSize: 32 };
    for (let step = 0; step < 20; step++) {
      const examples = pairs.slice(2 * (step % 4), 2 * (step % 4) + 2);
      const batches = accumulates
        ? examples.map((pair) => objective.batch([pair], layout))
        : [objective.batch(examples, layout)];
      const { loss, measures, gradNorm } = await trainer.step(step + 1, batches, 5e-3);
      // Float32 rounding, carried along by twenty updates of Adam.
      expect(loss / at("loss", step), `loss ${step}`).toBeCloseTo(1, 4);
      expect(gradNorm / at("grad_norm", step), `norm ${step}`).toBeCloseTo(1, 3);
      for (const measure of ["reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"])
        expect(measures[measure], `${measure} ${step}`).toBeCloseTo(at(measure, step), 4);
    }
    await trainer.close();
  });
});

/** Random pairs that share their first tokens. */
function randomPairs(count: number): readonly TokenizedExample[] {
  const rejected = randomExamples(count, 64, 5);
  return randomExamples(count).map((example, i) => ({ ...example, against: rejected.slice(i, i + 1) }));
}

describe("a run on preferences", () => {
  const pairs = randomPairs(22);
  const run = async (storage: ReturnType<typeof memoryStorage>, extra: Partial<RunOptions> = {}): Promise<RunResult> =>
    train({
      device,
      model: await randomModel(),
      choice: chooseMethod("lora", { rank: 4, dropout: 0.1 }),
      targets: "all-linear",
      objective: chooseObjective(undefined, {}, "pair"),
      settings: resolveSettings({ learningRate: 5e-3, batchSize: 4, maxSteps: 12, checkpointEvery: 3 }),
      train: pairs.slice(0, 16),
      validation: pairs.slice(16),
      padId: 0,
      folder: { storage, path: "run" },
      ...extra,
    });

  it("raises the margin of rewards, measures it on what was held back, and resumes bit by bit", async () => {
    const whole = memoryStorage();
    const reference = await run(whole);
    const metrics = await readMetrics(whole, "run");
    const steps = metrics.flatMap((line) => (line.kind === "step" ? [line] : []));
    const evaluations = metrics.filter(({ kind }) => kind === "evaluation");
    expect(steps[0]?.loss).toBeCloseTo(Math.LN2, 1); // no preference yet, but for dropout
    expect(steps.at(-1)?.measures?.["reward_margin"]).toBeGreaterThan(0.05);
    expect(steps.at(-1)?.measures?.["reward_accuracy"]).toBe(1);
    expect(Object.keys(evaluations[0]?.measures ?? {})).toContain("reward_accuracy");

    const storage = memoryStorage();
    const stop = new AbortController();
    await run(storage, {
      signal: stop.signal,
      onEvent: (event) => event.kind === "step" && event.step === 5 && stop.abort(),
    });
    const resumed = await run(storage, { resume: true });
    expect(await readMetrics(storage, "run")).toEqual(metrics);
    expect(resumed.adapter.parameters).toEqual(reference.adapter.parameters);
  });

  const lora = chooseMethod("lora", { rank: 4 });
  it.each([
    ["every weight", chooseMethod("full")],
    ["a module beside an adapter", { ...lora, inPlace: { modules: ["lm_head"], biases: "none" } }],
    [
      "the rows of new tokens",
      { ...lora, inPlace: { modules: [], biases: "none", tokens: { "model.embed_tokens": [3, 5] } } },
    ],
  ] as const)("trains %s where it stands, beside the same as it was", async (_, choice) => {
    const storage = memoryStorage();
    await run(storage, { choice });
    const steps = (await readMetrics(storage, "run")).flatMap((line) => (line.kind === "step" ? [line] : []));
    expect(steps[0]?.loss).toBeCloseTo(Math.LN2, 5); // both are the same
    expect(steps.at(-1)?.measures?.["reward_margin"]).toBeGreaterThan(0.05); // and one of them no more
  });

  it("refuses objectives that learn from other data, and options that there are not", () => {
    expect(() => chooseObjective("dpo", {}, "sequence")).toThrow(/causal-lm/);
    expect(() => chooseObjective("causal-lm", {}, "pair")).toThrow(/dpo or ipo/);
    expect(() => chooseObjective("dop", {}, "pair")).toThrow(/nearest: dpo/);
    expect(() => chooseObjective("dpo", { bta: 1, labelSmoothing: 0.7 }, "pair")).toThrow(
      /bta[\s\S]*labelSmoothing is 0.7/,
    );
  });
});
