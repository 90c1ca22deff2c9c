import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter, writeAdapter } from "../src/export/index.ts";
import { graph, type Tensor, tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { compileGraph } from "../src/runtime/program.ts";
import type { Batch } from "../src/train/data/index.ts";
import { chooseObjective } from "../src/train/objectives/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
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

describe("RETSim", () => {
  it.each([
    ["sequence-classification", "logits"],
    ["sentence-embedding", "embeddings"],
  ] as const)("%s agrees with the formulas in torch", async (task, output) => {
    const expected = await readGolden("retsim-tiny.expected.safetensors");
    const model = await openModel(nodeStorage, golden("retsim-tiny"), { task });
    const found = await outputOf(model, expected);
    expect(relativeError(found, expected.get(output) as Tensor, expected)).toBeLessThan(1e-5);
  });
});

const objectiveOf: Readonly<Record<string, string>> = {
  "sequence-classification": "classification",
  "image-classification": "classification",
  regression: "regression",
  "token-classification": "token-classification",
  "seq2seq-lm": "seq2seq-lm",
};

/** One batch of a curve, as the model's objective is fed. */
function batchAt(curve: ReadonlyMap<string, Tensor>, step: number, task: string): Batch {
  const feeds: Record<string, Tensor> = {};
  for (const [name, values] of curve)
    if (name.startsWith(`${step}.`)) feeds[name.slice(String(step).length + 1)] = values;
  const { labels } = feeds as { labels: Tensor };
  const [batch = 1, seq = 1] = (feeds["input_ids"] ?? labels).shape;
  if (task === "seq2seq-lm") {
    const count = Math.ceil(labels.data.length / 16) * 16;
    const padded = (of: (i: number, there: boolean) => number): number[] =>
      Array.from({ length: count }, (_, i) => (i < labels.data.length ? of(i, true) : 0));
    feeds["target_positions"] = tensor(
      "int64",
      [count],
      padded((i) => i),
    );
    feeds["label_weights"] = tensor(
      "float32",
      [count],
      padded((_, there) => Number(there)),
    );
    feeds["labels"] = tensor(
      "int64",
      [count],
      padded((i) => Number(labels.data[i] ?? 0)),
    );
    return {
      feeds,
      sizes: { batch, seq, target: labels.shape[1] ?? 1, chunk: count / 16 },
      tokens: 0,
      targets: labels.data.length,
    };
  }
  if (task === "token-classification") {
    const given = Array.from(labels.data, Number);
    feeds["labels"] = tensor(
      "int64",
      [given.length],
      given.map((label) => Math.max(0, label)),
    );
    feeds["label_weights"] = tensor(
      "float32",
      [given.length],
      given.map((label) => Number(label >= 0)),
    );
    return { feeds, sizes: { batch, seq }, tokens: 0, targets: given.filter((label) => label >= 0).length };
  }
  return { feeds, sizes: { batch, seq }, tokens: 0, targets: labels.data.length };
}

const tuned = names.filter((name) => readdirSync(golden("encoders")).includes(`${name}.curve.safetensors`));

describe("ten steps of LoRA with the head trained whole have PEFT's losses", () => {
  it.each(tuned)("%s", async (name) => {
    const curve = await readGolden(`encoders/${name}.curve.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const trainer = await openTrainer(device, model, {
      choice: chooseMethod("lora", { rank: 4, alpha: 8 }, {}, { modules: model.headModules }),
      targets: "all-linear",
      objective: chooseObjectiveOf(model),
      optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates: false,
      seed: 0,
    });
    const initial = new Map<string, Tensor>();
    for (const { value, inPlace } of trainer.trainables) {
      const head = model.headModules.find((module) => value.name.startsWith(`${module}.`)) ?? "";
      const name = inPlace
        ? `${head}.modules_to_save.default${value.name.slice(head.length)}`
        : `${value.name}.default.weight`;
      const found = curve.get(`initial.base_model.model.${name}`);
      if (!found) throw new Error(`PEFT trains no ${name}`);
      initial.set(value.name, found);
    }
    expect(initial.size).toBe([...curve.keys()].filter((key) => key.startsWith("initial.")).length);
    await trainer.load(initial);
    const losses = curve.get("loss") as Tensor;
    for (let step = 1; step <= losses.data.length; step++) {
      const { loss } = await trainer.step(step, [batchAt(curve, step - 1, model.task)], 5e-3);
      expect(Math.abs(loss / Number(losses.data[step - 1]) - 1), `step ${step}`).toBeLessThan(1e-4);
    }
    const adapter = await trainer.adapter();
    await trainer.close();

    const theirs = await readAdapter(nodeStorage, golden(`encoders/${name}.adapter`), model);
    const storage = memoryStorage();
    await writeAdapter(storage, "ours", model, adapter, { baseModel: name });
    const ours = await readAdapter(storage, "ours", model);
    expect([...ours.parameters.keys()].sort()).toEqual([...theirs.parameters.keys()].sort());
    for (const [key, { data }] of theirs.parameters) {
      const found = ours.parameters.get(key)?.data ?? [];
      const worst = (data as Float32Array).reduce(
        (most, value, i) => Math.max(most, Math.abs(value - Number(found[i]))),
        0,
      );
      expect(worst, key).toBeLessThan(2e-3); // ten steps of Adam, whose first steps are signs of gradients
    }
  });
});

function chooseObjectiveOf({ task }: PretrainedModel): ReturnType<typeof chooseObjective> {
  const name = objectiveOf[task] ?? task;
  const kinds = { classification: "label", regression: "score", "token-classification": "tags" } as const;
  return chooseObjective(name, {}, kinds[name as keyof typeof kinds] ?? "target");
}
