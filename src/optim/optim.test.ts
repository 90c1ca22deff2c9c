import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { batchAt, golden, peftName, readGolden } from "../../tests/helpers/golden.ts";
import { graph, parameter, sizeOf, type Tensor, tensor } from "../graph/index.ts";
import { chooseMethod } from "../methods/index.ts";
import { openModel } from "../models/index.ts";
import { bytesOfValue } from "../plan/memory.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { compileGraph } from "../runtime/program.ts";
import { buildTraining } from "../train/step.ts";
import { openTrainer, type Trainer, type TrainerOptions } from "../train/trainer.ts";
import { blockSize, dynamicMap, fromBlocks, toBlocks } from "./blocks.ts";
import { chooseOptimizer, type OptimizerChoice } from "./table.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const lora = chooseMethod("lora", { rank: 8, alpha: 16 });
const settings = { choice: lora, targets: "all-linear", maxGradNorm: 1, memory: "balanced" } as const;

/** A trainer of the tiny Llama at the start of a curve of `make_curves.py`. */
async function trainerAt(
  curve: ReadonlyMap<string, Tensor>,
  optimizer: OptimizerChoice,
  more: Partial<TrainerOptions> = {},
): Promise<Trainer> {
  const model = await openModel(nodeStorage, golden("llama-tiny"));
  const options = { ...settings, ...more, optimizer, accumulates: false, seed: 0 };
  const trainer = await openTrainer(device, model, options);
  const initial = trainer.trainables.map(({ value, module, key }): [string, Tensor] => [
    value.name,
    curve.get(`initial.${peftName(module, key)}`) as Tensor,
  ]);
  await trainer.load(new Map(initial));
  return trainer;
}

/** Adapters wide enough that their state is kept in 8 bits. */
const wide = {
  ...settings,
  choice: chooseMethod("lora", { rank: 32, alpha: 32 }),
  targets: ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
} as const;

async function wideTrainer(optimizer: OptimizerChoice): Promise<Trainer> {
  const model = await openModel(nodeStorage, golden("llama-tiny"));
  return openTrainer(device, model, { ...wide, optimizer, accumulates: false, seed: 0 });
}

async function lossesOf(
  trainer: Trainer,
  curve: ReadonlyMap<string, Tensor>,
  { steps, rate, from = 0 }: { readonly steps: number; readonly rate: number; readonly from?: number },
): Promise<number[]> {
  const losses: number[] = [];
  for (let step = from; step < from + steps; step++)
    losses.push((await trainer.step(step + 1, [batchAt(curve, step)], rate)).loss);
  return losses;
}

describe("stochastic gradient descent goes through torch's losses", () => {
  it.each([
    ["momentum", { momentum: 0.9 }],
    ["nesterov", { momentum: 0.8, nesterov: true }],
    ["plain", { momentum: 0 }],
  ])("%s", async (name, options) => {
    const curve = await readGolden(`curve-sgd-${name}.safetensors`);
    const trainer = await trainerAt(curve, chooseOptimizer("sgd", { ...options, weightDecay: 0.02 }));
    const losses = await lossesOf(trainer, curve, { steps: 30, rate: 0.05 });
    for (const [step, loss] of losses.entries()) expect(loss / Number(curve.get("loss")?.data[step])).toBeCloseTo(1, 5);
    const buffers = [...(await trainer.state()).keys()];
    expect(buffers.some((buffer) => buffer.endsWith("#momentum"))).toBe(options.momentum > 0);
    await trainer.close();
  });
});

it("AdamW goes through torch's losses with other options than its own", async () => {
  const curve = await readGolden("curve-adamw-betas.safetensors");
  const options = { beta1: 0.6, beta2: 0.9, epsilon: 1e-2, weightDecay: 0.2 };
  const adapter = { choice: chooseMethod("lora", { rank: 2, alpha: 4 }), targets: ["q_proj", "down_proj"] };
  const worst = async (given: Partial<typeof options>): Promise<number> => {
    const trainer = await trainerAt(curve, chooseOptimizer("adamw", given), adapter);
    const losses = await lossesOf(trainer, curve, { steps: 20, rate: 2e-2 });
    await trainer.close();
    return Math.max(...losses.map((loss, step) => Math.abs(loss / Number(curve.get("loss")?.data[step]) - 1)));
  };
  expect(await worst(options)).toBeLessThan(1e-5);
  // Each of them counts: without it the losses are others.
  for (const name of ["beta1", "beta2", "epsilon", "weightDecay"] as const) {
    const { [name]: _left, ...others } = options;
    expect(await worst(others), name).toBeGreaterThan(1e-4);
  }
});

