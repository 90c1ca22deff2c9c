import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openDecoder } from "../src/generate/index.ts";
import { type Tensor, tensor } from "../src/graph/index.ts";
import { sameValues } from "../src/io/convert.ts";
import { openModelWeights } from "../src/io/model-weights.ts";
import { openSafetensors, writeSafetensors } from "../src/io/safetensors.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { outputOf, relativeError } from "./helpers/encoder-batches.ts";
import { golden, readGolden } from "./helpers/golden.ts";
import { difference, lastLogits } from "./helpers/logits.ts";

let device: Device;
const scratch = mkdtempSync(join(tmpdir(), "config-models-"));
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(async () => {
  rmSync(scratch, { recursive: true });
  await device.close();
});

/** Models of `make_config_models.py`. */
const names = readdirSync(golden("config-models"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

/** Models with right outputs that are not copied here. */
const cases = fileURLToPath(new URL("../../shared/cases/config/", import.meta.url));
if (!existsSync(cases)) console.warn("config-models: ../shared/cases is absent, so its models are not read");

async function tensorsAt(path: string): Promise<ReadonlyMap<string, Tensor>> {
  const { tensors } = await openSafetensors(nodeStorage, path);
  return new Map(await Promise.all([...tensors].map(async ([name, lazy]) => [name, await lazy.read()] as const)));
}

/** Whole rows of tokens with what models that continue texts read beside them. */
function withPlaces(ids: Tensor, { sizes }: PretrainedModel): ReadonlyMap<string, Tensor> {
  const { shape } = ids;
  const of = (value: (i: number) => number): Tensor => ({
    dtype: "int64",
    shape,
    data: BigInt64Array.from({ length: ids.data.length }, (_, i) => BigInt(value(i))),
  });
  const empty = tensor("float32", [Number(shape[0]), sizes.kvHeads, 0, sizes.headDim], []);
  return new Map([
    ["input_ids", ids],
    ["attention_mask", of(() => 1)],
    ["position_ids", of((i) => i % Number(shape[1]))],
    ...Array.from({ length: sizes.layers }, (_, i) =>
      ["key", "value"].map((part) => [`past_key_values.${i}.${part}`, empty] as const),
    ).flat(),
  ]);
}

/** A copy of a model whose config.json is changed. */
function changed(from: string, change: (json: Record<string, unknown>) => void): string {
  const folder = mkdtempSync(join(scratch, "model-"));
  cpSync(from, folder, { recursive: true });
  const path = join(folder, "config.json");
  const json: Record<string, unknown> = JSON.parse(readFileSync(path, "utf8"));
  change(json);
  writeFileSync(path, JSON.stringify(json));
  return folder;
}

describe("rare settings have transformers' outputs", () => {
  it.each(names)("%s", async (name) => {
    const expected = await readGolden(`config-models/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`config-models/${name}`));
    const ids = expected.get("input_ids");
    const inputs = ids && !expected.has("attention_mask") ? withPlaces(ids, model) : expected;
    const found = await outputOf(device, model.predict(), inputs);
    expect(relativeError(found, expected.get("output") as Tensor, new Map())).toBeLessThan(1e-5);
  });

  it.skipIf(!existsSync(cases))('DeBERTa with pos_att_type "P2C | C2P"', async () => {
    const expected = await tensorsAt(join(cases, "deb-strsp-shared/expected.safetensors"));
    const model = await openModel(nodeStorage, join(cases, "deb-strsp-shared"));
    const found = await outputOf(device, model.predict(), expected);
    expect(relativeError(found, expected.get("output") as Tensor, expected)).toBeLessThan(1e-5);
  });
});

describe("an output layer beside the embeddings", () => {
  it("that the files lack is the table of embeddings for T5 alone, as in transformers", async () => {
    const t5 = await openModel(nodeStorage, golden("config-models/t5-untied-without-head"));
    expect(t5.json).toMatchObject({ tie_word_embeddings: true, scale_decoder_outputs: true });
    const plain = await openModel(nodeStorage, golden("config-models/t5-untied-without-scale"));
    expect(plain.json).toMatchObject({ tie_word_embeddings: true, scale_decoder_outputs: false });
    const llama = changed(golden("llama-rope"), (json) => {
      json["tie_word_embeddings"] = false;
    });
    await expect(openModel(nodeStorage, llama)).rejects.toMatchObject({ code: "weights-mismatch" });
  });

  it("that is a copy of it is compared once, in parts", async () => {
    const [rows, columns] = [1100, 2 ** 10];
    const data = Float32Array.from({ length: rows * columns }, (_, i) => ((i * 37) % 101) / 101);
    const shape = [rows, columns];
    const lazy = (values: Float32Array, reads: number[]) => ({
      dtype: "float32" as const,
      shape,
      sizeBytes: 4 * values.length,
      read: async () => {
        throw new Error("not as a whole");
      },
      readPart: async (start: number, end: number) => {
        reads.push(end - start);
        return values.slice(start, end);
      },
    });
    const reads: number[] = [];
    expect(await sameValues(lazy(data, reads), lazy(data, []))).toBe(true);
    expect(reads).toEqual([2 ** 20, rows * columns - 2 ** 20]);
    const last = data.slice();
    last[last.length - 1] = -1;
    expect(await sameValues(lazy(data, []), lazy(last, []))).toBe(false);

    const tensors = await openModelWeights(nodeStorage, golden("llama-rope"));
    const table = tensors.get("model.embed_tokens.weight");
    if (!table) throw new Error("the model has embeddings");
    const folder = changed(golden("llama-rope"), () => {});
    const entries = [...tensors, ["lm_head.weight", table] as const].map(([name, values]) => ({
      name,
      tensor: values,
    }));
    await writeSafetensors(nodeStorage, join(folder, "model.safetensors"), entries);
    const { leftOut, json } = await openModel(nodeStorage, folder);
    expect(leftOut).toEqual([{ name: "lm_head.weight", why: "the output layer, which is the table of embeddings" }]);
    expect(json["tie_word_embeddings"]).toBe(true);
  });
});

describe("labels of another number than the head has outputs are refused by name", () => {
  it.each([
    ['"id2label" names 2 labels', { id2label: { 0: "no", 1: "yes" } }],
    ['The numbers in "id2label" are not 0, 1, …', { id2label: { 1: "a", 2: "b", 3: "c" } }],
    ['"num_labels" is 5', { id2label: undefined, num_labels: 5 }],
  ])("%s", async (words, change) => {
    const folder = changed(golden("encoders/bert-sequence"), (json) => {
      Object.assign(json, change);
    });
    await expect(openModel(nodeStorage, folder)).rejects.toMatchObject({
      code: "bad-config",
      message: expect.stringContaining(`${words}, but the head of the files has 3 outputs.`),
    });
    // A new head has whatever labels it is given.
    const fresh = await openModel(nodeStorage, folder, { newHead: true, labels: ["x", "y", "z", "w"] });
    expect(fresh.labels).toEqual(["x", "y", "z", "w"]);
  });
});

describe.skipIf(!existsSync(cases))("continuing a text across the original length", () => {
  it.each(["phi3-longrope", "phi3-longrope-short"])(
    "%s: each greedy token is that of one uncached pass",
    async (name) => {
      const model = await openModel(nodeStorage, join(cases, name));
      const original = Number(model.json["original_max_position_embeddings"]);
      const decoder = await openDecoder(device, model);
      const ids = Array.from({ length: original - 3 }, (_, i) => 3 + ((i * 7) % 50));
      let at = await decoder.start([ids]);
      for (let i = 0; i < 8; i++) {
        const cached = [...(at.logits[0] ?? [])];
        const whole = await lastLogits(device, model, [ids]);
        expect(difference(cached, whole), `after ${ids.length} tokens`).toBeLessThan(1e-5);
        const best = cached.indexOf(Math.max(...cached));
        ids.push(best);
        at = await at.next([best]);
      }
      await at.end();
      await decoder.close();
    },
  );

  it("dynamic frequencies change beyond the context alone, which no text outgrows", async () => {
    const folder = changed(golden("llama-rope"), (json) => {
      json["max_position_embeddings"] = 16;
      json["rope_parameters"] = {
        rope_type: "dynamic",
        factor: 2,
        rope_theta: 10000,
        original_max_position_embeddings: 8,
      };
    });
    const model = await openModel(nodeStorage, folder);
    const decoder = await openDecoder(device, model);
    const ids = [3, 9, 27, 14, 42];
    let at = await decoder.start([[...ids]]);
    while (ids.length < 15) {
      const cached = [...(at.logits[0] ?? [])];
      expect(difference(cached, await lastLogits(device, model, [ids]))).toBeLessThan(1e-5);
      ids.push(cached.indexOf(Math.max(...cached)));
      at = await at.next(ids.slice(-1));
    }
    expect(at.room).toBe(1);
    await at.end();
    await decoder.close();
  });

  it("phi3-longrope-short writes what transformers writes while the text is short", async () => {
    const expected = await tensorsAt(join(cases, "phi3-longrope-short/expected.safetensors"));
    const model = await openModel(nodeStorage, join(cases, "phi3-longrope-short"));
    const original = Number(model.json["original_max_position_embeddings"]);
    const given = expected.get("ids") as Tensor;
    const found = await outputOf(device, model.predict(), withPlaces(given, model));
    expect(relativeError(found, expected.get("logits") as Tensor, new Map())).toBeLessThan(1e-5);
    const written = Array.from((expected.get("gen") as Tensor).data, Number);
    const ids = written.slice(0, Number(given.shape[1]));
    const decoder = await openDecoder(device, model);
    let at = await decoder.start([[...ids]]);
    // The token after the last of the original length is the last that short factors decide.
    while (ids.length <= original) {
      const scores = [...(at.logits[0] ?? [])];
      ids.push(scores.indexOf(Math.max(...scores)));
      at = await at.next(ids.slice(-1));
    }
    expect(ids.length).toBeLessThan(written.length);
    expect(ids).toEqual(written.slice(0, ids.length));
    await at.end();
    await decoder.close();
  });
});
