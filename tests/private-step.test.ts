import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { chooseMethod, methods, sublayerTargets } from "../src/methods/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { newKey, openGenerator } from "../src/privacy/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { type Batch, makeBatch, type TokenizedExample } from "../src/train/data/index.ts";
import { openTrainer, type StepPrivacy, type Trainer, type TrainerOptions } from "../src/train/trainer.ts";
import { randomExamples, randomModel, tinyLlama } from "./helpers/tiny-model.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const lora = { choice: chooseMethod("lora", { rank: 4, alpha: 8 }), targets: "all-linear" } as const;
const plainSgd = chooseOptimizer("sgd", { momentum: 0 });
const shared = { optimizer: plainSgd, maxGradNorm: 0, memory: "balanced", seed: 1 } as const;
const key = new Uint8Array(32).fill(7);

/** Examples with as many labels each, so that a mean over labels is a mean over examples. */
const even = randomExamples(7).map(
  (example): TokenizedExample => ({
    ...example,
    inputIds: example.inputIds.slice(0, 6),
    trained: Uint8Array.of(0, 0, 1, 1, 1, 1),
  }),
);
const alone = (examples: readonly TokenizedExample[]): Batch => makeBatch(examples, { padId: 0, alone: true });
const noNoise: StepPrivacy = {
  clip: Number.POSITIVE_INFINITY,
  noiseMultiplier: 0,
  expectedBatch: even.length,
  generator: openGenerator(key),
  purpose: "test",
};

async function opened(options: Partial<TrainerOptions> = {}): Promise<Trainer> {
  return openTrainer(device, await randomModel(), {
    ...{ ...lora, ...shared },
    ...{ accumulates: true, privacy: {}, steps: 20, ...options },
  });
}

function difference(a: ReadonlyMap<string, Tensor>, b: ReadonlyMap<string, Tensor>): number {
  let [off, largest] = [0, 1e-12];
  for (const [name, { data }] of a) {
    const other = (b.get(name) as Tensor).data;
    data.forEach((value, i) => {
      off = Math.max(off, Math.abs(Number(value) - Number(other[i])));
      largest = Math.max(largest, Math.abs(Number(value)));
    });
  }
  return off / largest;
}

const sgd = (name: string): boolean => name !== "alpha"; // which needs a packed model; its gradients have a law of their own
describe.each([...methods.values()].filter(({ name }) => sgd(name)))("$name", (method) => {
  it("without noise and clip trains as without privacy", async () => {
    const model = await randomModel();
    const asked = chooseMethod(method.name, method.sublayers ? { reduction: 4 } : {});
    const placed = method.sublayers
      ? sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked)
      : { choice: asked, targets: "all-linear" as const };
    const optimizer = chooseOptimizer("adamw", {});
    const open = (more: Partial<TrainerOptions>): Promise<Trainer> =>
      opened({ ...placed, optimizer, accumulates: false, ...more });
    const privately = await open({ accumulates: true });
    const { privacy: _none, ...rest } = { privacy: undefined };
    const plain = await openTrainer(device, model, {
      ...shared,
      ...placed,
      optimizer,
      accumulates: false,
      steps: 20,
      ...rest,
    });
    for (let step = 1; step <= 3; step++) {
      const first = await plain.step(step, [alone(even)], 1e-3);
      const second = await privately.step(step, [alone(even.slice(0, 4)), alone(even.slice(4))], 1e-3, noNoise);
      expect(second.loss).toBeCloseTo(first.loss, 5);
      expect(second.gradNorm / first.gradNorm).toBeCloseTo(1, 4);
    }
    expect(difference(await plain.parameters(), await privately.parameters())).toBeLessThan(2e-3);
    await plain.close();
    await privately.close();
  });
});