describe("AdamW with state in 8 bits", () => {
  it("stays near AdamW over fifty steps, in a quarter of its state", async () => {
    const curve = await readGolden("curve-lora.safetensors");
    const lossesBy = async (name: string): Promise<number[]> => {
      const trainer = await wideTrainer(chooseOptimizer(name, { weightDecay: 0.01 }));
      const found = await lossesOf(trainer, curve, { steps: 50, rate: 3e-3 });
      await trainer.close();
      return found;
    };
    const [exact, losses] = [await lossesBy("adamw"), await lossesBy("adamw8bit")];
    const worst = losses.map((loss, step) => Math.abs(loss / (exact[step] ?? 0) - 1));
    // Measured 7e-4 at most and 2e-4 in the mean: what rounding both means to 8 bits at every step moves these losses.
    expect(Math.max(...worst)).toBeLessThan(2e-3);
    expect(worst.reduce((sum, error) => sum + error, 0) / 50).toBeLessThan(5e-4);

    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const bytes = (name: string): number =>
      buildTraining(model, { ...wide, optimizer: chooseOptimizer(name), accumulates: false }).zeros.reduce(
        (sum, value) => sum + bytesOfValue(value, {}),
        0,
      );
    expect(bytes("adamw8bit") / bytes("adamw")).toBeLessThan(0.26); // a byte for four, and a scale for a block
    expect(bytes("sgd")).toBe(bytes("adamw") / 2);
  });

  it("goes on from saved state to the same losses, bit for bit", async () => {
    const curve = await readGolden("curve-lora.safetensors");
    const optimizer = chooseOptimizer("adamw8bit");
    const whole = await wideTrainer(optimizer);
    const reference = await lossesOf(whole, curve, { steps: 8, rate: 1e-2 });
    await whole.close();
    const first = await wideTrainer(optimizer);
    const before = await lossesOf(first, curve, { steps: 4, rate: 1e-2 });
    const state = await first.state();
    expect(new Set([...state.values()].map(({ dtype }) => dtype))).toEqual(new Set(["float32", "uint8"]));
    await first.close();
    const second = await wideTrainer(optimizer);
    await second.restore(state);
    const after = await lossesOf(second, curve, { steps: 4, rate: 1e-2, from: 4 });
    await second.close();
    expect([...before, ...after]).toEqual(reference);
  });

  it.each([true, false])("its map has 256 values as the papers lay them out (signed: %s)", (signed) => {
    const map = dynamicMap({ signed });
    expect(map).toHaveLength(256);
    expect(new Set(map).size).toBe(256);
    expect(map).toContain(0);
    expect(map.at(-1)).toBe(1);
    // The largest decade has 64 (128) equal parts; the smallest one (two).
    expect(map.at(-2)).toBeCloseTo(signed ? 0.1 + 0.9 * (63.5 / 64) : 0.1 + 0.9 * (127.5 / 128), 12);
    const least = map.filter((value) => value > 0)[0] ?? 0;
    expect(least).toBeCloseTo(signed ? 0.55e-6 : 0.325e-6, 12);
  });

  it("rounds every value to the nearest that its block has, in ONNX Runtime as by search", async () => {
    for (const signed of [true, false]) {
      const map = dynamicMap({ signed });
      const size = 3 * blockSize + 19; // the last block is filled up
      const x = parameter("x", "float32", [size]);
      const { codes, scales } = toBlocks(x, map);
      const back = fromBlocks({ codes, scales }, [size], map);
      const program = await compileGraph(device, graph({ outputs: { back, codes, scales } }));
      await fc.assert(
        fc.asyncProperty(fc.integer(), async (seed) => {
          const values = Float32Array.from({ length: size }, (_, i) => {
            const noise = Math.sin(seed + i * 12.9898) * 43758.5453;
            const share = noise - Math.floor(noise);
            return (signed && i % 3 === 0 ? -1 : 1) * share * 10 ** -(i % 9);
          });
          values.fill(0, 0, 3);
          await device.upload("x", tensor("float32", [size], values));
          const found = await program.run({ feeds: {}, reads: { x: "x" } });
          for (let i = 0; i < size; i++) {
            const scale = Number(found["scales"]?.data[Math.floor(i / blockSize)]);
            const share = (values[i] ?? 0) / scale;
            const error = Math.abs(Number(found["back"]?.data[i]) / scale - share);
            const least = Math.min(...map.map((value) => Math.abs(value - share)));
            expect(error, `value ${i}`).toBeLessThanOrEqual(least + 1e-7);
          }
        }),
        { numRuns: 4 },
      );
      expect(sizeOf(codes.shape.map(Number))).toBe(4 * blockSize);
      await program.release();
    }
  });
});

describe("choosing an optimizer", () => {
  it("names the nearest, and every option that does not fit", () => {
    expect(() => chooseOptimizer("adam8bit")).toThrow(/nearest: adamw8bit/);
    expect(() => chooseOptimizer("sgd", { momentum: 1, beta1: 0.9 })).toThrow(/beta1[\s\S]*momentum is 1/);
  });
});
