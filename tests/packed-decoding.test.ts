import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadModel } from "../src/api/load-model.ts";
import { openSession } from "../src/api/run-model.ts";
import { lowRankUpdates, openPackedDecoder } from "../src/decode/index.ts";
import { type Decoder, generateBatch, openDecoder } from "../src/generate/index.ts";
import { type Tensor, tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { type Adapter, chooseMethod } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { golden } from "./helpers/golden.ts";
import { packFolder, type Scales } from "./helpers/packed-model.ts";
import { randomAdapter } from "./helpers/random-adapter.ts";

const shared = fileURLToPath(new URL("../../shared/models", import.meta.url));
const present = existsSync(shared);
if (!present) console.warn("../shared is absent: packed decoding of real checkpoints is skipped.");

async function packed(from: string, bits: number, scales: Scales = "columns"): Promise<PretrainedModel> {
  const storage = memoryStorage();
  await packFolder(nodeStorage, from, { storage, folder: "packed" }, { bits, scales });
  return openModel(storage, "packed");
}

async function open(
  model: PretrainedModel,
  options: Parameters<typeof openPackedDecoder>[3] = {},
): Promise<Awaited<ReturnType<typeof openPackedDecoder>>> {
  const recipe = model.recipe();
  if (recipe === undefined) throw new Error("no recipe");
  return openPackedDecoder(model, recipe, nodePlatform.threads, { threads: 1, ...options });
}

/** Logits after a prompt and two more tokens, of one sequence after the other. */
async function logitsOf(decoder: Decoder, prompts: readonly (readonly number[])[]): Promise<readonly number[][]> {
  let at = await decoder.start(prompts);
  const all = at.logits.map((scores) => [...scores]);
  for (const token of [3, 1]) {
    at = await at.next(prompts.map(() => token));
    for (const [i, scores] of at.logits.entries()) all[i]?.push(...scores);
  }
  await at.end();
  return all;
}

function largestDifference(a: readonly number[], b: readonly number[]): number {
  const size = Math.max(...b.map(Math.abs));
  return Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? Number.NaN)))) / size;
}

