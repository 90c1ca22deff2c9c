import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter, writeAdapterHubFolder } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openSafetensors } from "../src/io/safetensors.ts";
import { attach } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { batchOf, chooseObjectiveOf, outputOf, relativeError } from "./helpers/encoder-batches.ts";
import { golden, readGolden } from "./helpers/golden.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Adapters of `make_adapterhub.py`. */
const names = readdirSync(golden("adapterhub"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

const baseOf = (name: string): string => (name.startsWith("t5") ? "t5" : "bert-sequence");

describe("adapters of AdapterHub give the formulas' outputs and gradients", () => {
  it.each(names)("%s", async (name) => {
    const expected = await readGolden(`adapterhub/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${baseOf(name)}`));
    const adapter = await readAdapter(nodeStorage, golden(`adapterhub/${name}`), model);
    const { outputModule } = model.architecture;
    const plain = model.predict();
    const { outputs, trainables } = attach(plain.outputs, { ...adapter, outputModule, training: false });
    expect(new Set(trainables.map(({ value }) => value.name))).toEqual(new Set(adapter.parameters.keys()));
    for (const [buffer, values] of adapter.parameters) await device.upload(buffer, values);
    const found = await outputOf(device, { inputs: plain.inputs, outputs }, expected);
    expect(relativeError(found, expected.get("output") as Tensor, expected)).toBeLessThan(1e-5);

    const trainer = await openTrainer(device, model, {
      ...{ choice: adapter.choice, targets: adapter.targets, objective: chooseObjectiveOf(model) },
      ...{ optimizer: chooseOptimizer("adamw"), maxGradNorm: 0, memory: "balanced", accumulates: true, seed: 0 },
    });
    await trainer.load(adapter.parameters);
    const inputs = [...expected].filter(([key]) => !/^(gradient\.|output$|loss$)/.test(key));
    // An update at rate zero leaves the gradients of the batch in their buffers.
    const { loss } = await trainer.step(1, [batchOf(inputs, model.task)], 0);
    expect(loss).toBeCloseTo(Number(expected.get("loss")?.data[0]), 5);
    const state = await trainer.state();
    await trainer.close();
    // What AdapterHub calls a tensor is what the file, written again, calls it.
    const storage = memoryStorage();
    const gradients = new Map(
      [...adapter.parameters.keys()].map((key) => [key, state.get(`${key}#gradient`) as Tensor]),
    );
    await writeAdapterHubFolder(storage, "out", model, { ...adapter, parameters: gradients }, { baseModel: "b" });
    const { tensors } = await openSafetensors(storage, "out/adapter.safetensors");
    const theirs = [...expected].filter(([key]) => key.startsWith("gradient."));
    expect(tensors.size).toBe(theirs.length);
    for (const [key, { data }] of theirs) {
      const own = (await tensors.get(key.slice("gradient.".length))?.read())?.data ?? [];
      const values = Array.from(data as Float32Array);
      const largest = Math.max(...values.map(Math.abs));
      const worst = Math.max(...values.map((value, i) => Math.abs(value - Number(own[i]))));
      expect(worst / largest, key).toBeLessThan(1e-4);
    }
  });
});
