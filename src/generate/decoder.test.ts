import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomModel, tinyLlama } from "../../tests/helpers/tiny-model.ts";
import type { Tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { type Adapter, attach, chooseMethod, type InPlace, initialTensor, type Patterns } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { type Decoder, openDecoder, type StartOptions } from "./decoder.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

async function randomAdapter(
  model: PretrainedModel,
  [method, options, targets, inPlace = {}, patterns = {}]: readonly [
    string,
    Record<string, number | boolean | string>,
    readonly string[],
    Partial<InPlace>?,
    Patterns?,
  ],
  seed: number,
): Promise<Adapter> {
  const choice = chooseMethod(method, options, patterns, inPlace);
  const { trainables } = attach(model.loss().outputs, { choice, targets, outputModule: "lm_head", training: true });
  const parameters = new Map<string, Tensor>();
  for (const trainable of trainables) {
    const { shape, data } = await initialTensor(trainable, seed);
    const rng = createRng(seed, trainable.value.name);
    parameters.set(trainable.value.name, {
      dtype: "float32",
      shape,
      data: Float32Array.from(Array.from(data, Number), (value) => value + 0.1 * rng.normal()),
    });
  }
  return { choice, targets, parameters };
}

const prompt = [[1, 5, 9, 33, 2]];

async function logits(decoder: Decoder, options?: StartOptions): Promise<readonly number[]> {
  const at = await decoder.start(prompt, options);
  const next = await at.next([7]);
  const values = [...(next.logits[0] ?? [])];
  await next.end();
  return values;
}

function difference(a: readonly number[], b: readonly number[]): number {
  return Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? Number.NaN)))) / Math.max(...b.map(Math.abs));
}

describe("adapters side by side", () => {
  it("act one at a time, as they do alone, and rest without a trace", async () => {
    const model = await randomModel({ ...tinyLlama, attention_bias: true, tie_word_embeddings: true });
    const kinds = [
      ["small", ["lora", { rank: 2, alpha: 3 }, ["q_proj", "down_proj"]]],
      ["large", ["lora", { rank: 6, rslora: true }, ["q_proj", "v_proj"], {}, { rank: { v_proj: 3 } }]],
      ["dora", ["dora", { rank: 3 }, ["o_proj"]]],
      ["otherDora", ["dora", { rank: 2, alpha: 7 }, ["o_proj", "up_proj"]]],
      ["head", ["lora", { rank: 2 }, ["k_proj"], { modules: ["lm_head"], biases: "all" }]],
    ] as const;
    const adapters = new Map<string, Adapter>();
    for (const [i, [name, kind]] of kinds.entries()) adapters.set(name, await randomAdapter(model, kind, i));
    const base = await openDecoder(device, model);
    const plain = await logits(base);
    const together = await openDecoder(device, model, adapters);
    expect(difference(await logits(together, { use: null }), plain)).toBeLessThan(1e-5);
    // Twice, so that each follows each.
    for (const name of [...adapters.keys(), ...adapters.keys()]) {
      const alone = await openDecoder(device, model, adapters.get(name));
      const expected = await logits(alone);
      expect(difference(await logits(together, { use: name }), expected), name).toBeLessThan(1e-5);
      expect(difference(expected, plain), name).toBeGreaterThan(1e-3);
      await alone.close();
    }
    expect(difference(await logits(together), await logits(together, { use: "small" }))).toBe(0);
    await expect(together.start(prompt, { use: "smal" })).rejects.toMatchObject({
      code: "unknown-adapter",
      message: expect.stringContaining("nearest: small"),
    });
    await base.close();
    await together.close();
  });
});
