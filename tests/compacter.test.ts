import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mergeAdapter, readAdapter, writeAdapterHubFolder } from "../src/export/index.ts";
import { openDecoder } from "../src/generate/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openSafetensors, writeSafetensors } from "../src/io/safetensors.ts";
import { type Adapter, attach, chooseMethod, initialTensor, sublayerTargets } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { meanLoss, openEvaluator } from "../src/train/evaluator.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden } from "./helpers/golden.ts";
import { randomExamples, randomModel, tinyLlama } from "./helpers/tiny-model.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

describe("in a model", () => {
  it.each([
    ["compacter", { reduction: 4 }],
    ["compacter++", { reduction: 4, placement: "residual" }],
    ["phm", { reduction: 4, terms: 2 }],
    ["bottleneck", { reduction: 8 }],
  ])("%s %j starts near the base model and learns", async (name, options) => {
    const model = await randomModel();
    const asked = chooseMethod(name, options);
    const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
    const optimizer = chooseOptimizer("adamw");
    const settings = { maxGradNorm: 1, memory: "balanced", accumulates: false, seed: 1 } as const;
    const trainer = await openTrainer(device, model, { choice, targets, optimizer, ...settings });
    const batch = makeBatch(randomExamples(6), { padId: 0 });
    const plain = await openEvaluator(device, model);
    const base = (await meanLoss(plain, [batch])).loss;
    const losses: number[] = [];
    for (let step = 1; step <= 40; step++) losses.push((await trainer.step(step, [batch], 1e-2)).loss);
    expect(losses[0]).toBeCloseTo(base, name.startsWith("compacter") ? 5 : 1);
    expect(losses.at(-1)).toBeLessThan(base - 0.2);
    // The norms of the model are trained too, five of them.
    expect(trainer.trainables.filter(({ inPlace }) => inPlace)).toHaveLength(5);
    const adapter = await trainer.adapter();
    const tuned = await trainer.evaluate([batch]);
    for (const open of [plain, trainer]) await open.close();

    // What is read back of AdapterHub's format computes the same, norms included.
    const storage = memoryStorage();
    await writeAdapterHubFolder(storage, "out", model, adapter, { baseModel: "base" });
    const back = await readAdapter(storage, "out", model);
    const apart = await openEvaluator(device, model, { adapter: back });
    expect((await meanLoss(apart, [batch])).loss).toBeCloseTo(tuned.loss, 5);
    await apart.close();
    expect([...back.parameters.keys()].sort()).toEqual([...adapter.parameters.keys()].sort());
    const decoder = await openDecoder(device, model, new Map([["a", back]]));
    const at = await decoder.start([[1, 2, 3]]);
    expect(at.logits[0]).toHaveLength(64);
    await at.end();
    await decoder.close();
    const merged = mergeAdapter(device, model, back);
    const [module = ""] = [...new Set(adapter.parameters.keys())].filter((key) => key.includes("down_proj"));
    const weight = merged.model.weights.get(`${module.slice(0, module.lastIndexOf("down_proj"))}down_proj.weight`);
    await expect(weight?.source.read()).rejects.toMatchObject({ code: "no-merged-form" });
    await merged.close();
  });

  it("has one slow rule, and adapters behind the sublayers alone", async () => {
    const model = await randomModel();
    const asked = chooseMethod("compacter", { reduction: 4, frozenNorms: true });
    const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
    const { trainables } = attach(model.loss().outputs, { choice, targets, outputModule: "lm_head", training: true });
    expect(trainables.filter(({ key }) => key === "rule").map(({ value }) => value.name)).toEqual([
      "shared.compacter_rule",
    ]);
    const size = trainables.reduce((sum, { value }) => sum + value.shape.map(Number).reduce((a, b) => a * b, 1), 0);
    expect(size).toBe(544); // k = 32, d = 8, n = 4, two layers
  });

  it.each([
    ["bert-base", "compacter", 544, 320],
    ["bert-base", "compacter++", 304, 320],
    ["t5", "compacter", 1024, 384], // not behind cross-attention unless asked
    ["t5", "compacter++", 544, 384],
  ])("of %s, %s trains %i values, and %i of norms", async (name, method, adapters, norms) => {
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const sizeOf = (frozenNorms: boolean): number => {
      const asked = chooseMethod(method, { reduction: 4, frozenNorms });
      const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
      const { outputModule } = model.architecture;
      const { trainables } = attach(model.predict().outputs, { choice, targets, outputModule, training: true });
      return trainables.reduce((sum, { value }) => sum + value.shape.map(Number).reduce((a, b) => a * b, 1), 0);
    };
    expect([sizeOf(true), sizeOf(false)]).toEqual([adapters, adapters + norms]);
  });

  it.each([true, false])("leaves the slow rule as it was drawn where it is frozen: %s", async (frozenRule) => {
    const model = await randomModel();
    const asked = chooseMethod("compacter", { reduction: 4, frozenRule });
    const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
    const settings = { maxGradNorm: 1, memory: "balanced", accumulates: false, seed: 1 } as const;
    const trainer = await openTrainer(device, model, {
      ...{ choice, targets, optimizer: chooseOptimizer("adamw"), ...settings },
    });
    const ruleNow = async (): Promise<Tensor | undefined> =>
      (await trainer.adapter()).parameters.get("shared.compacter_rule");
    const drawn = await ruleNow();
    const batch = makeBatch(randomExamples(6), { padId: 0 });
    const losses: number[] = [];
    for (let step = 1; step <= 3; step++) losses.push((await trainer.step(step, [batch], 1e-2)).loss);
    expect(losses[2]).toBeLessThan(losses[0] ?? 0);
    if (frozenRule) expect(await ruleNow()).toEqual(drawn);
    else expect(await ruleNow()).not.toEqual(drawn);
    await trainer.close();
  });

  it("reads what the block's norm gives where blocks norm their sums, and the sum where they do not", async () => {
    const asked = (placement: string) => chooseMethod("compacter++", { reduction: 4, placement });
    const bert = await openModel(nodeStorage, golden("encoders/bert-base"));
    const t5 = await openModel(nodeStorage, golden("encoders/t5"));
    const place = (model: PretrainedModel, placement: string): unknown =>
      sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked(placement));
    expect(() => place(bert, "residual")).toThrow(/norm what they add[\s\S]*use the placement normed/);
    expect(() => place(t5, "normed")).toThrow(/no norm changes[\s\S]*use the placement residual/);
  });

  it("names both sizes that do not divide, and what would", async () => {
    const model = await randomModel(tinyLlama);
    const tryWith = (options: Record<string, number>): void => {
      const asked = chooseMethod("compacter", options);
      const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
      attach(model.loss().outputs, { choice, targets, outputModule: "lm_head", training: true });
    };
    expect(() => tryWith({ terms: 5, reduction: 4 })).toThrow(
      /5 terms do not divide both 32 .* and 8 [\s\S]*use 1, 2, 4, 8 terms/,
    );
    expect(() => tryWith({ terms: 8, reduction: 8 })).toThrow(
      /8 terms do not divide both 32 .* and 4 [\s\S]*reduction of 4, 2, 1/,
    );
    expect(() => tryWith({ reduction: 33 })).toThrow("reduction 33 leaves no bottleneck");
  });
});

