import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { golden, readGolden } from "../../tests/helpers/golden.ts";
import { difference, lastLogits as lastLogitsOn, lastOf, rowsOf } from "../../tests/helpers/logits.ts";
import { randomModel } from "../../tests/helpers/tiny-model.ts";
import { waveAdapter } from "../../tests/helpers/wave-adapter.ts";
import { type Tensor, tensor } from "../graph/index.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { readPeftAdapter } from "../io/peft.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { Storage } from "../io/storage.ts";
import { type Adapter, chooseMethod, methods, type Patterns } from "../methods/index.ts";
import { openModel, type PretrainedModel } from "../models/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { openTrainer } from "../train/trainer.ts";
import { asLora, mergeAdapter, readAdapter, writeAdapter, writeMlx, writeSafetensorsFolder } from "./index.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const lastLogits = (model: PretrainedModel, rows: readonly number[][], adapter?: Adapter): Promise<number[]> =>
  lastLogitsOn(device, model, rows, adapter);

/** An adapter of the method with every tensor random. */
async function randomAdapter(
  model: PretrainedModel,
  name: string,
  options: Record<string, number | boolean>,
  patterns: Patterns = {},
): Promise<Adapter> {
  const choice = chooseMethod(name, options, patterns);
  const optimizer = chooseOptimizer("adamw");
  const trainer = await openTrainer(device, model, {
    choice,
    targets: "all-linear",
    optimizer,
    maxGradNorm: 1,
    memory: "balanced",
    accumulates: false,
    seed: 5,
    steps: 10,
  });
  const { parameters, ...rest } = await trainer.adapter();
  await trainer.close();
  const shaken = [...parameters].map(([key, values]): [string, Tensor] => {
    const { dtype, shape, data } = values;
    if (dtype !== "float32") return [key, values];
    return [
      key,
      {
        dtype: "float32",
        shape,
        data: Float32Array.from(Array.from(data, Number), (x, i) => x + 0.1 * Math.sin(i + key.length)),
      },
    ];
  });
  return { ...rest, parameters: new Map(shaken) };
}

