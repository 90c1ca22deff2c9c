import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomExamples, randomModel, tinyLlama } from "../../tests/helpers/tiny-model.ts";
import { openDecoder } from "../generate/index.ts";
import { type DType, sizeOf } from "../graph/index.ts";
import { chooseMethod } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { liveMemory } from "../plan/memory.ts";
import { executionOrder } from "../plan/order.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { type BaseWeightsName, baseWeights } from "./base-weights.ts";
import { makeBatch } from "./data/index.ts";
import { openEvaluator } from "./evaluator.ts";
import { buildTraining } from "./step.ts";
import { openTrainer, type TrainerOptions } from "./trainer.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const options: TrainerOptions = {
  choice: chooseMethod("lora", { rank: 4 }),
  targets: "all-linear",
  optimizer: chooseOptimizer("adamw"),
  maxGradNorm: 1,
  memory: "small",
  accumulates: false,
  seed: 0,
};

/** Losses of six updates, and an evaluation after them. */
async function losses(model: PretrainedModel, held: BaseWeightsName): Promise<number[]> {
  const trainer = await openTrainer(device, model, { ...options, baseWeights: held });
  const examples = randomExamples(24);
  const found: number[] = [];
  for (let step = 1; step <= 6; step++) {
    const batch = makeBatch(examples.slice(4 * (step - 1), 4 * step), { padId: 0 });
    found.push((await trainer.step(step, [batch], 5e-3)).loss);
  }
  found.push((await trainer.evaluate([makeBatch(examples.slice(0, 8), { padId: 0 })])).loss);
  await trainer.close();
  return found;
}

function worst(a: readonly number[], b: readonly number[]): number {
  expect(a).toHaveLength(b.length);
  return Math.max(...a.map((loss, i) => Math.abs(loss / (b[i] ?? 0) - 1)));
}

const names = Object.keys(baseWeights) as BaseWeightsName[];
const halves = names.filter((name) => baseWeights[name].bits === 16);

describe("frozen weights held in 16 bits", () => {
  it.each(halves)("%s: what a file holds in it gives the losses of float32, bit for bit", async (name) => {
    const stored = (["float16", "bfloat16"] as DType[]).find((dtype) => baseWeights[name].keeps(dtype));
    const model = await randomModel(tinyLlama, 0, stored);
    expect(await losses(model, name)).toEqual(await losses(model, "f32"));
  });

  it.each(halves)(
    "%s: evaluating and decoding give what float32 does, and nothing is decoded for good",
    async (name) => {
      const stored = (["float16", "bfloat16"] as DType[]).find((dtype) => baseWeights[name].keeps(dtype));
      const model = await randomModel(tinyLlama, 0, stored);
      const batch = makeBatch(randomExamples(8), { padId: 0 });
      const found = await Promise.all(
        (["f32", name] as const).map(async (held) => {
          const evaluator = await openEvaluator(device, model, { baseWeights: held });
          const { loss } = await evaluator.sums(batch);
          await evaluator.close();
          const decoder = await openDecoder(device, model, new Map(), { baseWeights: held });
          const { logits } = await (await decoder.start([[1, 2, 3]])).next([4]);
          await decoder.close();
          return { loss, logits };
        }),
      );
      // ONNX Runtime fuses the one graph otherwise than the other.
      expect(found[1]?.loss).toBeCloseTo(found[0]?.loss ?? Number.NaN, 4);
      const [plain = [], held = []] = found.map(({ logits: [row] }) => [...(row ?? [])]);
      expect(plain.length).toBeGreaterThan(0);
      held.forEach((value, i) => void expect(value).toBeCloseTo(plain[i] ?? Number.NaN, 5));
    },
  );

  // A rounded weight is off by 2^-11 (float16) or 2^-8 (bfloat16) of itself; the losses by less, for errors average out.
  it.each([
    ["f16", 2e-4],
    ["bf16", 2e-3],
  ] as const)("%s: float32 weights rounded to it give the losses within %f", async (name, tolerance) => {
    const model = await randomModel();
    const off = worst(await losses(model, name), await losses(model, "f32"));
    expect(off).toBeGreaterThan(0);
    expect(off).toBeLessThan(tolerance);
  });

  it("takes half the memory, and no decoded copy outlives the node that reads it", async () => {
    const wide = { ...tinyLlama, hidden_size: 64, intermediate_size: 192, num_hidden_layers: 6 };
    const model = await randomModel(wide);
    const [full, half] = (["f32", "f16"] as const).map((held) =>
      buildTraining(model, { ...options, baseWeights: held }),
    );
    if (!full || !half) throw new Error("two were built");
    const bytes = ({ gradient: { graph } }: typeof full): number =>
      graph.weights.reduce((sum, { source }) => sum + source.sizeBytes, 0);
    expect(bytes(half) / bytes(full)).toBeCloseTo(0.5, 2);

    const { nodes } = half.gradient.graph;
    const order = executionOrder(nodes);
    const decoded = order.filter(({ inputs: [value], op }) => op === "Cast" && value?.kind === "weight");
    // Seven products a layer and the output's, forward and backward; nothing flows back below the first layer's q, k, v.
    expect(decoded).toHaveLength(2 * (7 * 6 + 1) - 3);
    for (const node of decoded) {
      const readers = order.filter(({ inputs }) => inputs.includes(node.outputs[0]));
      expect(readers).toHaveLength(1);
      expect(order.indexOf(readers[0] as (typeof order)[number]) - order.indexOf(node)).toBe(1); // right after
    }
    const largest = Math.max(...decoded.map(({ outputs: [value] }) => 4 * sizeOf(value?.shape.map(Number) ?? [])));
    const sizes = { batch: 1, block: 4, chunk: 1 };
    const peak = ({ gradient: { graph } }: typeof full): number => liveMemory(graph, sizes).peakBytes;
    expect(peak(half) - peak(full)).toBeLessThanOrEqual(largest);
  });

  it("refuses a weight that is too large for it, by name", async () => {
    const model = await randomModel();
    const source = model.weights.get("model.layers.1.mlp.up_proj.weight")?.source;
    const read = source?.read;
    Object.assign(source ?? {}, {
      read: async () => {
        const whole = await read?.();
        if (whole) whole.data[7] = 70000;
        return whole;
      },
    });
    await expect(losses(model, "f16")).rejects.toMatchObject({
      code: "cast-out-of-range",
      at: "model.layers.1.mlp.up_proj.weight",
    });
  });
});
