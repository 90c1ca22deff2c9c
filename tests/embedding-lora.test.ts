import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeGgufAdapter } from "../src/export/gguf.ts";
import { mergeAdapter, readAdapter, writeAdapter, writeSafetensorsFolder } from "../src/export/index.ts";
import { writeMlx } from "../src/export/mlx-files.ts";
import { graph, type Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openSafetensors } from "../src/io/safetensors.ts";
import { joinPath } from "../src/io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  attach,
  chooseMethod,
  initialTensor,
  type MethodChoice,
  methods,
} from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden, readGolden } from "./helpers/golden.ts";
import { difference, lastLogits, lastOf, rowsOf } from "./helpers/logits.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const adapters = [
  ["peft-embedding", "llama-tiny"],
  ["peft-embedding-tied", "llama-rope"],
  ["peft-embedding-gpt2", "gpt2-tiny"],
] as const;

async function opened(folder: string, base: string): Promise<{ model: PretrainedModel; adapter: Adapter }> {
  const model = await openModel(nodeStorage, golden(base));
  return { model, adapter: await readAdapter(nodeStorage, golden(folder), model) };
}

describe("PEFT's LoRA on embeddings", () => {
  it.each(adapters)("%s has PEFT's logits, written again and merged too", async (folder, base) => {
    const { model, adapter } = await opened(folder, base);
    const file = await readGolden(`${folder}.expected.safetensors`);
    const rows = rowsOf(file.get("input_ids") as Tensor);
    const logits = lastOf(file.get("logits") as Tensor);
    expect(difference(await lastLogits(device, model, rows, adapter), logits)).toBeLessThan(1e-5);

    const storage = memoryStorage();
    await writeAdapter(storage, "adapter", model, adapter, { baseModel: base });
    expect((await readAdapter(storage, "adapter", model)).parameters).toEqual(adapter.parameters);
    // What PEFT writes, but for the table itself, which PEFT saves unasked and reads without.
    const theirs = await openSafetensors(nodeStorage, golden(`${folder}/adapter_model.safetensors`));
    const ours = await openSafetensors(storage, "adapter/adapter_model.safetensors");
    const shapes = (tensors: typeof ours.tensors): unknown =>
      [...tensors]
        .map(([name, { shape }]) => `${name} ${shape}`)
        .filter((line) => !line.includes("base_layer"))
        .sort();
    expect(shapes(ours.tensors)).toEqual(shapes(theirs.tensors));
    const config = async (from: typeof storage, path: string): Promise<Record<string, unknown>> =>
      JSON.parse(new TextDecoder().decode(await from.read(joinPath(path, "adapter_config.json"))));
    const [written, read] = [await config(storage, "adapter"), await config(nodeStorage, golden(folder))];
    expect(written["fan_in_fan_out"]).toBe(read["fan_in_fan_out"]);
    expect([...(written["target_modules"] as string[])].sort()).toEqual(
      [...(read["target_modules"] as string[])].sort(),
    );

    const merged = mergeAdapter(device, model, adapter);
    await writeSafetensorsFolder(storage, "merged", merged.model, { baseModel: base });
    await merged.close();
    const again = await openModel(storage, "merged");
    expect(difference(await lastLogits(device, again, rows), logits)).toBeLessThan(1e-5);
  });

  it("a table that is the output layer too is adapted where tokens are looked up alone", async () => {
    const { model, adapter } = await opened("peft-embedding-tied", "llama-rope");
    const merged = mergeAdapter(device, model, adapter);
    const weights = merged.model.weights;
    expect(merged.model.json["tie_word_embeddings"]).toBe(false);
    const before = await model.weights.get("model.embed_tokens.weight")?.source.read();
    expect(await weights.get("lm_head.weight")?.source.read()).toEqual(before);
    expect(await weights.get("model.embed_tokens.weight")?.source.read()).not.toEqual(before);
    await merged.close();
  });

  it("starts as PEFT does: A at zero, B from N(0, 1), whatever the start is called", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const { outputs } = model.predict();
    for (const init of ["kaiming", "gaussian", "pissa", "olora"] as const) {
      const choice = chooseMethod("lora", { rank: 8, init });
      const { trainables } = attach(outputs, {
        choice,
        targets: ["embed_tokens"],
        outputModule: "lm_head",
        training: true,
      });
      expect(trainables.map(({ value }) => [value.name, value.shape])).toEqual([
        ["model.embed_tokens.lora_A", [8, 64]],
        ["model.embed_tokens.lora_B", [32, 8]],
      ]);
      const [A, B] = await Promise.all(trainables.map((trainable) => initialTensor(trainable, 0)));
      expect(A?.data.every((value) => value === 0)).toBe(true);
      const squares = Array.from((B as Tensor<"float32">).data, (value) => value ** 2);
      expect(squares.reduce((sum, value) => sum + value, 0) / squares.length).toBeCloseTo(1, 0);
    }
  });

  it("a step multiplies nothing by the vocabulary for it", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const choice = chooseMethod("lora", { rank: 4 });
    const open = model.predict();
    const attached = attach(open.outputs, {
      choice,
      targets: ["embed_tokens"],
      outputModule: "lm_head",
      training: true,
    });
    const vocabulary = 64;
    const products = graph({ outputs: attached.outputs }).nodes.filter(
      ({ op, scope }) => op === "Gemm" && scope.startsWith("model.embed_tokens"),
    );
    expect(products.length).toBe(1);
    for (const { inputs } of products) for (const value of inputs) expect(value?.shape).not.toContain(vocabulary);
  });
});

