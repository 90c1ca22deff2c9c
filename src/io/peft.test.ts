import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Tensor, tensor } from "../graph/index.ts";
import { memoryStorage } from "./memory-storage.ts";
import { type PeftLayout, readPeftAdapter, writePeftAdapter } from "./peft.ts";
import { loraFromPeft, loraToPeft } from "./peft-lora.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import type { Storage } from "./storage.ts";

const layout: PeftLayout = { type: "LORA", tensors: { A: "lora_A.weight", B: "lora_B.weight" } };

function golden(file: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(`../../tests/golden/peft-adapter/${file}`, import.meta.url)));
}

const goldenFolder = (): Storage =>
  memoryStorage({
    "in/adapter_config.json": golden("adapter_config.json"),
    "in/adapter_model.safetensors": golden("adapter_model.safetensors"),
  });

const textOf = async (storage: Storage, path: string): Promise<string> =>
  new TextDecoder().decode(await storage.read(path));

describe("an adapter that PEFT wrote", () => {
  it("opens by module and tensor", async () => {
    const adapter = await readPeftAdapter(goldenFolder(), "in", [layout]);
    expect(adapter.layout).toBe(layout);
    expect(adapter.baseModel).toBe("tiny/llama");
    expect([...adapter.tensors.keys()].sort()).toEqual([
      "model.layers.0.mlp.down_proj",
      "model.layers.0.self_attn.q_proj",
      "model.layers.1.mlp.down_proj",
      "model.layers.1.self_attn.q_proj",
    ]);
    const { A, B } = adapter.tensors.get("model.layers.1.mlp.down_proj") ?? {};
    expect([A?.shape, B?.shape, A?.dtype]).toEqual([[4, 12], [8, 4], "float32"]);
    expect(loraFromPeft(adapter.config, "in")).toEqual({
      rank: 4,
      alpha: 8,
      rslora: false,
      dora: false,
      rankPattern: {},
      alphaPattern: {},
      dropout: 0.25,
      targetModules: expect.arrayContaining(["q_proj", "down_proj"]),
      fanInFanOut: false,
      init: "kaiming",
    });
  });

  it("is what we write for it: the weights byte for byte, the config key for key", async () => {
    const storage = goldenFolder();
    const { config, tensors } = await readPeftAdapter(storage, "in", [layout]);
    const ours = loraToPeft(loraFromPeft(config, "in"), { baseModel: "tiny/llama" });
    expect(ours).toEqual(config);
    await storage.write("out/stale", "");
    const adapter = { config: ours, layout, tensors };
    await expect(writePeftAdapter(storage, "out", adapter)).rejects.toMatchObject({ code: "output-exists" });
    await storage.remove("out/stale");
    await writePeftAdapter(storage, "out", adapter);
    const names = [".scion.json", "adapter_config.json", "adapter_model.safetensors"];
    expect(await storage.list("out")).toEqual(names);
    expect(await storage.read("out/adapter_model.safetensors")).toEqual(golden("adapter_model.safetensors"));
    // Even the same text, since no number here is one that Python spells otherwise (0.0).
    expect(await textOf(storage, "out/adapter_config.json")).toBe(await textOf(storage, "in/adapter_config.json"));
  });
});

