import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { chooseMethod, type TargetModules } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { type Batch, makeBatch } from "../src/train/data/index.ts";
import { type MemoryChoiceName, memoryChoices } from "../src/train/memory.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden } from "./helpers/golden.ts";
import { randomExamples } from "./helpers/tiny-model.ts";

/*
 * What makes a step faster or smaller changes no gradient beyond float32 rounding.
 */
let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** The loss of one batch and the gradients of everything that is trained. */
async function gradientsOf(
  model: PretrainedModel,
  batch: Batch,
  memory: MemoryChoiceName = "fast",
  targets: TargetModules = "all-linear",
): Promise<ReadonlyMap<string, Tensor>> {
  const trainer = await openTrainer(device, model, {
    choice: targets === "all-linear" ? chooseMethod("full") : chooseMethod("lora", { rank: 2, dropout: 0.1 }),
    targets,
    optimizer: chooseOptimizer("adamw"),
    maxGradNorm: 1,
    memory,
    accumulates: true,
    seed: 0,
  });
  await trainer.step(1, [batch], 1e-3);
  const state = await trainer.state();
  await trainer.close();
  return new Map([...state].filter(([name]) => name.endsWith("#gradient")));
}

/** The largest difference between two sets of gradients, relative to the largest value of each tensor. */
function worstDifference(a: ReadonlyMap<string, Tensor>, b: ReadonlyMap<string, Tensor>): number {
  expect([...a.keys()]).toEqual([...b.keys()]);
  const differences = [...a].map(([name, { data }]) => {
    const other = b.get(name)?.data ?? [];
    const values = Array.from(data, Number);
    const scale = values.reduce((max, value) => Math.max(max, Math.abs(value)), 1e-6);
    return values.reduce((max, value, i) => Math.max(max, Math.abs(value - Number(other[i])) / scale), 0);
  });
  return Math.max(...differences);
}

describe.each(["llama-tiny", "gpt2-tiny"])("on %s", (name) => {
  it("packing several examples into a row leaves every gradient as it was", async () => {
    const model = await openModel(nodeStorage, golden(name));
    const examples = randomExamples(7, model.sizes.vocabSize);
    const padded = makeBatch(examples, { padId: 0 });
    const packed = makeBatch(examples, { padId: 0, hiddenSize: 4096 });
    expect(packed.feeds.input_ids.data.length).toBeLessThan(padded.feeds.input_ids.data.length);
    expect(worstDifference(await gradientsOf(model, padded), await gradientsOf(model, packed))).toBeLessThan(2e-5);
  });

  it.each(Object.keys(memoryChoices) as MemoryChoiceName[])("memory %s gives the same gradients", async (memory) => {
    const model = await openModel(nodeStorage, golden(name));
    const batch = makeBatch(randomExamples(5, model.sizes.vocabSize), { padId: 0 });
    const difference = worstDifference(await gradientsOf(model, batch), await gradientsOf(model, batch, memory));
    // Recomputing is bit-exact; products with weights that are not laid out anew add up in another order.
    expect(difference).toBeLessThanOrEqual(memoryChoices[memory].laidOutBytes > 0 ? 0 : 1e-5);
  });

  it("evaluating in the training program gives the same loss, and changes nothing", async () => {
    const model = await openModel(nodeStorage, golden(name));
    const batches = [makeBatch(randomExamples(5, model.sizes.vocabSize), { padId: 0 })];
    const evaluated = async (memory: MemoryChoiceName): Promise<{ losses: number[]; same: boolean }> => {
      const trainer = await openTrainer(device, model, {
        choice: chooseMethod("lora", { rank: 2 }),
        targets: "all-linear",
        optimizer: chooseOptimizer("adamw"),
        maxGradNorm: 1,
        memory,
        accumulates: false,
        seed: 0,
      });
      await trainer.step(1, batches, 1e-2);
      const before = await trainer.state();
      const losses = [(await trainer.evaluate(batches)).loss, (await trainer.evaluate(batches)).loss];
      const after = await trainer.state();
      await trainer.close();
      return { losses, same: JSON.stringify([...before]) === JSON.stringify([...after]) };
    };
    const [apart, together] = [await evaluated("fast"), await evaluated("balanced")];
    expect(together.same).toBe(true);
    expect(together.losses[1]).toBe(together.losses[0]);
    expect(together.losses[0]).toBeCloseTo(apart.losses[0] ?? 0, 6);
  });

  it("an adapter on the output layer, whose logits come in chunks, is one adapter", async () => {
    const model = await openModel(nodeStorage, golden(name));
    const batch = makeBatch(randomExamples(5, model.sizes.vocabSize), { padId: 0 });
    const gradients = await gradientsOf(model, batch, "balanced", ["lm_head"]);
    expect([...gradients].map(([key, { shape }]) => [key, shape])).toEqual([
      ["lm_head.lora_A#gradient", [2, 32]],
      ["lm_head.lora_B#gradient", [model.sizes.vocabSize, 2]],
    ]);
    const { data = [] } = gradients.get("lm_head.lora_B#gradient") ?? {};
    expect(Math.max(...Array.from(data, Number))).toBeGreaterThan(0);
  });
});