describe("what has no form for embeddings refuses them by name", () => {
  const others = [...methods.values()].filter(
    ({ embedding, attaches, sublayers }) => embedding === undefined && attaches === "linear" && !sublayers,
  );

  it.each(others.map(({ name }) => name))("%s", async (name) => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const choice = chooseMethod(name);
    for (const targets of [["q_proj", "embed_tokens"], /.*(q_proj|embed_tokens)/])
      expect(() => adaptedModules(model.predict().outputs, { choice, targets, outputModule: "lm_head" })).toThrow(
        `${name} does not adapt embeddings, such as model.embed_tokens.`,
      );
  });

  it("LoRA+", async () => {
    await expect(trainerOf(chooseMethod("lora", { plusRatio: 4 }))).rejects.toThrow(
      "LoRA+ has no ratio for embeddings",
    );
  });

  it("a frozen A, which starts at zero there", async () => {
    await expect(trainerOf(chooseMethod("lora", { freezeA: true }))).rejects.toThrow("nothing would be learned there");
    await expect(trainerOf(chooseMethod("lora", { freezeA: true, init: "random" }))).resolves.toBeDefined();
  });

  it("llama.cpp's adapters; mlx-lm's where the output layer is the same table", async () => {
    const untied = await opened("peft-embedding", "llama-tiny");
    const options = { baseModel: "base", dtypes: ["f16"] as const };
    await expect(writeGgufAdapter(memoryStorage(), "out", untied.model, untied.adapter, options)).rejects.toMatchObject(
      { code: "no-adapter-form", message: expect.stringContaining("model.embed_tokens") },
    );
    const tied = await opened("peft-embedding-tied", "llama-rope");
    await expect(writeMlx(memoryStorage(), "out", tied.model, tied.adapter, options)).rejects.toMatchObject({
      code: "no-adapter-form",
      message: expect.stringContaining("model.embed_tokens is the output layer too"),
    });
  });

  it("all-linear leaves embeddings alone, and unknown names say what there is", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const choice = chooseMethod("lora");
    const of = (targets: "all-linear" | readonly string[]): readonly string[] =>
      adaptedModules(model.predict().outputs, { choice, targets, outputModule: "lm_head" });
    expect(of("all-linear")).not.toContain("model.embed_tokens");
    expect(() => of(["embed_token"])).toThrow(/No linear layer or embedding .*nearest: embed_tokens/s);
  });

  async function trainerOf(choice: MethodChoice): Promise<unknown> {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    return openTrainer(device, model, {
      choice,
      targets: ["embed_tokens"],
      optimizer: chooseOptimizer("adamw", {}),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates: false,
      seed: 0,
    });
  }
});

describe("mlx-lm's LoRA on embeddings", () => {
  it("is written and read where the output layer is a table of its own", async () => {
    const { model, adapter } = await opened("peft-embedding", "llama-tiny");
    const storage = memoryStorage();
    await writeMlx(storage, "mlx", model, adapter, { baseModel: "llama-tiny" });
    const { tensors } = await openSafetensors(storage, "mlx/adapters.safetensors");
    expect(tensors.get("model.embed_tokens.lora_a")?.shape).toEqual([64, 4]);
    expect(tensors.get("model.embed_tokens.lora_b")?.shape).toEqual([4, 32]);
    const again = await readAdapter(storage, "mlx", model);
    expect(again.parameters).toEqual(adapter.parameters);
  });
});
