import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inspect } from "../src/api/inspect.ts";
import { sizeOf, type Tensor, tensor } from "../src/graph/index.ts";
import { evaluate, exportModel, loadData, loadModel } from "../src/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openModelWeights, writeModelWeights } from "../src/io/model-weights.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice, nodePlatform as platform } from "../src/runtime/node.ts";
import { golden } from "./helpers/golden.ts";

const cases = fileURLToPath(new URL("../../shared/cases", import.meta.url));
const { skipIf } = describe;
const absent = !existsSync(cases); // ../shared/cases is not part of the repository

let device: Device;
let scratch: string;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  scratch = await mkdtemp(join(tmpdir(), "scion-checkpoints-"));
});
afterAll(async () => {
  await device.close();
  await rm(scratch, { recursive: true });
});

async function lossOf(folder: string, data: string): Promise<number> {
  const model = await loadModel(folder, { platform, labelsFrom: data });
  const { train } = await loadData(model, data);
  const { loss } = await evaluate(model, train, { device, exactMatch: false });
  return loss;
}

skipIf(absent)("quantised checkpoints of ../shared/cases", () => {
  const folder = (name: string): string => join(cases, "data/int8-codes", name);
  const text = join(cases, "data/int8-codes/text.jsonl");

  // Losses of transformers 5.18 on weights that were dequantised by hand.
  it.each([
    ["bnb8", "bitsandbytes int8", 6.8518504],
    ["w8a8", "compressed-tensors int8", 6.8516557],
    ["fp8", "float8 with scales", 6.8465697],
    ["fp8ds", "float8 with scales", 6.8465979],
    ["gptq", "GPTQ", 6.7280033],
  ])("%s is read as %s", async (name, format, expected) => {
    const { pretrained } = await loadModel(folder(name), { platform });
    expect(pretrained.quantised.map(({ format: found, matrices }) => [found, matrices])).toEqual([[format, 14]]);
    expect(await lossOf(folder(name), text)).toBeCloseTo(expected, 5); // float32 sums in another order
    const shown = await inspect(platform.storage, folder(name));
    expect(Object.fromEntries(shown.facts)["quantised"]).toContain(`${format} (14 matrices`);
    const file = await inspect(platform.storage, join(folder(name), "model.safetensors"));
    expect(Object.fromEntries(file.facts)["quantised"]).toContain(`${format} (14 matrices`);
  });

  it("mlxq, whose groups do not cover its inputs, is refused by module", async () => {
    const opened = loadModel(folder("mlxq"), { platform });
    await expect(opened).rejects.toMatchObject({
      code: "bad-quantised-weights",
      message: expect.stringContaining("model.layers.1.mlp.down_proj (MLX)"),
    });
  });

  it("what is exported holds plain weights, and its config.json says nothing else", async () => {
    const model = await loadModel(folder("bnb8"), { platform });
    const to = join(scratch, "plain");
    await exportModel(model, "safetensors", to);
    const json = JSON.parse(await readFile(join(to, "config.json"), "utf8"));
    expect([json.quantization_config, json.dtype]).toEqual([undefined, "float32"]);
    expect((await loadModel(to, { platform })).pretrained.quantised).toEqual([]);
    expect(await lossOf(to, text)).toBeCloseTo(6.8518504, 6);
  });
});

skipIf(absent)(
  "checkpoints of ../shared/cases whose tensors have older names, or whose table of positions is short",
  () => {
    const cls = join(cases, "data/bert-gamma-beta/cls.jsonl");

    it("LayerNorm.gamma and beta are its weight and bias", async () => {
      expect(await lossOf(join(cases, "data/bert-gamma-beta/bertgb"), cls)).toBeCloseTo(0.717469, 5);
      expect(await lossOf(join(cases, "data/bert-gamma-beta/bert"), cls)).toBeCloseTo(0.717469, 5);
    });

    it("lengths beyond the table of positions are refused before anything runs", async () => {
      const data = join(cases, "data/roberta-514/cls.jsonl");
      const model = await loadModel(join(cases, "data/roberta-514/roberta"), { platform, labelsFrom: data });
      await expect(loadData(model, data, { maxLength: 17 })).rejects.toMatchObject({
        code: "bad-option",
        message: expect.stringContaining("ends at 16"),
      });
      expect(await lossOf(join(cases, "data/roberta-514/roberta"), data)).toBeGreaterThan(0);
      const { train } = await loadData(model, data);
      const longer = train.map((example) => ({ ...example, inputIds: new Int32Array(17).fill(5) }));
      await expect(evaluate(model, longer, { device })).rejects.toMatchObject({ code: "sequence-too-long" });
    });
  },
);