describe("AdapterHub's format", () => {
  async function written(
    name: string,
    options: Record<string, number | boolean | string>,
  ): Promise<{ storage: ReturnType<typeof memoryStorage>; read: () => Promise<Adapter> }> {
    const model = await randomModel();
    const asked = chooseMethod(name, { reduction: 4, frozenNorms: true, ...options });
    const { choice, targets } = sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked);
    const { trainables } = attach(model.loss().outputs, { choice, targets, outputModule: "lm_head", training: false });
    const parameters = new Map<string, Tensor>();
    for (const trainable of trainables) parameters.set(trainable.value.name, await initialTensor(trainable, 3));
    const storage = memoryStorage();
    await writeAdapterHubFolder(storage, "out", model, { choice, targets, parameters }, { baseModel: "base" });
    return { storage, read: () => readAdapter(storage, "out", model) };
  }
  const path = "out/adapter.safetensors";
  const json = async (storage: ReturnType<typeof memoryStorage>): Promise<Record<string, Record<string, unknown>>> =>
    JSON.parse(new TextDecoder().decode(await storage.read("out/adapter_config.json")));

  it("has AdapterHub's names and shapes, the shared rule under the model's root", async () => {
    const { storage, read } = await written("compacter", {});
    const { tensors } = await openSafetensors(storage, path);
    const shapes = Object.fromEntries([...tensors].map(([key, { shape }]) => [key, shape]));
    expect(shapes).toMatchObject({
      "model.layers.0.attention_adapters.adapters.scion.adapter_down.0.W_left": [4, 8, 1],
      "model.layers.0.attention_adapters.adapters.scion.adapter_down.0.W_right": [4, 1, 2],
      "model.layers.1.output_adapters.adapters.scion.adapter_up.W_left": [4, 2, 1],
      "model.layers.1.output_adapters.adapters.scion.adapter_up.W_right": [4, 1, 8],
      "model.layers.1.output_adapters.adapters.scion.adapter_up.b": [32],
      "model.shared_parameters.scion.phm_rule": [4, 4, 4],
    });
    expect(Object.keys(shapes)).toHaveLength(25);
    const config = await json(storage);
    expect(config).toMatchObject({ model_class: "LlamaAdapterModel", hidden_size: 32, version: "adapters.1.2.0" });
    expect(config["config"]).toMatchObject({
      phm_dim: 4,
      shared_phm_rule: true,
      mh_adapter: true,
      non_linearity: "gelu_new",
    });
    expect((await read()).choice.method.name).toBe("compacter");
    const residual = await written("compacter++", { placement: "residual", activation: "gelu" });
    expect((await json(residual.storage))["config"]).toMatchObject({ mh_adapter: false, original_ln_before: true });
    expect((await residual.read()).choice.config).toMatchObject({ placement: "residual", activation: "gelu" });
  });

  it("is refused without the rule that AdapterHub may lose, and with whatever does not belong", async () => {
    const { storage, read } = await written("compacter", {});
    const { tensors } = await openSafetensors(storage, path);
    const kept = [...tensors].filter(([key]) => !key.includes("phm_rule") && !key.includes("layers.1.attention"));
    const entries = kept.map(([name, tensor]) => ({
      name: name.replace("layers.0.output", "layers.9.output"),
      tensor,
    }));
    await writeSafetensors(storage, path, entries);
    await expect(read()).rejects.toMatchObject({
      code: "adapterhub-bad-adapter",
      message: expect.stringMatching(
        /layers.9\S+ belongs to nothing[\s\S]*no adapter behind model.layers.1.self_attn.o_proj[\s\S]*phm_rule is missing/,
      ),
    });
  });

  it("takes old names of activations, and refuses options that it does not follow", async () => {
    const { storage, read } = await written("compacter", { activation: "gelu" });
    const { version: _version, ...old } = await json(storage);
    await storage.write("out/adapter_config.json", JSON.stringify(old));
    expect((await read()).choice.config).toMatchObject({ activation: "gelu_new" });
    const config = { ...old["config"], use_gating: true, scaling: "learned", non_linearity: "prelu" };
    await storage.write("out/adapter_config.json", JSON.stringify({ ...old, config }));
    await expect(read()).rejects.toThrow(
      /3 problems:\n- scaling = "learned"[\s\S]*use_gating[\s\S]*non_linearity = "prelu"/,
    );
  });
});
