import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mergeAdapter } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { chooseMethod, type Method, type MethodChoice } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { add } from "../src/ops/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { type Batch, makeBatch } from "../src/train/data/index.ts";
import { openEvaluator } from "../src/train/evaluator.ts";
import { buildTraining } from "../src/train/step.ts";
import { openTrainer, type Trainer, type TrainerOptions } from "../src/train/trainer.ts";
import { golden } from "./helpers/golden.ts";
import { randomExamples } from "./helpers/tiny-model.ts";

let device: Device;
let model: PretrainedModel;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = await openModel(nodeStorage, golden("llama-tiny"));
});
afterAll(() => device.close());

const optimizer = chooseOptimizer("adamw");
const batches = Array.from({ length: 50 }, (_, i) => makeBatch(randomExamples(4, 64, i), { padId: 0 }));

function open(options: Partial<TrainerOptions> & Pick<TrainerOptions, "choice">, of = model): Promise<Trainer> {
  return openTrainer(naming(device), of, {
    ...{ targets: "all-linear", optimizer, maxGradNorm: 0, memory: "balanced", accumulates: false, seed: 3 },
    ...options,
  });
}

/** What the last trainer's buffers are called on the device, by its own names for them. */
const placedAs = new Map<string, string>();

function naming(of: Device): Device {
  const upload: Device["upload"] = (name, tensor) => {
    placedAs.set(name.replace(/^\d+\//, ""), name);
    return of.upload(name, tensor);
  };
  return { ...wrapped(of), patches: of.patches === true, upload };
}

/** A live weight, whose buffer lies [in, out], as the model has it. */
async function liveOf(name: string, stored: "out,in" | "in,out"): Promise<Float32Array> {
  const { shape, data } = await device.download(placedAs.get(`${name}#live`) ?? name);
  const [rows = 0, width = 0] = shape;
  const at = (i: number): number => (stored === "in,out" ? i : (i % rows) * width + Math.floor(i / rows));
  return Float32Array.from({ length: rows * width }, (_, i) => Number(data[at(i)]));
}

async function weightOf(name: string, of = model): Promise<Float32Array> {
  return (await of.weights.get(name)?.source.read())?.data as Float32Array;
}

it.each(["llama-tiny", "gpt2-tiny"])("is LoRA whose A picks columns, over 50 updates of %s", async (name) => {
  const of = await openModel(nodeStorage, golden(name));
  const paca = await open({ choice: chooseMethod("paca", { rank: 4, alpha: 8 }) }, of);
  const { parameters } = await paca.adapter();
  // LoRA with both trained would move A; its learning rate is zero, as LoRA+'s ratio of B's to A's allows.
  const lora = await open({ choice: chooseMethod("lora", { rank: 4, alpha: 8, plusRatio: 1e12 }) }, of);
  const start = [...parameters].map(([key, { data }]): [string, Tensor] => {
    const [module, part] = key.split(".paca_");
    const { value } =
      lora.trainables.find((own) => own.value.name === `${module}.lora_${part === "delta" ? "B" : "A"}`) ?? {};
    const shape = (value?.shape ?? []).map(Number);
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    if (part === "indices") for (const [i, place] of data.entries()) values[i * (shape[1] ?? 0) + Number(place)] = 1;
    return [value?.name ?? "", { dtype: "float32", shape, data: values }];
  });
  await lora.load(new Map(start));
  let worst = 0;
  for (const [i, batch] of batches.entries()) {
    const [a, b] = [await paca.step(i + 1, [batch], 1e-2), await lora.step(i + 1, [batch], 1e-14)];
    worst = Math.max(worst, Math.abs(a.loss / b.loss - 1));
  }
  expect(worst).toBeLessThan(1e-5);
  await paca.close();
  await lora.close();
});

it("has the columns of the full gradient, and the same gradient of everything below", async () => {
  const choice = { choice: chooseMethod("paca", { rank: 5, alpha: 5 }), accumulates: true } as const;
  const [paca, full] = [await open(choice), await open({ choice: chooseMethod("full"), accumulates: true })];
  const { parameters } = await paca.adapter();
  const [a, b] = [batches[0], batches[0]] as [(typeof batches)[number], (typeof batches)[number]];
  // One update at rate zero leaves the gradients of the batch in their buffers.
  expect((await paca.step(1, [a], 0)).loss).toBe((await full.step(1, [b], 0)).loss);
  const [own, whole] = [await paca.state(), await full.state()];
  for (const { module, key } of paca.trainables) {
    if (key !== "delta") continue;
    const places = Array.from(parameters.get(`${module}.paca_indices`)?.data ?? [], Number);
    const found = own.get(`${module}.paca_delta#gradient`)?.data as Float32Array;
    const { shape = [], data } = whole.get(`${module}.weight#gradient`) as Tensor;
    const columns = Array.from({ length: shape[0] ?? 0 }, (_, row) =>
      places.map((place) => Number(data[row * (shape[1] ?? 0) + place])),
    ).flat();
    const scale = Math.max(...columns.map(Math.abs));
    const worst = found.reduce((most, value, i) => Math.max(most, Math.abs(value - (columns[i] ?? 0))), 0);
    expect(worst / scale, module).toBeLessThan(1e-5);
  }
  await paca.close();
  await full.close();
});

describe("the weights", () => {
  it.each([
    ["llama-tiny", false, {}],
    ["llama-tiny", false, { alpha: { q_proj: 2, up_proj: 3 } }],
    ["gpt2-tiny", true, {}],
  ] as const)("of %s change in the trained columns alone, and are restored bit for bit", async (...row) => {
    const [name, accumulates, patterns] = row;
    const of = await openModel(nodeStorage, golden(name));
    const stored = name === "gpt2-tiny" ? "in,out" : "out,in";
    const choice = chooseMethod("paca", { rank: 3, alpha: 6 }, patterns);
    const trainer = await open({ choice, accumulates }, of);
    const fresh = await trainer.adapter();
    const base = await openEvaluator(device, of);
    const before = await base.sums(batches[0] as never);
    for (let step = 1; step <= 3; step++) await trainer.step(step, [batches[step] as never], 1e-2);
    const adapter = await trainer.adapter();
    const merged = mergeAdapter(device, of, adapter);
    const live = trainer.trainables.flatMap(({ key, weight }) =>
      key === "delta" && weight.kind === "weight" ? [weight.name] : [],
    );
    for (const weight of live) {
      const now = await liveOf(weight, stored);
      const then = await weightOf(weight, of);
      const changed = now.filter((value, i) => !Object.is(value, then[i])).length;
      const columns = now.length / (of.weights.get(weight)?.shape.map(Number)[name === "gpt2-tiny" ? 0 : 1] ?? 1); // rows of the update
      expect(changed, weight).toBeLessThanOrEqual(3 * columns);
      expect(changed, weight).toBeGreaterThan(2 * columns);
      // What training computed with is what merging writes, bit for bit.
      expect((await weightOf(weight, merged.model)).every((value, i) => Object.is(value, now[i]))).toBe(true);
    }
    // Without the adapter the model is what it was; with a fresh one, the buffers hold the pretrained bits again.
    expect(await base.sums(batches[0] as never)).toEqual(before);
    const trained = await trainer.evaluate([batches[0] as never]);
    await trainer.load(fresh.parameters);
    for (const weight of live) {
      const then = await weightOf(weight, of);
      const now = await liveOf(weight, stored);
      expect(
        now.every((value, i) => Object.is(value, then[i])),
        weight,
      ).toBe(true);
    }
    await trainer.load(adapter.parameters);
    expect(await trainer.evaluate([batches[0] as never])).toEqual(trained);
    const beside = await openEvaluator(device, of, { adapter });
    const targets = (batches[0] as (typeof batches)[number]).targets;
    expect((await beside.sums(batches[0] as never)).loss / targets).toBeCloseTo(trained.loss, 5);
    for (const opened of [base, beside, merged, trainer]) await opened.close();
  });

  it("are what a resumed run goes on with, to the bit", async () => {
    const choice = chooseMethod("paca", { rank: 3, alpha: 6 });
    const whole = await open({ choice });
    const losses: number[] = [];
    let saved: ReadonlyMap<string, Tensor> = new Map();
    for (let step = 1; step <= 6; step++) {
      losses.push((await whole.step(step, [batches[step] as never], 1e-2)).loss);
      if (step === 3) saved = await whole.state();
    }
    await whole.close();
    const resumed = await open({ choice, seed: 99 }); // other columns, until the state says which
    await resumed.restore(saved);
    for (let step = 4; step <= 6; step++) {
      expect((await resumed.step(step, [batches[step] as never], 1e-2)).loss).toBe(losses[step - 1]);
    }
    await resumed.close();
  });

  /** Losses of five updates. */
  async function losses(trainer: Trainer, parts: (step: number) => readonly Batch[]): Promise<number[]> {
    const found: number[] = [];
    for (let step = 1; step <= 5; step++) found.push((await trainer.step(step, parts(step), 1e-2)).loss);
    await trainer.close();
    return found;
  }
  const close = (expected: readonly number[]): unknown => expected.map((loss) => expect.closeTo(loss, 5));

  it("with every column trained are those of full tuning, and of what stands beside where nothing can be written", async () => {
    const choice = chooseMethod("paca", { rank: 32, alpha: 32 });
    const settings = { optimizer, maxGradNorm: 0, memory: "balanced", accumulates: false, seed: 3 } as const;
    const one = (step: number): readonly Batch[] => [batches[step] as Batch];
    const found = await losses(await open({ choice, targets: ["q_proj"] }), one);
    const beside = await openTrainer(wrapped(device), model, { choice, targets: ["q_proj"], ...settings });
    expect(await losses(beside, one)).toEqual(close(found));
    // The same matrices trained whole, beside a LoRA that computes nothing.
    const whole = chooseMethod("lora", { rank: 1, alpha: 0 }, {}, { modules: ["q_proj"] });
    expect(await losses(await open({ choice: whole, targets: ["v_proj"] }), one)).toEqual(close(found));
  });

  it("move alike whether an update is one batch or several", async () => {
    const choice = chooseMethod("paca", { rank: 4, alpha: 8 });
    const rows = (step: number): ReturnType<typeof randomExamples> => randomExamples(6, 64, 50 + step);
    const batch = (some: ReturnType<typeof randomExamples>): Batch => makeBatch(some, { padId: 0 });
    const found = await losses(await open({ choice }), (step) => [batch(rows(step))]);
    const parts = await losses(await open({ choice, accumulates: true }), (step) =>
      [rows(step).slice(0, 1), rows(step).slice(1, 4), rows(step).slice(4)].map(batch),
    );
    expect(parts).toEqual(close(found));
  });
});

/** The device, as one that cannot write parts of buffers. */
function wrapped(of: Device): Device {
  return {
    provider: of.provider,
    compile: (source) => of.compile(source),
    run: (request) => of.run(request),
    upload: (name, tensor) => of.upload(name, tensor),
    download: (name) => of.download(name),
    discard: (names) => of.discard(names),
    release: (program) => of.release(program),
    close: () => of.close(),
  };
}

describe("the columns", () => {
  const columnsOf = async (options: Record<string, number | string>): Promise<number[][]> => {
    const trainer = await open({ choice: chooseMethod("paca", options), targets: ["q_proj", "down_proj"] });
    const { parameters } = await trainer.adapter();
    await trainer.close();
    return [...parameters].flatMap(([name, { data }]) => (name.endsWith("indices") ? [Array.from(data, Number)] : []));
  };

  it("are drawn for each module, the first, the longest or those listed", async () => {
    const random = await columnsOf({ rank: 5 });
    expect(new Set(random.map(String)).size).toBe(4);
    for (const places of random) expect(places.toSorted((a, b) => a - b)).toEqual([...new Set(places)]);
    expect(await columnsOf({ rank: 3, select: "first" })).toEqual(Array.from({ length: 4 }, () => [0, 1, 2]));
    expect(await columnsOf({ rank: 3, select: "list", columnList: "7, 2,30" })).toEqual(
      Array.from({ length: 4 }, () => [2, 7, 30]),
    );
    const [longest = []] = await columnsOf({ rank: 2, select: "norm" });
    const q = await weightOf("model.layers.0.self_attn.q_proj.weight");
    const lengths = Array.from({ length: 32 }, (_, j) => q.reduce((sum, x, i) => sum + (i % 32 === j ? x * x : 0), 0));
    const rest = lengths.filter((_, j) => !longest.includes(j));
    expect(Math.min(...longest.map((j) => lengths[j] ?? 0))).toBeGreaterThanOrEqual(Math.max(...rest));
  });

  it("are refused where they repeat, lie outside, or are too many", async () => {
    await expect(columnsOf({ rank: 3, select: "list", columnList: "1,1,99" })).rejects.toThrow(
      /names 99 of 32 columns and names 1 twice/,
    );
    await expect(columnsOf({ rank: 2, select: "list", columnList: "1" })).rejects.toThrow(
      "columnList lists 1, but rank is 2",
    );
    await expect(columnsOf({ rank: 1, select: "list", columnList: "x" })).rejects.toThrow('columnList holds "x"');
    await expect(columnsOf({ rank: 33 })).rejects.toMatchObject({ code: "rank-too-large" });
  });

  it("of a weight that two modules share are nobody's to change", async () => {
    const tied = await openModel(nodeStorage, golden("llama-rope"));
    await expect(open({ choice: chooseMethod("paca", {}), targets: ["lm_head"] }, tied)).rejects.toMatchObject({
      code: "tied-weight",
      message: expect.stringContaining("lm_head shares model.embed_tokens.weight with model.embed_tokens"),
    });
  });
});

it("keeps of the forward pass what the frozen model keeps, and the columns", async () => {
  const rank = 4;
  // Maps that share their input with no other, so that nothing is stacked.
  const own = ["q_proj", "o_proj", "up_proj", "down_proj"];
  const saved = (choice: MethodChoice, targets: readonly string[] = own): number =>
    buildTraining(model, {
      ...{ choice, targets, optimizer, maxGradNorm: 1, memory: "fast", accumulates: false, patches: true },
    }).gradient.savedBytes;
  const { layers, hiddenSize, heads, headDim } = model.sizes;
  const intermediate = Number(model.json["intermediate_size"]);
  const tokens = 512;
  // Of each layer LoRA keeps the inputs of its maps: two norms' outputs, attention's, and the gated product. What it
  // keeps between A and B, rank wide, PaCA keeps as columns.
  const [lora, paca] = [saved(chooseMethod("lora", { rank })), saved(chooseMethod("paca", { rank }))];
  expect(lora - paca).toBe(4 * layers * tokens * (2 * hiddenSize + intermediate + heads * headDim));
  const shift = {
    ...({ name: "shift", summary: "a vector beside a map", fields: {}, attaches: "linear" } as const),
    parameters: ({ outFeatures }) => ({ s: { shape: [outFeatures], initial: (_rng, size) => new Float32Array(size) } }),
    adapt: ({ y }, parameter) => add(y, parameter("s")),
    merge: (weight) => weight,
  } satisfies Method;
  const frozen = saved({ method: shift, config: {} }, ["layers.0.self_attn.q_proj"]);
  expect(paca - frozen).toBe(4 * layers * tokens * own.length * rank);
});