describe("PEFT adapters", () => {
  it.each([
    ["peft-llama", "llama-tiny"],
    ["peft-all-linear", "llama-tiny"],
    ["peft-gpt2", "gpt2-tiny"],
    ["peft-rslora", "llama-tiny"],
    ["peft-patterns", "llama-tiny"],
    ["peft-dora", "llama-tiny"],
    ["peft-dora-gpt2", "gpt2-tiny"],
    ["peft-dora-bias", "llama-rope"],
    ["peft-whole", "llama-tiny"],
    ["peft-whole-tied", "llama-rope"],
    ["peft-bias", "llama-rope"],
    ["peft-bias-gpt2", "gpt2-tiny"],
    ["peft-adalora", "llama-tiny"],
    ["peft-adalora-gpt2", "gpt2-tiny"],
  ])("%s gives PEFT's logits, and what we write of it is what PEFT wrote", async (folder, base) => {
    const model = await openModel(nodeStorage, golden(base));
    const adapter = await readAdapter(nodeStorage, golden(folder), model);
    const expected = await readGolden(`${folder}.expected.safetensors`);
    const rows = rowsOf(expected.get("input_ids") as Tensor);
    const logits = expected.get("logits") as Tensor;
    expect(difference(await lastLogits(model, rows, adapter), lastOf(logits))).toBeLessThan(1e-5);

    const storage = memoryStorage();
    await writeAdapter(storage, "out", model, adapter, { baseModel: base });
    const layouts = [...methods.values()].flatMap(({ peft }) => (peft ? [peft] : []));
    const ours = await readPeftAdapter(storage, "out", layouts);
    const theirs = await readPeftAdapter(nodeStorage, golden(folder), layouts);
    const sorted = (config: Readonly<Record<string, unknown>>): unknown => ({
      ...config,
      // PEFT keeps a set, and of "all-linear" every whole name: the last parts choose the same modules.
      target_modules: [...new Set((config["target_modules"] as string[]).map((name) => name.split(".").at(-1)))].sort(),
    });
    expect(sorted(ours.config)).toEqual(sorted(theirs.config));
    expect([...ours.tensors.keys()].sort()).toEqual([...theirs.tensors.keys()].sort());
    for (const [module, parts] of theirs.tensors) {
      for (const [key, lazy] of Object.entries(parts))
        expect(await ours.tensors.get(module)?.[key]?.read()).toEqual(await lazy.read());
    }
    expect([...ours.whole.tensors.keys()].sort()).toEqual([...theirs.whole.tensors.keys()].sort());
    for (const [name, lazy] of theirs.whole.tensors)
      expect(await ours.whole.tensors.get(name)?.read()).toEqual(await lazy.read());

    // Folded in, modules that shared a weight have their own.
    const merged = mergeAdapter(device, model, adapter);
    await writeSafetensorsFolder(storage, "merged", merged.model, { baseModel: base });
    await merged.close();
    const again = await openModel(storage, "merged");
    expect(difference(await lastLogits(again, rows), lastOf(logits))).toBeLessThan(1e-5);
  });

  it.each([
    ["peft-pissa", "llama-tiny"],
    ["peft-pissa-gpt2", "gpt2-tiny"],
    ["peft-olora", "llama-tiny"],
    ["peft-pissa-dora", "llama-tiny"],
  ])("%s, of a changed base, becomes plain LoRA of twice the rank with PEFT's logits", async (folder, base) => {
    const model = await openModel(nodeStorage, golden(base));
    const adapter = await readAdapter(nodeStorage, golden(folder), model);
    const expected = await readGolden(`${folder}.expected.safetensors`);
    const rows = rowsOf(expected.get("input_ids") as Tensor);
    const logits = lastOf(expected.get("logits") as Tensor);
    expect(difference(await lastLogits(model, rows, adapter), logits)).toBeLessThan(2e-5);
    expect(adapter.choice.config).toMatchObject({ rank: 8, init: "kaiming" });
    const storage = memoryStorage();
    await writeAdapter(storage, "out", model, adapter, { baseModel: base });
    const back = await readAdapter(storage, "out", model);
    expect(difference(await lastLogits(model, rows, back), logits)).toBeLessThan(2e-5);
    const merged = mergeAdapter(device, model, adapter);
    expect(difference(await lastLogits(merged.model, rows), logits)).toBeLessThan(2e-5);
    await merged.close();
  });

  it("that we write are the files whose logits PEFT computed", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const adapter = waveAdapter(model);
    const storage = memoryStorage();
    await writeAdapter(storage, "out", model, adapter, { baseModel: "llama-tiny" });
    for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
      expect(await storage.read(`out/${name}`), name).toEqual(await nodeStorage.read(golden(`scion-adapter/${name}`)));
    }
    const expected = await readGolden("scion-adapter.expected.safetensors");
    const rows = rowsOf(expected.get("input_ids") as Tensor);
    expect(difference(await lastLogits(model, rows, adapter), lastOf(expected.get("logits") as Tensor))).toBeLessThan(
      1e-5,
    );
  });

  it("refuses what PEFT would load as zeros, with every difference in one message", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const config = JSON.parse(
      new TextDecoder().decode(await nodeStorage.read(golden("peft-llama/adapter_config.json"))),
    );
    const { tensors } = await openSafetensors(nodeStorage, golden("peft-llama/adapter_model.safetensors"));
    const folderOf = async (
      change: object,
      rename: (name: string) => string | undefined,
    ): Promise<ReturnType<typeof memoryStorage>> => {
      const storage = memoryStorage({ "in/adapter_config.json": JSON.stringify({ ...config, ...change }) });
      const entries = [...tensors].flatMap(([name, lazy]) => {
        const renamed = rename(name);
        return renamed === undefined ? [] : [{ name: renamed, tensor: lazy }];
      });
      await writeSafetensors(storage, "in/adapter_model.safetensors", entries);
      return storage;
    };
    const read = async (change: object, rename: (name: string) => string | undefined): Promise<Adapter> =>
      readAdapter(await folderOf(change, rename), "in", model);
    await expect(read({}, (name) => name.replace("base_model.model.", ""))).rejects.toThrow("would pass over it");
    await expect(read({}, (name) => name.replace("lora_A.", "lora_A.default."))).rejects.toThrow(
      /lora_A.default.weight is not part of a LORA adapter.*without the adapter's name[\s\S]*has no lora_A.weight/,
    );
    await expect(read({}, (name) => (name.includes("layers.0.self_attn.q_proj") ? undefined : name))).rejects.toThrow(
      "the adapter's config targets model.layers.0.self_attn.q_proj, but there are no tensors of it",
    );
    const other = (name: string): string => name.replace("layers.1.mlp.down_proj", "layers.7.mlp.down_proj");
    await expect(read({ target_modules: "all-linear", exclude_modules: ["v_proj"] }, other)).rejects.toMatchObject({
      code: "adapter-mismatch",
      message: expect.stringMatching(
        /no linear layer called \S+layers.7.mlp.down_proj[\s\S]*targets \S+k_proj, but[\s\S]*tensors of \S+v_proj, which/,
      ),
    });
    // Layers that were left out, or a Python expression for the whole path (Unsloth), are followed.
    const onlyFirst = (name: string): string | undefined => (name.includes("layers.0.") ? name : undefined);
    expect((await read({ layers_to_transform: [0] }, onlyFirst)).targets).toHaveLength(3);
    const expression = "(?:.*?(?:language|text|model).*?(?:self_attn|mlp).*?(?:q_proj|v_proj|down_proj))";
    expect((await read({ target_modules: expression }, (name) => name)).targets).toHaveLength(6);
  });

  it("takes embeddings that PEFT saved unasked as trained in place", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const { tensors } = await openSafetensors(nodeStorage, golden("peft-llama/adapter_model.safetensors"));
    const head = tensor("float32", [64, 32], 0.5);
    const storage = memoryStorage({
      "in/adapter_config.json": await nodeStorage.read(golden("peft-llama/adapter_config.json")),
    });
    await writeSafetensors(storage, "in/adapter_model.safetensors", [
      ...[...tensors].map(([name, lazy]) => ({ name, tensor: lazy })),
      { name: "base_model.model.lm_head.weight", tensor: head },
    ]);
    const adapter = await readAdapter(storage, "in", model);
    expect(adapter.choice.inPlace).toEqual({ modules: ["lm_head"], biases: "none" });
    const logits = await lastLogits(model, [[1, 2, 3]], adapter);
    expect(new Set(logits.map((value) => value.toFixed(4))).size).toBe(1);
  });

  it("refuses an adapter of another model, listing every difference", async () => {
    const gpt2 = await openModel(nodeStorage, golden("gpt2-tiny"));
    await expect(readAdapter(nodeStorage, golden("peft-llama"), gpt2)).rejects.toMatchObject({
      code: "adapter-mismatch",
      message: expect.stringContaining("model.layers.0.self_attn.q_proj"),
    });
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const adapter = await randomAdapter(model, "lora", { rank: 2 });
    const wide = await randomModel({ ...(model.json as Record<string, unknown>), intermediate_size: 64 });
    expect(() => mergeAdapter(device, wide, adapter)).toThrow(
      /down_proj.lora_A \[2, 48\]|is \[2, 48\], but the model needs \[2, 64\]/,
    );
  });

  it("does not pretend that full tuning leaves an adapter", async () => {
    const model = await randomModel();
    const adapter = await randomAdapter(model, "full", {});
    await expect(writeAdapter(memoryStorage(), "out", model, adapter, { baseModel: "x" })).rejects.toMatchObject({
      code: "no-adapter-form",
    });
  });
});

