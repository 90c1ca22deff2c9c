import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import type { LazyTensor, Tensor, WeightValue } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { chooseMethod } from "../methods/index.ts";
import { assembleModel, type PretrainedModel } from "../models/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import type { BaseWeightsName } from "./base-weights.ts";
import { blockSize, toBlockCodes } from "./block-codes.ts";
import { makeBatch } from "./data/index.ts";
import { openTrainer, type Trainer } from "./trainer.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

function lazy(tensor: Tensor): LazyTensor {
  return { dtype: tensor.dtype, shape: tensor.shape, sizeBytes: tensor.data.byteLength, read: async () => tensor };
}

/** What codes and scales stand for. */
async function decoded(tensor: Tensor, dtype: "int8" | "int4"): Promise<Tensor> {
  const { codes, scales } = await toBlockCodes(lazy(tensor), dtype);
  const [, columns = 1] = tensor.shape;
  const blocks = scales.shape[1] ?? 1;
  const at = (i: number): number => {
    if (dtype === "int8") return Number(codes.data[i]);
    const nibble = (Number(codes.data[i >> 1]) >> (4 * (i & 1))) & 15;
    return nibble > 7 ? nibble - 16 : nibble;
  };
  const data = Float32Array.from({ length: tensor.data.length }, (_, i) => {
    const block = Math.floor((i % columns) / blockSize);
    return at(i) * Number(scales.data[Math.floor(i / columns) * blocks + block]);
  });
  return { dtype: "float32", shape: tensor.shape, data };
}

/** A model whose weights are what their rounding to codes stands for. */
function rounded(
  model: PretrainedModel,
  held: "q8" | "q4",
  mend: (name: string, now: Tensor, then: Tensor) => void = () => undefined,
): PretrainedModel {
  const files = new Map<string, LazyTensor>();
  for (const [name, { source }] of model.weights as ReadonlyMap<string, WeightValue>) {
    const read = async (): Promise<Tensor> => {
      const whole = await source.read();
      if (whole.shape.length < 2) return whole;
      const now = await decoded(whole, held === "q8" || name.includes("embed") ? "int8" : "int4"); // rows are looked up in 8 bits
      mend(name, now, whole);
      return now;
    };
    files.set(name, { dtype: "float32", shape: source.shape, sizeBytes: source.sizeBytes, read });
  }
  const { folder, json, architecture } = model;
  return assembleModel({ folder, json, architecture, files });
}

function open(model: PretrainedModel, method: string, baseWeights: BaseWeightsName): Promise<Trainer> {
  return openTrainer(device, model, {
    ...{ choice: chooseMethod(method, { rank: 4 }), targets: "all-linear", optimizer: chooseOptimizer("adamw") },
    ...{ maxGradNorm: 1, memory: "small", accumulates: false, seed: 0, baseWeights },
  });
}

async function losses(trainer: Trainer): Promise<number[]> {
  const examples = randomExamples(16);
  const found: number[] = [];
  for (let step = 1; step <= 4; step++) {
    const batch = makeBatch(examples.slice(4 * (step - 1), 4 * step), { padId: 0 });
    found.push((await trainer.step(step, [batch], 5e-3)).loss);
  }
  await trainer.close();
  return found;
}

it("rounds to the nearest code, and to the largest exactly", async () => {
  const { normal } = createRng(1, "codes");
  const shape = [3, 150];
  const tensor: Tensor = { dtype: "float32", shape, data: Float32Array.from({ length: 450 }, normal) };
  (tensor.data as Float32Array).fill(0, 0, 64);
  for (const [dtype, levels, slack] of [
    ["int8", 254, 1],
    ["int4", 16, 2],
  ] as const) {
    const now = await decoded(tensor, dtype);
    for (let from = 0; from < 450; from += 150) {
      for (const [start, end] of [
        [0, 64],
        [64, 128],
        [128, 150],
      ] as const) {
        const block = (tensor.data as Float32Array).subarray(from + start, from + end);
        const largest = block.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        const step = (2 * largest) / levels;
        block.forEach((x, i) => {
          const found = Number(now.data[from + start + i]);
          // Half a step; in 4 bits a whole one where the other sign's end rounds to +8 steps, which is no code.
          expect(Math.abs(found - x)).toBeLessThanOrEqual((slack * step) / 2 + 1e-6);
          if (Math.abs(x) === largest) expect(found).toBeCloseTo(x, 6);
        });
      }
    }
  }
});

