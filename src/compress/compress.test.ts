import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { golden } from "../../tests/helpers/golden.ts";
import { randomExamples, randomModel, tinyLlama } from "../../tests/helpers/tiny-model.ts";
import { writePackedModel } from "../export/index.ts";
import type { LazyTensor } from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { dequantise, type PackedToWrite, transposed } from "../io/packed/index.ts";
import { openModel, type PretrainedModel } from "../models/index.ts";
import { chooseScheme } from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { makeBatch, sequencesOf } from "../train/data/index.ts";
import { openEvaluator } from "../train/evaluator.ts";
import { cutIntoBlocks } from "./blocks.ts";
import { quantisingBytes } from "./memory.ts";
import { type QuantiseEvent, type QuantiseModelOptions, quantiseModel } from "./quantise-model.ts";
import { reportPacked } from "./report.ts";
import { openWorkFolder } from "./work-folder.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const sequences = randomExamples(16).flatMap(sequencesOf);

function options(model: PretrainedModel, more: Partial<QuantiseModelOptions> = {}): QuantiseModelOptions {
  return { device, model, sequences, padId: 0, choice: chooseScheme("shiftadd"), bits: 3, ...more };
}

async function lossOf(model: PretrainedModel): Promise<number> {
  const evaluator = await openEvaluator(device, model);
  const batch = makeBatch(randomExamples(8, 64, 7).flatMap(sequencesOf), { padId: 0 });
  const { loss } = await evaluator.sums(batch);
  await evaluator.close();
  return loss / batch.targets;
}

/** The model with the weights that were packed. */
function withPacked(model: PretrainedModel, matrices: readonly PackedToWrite[]): PretrainedModel {
  const files = new Map<string, LazyTensor>([...model.weights].map(([name, { source }]) => [name, source]));
  for (const { name, matrix, stored } of matrices) {
    const weights = dequantise(matrix);
    const data = stored === "out,in" ? weights : transposed(weights, matrix.rows, matrix.columns);
    const shape = stored === "out,in" ? [matrix.rows, matrix.columns] : [matrix.columns, matrix.rows];
    files.set(name, {
      dtype: "float32",
      shape,
      sizeBytes: data.byteLength,
      read: async () => ({ dtype: "float32", shape, data: data.slice() }),
    });
  }
  return model.withTensors(files, model.json);
}

describe("blocks", () => {
  it("are cut where numbered layers begin, whatever the architecture", async () => {
    const cut = (model: PretrainedModel) => cutIntoBlocks(model.loss(), model.architecture.outputModule);
    const llama = cut(await randomModel());
    expect(llama.blocks.map(({ sites }) => sites.length)).toEqual([7, 7]);
    expect(llama.blocks.map(({ carriedIn, carriedOut }) => [carriedIn.length, carriedOut.length])).toEqual([
      [1, 1],
      [1, 0],
    ]);
    const gpt2 = cut(await openModel(nodeStorage, golden("gpt2-tiny")));
    expect(gpt2.blocks.map(({ sites }) => sites.map(({ layout }) => layout))).toEqual([
      ["in,out", "in,out", "in,out", "in,out"],
      ["in,out", "in,out", "in,out", "in,out"],
    ]);
    expect(gpt2.blocks[1]?.carriedIn.length).toBe(1);
    for (const family of ["gemma3_text", "gpt_neox", "phi3", "qwen3"]) {
      const { blocks } = cut(await openModel(nodeStorage, golden(`families/${family}`)));
      expect(blocks.length).toBeGreaterThan(1);
      for (const { carriedIn } of blocks) expect(carriedIn.length).toBeGreaterThan(0);
    }
  });
});