describe("mlx-lm's adapters", () => {
  it.each([
    ["lora", { rank: 4, alpha: 8 }, {}],
    ["dora", { rank: 4, alpha: 8, rslora: true }, {}],
    ["lora", { rank: 4, alpha: 8 }, { rank: { q_proj: 6 }, alpha: { down_proj: 3 } }],
  ])("%s %j %j keeps its logits there and back", async (method, options, patterns) => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const adapter = await randomAdapter(model, method, options, patterns);
    const storage = memoryStorage();
    await writeMlx(storage, "out", model, adapter, { baseModel: "base" });
    const config = JSON.parse(new TextDecoder().decode(await storage.read("out/adapter_config.json")));
    expect(config).toMatchObject({ model: "base", fine_tune_type: method, num_layers: -1 });
    expect(config.lora_parameters.keys).toContain("self_attn.q_proj");
    const { tensors } = await openSafetensors(storage, "out/adapters.safetensors");
    const rank = config.lora_parameters.rank as number;
    expect(tensors.get("model.layers.0.mlp.down_proj.lora_a")?.shape).toEqual([48, rank]);
    expect(tensors.get("model.layers.0.mlp.down_proj.lora_b")?.shape).toEqual([rank, 32]);
    expect(tensors.get("model.layers.0.mlp.down_proj.m")?.shape).toEqual(method === "dora" ? [32] : undefined);

    const rows = [[1, 5, 9, 33, 2]];
    const back = await readAdapter(storage, "out", model);
    expect(difference(await lastLogits(model, rows, back), await lastLogits(model, rows, adapter))).toBeLessThan(1e-6);
  });

  it("of early versions have alpha in their scale", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const storage = memoryStorage();
    await writeMlx(storage, "out", model, await randomAdapter(model, "lora", { rank: 2 }), { baseModel: "base" });
    const config = JSON.parse(new TextDecoder().decode(await storage.read("out/adapter_config.json")));
    const { fine_tune_type: _type, num_layers: _layers, ...old } = config;
    const parameters = { rank: 2, alpha: 16, scale: 10, dropout: 0 };
    await storage.write(
      "out/adapter_config.json",
      JSON.stringify({ ...old, lora_layers: 2, lora_parameters: parameters }),
    );
    expect((await readAdapter(storage, "out", model)).choice.config).toMatchObject({ rank: 2, alpha: 160 });
  });

  it("are refused where they are incomplete, and for models that mlx-lm names otherwise", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const storage = memoryStorage();
    await writeMlx(storage, "out", model, await randomAdapter(model, "lora", { rank: 2 }), { baseModel: "base" });
    const config = JSON.parse(new TextDecoder().decode(await storage.read("out/adapter_config.json")));
    await storage.write("out/adapter_config.json", JSON.stringify({ ...config, fine_tune_type: "dora" }));
    await expect(readAdapter(storage, "out", model)).rejects.toMatchObject({
      code: "mlx-bad-adapter",
      message: expect.stringContaining("q_proj has no m"),
    });
    await storage.write(
      "out/adapter_config.json",
      JSON.stringify({ ...config, lora_parameters: { rank: 3, scale: 1 } }),
    );
    await expect(readAdapter(storage, "out", model)).rejects.toThrow("has rank 2 and 2, but the config says 3");
    await storage.write("out/adapter_config.json", JSON.stringify({ ...config, fine_tune_type: "full" }));
    await expect(readAdapter(storage, "out", model)).rejects.toThrow('"full" is not supported');
    const gpt2 = await openModel(nodeStorage, golden("gpt2-tiny"));
    const adapter = await randomAdapter(gpt2, "lora", { rank: 2 });
    await expect(writeMlx(storage, "no", gpt2, adapter, { baseModel: "b" })).rejects.toMatchObject({
      code: "no-adapter-form",
    });
  });
});