it("write then read is the identity", async () => {
  const name = fc.stringMatching(/^[a-z_]{1,6}(\.[a-z0-9_]{1,4}){0,2}$/);
  const settings = fc.record({
    rank: fc.integer({ min: 1, max: 64 }),
    alpha: fc.integer({ min: 1, max: 64 }),
    rslora: fc.boolean(),
    dora: fc.boolean(),
    rankPattern: fc.dictionary(name, fc.integer({ min: 1, max: 64 }), { maxKeys: 2 }),
    alphaPattern: fc.dictionary(name, fc.integer({ min: 1, max: 64 }), { maxKeys: 2 }),
    dropout: fc.constantFrom(0, 0.05, 0.5),
    targetModules: fc.oneof(fc.array(name, { minLength: 1, maxLength: 3 }), name),
    fanInFanOut: fc.boolean(),
    init: fc.constantFrom(...(["kaiming", "gaussian", "random", "pissa", "olora"] as const)),
  });
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(name, { minLength: 1, maxLength: 4 }), settings, async (modules, lora) => {
      const storage = memoryStorage();
      const pair = (i: number) => ({ A: tensor("float32", [1, 2], [i, 1]), B: tensor("float32", [2, 1], [2, i]) });
      const tensors = new Map(modules.map((module, i) => [module, pair(i)]));
      await writePeftAdapter(storage, "out", { config: loraToPeft(lora), layout, tensors });
      const read = await readPeftAdapter(storage, "out", [layout]);
      expect(loraFromPeft(read.config, "out")).toEqual(lora);
      const values = new Map<string, Record<string, Tensor>>();
      for (const [module, parts] of read.tensors) {
        const { A, B } = parts;
        if (A !== undefined && B !== undefined) values.set(module, { A: await A.read(), B: await B.read() });
      }
      expect(values).toEqual(tensors);
    }),
    { seed: 6, numRuns: 50 },
  );
});

describe("an adapter folder", () => {
  async function folder(
    names: readonly string[],
    config: string = JSON.stringify(loraToPeft(plain)),
  ): Promise<Storage> {
    const storage = memoryStorage({ "in/adapter_config.json": config });
    const entries = names.map((name) => ({ name, tensor: tensor("float32", [1], [1]) }));
    await writeSafetensors(storage, "in/adapter_model.safetensors", entries);
    return storage;
  }
  const plain = {
    rank: 8,
    alpha: 16,
    rslora: false,
    dora: false,
    rankPattern: {},
    alphaPattern: {},
    dropout: 0,
    targetModules: ["q_proj"],
    fanInFanOut: false,
    init: "kaiming",
  } as const;

  it("is refused with every tensor that is out of place", async () => {
    const storage = await folder([
      "base_model.model.q.lora_A.weight",
      "base_model.model.v.lora_B.weight",
      "base_model.model.score.weight",
      "model.k.lora_A.weight",
    ]);
    await expect(readPeftAdapter(storage, "in", [layout])).rejects.toMatchObject({
      code: "peft-bad-tensors",
      at: "in/adapter_model.safetensors",
      message: expect.stringMatching(
        /4 problems:\n- \S+score.weight is not part of a LORA.*\n- model.k\S+ does not start.*\n- q has no lora_B.weight.\n- v has no lora_A/,
      ),
    });
  });

  it("is refused when it holds nothing", async () => {
    await expect(readPeftAdapter(await folder([]), "in", [layout])).rejects.toThrow("holds no tensor");
  });

  it("is refused for a type no layout has, naming those there are", async () => {
    const storage = await folder([], '{"peft_type":"LOHA"}');
    await expect(readPeftAdapter(storage, "in", [layout])).rejects.toMatchObject({
      code: "peft-unknown-type",
      fix: expect.stringContaining("LORA"),
    });
  });

  it.each([
    ["peft-bad-config", { "in/adapter_config.json": "{}" }],
    ["peft-bad-config", { "in/adapter_config.json": "[]" }],
    ["file-not-found", { "in/adapter_model.safetensors": "" }],
    ["file-not-found", { "in/adapter_config.json": '{"peft_type":"LORA"}' }],
    ["pickle-refused", { "in/adapter_config.json": '{"peft_type":"LORA"}', "in/adapter_model.bin": "" }],
  ])("fails with %s for %j", async (code, files) => {
    await expect(readPeftAdapter(memoryStorage(files), "in", [layout])).rejects.toMatchObject({ code });
  });

  it("takes whole weights that the config names, and refuses those that it does not, or that are not there", async () => {
    const config = (more: object): string => JSON.stringify({ ...loraToPeft(plain), ...more });
    const pair = ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"];
    const whole = [
      "base_model.model.lm_head.modules_to_save.weight",
      "base_model.model.a.norm.weight",
      "base_model.model.q.base_layer.bias",
    ];
    const read = async (names: readonly string[], more: object): Promise<readonly string[]> => [
      ...(await readPeftAdapter(await folder(names, config(more)), "in", [layout])).whole.tensors.keys(),
    ];
    const asked = { modules_to_save: ["lm_head", "norm"], bias: "lora_only" };
    expect(await read([...pair, ...whole], asked)).toEqual(["a.norm.weight", "lm_head.weight", "q.bias"]);
    await expect(read([...pair, ...whole], { modules_to_save: ["score"] })).rejects.toThrow(
      /3 problems:\n- \S+norm\S+ is not part.*\n- \S+bias is not part.*\n- modules_to_save names score/,
    );
    await expect(read(pair, { modules_to_save: 7, bias: "some" })).rejects.toMatchObject({
      code: "peft-bad-config",
      message: expect.stringMatching(/2 problems:\n- modules_to_save = 7.*\n- bias = "some"/),
    });
  });

  it("keeps PEFT's names in the file", async () => {
    const storage = memoryStorage();
    const one = tensor("float32", [1, 1], [1]);
    await writePeftAdapter(storage, "o", {
      config: loraToPeft(plain),
      layout,
      tensors: new Map([["m", { A: one, B: one }]]),
    });
    const { tensors, metadata } = await openSafetensors(storage, "o/adapter_model.safetensors");
    expect([...tensors.keys()]).toEqual(["base_model.model.m.lora_A.weight", "base_model.model.m.lora_B.weight"]);
    expect(metadata).toEqual({ format: "pt" });
  });
});

