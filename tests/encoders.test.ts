import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter, writeAdapter } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { attach, chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { batchAt, batchOf, chooseObjectiveOf, outputOf, relativeError } from "./helpers/encoder-batches.ts";
import { golden, readGolden } from "./helpers/golden.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Models of `make_encoders.py`. */
const names = readdirSync(golden("encoders"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && !entry.name.endsWith(".adapter"))
  .map(({ name }) => name);

describe("outputs agree with transformers", () => {
  it.each(names)("%s", async (name) => {
    const expected = await readGolden(`encoders/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    // Float32 sums in another order over two layers: a few units in the last place.
    const found = await outputOf(device, model.predict(), expected);
    expect(relativeError(found, expected.get("output") as Tensor, expected)).toBeLessThan(1e-5);
    expect(model.leftOut.map(({ name: left }) => left).sort()).toEqual([...model.unused].sort());
  });
});

describe("RETSim", () => {
  it.each([
    ["sequence-classification", "logits"],
    ["sentence-embedding", "embeddings"],
  ] as const)("%s agrees with the formulas in torch", async (task, output) => {
    const expected = await readGolden("retsim-tiny.expected.safetensors");
    const model = await openModel(nodeStorage, golden("retsim-tiny"), { task });
    const found = await outputOf(device, model.predict(), expected);
    expect(relativeError(found, expected.get(output) as Tensor, expected)).toBeLessThan(1e-5);
  });
});

const tuned = names.filter((name) => readdirSync(golden("encoders")).includes(`${name}.curve.safetensors`));

describe("ten steps of LoRA with the head trained whole have PEFT's losses", () => {
  it.each(tuned)("%s", async (name) => {
    const curve = await readGolden(`encoders/${name}.curve.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const trainer = await openTrainer(device, model, {
      choice: chooseMethod("lora", { rank: 4, alpha: 8 }, {}, { modules: model.headModules }),
      targets: "all-linear",
      objective: chooseObjectiveOf(model),
      optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates: false,
      seed: 0,
    });
    const initial = new Map<string, Tensor>();
    for (const { value, inPlace } of trainer.trainables) {
      const head = model.headModules.find((module) => value.name.startsWith(`${module}.`)) ?? "";
      const name = inPlace
        ? `${head}.modules_to_save.default${value.name.slice(head.length)}`
        : `${value.name}.default.weight`;
      const found = curve.get(`initial.base_model.model.${name}`);
      if (!found) throw new Error(`PEFT trains no ${name}`);
      initial.set(value.name, found);
    }
    expect(initial.size).toBe([...curve.keys()].filter((key) => key.startsWith("initial.")).length);
    await trainer.load(initial);
    const losses = curve.get("loss") as Tensor;
    for (let step = 1; step <= losses.data.length; step++) {
      const { loss } = await trainer.step(step, [batchAt(curve, step - 1, model.task)], 5e-3);
      expect(Math.abs(loss / Number(losses.data[step - 1]) - 1), `step ${step}`).toBeLessThan(1e-4);
    }
    const adapter = await trainer.adapter();
    await trainer.close();

    const theirs = await readAdapter(nodeStorage, golden(`encoders/${name}.adapter`), model);
    const storage = memoryStorage();
    await writeAdapter(storage, "ours", model, adapter, { baseModel: name });
    const ours = await readAdapter(storage, "ours", model);
    expect([...ours.parameters.keys()].sort()).toEqual([...theirs.parameters.keys()].sort());
    for (const [key, { data }] of theirs.parameters) {
      const found = ours.parameters.get(key)?.data ?? [];
      const worst = (data as Float32Array).reduce(
        (most, value, i) => Math.max(most, Math.abs(value - Number(found[i]))),
        0,
      );
      expect(worst, key).toBeLessThan(2e-3); // ten steps of Adam, whose first steps are signs of gradients
    }
  });
});

describe("PEFT's adapters give PEFT's outputs", () => {
  it.each(tuned)("%s", async (name) => {
    const expected = await readGolden(`encoders/${name}.adapted.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const adapter = await readAdapter(nodeStorage, golden(`encoders/${name}.adapter`), model);
    const { outputModule } = model.architecture;
    const plain = model.predict();
    const { outputs } = attach(plain.outputs, { ...adapter, outputModule, training: false });
    for (const [buffer, values] of adapter.parameters) await device.upload(buffer, values);
    const found = await outputOf(device, { inputs: plain.inputs, outputs }, expected);
    await device.discard([...adapter.parameters.keys()]);
    expect(relativeError(found, expected.get("logits") as Tensor, expected)).toBeLessThan(1e-5);
  });
});

const graded = readdirSync(golden("encoders")).flatMap(
  (file) => /^(.*)\.gradients\.safetensors$/.exec(file)?.[1] ?? [],
);

describe("losses of several labels and scores, and every gradient, are transformers'", () => {
  it.each(graded)("%s", async (name) => {
    const expected = await readGolden(`encoders/${name}.gradients.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const trainer = await openTrainer(device, model, {
      ...{ choice: chooseMethod("full"), targets: "all-linear", objective: chooseObjectiveOf(model) },
      ...{ optimizer: chooseOptimizer("adamw"), maxGradNorm: 0, memory: "balanced", accumulates: true, seed: 0 },
    });
    const fed = [...expected].filter(([key]) => key !== "loss" && !key.startsWith("gradient."));
    // An update at rate zero leaves the gradients of the batch in their buffers.
    const { loss } = await trainer.step(1, [batchOf(fed, model.task)], 0);
    expect(loss).toBeCloseTo(Number(expected.get("loss")?.data[0]), 5);
    const state = await trainer.state();
    await trainer.close();
    const gradients = [...expected].filter(([key]) => key.startsWith("gradient."));
    expect(gradients.length).toBeGreaterThan(30);
    const largest = Math.max(...gradients.flatMap(([, { data }]) => Array.from(data as Float32Array, Math.abs)));
    for (const [key, { data }] of gradients) {
      const found = state.get(`${key.slice("gradient.".length)}#gradient`)?.data ?? [];
      const worst = Math.max(
        ...Array.from(data as Float32Array, (value, i) => Math.abs(value - Number(found[i] ?? Number.NaN))),
      );
      expect(worst / largest, key).toBeLessThan(1e-5);
    }
  });
});
