import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { graph, type Tensor } from "../src/graph/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { compileGraph } from "../src/runtime/program.ts";
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

/** The only output of a model, on the inputs of a golden file. */
async function outputOf(model: PretrainedModel, inputs: ReadonlyMap<string, Tensor>): Promise<Tensor> {
  const open = model.predict();
  const program = await compileGraph(device, graph(open));
  const feeds = Object.fromEntries(program.graph.inputs.map(({ name }) => [name, inputs.get(name) as Tensor]));
  const outputs = Object.values(await program.run({ feeds }));
  await program.release();
  return outputs[0] as Tensor;
}

/** Largest difference at tokens that are there, relative to the largest size in the reference. */
function relativeError(found: Tensor, expected: Tensor, inputs: ReadonlyMap<string, Tensor>): number {
  expect(found.shape).toEqual(expected.shape);
  const mask = inputs.get("attention_mask");
  const perToken = mask && expected.shape.length === 3 && !inputs.has("decoder_input_ids");
  const width = expected.shape.at(-1) ?? 1;
  let [worst, largest] = [0, 1e-12];
  for (let i = 0; i < expected.data.length; i++) {
    if (perToken && Number(mask.data[Math.floor(i / width)]) === 0) continue;
    worst = Math.max(worst, Math.abs(Number(found.data[i]) - Number(expected.data[i])));
    largest = Math.max(largest, Math.abs(Number(expected.data[i])));
  }
  return worst / largest;
}

describe("outputs agree with transformers", () => {
  it.each(names)("%s", async (name) => {
    const expected = await readGolden(`encoders/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    // Float32 sums in another order over two layers: a few units in the last place.
    const found = await outputOf(model, expected);
    expect(relativeError(found, expected.get("output") as Tensor, expected)).toBeLessThan(1e-5);
    expect(model.unused).toEqual([]);
  });
});
