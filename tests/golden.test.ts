import { readdirSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { graph, type Tensor, tensor } from "../src/graph/index.ts";
import { readJsonObject } from "../src/io/json.ts";
import { openModelWeights } from "../src/io/model-weights.ts";
import { attach, chooseMethod, type MethodChoice, type TargetModules } from "../src/methods/index.ts";
import { assembleModel, findArchitecture, openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer, learningRateAt } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { compileGraph } from "../src/runtime/program.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { differentiate } from "../src/transforms/index.ts";
import { batchAt, batchOf, golden, peftName, readGolden } from "./helpers/golden.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Largest difference, relative to the largest size in the reference. */
function relativeError(found: Tensor | undefined, expected: Tensor | undefined): number {
  if (!found || !expected || found.data.length !== expected.data.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  let scale = 1e-12;
  for (let i = 0; i < expected.data.length; i++) {
    worst = Math.max(worst, Math.abs(Number(found.data[i]) - Number(expected.data[i])));
    scale = Math.max(scale, Math.abs(Number(expected.data[i])));
  }
  return worst / scale;
}

/** Models of `make_families.py`, one a family or a variant of it. */
const families = readdirSync(golden("families"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

/** Logits of whole sequences by the decoding graph with an empty cache. */
async function logitsOf(model: PretrainedModel, ids: Tensor): Promise<Tensor | undefined> {
  const [batch = 1, seq = 1] = ids.shape;
  const { layers, kvHeads, headDim } = model.sizes;
  const open = model.decode({ logits: "all" });
  const program = await compileGraph(
    device,
    graph({ inputs: open.inputs, outputs: { logits: open.outputs["logits"] as never } }),
  );
  const positions = Array.from({ length: batch * seq }, (_, i) => i % seq);
  const feeds: Record<string, Tensor> = {
    input_ids: ids,
    position_ids: tensor("int64", [batch, seq], positions),
    attention_mask: tensor("int64", [batch, seq], 1),
  };
  for (let i = 0; i < layers; i++) {
    for (const part of ["key", "value"])
      feeds[`past_key_values.${i}.${part}`] = tensor("float32", [batch, kvHeads, 0, headDim], []);
  }
  const used = new Set(program.graph.inputs.map(({ name }) => name));
  const outputs = await program.run({
    feeds: Object.fromEntries(Object.entries(feeds).filter(([name]) => used.has(name))),
  });
  await program.release();
  return outputs["logits"];
}

async function withConfig(weights: string, config: string): Promise<PretrainedModel> {
  const json = await readJsonObject(nodeStorage, golden(config));
  const architecture = await findArchitecture(json, config);
  return assembleModel({
    folder: weights,
    json,
    architecture,
    files: await openModelWeights(nodeStorage, golden(weights)),
  });
}

describe("logits agree with transformers", () => {
  it.each([
    ["llama-tiny", "llama-tiny/config.json"],
    ["llama-rope", "llama-rope/config.json"],
    ["llama-rope", "llama-rope.linear.json"],
    ["llama-rope", "llama-rope.dynamic.json"],
    ["llama-rope", "llama-rope.yarn.json"],
    ["gpt2-tiny", "gpt2-tiny/config.json"],
  ])("%s, %s", async (weights, config) => {
    const expected = await readGolden(`${config.replace(/(\/config)?\.json$/, "")}.expected.safetensors`);
    const model = await withConfig(weights, config);
    const ids = expected.get("input_ids");
    const logits = await logitsOf(model, ids as Tensor);
    // Float32 sums in another order over two layers: a few units in the last place.
    expect(relativeError(logits, expected.get("logits"))).toBeLessThan(1e-5);
  });
});

describe("every family agrees with transformers and PEFT", () => {
  it.each(families)("%s: logits", async (name) => {
    const expected = await readGolden(`families/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`families/${name}`));
    const logits = await logitsOf(model, expected.get("input_ids") as Tensor);
    expect(relativeError(logits, expected.get("logits"))).toBeLessThan(1e-5);
  });
});

describe("loss and gradients of every weight agree with torch", () => {
  it.each(["llama-tiny", "gpt2-tiny"])("%s", async (name) => {
    const expected = await readGolden(`${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(name));
    const choice = chooseMethod("full");
    const open = model.loss();
    const attached = attach(open.outputs, { choice, targets: "all-linear", outputModule: "lm_head", training: true });
    const values = attached.trainables.map(({ value }) => value);
    const loss = attached.outputs["loss"] as (typeof values)[number];
    const gradients = differentiate(loss, values);
    const outputs = Object.fromEntries(values.map((value, i) => [`grad.${value.name}`, gradients[i] as never]));
    const program = await compileGraph(device, graph({ inputs: open.inputs, outputs: { loss, ...outputs } }));
    const batch = batchOf(expected.get("input_ids") as Tensor, expected.get("labels") as Tensor);
    const reads: Record<string, string> = {};
    for (const { value, weight } of attached.trainables) {
      if (weight.kind !== "weight") throw new Error("full tuning stands in place of weights");
      await device.upload(value.name, await weight.source.read());
      reads[value.name] = value.name;
    }
    const found = await program.run({
      feeds: { ...batch.feeds, normaliser: tensor("float32", [], [batch.targets]) },
      reads,
    });
    expect(relativeError(found["loss"], expected.get("loss"))).toBeLessThan(1e-6);
    for (const { name: parameter } of values) {
      expect(relativeError(found[`grad.${parameter}`], expected.get(`grad.${parameter}`)), parameter).toBeLessThan(
        2e-5,
      );
    }
    await device.discard(values.map((value) => value.name));
    await program.release();
  });
});

interface CurveCase {
  readonly file: string;
  readonly base: string;
  readonly choice: MethodChoice;
  readonly weightDecay: number;
  readonly accumulate: number;
  readonly rate: (step: number) => number;
  readonly targets?: TargetModules;
  /** Start where our own method starts: nothing of it is random. */
  readonly ownStart?: boolean;
}

const lora = chooseMethod("lora", { rank: 8, alpha: 16 });
/** Tokens whose rows are trained. */
const seen = [1, 17, 40];
const curves: readonly CurveCase[] = [
  {
    file: "curve-lora",
    base: "llama-tiny",
    choice: lora,
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => 1e-2,
  },
  {
    file: "curve-lora-accumulated",
    base: "llama-tiny",
    choice: lora,
    weightDecay: 0.01,
    accumulate: 2,
    rate: (step) => learningRateAt(step, { peak: 1e-2, schedule: "cosine", warmupSteps: 5, totalSteps: 25 }),
  },
  ...(
    [
      ["curve-dora", chooseMethod("dora", { rank: 8, alpha: 16 }), 1e-2],
      ["curve-rslora", chooseMethod("lora", { rank: 8, alpha: 16, rslora: true }), 2e-3],
      ["curve-loraplus", chooseMethod("lora", { rank: 8, alpha: 16, plusRatio: 4 }), 2e-3],
    ] as const
  ).map(([file, choice, rate]) => ({
    file,
    base: "llama-tiny",
    choice,
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => rate,
  })),
  ...(
    [
      ["curve-whole", "llama-tiny", ["q_proj", "v_proj"], { modules: ["lm_head", "model.norm"] }],
      ["curve-bias", "llama-rope", ["q_proj", "down_proj"], { modules: ["embed_tokens"], biases: "all" }],
      ["curve-tokens", "llama-tiny", ["q_proj", "v_proj"], { tokens: { embed_tokens: seen, lm_head: seen } }, 5e-3],
      ["curve-tokens-tied", "llama-rope", ["q_proj", "v_proj"], { tokens: { embed_tokens: seen } }, 5e-3],
    ] as const
  ).map(([file, base, targets, inPlace, rate = 2e-3]) => ({
    file,
    base,
    choice: chooseMethod("lora", { rank: 8, alpha: 16 }, {}, inPlace),
    targets,
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => rate,
  })),
  ...(
    [
      ["curve-embedding", "llama-tiny", ["embed_tokens", "q_proj", "v_proj"]],
      ["curve-embedding-tied", "llama-rope", ["embed_tokens"]],
    ] as const
  ).map(([file, base, targets]) => ({
    file,
    base,
    choice: chooseMethod("lora", { rank: 4, alpha: 8 }),
    targets,
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => 1e-2,
  })),
  ...(
    [
      ["pissa", 2e-3],
      ["olora", 1e-3],
    ] as const
  ).map(([init, rate]) => ({
    file: `curve-${init}`,
    base: "llama-tiny",
    choice: chooseMethod("lora", { rank: 8, alpha: 16, init }),
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => rate,
    ownStart: true,
  })),
  ...families.map((name) => ({
    file: `families/${name}.curve`,
    base: `families/${name}`,
    choice: chooseMethod("lora", { rank: 4, alpha: 8 }),
    weightDecay: 0.01,
    accumulate: 1,
    rate: () => 1e-2,
  })),
  ...["llama", "gpt2"].map((name) => ({
    file: `curve-full-${name}`,
    base: `${name}-tiny`,
    choice: chooseMethod("full"),
    weightDecay: 0.1,
    accumulate: 1,
    rate: () => 1e-3,
  })),
];

describe("training goes through the losses of PEFT and torch", () => {
  it.each(curves)(
    "$file",
    async ({ file, base, choice, weightDecay, accumulate, rate, targets = "all-linear", ownStart }) => {
      const curve = await readGolden(`${file}.safetensors`);
      const model = await openModel(nodeStorage, golden(base));
      const trainer = await openTrainer(device, model, {
        choice,
        targets,
        optimizer: chooseOptimizer("adamw", { weightDecay }),
        maxGradNorm: 1,
        memory: "balanced",
        accumulates: accumulate > 1,
        seed: 0,
      });
      const start = trainer.trainables.map(({ value, module, key, inPlace }): [string, Tensor] => [
        value.name,
        curve.get(`initial.${inPlace ? value.name : peftName(module, key, module.endsWith("embed_tokens"))}`) as Tensor,
      ]);
      if (!ownStart) await trainer.load(new Map(start));
      const losses = curve.get("loss")?.data ?? [];
      const norms = curve.get("grad_norm")?.data ?? [];
      let worst = 0;
      for (let step = 0; step < losses.length; step++) {
        const batches = Array.from({ length: accumulate }, (_, i) => batchAt(curve, step * accumulate + i));
        const report = await trainer.step(step + 1, batches, rate(step));
        worst = Math.max(worst, Math.abs(report.loss / Number(losses[step]) - 1));
        if (step === 0) expect(report.gradNorm / Number(norms[0])).toBeCloseTo(1, 5);
      }
      expect(worst).toBeLessThan(1e-4);
      expect(losses.length).toBeGreaterThanOrEqual(10);
      await trainer.close();
    },
  );
});
