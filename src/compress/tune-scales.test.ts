import { afterAll, beforeAll, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { mergeAdapter, readAdapter, writePackedModel, writePackedWithScales, writeScales } from "../export/index.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import type { Storage } from "../io/storage.ts";
import { type Adapter, chooseMethod } from "../methods/index.ts";
import { openModel, type PretrainedModel } from "../models/index.ts";
import { chooseScheme } from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { makeBatch, sequencesOf } from "../train/data/index.ts";
import { openEvaluator } from "../train/evaluator.ts";
import { train } from "../train/run.ts";
import { resolveSettings } from "../train/settings.ts";
import { distillation } from "./distil.ts";
import { quantiseModel } from "./quantise-model.ts";
import { tuneScales } from "./tune-scales.ts";

let device: Device;
let storage: Storage;
let model: PretrainedModel;
const examples = randomExamples(24);

beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  storage = memoryStorage();
  model = await randomModel();
});
afterAll(() => device.close());

async function packed(method: string, options = {}): Promise<PretrainedModel> {
  const sequences = examples.flatMap(sequencesOf);
  const choice = chooseScheme(method, options);
  const done = await quantiseModel({ device, model, sequences, padId: 0, choice, bits: 2 });
  const matrices = done?.matrices ?? [];
  await writePackedModel(storage, method, model, { baseModel: "tiny", matrices, info: {}, keepAs: "float32" });
  return openModel(storage, method);
}

async function measure(of: PretrainedModel, adapter?: Adapter, teacher?: PretrainedModel): Promise<number> {
  const objective = teacher ? distillation(teacher) : undefined;
  const evaluator = await openEvaluator(device, of, {
    ...(adapter ? { adapter } : {}),
    ...(objective ? { objective } : {}),
  });
  const batch = objective
    ? objective.objective.batch(examples, { padId: 0 })
    : makeBatch(examples.flatMap(sequencesOf), { padId: 0 });
  const { loss } = await evaluator.sums(batch);
  await evaluator.close();
  return loss / batch.targets;
}

it("a model learns nothing from itself, and a packed one is off by what packing lost", async () => {
  expect(Math.abs(await measure(model, undefined, model))).toBeLessThan(1e-6);
  const own = await packed("shiftadd");
  expect(await measure(own, undefined, model)).toBeGreaterThan(1e-3);
});

// Scales down a column; in blocks; along the row with an order of columns (codes less a zero point).
it.each([
  ["shiftadd", {}],
  ["shiftadd", { blockWise: true }],
  ["gptq", { groupSize: 8 }],
] as const)("tuning %s %o brings it nearer, codes unchanged, scales as they are stored", async (method, options) => {
  const student = await packed(method, options);
  const before = await measure(student, undefined, model);
  const settings = { maxSteps: 30, learningRate: 2e-3, batchSize: 24 };
  const matrices = await tuneScales({ device, student, teacher: model, examples, padId: 0, settings });
  await writePackedModel(storage, "tuned", model, {
    baseModel: "tiny",
    matrices: matrices ?? [],
    info: {},
    keepAs: "float32",
  });
  const tuned = await openModel(storage, "tuned");
  expect(await measure(tuned, undefined, model)).toBeLessThan(0.8 * before);
  for (const [name, entry] of student.packed?.matrices ?? []) {
    const [old, now] = [await entry.read(), await tuned.packed?.matrices.get(name)?.read()];
    expect(now?.planes).toEqual(old.planes);
    expect(now?.scales).not.toEqual(old.scales);
  }
  expect(tuned.packed?.sizeBytes).toBe(student.packed?.sizeBytes);
});

it("alpha starts at the packed model, and is the same beside it, folded in, from its file and as a packed model", async () => {
  const base = await packed("gptq", { groupSize: 8 });
  const run = (maxSteps: number) =>
    train({
      device,
      model: base,
      choice: chooseMethod("alpha"),
      targets: "all-linear",
      settings: resolveSettings({ maxSteps, learningRate: 5e-3, batchSize: 24, schedule: "constant", warmup: 0 }),
      train: examples,
      validation: [],
      padId: 0,
    });
  const losses: number[] = [];
  const { adapter } = await run(8);
  const plain = await measure(base);
  const fresh = await run(1);
  expect(fresh.adapter.parameters.size).toBe(14);
  losses.push(plain, await measure(base, adapter));
  expect(losses[1]).toBeLessThan(losses[0] ?? 0);
  const merged = mergeAdapter(device, base, adapter);
  expect(await measure(merged.model)).toBeCloseTo(losses[1] ?? 0, 5);
  await merged.close();
  // Written scales are float16, as the packed model's own are.
  await writeScales(storage, "scales", base, adapter, { baseModel: "tiny" });
  const read = await readAdapter(storage, "scales", base);
  const withRead = await measure(base, read);
  expect(withRead).toBeCloseTo(losses[1] ?? 0, 3);
  await writePackedWithScales(storage, "repacked", base, adapter, { baseModel: "tiny" });
  expect(await measure(await openModel(storage, "repacked"))).toBeCloseTo(withRead, 3);
}, 60_000);

it("alpha on weights that are not packed is refused, naming the layer", async () => {
  const options = { device, model, choice: chooseMethod("alpha"), targets: "all-linear", train: examples } as const;
  const running = train({ ...options, settings: resolveSettings({ maxSteps: 1 }), validation: [], padId: 0 });
  await expect(running).rejects.toMatchObject({ code: "not-packed", at: expect.stringContaining("q_proj") });
});

it.each(["lora", "dora", "paca"])("%s is tuned on a packed base, and folds into its weights", async (name) => {
  const base = await packed("shiftadd");
  const before = await measure(base);
  const { adapter } = await train({
    device,
    model: base,
    choice: chooseMethod(name, { rank: 4 }),
    targets: "all-linear",
    settings: resolveSettings({ maxSteps: 10, learningRate: 1e-2, batchSize: 24 }),
    train: examples,
    validation: [],
    padId: 0,
  });
  const after = await measure(base, adapter);
  expect(after).toBeLessThan(before);
  const merged = mergeAdapter(device, base, adapter);
  expect(await measure(merged.model)).toBeCloseTo(after, 4);
  await merged.close();
});