describe("a LoRA config", () => {
  const good = { peft_type: "LORA", r: 4, target_modules: ["q_proj"] };

  it("takes PEFT's defaults for what older versions did not write", () => {
    expect(loraFromPeft(good, "f")).toEqual({
      rank: 4,
      alpha: 8,
      rslora: false,
      dora: false,
      rankPattern: {},
      alphaPattern: {},
      dropout: 0,
      targetModules: ["q_proj"],
      fanInFanOut: false,
      init: "kaiming",
    });
  });

  it.each([
    ["use_qalora", true],
    ["lora_bias", true],
    ["layer_replication", [[0, 1]]],
    ["target_parameters", ["experts"]],
    ["alora_invocation_tokens", [1]],
    ["init_lora_weights", "pissa_niter_4"],
    ["init_lora_weights", "corda"],
    ["an_option_of_the_future", true],
  ])("refuses %s = %j, which would load silently wrong", (key, value) => {
    expect(() => loraFromPeft({ ...good, [key]: value }, "f")).toThrow(
      expect.objectContaining({ code: "peft-unsupported-option", message: expect.stringContaining(key) }),
    );
  });

  it.each([
    ["revision", "main"],
    ["layers_to_transform", [0]],
    ["exclude_modules", ["lm_head"]],
    ["init_lora_weights", "gaussian"],
    ["init_lora_weights", false],
    ["an_option_of_the_future", null],
    ["eva_config", { rho: 2 }],
    ["peft_version", "0.9.0"],
  ])("does not mind %s = %j", (key, value) => {
    expect(loraFromPeft({ ...good, [key]: value }, "f").rank).toBe(4);
  });

  it.each([
    ["r", 0],
    ["r", "8"],
    ["lora_alpha", "16"],
    ["lora_dropout", 1],
    ["target_modules", null],
    ["target_modules", []],
    ["target_modules", [7]],
    ["fan_in_fan_out", "no"],
  ])("refuses %s = %j", (key, value) => {
    expect(() => loraFromPeft({ ...good, [key]: value }, "f")).toThrow(
      expect.objectContaining({ code: "peft-bad-config", message: expect.stringContaining(key) }),
    );
  });

  it("names everything wrong at once", () => {
    const config = { ...good, r: -1, use_qalora: true, lora_bias: true };
    expect(() => loraFromPeft(config, "f")).toThrow(/3 problems:\n- use_qalora.*\n- lora_bias.*\n- r = -1/);
  });
});