describe("plain LoRA", () => {
  it.each([["adalora", { initialRank: 4, targetRank: 2 }, "E"]])(
    "is what %s writes too, with the same logits",
    async (method, options, pruned) => {
      const model = await openModel(nodeStorage, golden("llama-tiny"));
      const { parameters, ...rest } = await randomAdapter(model, method, options);
      // Some of the first module's rank is gone, and all of the second's.
      const own = [...parameters].filter(([name]) => name.endsWith(`_${pruned}`)).slice(0, 2);
      for (const [i, [, { data }]] of own.entries()) (data as Float32Array).fill(0, 0, i === 0 ? 2 : undefined);
      const adapter = { ...rest, parameters };
      const plain = asLora(model, adapter, "out");
      const [first, second] = own.map(([name]) => name.replace(new RegExp(`\\.${method}_.*`), ""));
      expect(plain.parameters.get(`${first}.lora_A`)?.shape).toEqual([2, 32]);
      expect([...plain.parameters.keys()].filter((name) => name.startsWith(String(second)))).toEqual([]);
      const storage = memoryStorage();
      await writeAdapter(storage, "out", model, plain, { baseModel: "base" });
      const rows = [[1, 5, 9, 33, 2]];
      const expected = await lastLogits(model, rows, adapter);
      expect(
        difference(await lastLogits(model, rows, await readAdapter(storage, "out", model)), expected),
      ).toBeLessThan(1e-5);
      await writeMlx(storage, "mlx", model, adapter, { baseModel: "base" });
      expect(
        difference(await lastLogits(model, rows, await readAdapter(storage, "mlx", model)), expected),
      ).toBeLessThan(1e-5);
      await writeAdapter(storage, "own", model, adapter, { baseModel: "base" });
      expect(await lastLogits(model, rows, await readAdapter(storage, "own", model))).toEqual(expected);
      // What is stored is what is left, a number for λ beside a column and a row, and what was pruned away is of no size.
      const { tensors } = await openSafetensors(storage, "own/adapter_model.safetensors");
      const bytes = [...tensors.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
      const units = [...parameters].flatMap(([name, { shape }]): number[] => {
        if (!name.endsWith("_E")) return [];
        const [a, b] = ["_A", "_B"].map((end) => parameters.get(name.replace(/_E$/, end))?.shape ?? []);
        const rank = own.some(([first], i) => first === name && i === 1)
          ? 0
          : own[0]?.[0] === name
            ? 2
            : (shape[0] ?? 0);
        return [rank * ((a?.[1] ?? 0) + (b?.[0] ?? 0) + 1)];
      });
      expect(bytes).toBe(4 * units.reduce((sum, size) => sum + size, 0));
      const empty = tensors.get(`base_model.model.${second}.lora_A`);
      expect(empty?.shape).toEqual([0, 32]);
    },
  );

  it("and PEFT's PaCA are what PaCA writes, and the fork's absolute columns are read", async () => {
    const model = await openModel(nodeStorage, golden("gpt2-tiny"));
    const adapter = await randomAdapter(model, "paca", { rank: 3, alpha: 6 });
    const rows = [[1, 5, 9, 33, 2]];
    const expected = await lastLogits(model, rows, adapter);
    const storage = memoryStorage();
    await writeAdapter(storage, "own", model, adapter, { baseModel: "base" });
    const back = await readAdapter(storage, "own", model);
    expect(await lastLogits(model, rows, back)).toEqual(expected);
    expect(JSON.parse(new TextDecoder().decode(await storage.read("own/adapter_config.json")))).toMatchObject({
      ...{ peft_type: "PACA", r: 3, paca_alpha: 6, base_model_name_or_path: "base", task_type: "CAUSAL_LM" },
    });
    const { tensors } = await openSafetensors(storage, "own/adapter_model.safetensors");
    const name = "base_model.model.transformer.h.0.attn.c_attn";
    expect(tensors.get(`${name}.paca_indices`)).toMatchObject({ dtype: "int64", shape: [3] });
    expect(tensors.get(`${name}.paca_delta`)).toMatchObject({ dtype: "float32", shape: [96, 3] });

    await writeAdapter(storage, "lora", model, asLora(model, adapter, "lora"), { baseModel: "base" });
    expect(difference(await lastLogits(model, rows, await readAdapter(storage, "lora", model)), expected)).toBeLessThan(
      1e-6,
    );

    // The authors' fork: columns of [out, in] divided by the scale, in the order they were drawn.
    const foreign = new Map<string, Tensor>();
    for (const [key, lazy] of tensors) {
      const values = await lazy.read();
      if (!key.endsWith(".paca_delta")) continue;
      const module = key.slice("base_model.model.".length, -".paca_delta".length);
      const places = Array.from(
        (await tensors.get(key.replace("delta", "indices"))?.read())?.data ?? [],
        Number,
      ).reverse();
      const weight = await model.weights.get(`${module}.weight`)?.source.read(); // GPT-2 keeps it as [in, out]
      const [out = 0] = values.shape;
      const at = (row: number, i: number): number =>
        Number(weight?.data[(places[i] ?? 0) * out + row]) / 2 + Number(values.data[row * 3 + 2 - i]);
      const data = Float32Array.from({ length: out * 3 }, (_, i) => at(Math.floor(i / 3), i % 3));
      foreign.set(`base_model.model.${module}.paca_w`, { dtype: "float32", shape: [out, 3], data });
      foreign.set(`base_model.model.${module}.paca_indices`, {
        dtype: "int64",
        shape: [3],
        data: BigInt64Array.from(places, BigInt),
      });
    }
    await storage.write("fork/adapter_config.json", await storage.read("own/adapter_config.json"));
    await writeSafetensors(
      storage,
      "fork/adapter_model.safetensors",
      [...foreign].map(([key, tensor]) => ({ name: key, tensor })),
    );
    const read = await readAdapter(storage, "fork", model);
    expect(difference(await lastLogits(model, rows, read), expected)).toBeLessThan(1e-5);
    const broken = new Map(foreign).set(`${name}.paca_indices`, {
      dtype: "int64",
      shape: [3],
      data: BigInt64Array.from([4n, 4n, 99n]),
    });
    await writeSafetensors(
      storage,
      "fork/adapter_model.safetensors",
      [...broken].map(([key, tensor]) => ({ name: key, tensor })),
    );
    await expect(readAdapter(storage, "fork", model)).rejects.toMatchObject({
      code: "adapter-mismatch",
      message: expect.stringContaining("c_attn.paca_indices names 99 of 32 columns and names 4 twice"),
    });
  });

  it("is not what DoRA can be written as", async () => {
    const model = await openModel(nodeStorage, golden("llama-tiny"));
    const adapter = await randomAdapter(model, "dora", { rank: 2 });
    expect(() => asLora(model, adapter, "out")).toThrow("dora tuning is no low-rank update");
  });
});

describe("merged weights", () => {
  it.each(["llama-tiny", "gpt2-tiny"])(
    "of %s have the names, shapes and dtypes of transformers' file",
    async (base) => {
      const model = await openModel(nodeStorage, golden(base));
      const merged = mergeAdapter(device, model, await randomAdapter(model, "lora", { rank: 2 }));
      const storage = memoryStorage();
      await writeSafetensorsFolder(storage, "out", merged.model, { baseModel: base });
      await merged.close();
      const layoutOf = async (of: Storage, path: string): Promise<unknown> => {
        const { tensors } = await openSafetensors(of, path);
        return Object.fromEntries([...tensors].map(([name, { dtype, shape }]) => [name, [dtype, shape]]));
      };
      expect(await layoutOf(storage, "out/model.safetensors")).toEqual(
        await layoutOf(nodeStorage, golden(`${base}/model.safetensors`)),
      );
    },
  );

  it.each([
    ["llama-tiny", "lora", { rank: 4 }],
    ["gpt2-tiny", "lora", { rank: 4 }],
    ["llama-tiny", "lora", { rank: 4, rslora: true }],
    ["llama-tiny", "dora", { rank: 4 }],
    ["gpt2-tiny", "dora", { rank: 4 }],
    ["llama-tiny", "adalora", { initialRank: 4, targetRank: 2 }],
    ["gpt2-tiny", "adalora", { initialRank: 4, targetRank: 2 }],
    ["llama-tiny", "paca", { rank: 4 }],
    ["gpt2-tiny", "paca", { rank: 4 }],
    ["llama-tiny", "full", {}],
  ])("of %s by %s give the adapted model's logits", async (base, method, options) => {
    const model = await openModel(nodeStorage, golden(base));
    const adapter = await randomAdapter(model, method, options);
    const merged = mergeAdapter(device, model, adapter);
    const rows = [
      [1, 5, 9, 33, 2],
      [4, 4, 8, 1, 60],
    ];
    const adapted = await lastLogits(model, rows, adapter);
    expect(difference(await lastLogits(merged.model, rows), adapted)).toBeLessThan(1e-5);
    expect(difference(await lastLogits(model, rows), adapted)).toBeGreaterThan(1e-3);

    // The folder holds the same weights, sharded or not.
    const folder = await mkdtemp(join(tmpdir(), "scion-merged-"));
    for (const maxShardBytes of [undefined, 20_000]) {
      const out = join(folder, String(maxShardBytes));
      await writeSafetensorsFolder(nodeStorage, out, merged.model, {
        baseModel: base,
        adapter,
        ...(maxShardBytes ? { maxShardBytes } : {}),
      });
      const names = await readdir(out);
      expect(names.includes("model.safetensors")).toBe(maxShardBytes === undefined);
      expect(await lastLogits(await openModel(nodeStorage, out), rows)).toEqual(await lastLogits(merged.model, rows));
    }
    await rm(folder, { recursive: true });
    await merged.close();
  });
});