it("an update is bounded by the clip, and an empty batch gets the noise of any other", async () => {
  const trainer = await opened();
  const start = await trainer.parameters();
  const clip = 1e-3;
  await trainer.step(1, [alone(even)], 1, { ...noNoise, clip });
  let length = 0;
  for (const [name, { data }] of await trainer.parameters())
    data.forEach((value, i) => {
      length += (Number(value) - Number((start.get(name) as Tensor).data[i])) ** 2;
    });
  expect(Math.sqrt(length)).toBeLessThanOrEqual(clip * (1 + 1e-3)); // 7 examples, divided by 7
  expect(Math.sqrt(length)).toBeGreaterThan(0.1 * clip);

  await trainer.load(start);
  await trainer.reset();
  const blank: Batch = { ...alone(even.slice(0, 1)), blank: true };
  const { loss } = await trainer.step(1, [blank], 1, { ...noNoise, clip, noiseMultiplier: 2 });
  expect(loss).toBe(0);
  const moved: number[] = [];
  for (const [name, { data }] of await trainer.parameters())
    data.forEach((value, i) => {
      moved.push((Number(value) - Number((start.get(name) as Tensor).data[i])) * even.length);
    });
  const deviation = Math.sqrt(moved.reduce((sum, value) => sum + value ** 2, 0) / moved.length);
  expect(deviation / (2 * clip)).toBeCloseTo(1, 1);
  expect(Math.abs(moved.reduce((sum, value) => sum + value, 0) / moved.length)).toBeLessThan(4 * clip);
  await trainer.close();
});

it("keeps nothing of gradients that have no noise", async () => {
  const trainer = await opened({ optimizer: chooseOptimizer("adamw") });
  await trainer.step(1, [alone(even)], 1e-3, { ...noNoise, clip: 1, noiseMultiplier: 1 });
  const state = await trainer.state();
  expect([...state.keys()].filter((name) => name.endsWith("#gradient"))).toEqual([]);
  await trainer.restore(state);
  expect(await trainer.state()).toEqual(state);
  await trainer.close();
});

it("noise is a function of key, purpose and step", async () => {
  const after = async (privacy: Partial<StepPrivacy>, step = 1): Promise<ReadonlyMap<string, Tensor>> => {
    const trainer = await opened();
    await trainer.step(step, [alone(even)], 1e-2, { ...noNoise, clip: 1, noiseMultiplier: 1, ...privacy });
    const parameters = await trainer.parameters();
    await trainer.close();
    return parameters;
  };
  const first = await after({});
  expect(difference(first, await after({ generator: openGenerator(key) }))).toBe(0);
  for (const other of [{ generator: openGenerator(newKey()) }, { purpose: "other" }])
    expect(difference(first, await after(other))).toBeGreaterThan(1e-3);
  expect(difference(first, await after({}, 2))).toBeGreaterThan(1e-3);
});

it("measures with the private program what an evaluation measures", async () => {
  const trainer = await opened();
  const plain = await openTrainer(device, await randomModel(), { ...lora, ...shared, accumulates: false });
  const batch = makeBatch(randomExamples(6), { padId: 0, hiddenSize: 32 });
  expect((await trainer.evaluate([batch])).loss).toBeCloseTo((await plain.evaluate([batch])).loss, 5);
  await trainer.close();
  await plain.close();
});

it("clips the output layer's gradients of a vocabulary that is computed in chunks", async () => {
  const model = await randomModel({ ...tinyLlama, num_hidden_layers: 1, vocab_size: 40000 });
  const choice = chooseMethod("lora", { rank: 4, alpha: 8 });
  for (const longest of [64, 2]) {
    const options = { ...shared, choice, targets: ["lm_head", "q_proj"], accumulates: true };
    const trainer = await openTrainer(device, model, { ...options, privacy: { longest } });
    const one = await openTrainer(device, model, { ...options });
    await trainer.step(1, [alone(even.slice(0, 3))], 1, { ...noNoise, expectedBatch: 3 });
    await one.step(1, [alone(even.slice(0, 3))], 1);
    await trainer.step(2, [alone(even.slice(0, 3))], 1, { ...noNoise, expectedBatch: 3 });
    await one.step(2, [alone(even.slice(0, 3))], 1);
    expect(difference(await one.parameters(), await trainer.parameters())).toBeLessThan(1e-4);
    await trainer.close();
    await one.close();
  }
});