describe("a quantised model", () => {
  it.each(["llama-tiny", "gpt2-tiny"])("%s: is nearly the model at 8 bits, and nearer than at 2", async (name) => {
    const model = await openModel(nodeStorage, golden(name));
    const loss = await lossOf(model);
    const differences: number[] = [];
    for (const bits of [2, 8]) {
      const done = await quantiseModel(options(model, { bits }));
      const packed = withPacked(model, done?.matrices as PackedToWrite[]); // there is no work folder
      differences.push(Math.abs((await lossOf(packed)) - loss));
      expect(done?.reports.every(({ outputError = 1 }) => outputError < 0.5)).toBe(true);
    }
    expect(differences[1]).toBeLessThan(1e-2);
    expect(differences[1]).toBeLessThan(differences[0] ?? 0);
  });

  it("is read from its folder as it was evaluated, and takes what the report says", async () => {
    const model = await randomModel();
    const done = await quantiseModel(options(model, { choice: chooseScheme("gptq", { groupSize: 16 }) }));
    const storage = memoryStorage();
    const matrices = done?.matrices ?? [];
    const file = await writePackedModel(storage, "packed", model, {
      baseModel: "tiny",
      matrices,
      info: { method: "gptq" },
      keepAs: "float32",
    });
    const loaded = await openModel(storage, "packed");
    expect(loaded.packed?.info["method"]).toBe("gptq");
    expect(loaded.parameterCount).toBe(model.parameterCount);
    expect(await lossOf(loaded)).toBe(await lossOf(withPacked(model, matrices as PackedToWrite[])));
    const report = await reportPacked(file, { rows: 64, columns: 32 });
    expect(report.bitsPerWeight).toBeCloseTo(3 + 19 / 16, 2);
    expect(report.averageBits).toBe(3);
    expect(report.planesBytes + report.scalesBytes).toBe(report.packedBytes);
    expect(report.fileBytes).toBeGreaterThan(report.packedBytes + report.keptBytes);
    expect(report.energy.packed.traffic).toBeLessThan(report.energy.float16.traffic);
  });

  it("spends an average of bits on the matrices that need them", async () => {
    const events: QuantiseEvent[] = [];
    const done = await quantiseModel(
      options(await randomModel(), { bits: { average: 2.5 }, onEvent: (event) => events.push(event) }),
    );
    expect(done?.plan?.averageBits).toBeLessThanOrEqual(2.5);
    expect(done?.plan?.averageBits).toBeGreaterThan(2.3);
    expect(events.map(({ kind }) => kind).indexOf("plan")).toBeLessThan(
      events.map(({ kind }) => kind).indexOf("matrix"),
    );
    expect(done?.reports.map(({ bits }) => bits)).toEqual(done?.plan?.matrices.map(({ bits }) => bits));
    const rule = await quantiseModel(options(await randomModel(), { bits: { average: 2.2, by: "rule" } }));
    expect(new Set(rule?.reports.map(({ bits }) => bits))).toEqual(new Set([2, 3]));
  });

  it("says how long it should take, more for mixed bits, and what it takes in memory by its tokens", async () => {
    const model = await randomModel();
    const expected = async (bits: QuantiseModelOptions["bits"]): Promise<number> => {
      const told: number[] = [];
      const onEvent = (event: QuantiseEvent) => event.kind === "calibration" && told.push(event.expectedMs);
      await quantiseModel(options(model, { bits, onEvent }));
      expect(told).toHaveLength(1);
      return told[0] ?? 0;
    };
    const one = await expected(3);
    expect(one).toBeGreaterThan(0);
    expect(await expected({ average: 2.5 })).toBeGreaterThan(2 * one);
    // Two layers of Llama-3.2-1B, of which no weight is read. The peak of a run over 12,758 tokens was 2.49 GB.
    const wide = await randomModel({
      ...tinyLlama,
      hidden_size: 2048,
      intermediate_size: 8192,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      head_dim: 64,
    });
    expect(quantisingBytes(wide, undefined)).toBeLessThan(0.2e9);
    expect(quantisingBytes(wide, 12758)).toBeGreaterThan(1.9e9);
    expect(quantisingBytes(wide, 12758)).toBeLessThan(2.5e9);
    expect(quantisingBytes(wide, 112758) - quantisingBytes(wide, 12758)).toBe(1e5 * 2048 * 4);
  });
});