/** The rule, element by element. */
function byRule(data: Float32Array, columns: number, dtype: "int8" | "int4"): number[] {
  const [least, most] = dtype === "int8" ? [-127, 127] : [-8, 7];
  return Array.from(data, (x, i) => {
    const from = i - ((i % columns) % blockSize);
    const block = data.subarray(from, Math.min(from + blockSize, i - (i % columns) + columns));
    const largest = block.reduce((most, y) => (Math.abs(y) > Math.abs(most) ? y : most), 0);
    const scale = Math.fround(dtype === "int8" ? Math.abs(largest) / most : largest / least);
    return scale === 0 ? 0 : Math.min(most, Math.max(least, Math.round(x / scale))) & (dtype === "int8" ? 255 : 15);
  });
}

it.each(["int8", "int4"] as const)(
  "gives the %s of the rule, halves, zeros and rows of odd lengths too",
  async (dtype) => {
    const { normal } = createRng(3, "rule");
    for (const [rows, columns] of [
      [5, 131],
      [4, 128],
    ] as const) {
      const data = new Float32Array(rows * columns).map(normal);
      for (let i = 0; i < 200; i++) data[i] = i < 64 ? 0 : ((i % 33) - 16) / 2; // the largest is ±8: in 4 bits, all halves
      data.set([254, 127, -127, 3, -3], 200); // and in 8 bits
      data.set([2e-45, -3e-45, 1e-45], 256); // as small as a number can be
      data.fill(0, 259, 320);
      const { codes } = await toBlockCodes(lazy({ dtype: "float32", shape: [rows, columns], data }), dtype);
      const found = Array.from(data, (_, i) =>
        dtype === "int8" ? Number(codes.data[i]) & 255 : (Number(codes.data[i >> 1]) >> (4 * (i & 1))) & 15,
      );
      expect(found).toEqual(byRule(data, columns, dtype));
    }
  },
);

it.each(["int8", "int4"] as const)("rounds rows that are read in parts to the same %s", async (dtype) => {
  const { normal } = createRng(2, "parts");
  const tensor: Tensor = { dtype: "float32", shape: [16001, 131], data: new Float32Array(16001 * 131).map(normal) };
  const read = async (): Promise<Tensor> => {
    throw new Error("read whole");
  };
  const readPart = async (start: number, end: number): Promise<Tensor["data"]> => tensor.data.slice(start, end);
  const inParts = await toBlockCodes({ ...lazy(tensor), read, readPart }, dtype);
  const whole = await toBlockCodes(lazy(tensor), dtype);
  for (const part of ["codes", "scales"] as const) {
    const [one, other] = [inParts[part].data, whole[part].data].map(({ buffer }) => Buffer.from(buffer as ArrayBuffer));
    expect(one?.length).toBeGreaterThan(0);
    expect(one?.equals(other ?? Buffer.of())).toBe(true); // millions of numbers: toEqual takes seconds
  }
});

describe.each(["q8", "q4"] as const)("on a base in %s", (held) => {
  it.each(["lora", "dora"])("%s trains as on the float32 model that its codes stand for", async (method) => {
    const model = await randomModel();
    const trainer = await open(model, method, held);
    const { parameters } = await trainer.adapter();
    const found = await losses(trainer);
    const whole = await open(rounded(model, held), method, "f32");
    await whole.load(parameters); // DoRA's lengths start as those of the file's rows, not of the rounded ones
    const expected = await losses(whole);
    found.forEach((loss, i) => {
      expect(loss / (expected[i] ?? 0)).toBeCloseTo(1, 5);
    });
  });

  it("paca's columns are whole, as the file has them, and all others rounded", async () => {
    const model = await randomModel();
    const trainer = await open(model, "paca", held);
    const { parameters } = await trainer.adapter();
    const found = await losses(trainer);
    const mended = rounded(model, held, (name, now, then) => {
      const places = parameters.get(name.replace(/weight$/, "paca_indices"));
      const [rows = 0, columns = 0] = now.shape;
      for (const place of Array.from(places?.data ?? [], Number)) {
        for (let row = 0; row < rows; row++) {
          const i = row * columns + place;
          (now.data as Float32Array)[i] = Number(then.data[i]);
        }
      }
    });
    const expected = await losses(await open(mended, "paca", "f32"));
    found.forEach((loss, i) => {
      expect(loss / (expected[i] ?? 0)).toBeCloseTo(1, 5);
    });
  });
});
