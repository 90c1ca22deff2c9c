import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomExamples, randomModel, tinyLlama } from "../../tests/helpers/tiny-model.ts";
import { chooseMethod, parseTargets } from "../methods/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { layoutOf, makeBatch } from "../train/data/index.ts";
import { openTrainer } from "../train/trainer.ts";
import type { PretrainedModel } from "./index.ts";
import { withAttention } from "./index.ts";
import { type HeadPlan, plannedAttention } from "./planned-attention.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false });
});
afterAll(() => device.close());

/** Losses of a few updates of LoRA on queries and keys, and the norm of their gradients. */
async function curve(
  model: PretrainedModel,
  on: Device = device,
  steps = 3,
): Promise<readonly (readonly [number, number])[]> {
  const trainer = await openTrainer(on, model, {
    choice: chooseMethod("lora", { rank: 2 }),
    targets: parseTargets("q_proj,k_proj,v_proj"),
    optimizer: chooseOptimizer("adamw", {}),
    maxGradNorm: 0,
    memory: "balanced",
    accumulates: false,
    seed: 1,
  });
  try {
    const seen: [number, number][] = [];
    for (let step = 1; step <= steps; step++) {
      const batch = makeBatch(randomExamples(9, 64, 3), layoutOf(model, 0));
      const { loss, gradNorm } = await trainer.step(step, [batch], 0.05);
      seen.push([loss, gradNorm]);
    }
    return seen;
  } finally {
    await trainer.close();
  }
}

const all = (degree: 2 | 4): HeadPlan["heads"] =>
  [0, 1].flatMap((layer) => [0, 1].map((head) => ({ layer, head, degree, range: 1 })));

describe("a model with planned heads", () => {
  it("trains as exact attention does where every document is within a chunk", async () => {
    const model = await randomModel(tinyLlama);
    const exact = await curve(model);
    for (const alone of [true, false]) {
      const planned = await curve(withAttention(model, plannedAttention({ chunk: 64, alone, heads: all(2) })));
      for (const [i, [loss, norm]] of planned.entries()) {
        expect(loss).toBeCloseTo(exact[i]?.[0] ?? Number.NaN, 5);
        expect(norm).toBeCloseTo(exact[i]?.[1] ?? Number.NaN, 5);
      }
    }
  });

  it.each([true, false])("comes nearer to it with the degree; rows of one document: %s", async (alone) => {
    const model = await randomModel(tinyLlama);
    const exact = await curve(model);
    const off = async (heads: HeadPlan["heads"]): Promise<number> => {
      const planned = await curve(withAttention(model, plannedAttention({ chunk: 4, alone, heads })));
      return Math.abs((planned[0]?.[0] ?? Number.NaN) - (exact[0]?.[0] ?? Number.NaN));
    };
    const [two, four, one] = [await off(all(2)), await off(all(4)), await off(all(2).slice(0, 1))];
    expect(two).toBeGreaterThan(1e-6);
    expect(four).toBeLessThan(two);
    expect(one).toBeGreaterThan(1e-7);
  });
});

describe("a layer whose heads attend in many ways", () => {
  const heads = 12;
  const config = { ...tinyLlama, num_attention_heads: heads, num_key_value_heads: heads, num_hidden_layers: 1 };
  const mixed = [0, 2, 4, 6, 8, 10].map((head) => ({ layer: 0, head, degree: 2 as const, range: 1 }));
  const plan = { chunk: 8, alone: true, heads: mixed };

  it("trains on WebGPU, which splits a value into few parts only", async ({ skip }) => {
    const model = withAttention(await randomModel(config), plannedAttention(plan));
    const gpu = await openNodeDevice({ provider: "webgpu", worker: false });
    try {
      const found = await curve(model, gpu, 1).catch((error: unknown) => {
        // Linux x64 brings a driver (see vulkan.setup.ts), so there it has to start.
        if (process.platform === "linux" && process.arch === "x64") throw error;
        return skip("WebGPU does not start on this system");
      });
      const wanted = await curve(model, device, 1);
      found.flat().forEach((value, i) => {
        expect(value / (wanted.flat()[i] ?? Number.NaN)).toBeCloseTo(1, 4);
      });
    } finally {
      await gpu.close();
    }
  });
});