describe("tensors that the model does not use", () => {
  const floats = (shape: readonly number[], value = 0): Tensor =>
    tensor("float32", shape, new Float32Array(sizeOf(shape)).fill(value));

  /** A golden model with other tensors beside its own, opened. */
  async function opened(name: string, more: Readonly<Record<string, Tensor>>): Promise<PretrainedModel> {
    const folder = golden(name);
    const storage = memoryStorage({ "m/config.json": await readFile(join(folder, "config.json")) });
    const own = [...(await openModelWeights(platform.storage, folder))].map(([key, lazy]) => ({
      name: key,
      tensor: lazy,
    }));
    const added = Object.entries(more).map(([key, value]) => ({ name: key, tensor: value }));
    await writeModelWeights(storage, "m", [...own, ...added]);
    return openModel(storage, "m");
  }

  const llama = "llama-tiny";
  it.each([
    ["a bias that the model does not have", llama, { "model.layers.0.self_attn.q_proj.bias": floats([8], 1) }],
    ["a layer too many", llama, { "model.layers.99.input_layernorm.weight": floats([8], 1) }],
    ["a head for something else", llama, { "score.weight": floats([2, 8], 1) }],
    ["an unknown tensor of BERT", "encoders/bert-sequence", { "bert.embeddings.extra.weight": floats([3], 1) }],
  ])("%s is an error that lists it", async (_what, model, more) => {
    await expect(opened(model, more)).rejects.toMatchObject({
      code: "unused-tensors",
      message: expect.stringContaining(Object.keys(more)[0] ?? ""),
    });
  });

  it("those that differ by a layer's number are one line, and a hundred others are cut", async () => {
    const many = Object.fromEntries(
      Array.from({ length: 100 }, (_, i) => [`model.layers.${i}.extra.weight`, floats([2])]),
    );
    const names = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`extra${i}`, floats([2])]));
    const error: unknown = await opened(llama, { ...many, ...names }).catch((thrown) => thrown);
    expect(error).toMatchObject({
      code: "unused-tensors",
      message: expect.stringContaining("model.layers.*.extra.weight"),
    });
    expect((error as Error).message.split("\n").length).toBeLessThan(40);
  });

  it("an output layer that is the table of embeddings is left out where the configuration ties them", async () => {
    const table = (await openModelWeights(platform.storage, golden("families/qwen2"))).get("model.embed_tokens.weight");
    if (!table) throw new Error("the golden has embeddings");
    const { leftOut } = await opened("families/qwen2", { "lm_head.weight": await table.read() });
    expect(leftOut.map(({ name }) => name)).toEqual(["lm_head.weight"]);
  });

  it.each([
    ["frequencies", llama, { "model.layers.0.self_attn.rotary_emb.inv_freq": floats([2], 3) }],
    ["biases of zeros, as GPTQ's tools write", llama, { "model.layers.0.self_attn.q_proj.bias": floats([8]) }],
    [
      "the head of pretraining",
      "encoders/bert-sequence",
      { "cls.predictions.bias": floats([9], 2), "cls.seq_relationship.weight": floats([2, 9]) },
    ],
    [
      "a head of another task",
      "encoders/bert-base",
      { "classifier.weight": floats([2, 9], 1), "classifier.bias": floats([2]) },
    ],
    [
      "masks of GPT-2",
      "gpt2-tiny",
      { "h.0.attn.bias": floats([1, 1, 4, 4], 1), "h.0.attn.masked_bias": floats([], 1) },
    ],
  ])("%s: are left out, with the reason", async (_what, model, more) => {
    const { leftOut } = await opened(model, more);
    const added = leftOut.filter(({ name }) => Object.hasOwn(more, name));
    expect(added.map(({ name }) => name).sort()).toEqual(Object.keys(more).sort());
    expect(added.every(({ why }) => why.length > 10)).toBe(true);
  });
});

describe("the module that holds the trunk", () => {
  it.each([
    ["llama-tiny", "model.", ""],
    ["gpt2-tiny", "transformer.", ""],
    ["encoders/bert-sequence", "bert.", ""],
    ["encoders/bert-base", "", "bert."],
  ])("%s: names may begin with %j or with %j, as on the hub", async (name, from, to) => {
    const folder = golden(name);
    const own = await openModelWeights(platform.storage, folder);
    const renamed = [...own].map(([key, lazy]) => {
      return { name: key.startsWith(from) ? to + key.slice(from.length) : key, tensor: lazy };
    });
    expect(renamed.map((entry) => entry.name)).not.toEqual([...own.keys()]);
    const storage = memoryStorage({ "m/config.json": await readFile(join(folder, "config.json")) });
    await writeModelWeights(storage, "m", renamed);
    const [found, expected] = [await openModel(storage, "m"), await openModel(platform.storage, folder)];
    expect([...found.weights.keys()]).toEqual([...expected.weights.keys()]);
    // Nothing starts anew that the files hold under the other name.
    expect([found.leftOut.length, found.headModules]).toEqual([expected.leftOut.length, expected.headModules]);
  });
});
