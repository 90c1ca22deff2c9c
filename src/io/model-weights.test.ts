import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Tensor, tensor } from "../graph/index.ts";
import { memoryStorage } from "./memory-storage.ts";
import { openModelWeights, writeModelWeights } from "./model-weights.ts";
import type { NamedTensor } from "./safetensors.ts";
import type { Storage } from "./storage.ts";

const entry = (name: string, length: number): NamedTensor => ({ name, tensor: tensor("int8", [length], length) });

async function sharded(): Promise<Storage> {
  const storage = memoryStorage();
  await writeModelWeights(storage, "m", [entry("a", 4), entry("b", 4), entry("c", 8)], { maxShardBytes: 8 });
  return storage;
}

async function editIndex(storage: Storage, edit: (weightMap: Record<string, unknown>) => void): Promise<void> {
  const path = "m/model.safetensors.index.json";
  const index = JSON.parse(new TextDecoder().decode(await storage.read(path)));
  edit(index.weight_map);
  await storage.write(path, JSON.stringify(index));
}

describe("a model's weights", () => {
  it("come back whole, whatever the size of a shard", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(9), { maxLength: 8 }), fc.integer({ min: 1, max: 30 }), async (sizes, max) => {
        const storage = memoryStorage();
        const entries = sizes.map((size, i) => entry(`w${i}`, size));
        await writeModelWeights(storage, "m", entries, { maxShardBytes: max });
        const weights = await openModelWeights(storage, "m");
        const read: [string, Tensor][] = [];
        for (const [name, lazy] of weights) read.push([name, await lazy.read()]);
        expect(new Map(read)).toEqual(new Map(entries.map(({ name, tensor }) => [name, tensor])));
      }),
      { seed: 5, numRuns: 60 },
    );
  });

  it("are laid out as Hugging Face does", async () => {
    const storage = await sharded();
    expect(await storage.list("m")).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    const index = JSON.parse(new TextDecoder().decode(await storage.read("m/model.safetensors.index.json")));
    expect(index).toEqual({
      metadata: { total_size: 16 },
      weight_map: {
        a: "model-00001-of-00002.safetensors",
        b: "model-00001-of-00002.safetensors",
        c: "model-00002-of-00002.safetensors",
      },
    });
  });

  it("replace those the folder held, and touch nothing else", async () => {
    const storage = await sharded();
    await storage.write("m/config.json", "{}");
    await writeModelWeights(storage, "m", [entry("a", 4)]);
    expect(await storage.list("m")).toEqual(["config.json", "model.safetensors"]);
  });

  it("report every missing shard and tensor at once", async () => {
    const storage = await sharded();
    await storage.remove("m/model-00002-of-00002.safetensors");
    await editIndex(storage, (map) => {
      map.d = "model-00001-of-00002.safetensors";
      map.e = "../secret.safetensors";
      map.f = 7;
    });
    await expect(openModelWeights(storage, "m")).rejects.toMatchObject({
      code: "shard-missing",
      at: "m/model.safetensors.index.json",
      message: expect.stringMatching(
        /4 problems:\n- model-00002\S+ is not there.\n- d: \S+ does not hold it.*\n- \S+secret.*outside.*\n- f: /,
      ),
    });
  });

  it("name the shard that is damaged", async () => {
    const storage = await sharded();
    await storage.write("m/model-00001-of-00002.safetensors", "short");
    await expect(openModelWeights(storage, "m")).rejects.toMatchObject({
      code: "safetensors-truncated",
      message: expect.stringContaining("model-00001-of-00002.safetensors: the file has 5 bytes"),
    });
  });

  it.each([
    ["weights-not-found", {}],
    ["pickle-refused", { "m/pytorch_model.bin": "" }],
    ["pickle-refused", { "m/pytorch_model.bin.index.json": "{}" }],
    ["weights-bad-index", { "m/model.safetensors.index.json": "{" }],
    ["weights-bad-index", { "m/model.safetensors.index.json": '{"weight_map":[]}' }],
    ["weights-bad-index", { "m/model.safetensors.index.json": '{"weight_map":{"a":"x","a":"y"}}' }],
  ])("fail with %s for %j", async (code, files) => {
    await expect(openModelWeights(memoryStorage(files), "m")).rejects.toMatchObject({ code });
  });

  it("refuse two tensors of one name, in one shard or two", async () => {
    const twice = [entry("a", 4), entry("a", 4)];
    for (const maxShardBytes of [4, 8]) {
      const writing = writeModelWeights(memoryStorage(), "m", twice, { maxShardBytes });
      await expect(writing).rejects.toMatchObject({ code: "tensor-name-taken" });
    }
  });
});