describe("a run that is stopped", () => {
  it("goes on from the blocks that are done to the same codes, and refuses other settings", async () => {
    const storage = memoryStorage();
    const model = await randomModel();
    const whole = await quantiseModel(options(model));
    const stop = new AbortController();
    const work = await openWorkFolder(storage, "w", { bits: 3 }, { resume: false });
    const stopped = await quantiseModel(
      options(model, {
        work,
        signal: stop.signal,
        onEvent: (event) => event.kind === "matrix" && event.done === 9 && stop.abort(),
      }),
    );
    expect(stopped).toBeUndefined();
    await expect(openWorkFolder(storage, "w", { bits: 3 }, { resume: false })).rejects.toMatchObject({
      code: "run-exists",
    });
    await expect(openWorkFolder(storage, "w", { bits: 2 }, { resume: true })).rejects.toMatchObject({
      code: "resume-mismatch",
    });
    const events: QuantiseEvent[] = [];
    const again = await openWorkFolder(storage, "w", { bits: 3 }, { resume: true });
    const resumed = await quantiseModel(options(model, { work: again, onEvent: (event) => events.push(event) }));
    expect(events).toContainEqual({ kind: "resumed", blocks: 1 });
    expect(resumed?.reports).toEqual(whole?.reports);
    for (const [i, entry] of (resumed?.matrices ?? []).entries()) {
      const matrix = "matrix" in entry ? entry.matrix : await entry.read();
      expect(matrix).toEqual((whole?.matrices ?? []).map((first) => (first as PackedToWrite).matrix)[i]);
    }
    await again.remove();
    expect(await storage.list("w")).toEqual([]);
  });
});

describe("bad input", () => {
  it("is named: too little text, weights that are not finite, constant rows, dead inputs", async () => {
    const model = await randomModel();
    await expect(quantiseModel(options(model, { sequences: sequences.slice(0, 2) }))).rejects.toMatchObject({
      code: "bad-calibration",
      message: expect.stringMatching(/48 tokens, better 384/),
    });
    const changed = async (name: string, change: (data: Float32Array) => void): Promise<PretrainedModel> => {
      const files = new Map<string, LazyTensor>([...model.weights].map(([key, { source }]) => [key, source]));
      const tensor = await toFloat32(files.get(name) as LazyTensor);
      const data = Float32Array.from(tensor.data);
      change(data);
      const { dtype, shape } = tensor;
      const read = async () => ({ dtype, shape, data: data.slice() });
      files.set(name, { dtype, shape, sizeBytes: data.byteLength, read });
      return model.withTensors(files, model.json);
    };
    const broken = await changed("model.layers.1.mlp.up_proj.weight", (data) => data.fill(Number.NaN, 3, 4));
    await expect(quantiseModel(options(broken))).rejects.toMatchObject({
      code: "not-finite-weight",
      message: expect.stringContaining("model.layers.1.mlp.up_proj.weight"),
    });
    // A norm of zeros kills inputs; a row of one value has no spread; a matrix of zeros has no scale.
    const dead = await changed("model.layers.0.input_layernorm.weight", (data) => data.fill(0, 0, 3));
    for (const method of ["shiftadd", "rtn"]) {
      const done = await quantiseModel(options(dead, { choice: chooseScheme(method), bits: 2 }));
      expect(done?.reports[0]?.deadInputs).toBe(3);
      expect(Number.isFinite(await lossOf(withPacked(dead, done?.matrices as PackedToWrite[])))).toBe(true);
      const flat = await changed("model.layers.0.mlp.up_proj.weight", (data) => data.fill(0.25, 0, 64).fill(0, 64));
      const packed = await quantiseModel(options(flat, { choice: chooseScheme(method), bits: 2 }));
      expect(Number.isFinite(await lossOf(withPacked(flat, packed?.matrices as PackedToWrite[])))).toBe(true);
    }
  }, 60_000);

  it("sizes that groups do not divide are no obstacle", async () => {
    const model = await randomModel({ ...tinyLlama, hidden_size: 36, head_dim: 9 - 1, intermediate_size: 50 });
    for (const [method, config] of [
      ["shiftadd", { blockWise: true }],
      ["shiftadd", { rowGroup: 7 }],
      ["gptq", { groupSize: 16 }],
    ] as const) {
      const done = await quantiseModel(options(model, { choice: chooseScheme(method, config) }));
      expect(Number.isFinite(await lossOf(withPacked(model, done?.matrices as PackedToWrite[])))).toBe(true);
    }
  });

  it("models that continue no text are refused", async () => {
    await expect(
      quantiseModel(options(await openModel(nodeStorage, golden("encoders/bert-sequence")))),
    ).rejects.toMatchObject({
      code: "task-mismatch",
    });
  });
});