describe("decoding packed models", () => {
  let device: Device;
  beforeAll(async () => {
    device = await openNodeDevice({ worker: false, threads: 1 });
  });
  afterAll(() => device.close());

  // Tiny models of every family that has a recipe; 20 tokens, so that a prompt takes more than one run of 16 rows.
  const families = [
    "llama-tiny",
    "gpt2-tiny",
    ...readdirSync(golden("families"))
      .filter((name) => !/\./.test(name))
      .map((name) => `families/${name}`),
  ];
  it.each(families)("%s gives the logits of its dequantised weights", async (name) => {
    const plain = await openModel(nodeStorage, golden(name));
    if (plain.recipe() === undefined) return;
    const model = await packed(golden(name), 3, "blocks");
    const prompts = [Array.from({ length: 20 }, (_, i) => (7 * i + 1) % model.sizes.vocabSize), [1, 2]];
    const reference = await openDecoder(device, model);
    const expected = await logitsOf(reference, prompts);
    await reference.close();
    const decoder = await open(model, { lookups: "exact" });
    const given = await logitsOf(decoder, prompts);
    await decoder.close();
    for (const [i, scores] of given.entries()) {
      expect(largestDifference(scores, expected[i] ?? [])).toBeLessThan(2e-5);
    }
  });

  it("decodes scales along rows, and gives the same bits with two threads", async () => {
    const model = await packed(golden("llama-tiny"), 2, "rows");
    const [reference, one, two] = [
      await openDecoder(device, model),
      await open(model, { lookups: "exact" }),
      await open(model, { lookups: "exact", threads: 2 }),
    ];
    const [expected, alone, together] = [
      await logitsOf(reference, [[1, 2, 3]]),
      await logitsOf(one, [[1, 2, 3]]),
      await logitsOf(two, [[1, 2, 3]]),
    ];
    expect(largestDifference(alone[0] ?? [], expected[0] ?? [])).toBeLessThan(2e-5);
    expect(together).toEqual(alone);
    for (const decoder of [reference, one, two]) await decoder.close();
  });

  it.each(["lora", "paca"])("applies an adapter of %s beside packed weights", async (name) => {
    const model = await packed(golden("llama-tiny"), 3);
    const adapter = adapterOf(model, name);
    const reference = await openDecoder(device, model, adapter);
    const updates = lowRankUpdates(model, adapter);
    expect(updates?.size).toBeGreaterThan(0);
    const decoder = await open(model, { lookups: "exact", ...(updates ? { updates } : {}) });
    const bare = await open(model, { lookups: "exact" });
    const [expected, given, without] = [
      await logitsOf(reference, [[1, 2, 3]]),
      await logitsOf(decoder, [[1, 2, 3]]),
      await logitsOf(bare, [[1, 2, 3]]),
    ];
    expect(largestDifference(given[0] ?? [], expected[0] ?? [])).toBeLessThan(2e-5);
    expect(largestDifference(without[0] ?? [], expected[0] ?? [])).toBeGreaterThan(1e-2);
    for (const each of [reference, decoder, bare]) await each.close();
  });

  it.skipIf(!present)(
    "is what a session of a packed folder runs on, unless another provider is asked for",
    async () => {
      const storage = memoryStorage();
      await packFolder(
        nodeStorage,
        `${shared}/stories260k`,
        { storage, folder: "packed" },
        { bits: 4, scales: "columns" },
      );
      const platform = { ...nodePlatform, storage, findModel: async (source: string) => source };
      const model = await loadModel("packed", { platform });
      const texts: string[] = [];
      for (const options of [{}, { lookups: "fast" as const }, { device }]) {
        const session = await openSession(model, options);
        expect("lookups" in session.decoder).toBe(!("device" in options));
        const pieces = session.generate("Once upon a time", { maxNewTokens: 20 });
        let text = "";
        for (let step = await pieces.next(); !step.done; step = await pieces.next()) text += step.value;
        texts.push(text);
        await session.close();
      }
      expect(texts[0]).toBe(texts[2]);
      expect(texts[1]?.length).toBeGreaterThan(0);
    },
  );

  it("refuses what it cannot continue", async () => {
    const decoder = await open(await packed(golden("llama-tiny"), 2));
    await expect(decoder.start([[]])).rejects.toMatchObject({ code: "empty-prompt" });
    await expect(decoder.start([[1_000_000]])).rejects.toMatchObject({ code: "tokenizer-mismatch" });
    const long = new Array<number>(decoder.sizes.contextLength).fill(1);
    await expect(decoder.start([long])).rejects.toMatchObject({ code: "prompt-too-long" });
    await decoder.close();
  });

  describe.skipIf(!present)("real checkpoints", () => {
    it.each([
      ["stories260k", 4],
      ["babyllama-tok105", 3],
      ["babyllama-tok105", 2],
    ])("%s at %i bits continues greedily as its dequantised weights do", async (name, bits) => {
      const model = await packed(`${shared}/${name}`, bits);
      const tokenizer = await loadTokenizer(nodeStorage, `${shared}/${name}`);
      const prompts = ["Once upon a time", "The dog", "Lily and Tom went to the"].map((text) => tokenizer.encode(text));
      const reference = await openDecoder(device, model);
      const expected = await generateBatch(reference, tokenizer, prompts, { maxNewTokens: 100 });
      await reference.close();
      for (const lookups of ["exact", "fast"] as const) {
        const decoder = await open(model, { lookups, threads: 2 });
        const given = await generateBatch(decoder, tokenizer, prompts, { maxNewTokens: 100 });
        await decoder.close();
        // Fast look-ups err by up to 1 % of each product, which decides some near ties otherwise; most texts stay.
        if (lookups === "exact") expect(given.map(({ text }) => text)).toEqual(expected.map(({ text }) => text));
        else expect(given.every(({ text }) => text.length > 0)).toBe(true);
      }
    });
  });
});

/** An adapter of a method, its values drawn; indices of columns are the first ones backwards. */
function adapterOf(model: PretrainedModel, name: string): Adapter {
  const { parameters, ...adapter } = randomAdapter(model, chooseMethod(name, { rank: 2 }));
  const whole = [...parameters].map(([key, value]): [string, Tensor] => {
    const [count = 0] = value.shape;
    const places = Array.from({ length: count }, (_, i) => count - i);
    return [key, key.endsWith("indices") ? tensor("int64", [count], places) : value];
  });
  return { ...adapter, parameters: new Map(whole) };
}
