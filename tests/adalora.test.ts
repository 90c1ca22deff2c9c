import { afterAll, beforeAll, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { openTrainer, type Trainer } from "../src/train/trainer.ts";
import { batchAt, golden, readGolden } from "./helpers/golden.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const optimizer = chooseOptimizer("adamw", { weightDecay: 0.01 });

/** Which triplets are not zero, by module. */
async function keptOf(trainer: Trainer): Promise<ReadonlyMap<string, readonly number[]>> {
  const { parameters } = await trainer.adapter();
  const singular = trainer.trainables
    .filter(({ key }) => key === "E")
    .toSorted((a, b) => (a.module < b.module ? -1 : 1));
  return new Map(
    singular.map(({ module, value }) => [
      module,
      Array.from(parameters.get(value.name)?.data as Float32Array, (e) => Number(e !== 0)),
    ]),
  );
}

it("goes through PEFT's losses, penalties and prunings for 50 updates", async () => {
  const curve = await readGolden("curve-adalora.safetensors");
  const trainer = await openTrainer(device, await openModel(nodeStorage, golden("llama-tiny")), {
    choice: chooseMethod("adalora", {
      ...{ initialRank: 6, targetRank: 3, alpha: 12, orthogonalWeight: 0.3 },
      ...{ budgetWarmup: 5, budgetFinal: 15, budgetEvery: 3 },
    }),
    targets: "all-linear",
    optimizer,
    maxGradNorm: 1,
    memory: "balanced",
    accumulates: false,
    seed: 0,
    steps: 50,
  });
  const at = (which: string, module: string, key: string): Tensor =>
    curve.get(`${which}.base_model.model.${module}.lora_${key}.default`) as Tensor;
  await trainer.load(
    new Map(trainer.trainables.map(({ value, module, key }) => [value.name, at("initial", module, key)])),
  );
  const number = (name: string, step: number): number => Number(curve.get(name)?.data[step]);
  const kept = curve.get("kept") as Tensor;
  const triplets = (kept.shape[1] ?? 0) * (kept.shape[2] ?? 0);
  let worst = 0;
  for (let step = 0; step < 50; step++) {
    const { loss, measures } = await trainer.step(step + 1, [batchAt(curve, step)], 1e-2);
    worst = Math.max(worst, Math.abs(loss / number("loss", step) - 1));
    expect(measures["penalty"]).toBeCloseTo(number("penalty", step), 4);
    const ours = [...(await keptOf(trainer)).values()].flat();
    const theirs = Array.from(kept.data.slice(step * triplets, (step + 1) * triplets), Number);
    expect(ours, `triplets after update ${step}`).toEqual(theirs);
  }
  expect(worst).toBeLessThan(1e-4);
  const { parameters } = await trainer.adapter();
  for (const { value, module, key } of trainer.trainables) {
    const expected = at("final", module, key).data;
    const worstOf = Math.max(
      ...Array.from(expected as Float32Array, (x, i) => Math.abs(x - Number(parameters.get(value.name)?.data[i]))),
    );
    expect(worstOf, value.name).toBeLessThan(2e-3); // Adam's first steps divide rounding by itself where gradients are tiny
  }
  await trainer.close();
});

it("kept triplets are the budget's, and a resumed run prunes as one left alone", async () => {
  const model = await randomModel();
  const choice = chooseMethod("adalora", { initialRank: 4, targetRank: 2, budgetWarmup: 2, budgetFinal: 3 });
  const options = { choice, targets: ["q_proj", "v_proj"], optimizer, maxGradNorm: 1, seed: 0, steps: 10 } as const;
  const batches = Array.from({ length: 10 }, (_, i) => makeBatch(randomExamples(4, 64, i), { padId: 0 }));
  const open = (): Promise<Trainer> =>
    openTrainer(device, model, { ...options, memory: "balanced", accumulates: false });
  const step = async (trainer: Trainer, t: number): Promise<number> => {
    await trainer.step(t + 1, [batches[t] as (typeof batches)[number]], 1e-2);
    return [...(await keptOf(trainer)).values()].flat().filter(Boolean).length;
  };
  const whole = await open();
  expect(whole.settledFrom).toBe(8);
  const counts: number[] = [];
  for (let t = 0; t < 10; t++) counts.push(await step(whole, t));
  // The second schedule of the paper's oracle: 16 triplets up to t = 2, then a cube down to 8.
  expect(counts).toEqual([16, 16, 16, 12, 9, 8, 8, 8, 8, 8]);
  const final = JSON.stringify([...(await whole.state())]);
  await whole.close();

  const first = await open();
  for (let t = 0; t < 5; t++) await step(first, t);
  const saved = await first.state();
  await first.close();
  const second = await open();
  await second.restore(saved);
  for (let t = 5; t < 10; t++) await step(second, t);
  expect(JSON.stringify([...(await second.state())])).toBe(final);
  await second.close();
});

it("computes what the base model computes before the first update, and keeps two numbers more of an element than Adam", async () => {
  const model = await randomModel();
  const settings = {
    targets: "all-linear",
    optimizer,
    maxGradNorm: 1,
    memory: "balanced",
    seed: 0,
    steps: 10,
  } as const;
  const batch = makeBatch(randomExamples(4), { padId: 0 });
  const open = (method: string, options: Record<string, number>): Promise<Trainer> =>
    openTrainer(device, model, { choice: chooseMethod(method, options), accumulates: false, ...settings });
  const trainer = await open("adalora", { initialRank: 4, targetRank: 2 });
  const lora = await open("lora", { rank: 4 }); // starts as the base model too
  expect((await trainer.step(1, [batch], 1e-2)).loss).toBe((await lora.step(1, [batch], 1e-2)).loss);
  const sizes = new Map<string, number>();
  for (const [name, { data }] of await trainer.state()) {
    const kind = /#(.*)$/.exec(name)?.[1] ?? "";
    sizes.set(kind, (sizes.get(kind) ?? 0) + data.length);
  }
  const elements = trainer.trainedParameters;
  expect(Object.fromEntries(sizes)).toEqual({
    "": elements,
    m: elements,
    v: elements,
    sensitivity: elements,
    uncertainty: elements,
    pruned: 4 * trainer.trainables.filter(({ key }) => key === "E").length,
  });
  await trainer.close();
  await lora.close();
});

it("brings P and Q near orthogonality by its penalty, and not without", async () => {
  const model = await randomModel();
  const distances: number[][] = [];
  for (const orthogonalWeight of [0.5, 1e-9]) {
    const trainer = await openTrainer(device, model, {
      choice: chooseMethod("adalora", { initialRank: 4, targetRank: 2, budgetWarmup: 60, orthogonalWeight }),
      ...{ targets: ["q_proj", "up_proj"], optimizer: chooseOptimizer("adamw"), maxGradNorm: 1, memory: "balanced" },
      ...{ accumulates: false, seed: 0, steps: 200 },
    });
    const found: number[] = [];
    for (let step = 1; step <= 60; step++) {
      const batch = makeBatch(randomExamples(4, 64, step), { padId: 0 });
      const { penalty = Number.NaN } = (await trainer.step(step, [batch], 5e-3)).measures;
      found.push(penalty / orthogonalWeight);
    }
    distances.push([found[0] ?? 0, found.at(-1) ?? 0]);
    await trainer.close();
  }
  const [[start = 0, end = 0] = [], [, left = 0] = []] = distances;
  expect(start / end).toBeGreaterThan(10);
  expect(start / left).toBeLessThan(2);
});

it("adds its penalty once an update, however many batches the update has", async () => {
  const model = await randomModel();
  const choice = chooseMethod("adalora", { initialRank: 4, targetRank: 2 });
  const examples = randomExamples(6);
  const gradNorms: number[] = [];
  for (const accumulates of [false, true]) {
    const trainer = await openTrainer(device, model, {
      ...{ choice, targets: "all-linear", optimizer, maxGradNorm: 1, memory: "balanced", seed: 0, steps: 10 },
      accumulates,
    });
    const parts = accumulates ? [examples.slice(0, 2), examples.slice(2)] : [examples];
    const report = await trainer.step(
      1,
      parts.map((rows) => makeBatch(rows, { padId: 0 })),
      1e-2,
    );
    gradNorms.push(report.gradNorm, report.measures["penalty"] ?? 0);
    await trainer.close();
  }
  expect(gradNorms[2]).toBeCloseTo(gradNorms[0] ?? 0, 5);
  expect(gradNorms[3]).toBe(gradNorms[1]);
});

it("stops where importance is no number", async () => {
  const trainer = await openTrainer(device, await randomModel(), {
    choice: chooseMethod("adalora", { initialRank: 4, targetRank: 2 }),
    ...{ targets: "all-linear", optimizer, maxGradNorm: 0, memory: "balanced", accumulates: false, seed: 0, steps: 10 },
  });
  const state = new Map(await trainer.state());
  for (const [name, tensor] of state) {
    if (name.endsWith("#sensitivity"))
      state.set(name, { ...tensor, data: new Float32Array(tensor.data.length).fill(Number.NaN) });
  }
  await trainer.restore(state);
  const batch = makeBatch(randomExamples(4), { padId: 0 });
  await expect(trainer.step(1, [batch], 1e-2)).rejects.toThrow("The importance is NaN at step 1");
  await trainer.close();
});

it("leaves modules that are trained whole out of its budget", async () => {
  const choice = {
    ...chooseMethod("adalora", { initialRank: 4, targetRank: 2 }),
    inPlace: { modules: ["model.layers.0.mlp.up_proj"], biases: "none" },
  } as const;
  const trainer = await openTrainer(device, await randomModel(), {
    ...{ choice, targets: ["up_proj", "q_proj"], optimizer, maxGradNorm: 1, memory: "balanced", accumulates: false },
    ...{ seed: 0, steps: 4 },
  });
  const batch = makeBatch(randomExamples(4), { padId: 0 });
  let budget: number | undefined;
  for (let step = 1; step <= 4; step++) ({ budget } = (await trainer.step(step, [batch], 1e-2)).measures);
  expect(budget).toBe(3 * 2); // both q_proj and one up_proj
  await trainer.close();
});
