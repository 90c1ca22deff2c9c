import { describe, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { writeSafetensors } from "../src/io/safetensors.ts";
import type { Storage } from "../src/io/storage.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { randomModel, tinyLlama } from "./helpers/tiny-model.ts";

/*
 * An output layer beside embeddings that the configuration ties. One that is the embeddings is left out, and compared once,
 * when the model is opened; one that differs is the model's own, as in transformers 5.
 */
const tied = { ...tinyLlama, tie_word_embeddings: true, vocab_size: 512, num_hidden_layers: 1 };
const embeddings = "model.embed_tokens.weight";

/** A folder with an output layer of its own, its storage telling of every byte that is read. */
async function opened(
  output: (values: Float32Array) => Float32Array,
): Promise<{ readonly model: PretrainedModel; readonly read: () => number; readonly table: Tensor }> {
  const made = await randomModel(tied);
  const entries: { name: string; tensor: Tensor }[] = [];
  for (const [name, { source }] of made.weights) entries.push({ name, tensor: await source.read() });
  const table = entries.find(({ name }) => name === embeddings)?.tensor as Tensor; // every Llama has it
  entries.push({
    name: "lm_head.weight",
    tensor: { dtype: "float32", shape: table.shape, data: output(table.data as Float32Array) },
  });
  const storage = memoryStorage();
  await storage.write("model/config.json", JSON.stringify(tied));
  await writeSafetensors(storage, "model/model.safetensors", entries);
  let bytes = 0;
  const counting: Storage = {
    ...storage,
    read: async (...args) => {
      const found = await storage.read(...args);
      bytes += found.byteLength;
      return found;
    },
  };
  return { model: await openModel(counting, "model"), read: () => bytes, table };
}

describe("an output layer beside tied embeddings", () => {
  it("is left out where it is the embeddings, and read once for that", async () => {
    const { model, read, table } = await opened((values) => values.slice());
    expect(model.leftOut.map(({ name }) => name)).toEqual(["lm_head.weight"]);
    expect(model.weights.has("lm_head.weight")).toBe(false);
    const size = 4 * table.data.length;
    const opening = read();
    expect(opening).toBeGreaterThanOrEqual(2 * size); // both sides of the comparison
    expect(opening).toBeLessThan(2 * size + 20_000); // headers besides
    // Every further pass over the weights reads each of them once, and the output layer never.
    for (let pass = 1; pass <= 2; pass++) {
      const before = read();
      let whole = 0;
      for (const [, { source }] of model.weights) whole += 4 * (await source.read()).data.length;
      expect(read() - before).toBe(whole);
    }
    model.loss();
    model.predict();
    expect(read()).toBe(
      opening + 2 * [...model.weights.values()].reduce((sum, { source }) => sum + source.sizeBytes, 0),
    );
  });

  it("is the model's own where one value differs", async () => {
    const { model } = await opened((values) => values.map((value, i) => (i === values.length - 1 ? value + 1 : value)));
    expect(model.leftOut).toEqual([]);
    const own = await model.weights.get("lm_head.weight")?.source.read();
    const table = await model.weights.get(embeddings)?.source.read();
    const last = (own?.data.length ?? 0) - 1;
    expect(Number(own?.data[last]) - Number(table?.data[last])).toBeCloseTo(1, 6);
    expect(model.untied()).toMatchObject({ tie_word_embeddings: false });
  });
});
