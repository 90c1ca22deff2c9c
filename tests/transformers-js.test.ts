import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AutoModelForCausalLM, env, pipeline, Tensor, type TextGenerationPipeline } from "@huggingface/transformers";
import { afterAll, describe, expect, it } from "vitest";
import { writeTransformersJsFolder } from "../src/export/index.ts";
import { openDecoder } from "../src/generate/index.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { openModel } from "../src/models/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { golden } from "./helpers/golden.ts";

const shared = fileURLToPath(new URL("../../shared", import.meta.url));
const present = existsSync(`${shared}/models`);
if (!present) console.warn("../shared is absent: exports of real checkpoints are not tried in transformers.js.");

const root = await mkdtemp(join(tmpdir(), "scion-tjs-"));
afterAll(() => rm(root, { recursive: true }));
env.allowRemoteModels = false;
env.localModelPath = root;

const greedy = JSON.parse(readFileSync(golden("greedy.json"), "utf8")) as Record<string, { text: string }>; // ours

describe.skipIf(!present)(
  "transformers.js loads the exported folder and continues a story as we and transformers do",
  () => {
    it.each([
      { name: "stories260k", beside: {}, files: ["model.onnx"] },
      { name: "stories260k", beside: { externalDataBytes: 0 }, files: ["model.onnx", "model.onnx_data"] },
      {
        name: "stories260k",
        beside: { externalDataBytes: 0, maxDataBytes: 500e3 },
        files: ["model.onnx", "model.onnx_data", "model.onnx_data_1", "model.onnx_data_2"],
      },
      { name: "babyllama-tok105", beside: {}, files: ["model.onnx"] },
    ])("$name ($files)", async ({ name, beside, files }) => {
      const model = await openModel(nodeStorage, `${shared}/models/${name}`);
      const folder = `${name}-${files.length}`;
      await writeTransformersJsFolder(nodeStorage, join(root, folder), model, {
        baseModel: name,
        dtypes: ["fp32"],
        ...beside,
      });
      expect((await readdir(join(root, folder, "onnx"))).sort()).toEqual(files);
      const generate: TextGenerationPipeline = await pipeline("text-generation", folder, { device: "cpu" });
      const [output] = await generate("Once upon a time", {
        max_new_tokens: 60,
        do_sample: false,
        return_full_text: false,
      });
      expect(output).toMatchObject({ generated_text: greedy[name]?.text });
      await generate.dispose();
    });
  },
);

const families = readdirSync(golden("families"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

describe("transformers.js generates what we generate, for every family", () => {
  const prompt = [5, 9, 33, 2, 17, 40];
  const length = 14; // past the windows of those that have one

  it.each(families)("%s", async (name) => {
    const model = await openModel(nodeStorage, golden(`families/${name}`));
    const folder = `family-${name}`;
    await writeTransformersJsFolder(nodeStorage, join(root, folder), model, { baseModel: name, dtypes: ["fp32"] });
    const theirs = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype: "fp32" });
    const ids = new Tensor("int64", BigInt64Array.from(prompt, BigInt), [1, prompt.length]);
    const mask = new Tensor(
      "int64",
      BigInt64Array.from(prompt, () => 1n),
      [1, prompt.length],
    );
    // What is past the length that a cache holds to is computed anew here, which a graph cannot do.
    const count = Math.min(length, (model.sizes.cacheHoldsTo ?? Number.POSITIVE_INFINITY) - prompt.length);
    expect(count).toBeGreaterThan(3);
    const output = await theirs.generate({
      ...{ inputs: ids, attention_mask: mask },
      ...{ max_new_tokens: count, do_sample: false, eos_token_id: [], pad_token_id: 0 },
    });
    await theirs.dispose();

    const device = await openNodeDevice({ worker: false, threads: 1 });
    const decoder = await openDecoder(device, model);
    let at = await decoder.start([prompt]);
    const ours: number[] = [];
    while (ours.length < count) {
      const scores = at.logits[0] ?? new Float32Array();
      ours.push(scores.indexOf(Math.max(...scores)));
      at = await at.next(ours.slice(-1));
    }
    await at.end();
    await decoder.close();
    await device.close();
    expect(Array.from((output as Tensor).data as BigInt64Array, Number)).toEqual([...prompt, ...ours]);
  });
});

/**
 * Root mean square of the logits' errors, relative to that of the logits. A float16 is good to 2^-11; with bytes, all that
 * a product reads shares one scale, which its outliers set; of four bits, 32 values share one.
 */
const largestErrors = { fp16: 1e-3, q8: 0.1, q4: 0.2 } as const;
const dtypes = Object.keys(largestErrors) as (keyof typeof largestErrors)[];

describe("graphs held in fewer bits", () => {
  const bundled = fileURLToPath(new URL("../assets/quickstart/model", import.meta.url));
  const story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
  const models = [
    { name: "quickstart", from: bundled, text: "Please remind me to water the plants tomorrow at nine." },
    ...(present ? [{ name: "stories260k", from: `${shared}/models/stories260k`, text: story }] : []),
  ];

  it.each(models)(
    "$name: each is loaded by transformers.js, and is as near as its bits",
    async ({ name, from, text }) => {
      const model = await openModel(nodeStorage, from);
      const folder = `dtypes-${name}`;
      await writeTransformersJsFolder(nodeStorage, join(root, folder), model, {
        baseModel: name,
        dtypes: ["fp32", ...dtypes],
      });
      const sizes = await fileSizes(join(root, folder, "onnx"));
      const ids = (await loadTokenizer(nodeStorage, from)).encode(text);
      const exact = await logitsOf(folder, "fp32", ids);
      for (const dtype of dtypes) {
        const error = relativeError(await logitsOf(folder, dtype, ids), exact);
        console.info(`${name} ${dtype}: logits off by ${error.toFixed(4)}, ${sizes[dtype]} of ${sizes["fp32"]} bytes`);
        const generate: TextGenerationPipeline = await pipeline("text-generation", folder, { device: "cpu", dtype });
        const [output] = await generate(text, { min_new_tokens: 8, max_new_tokens: 12, do_sample: false });
        await generate.dispose();
        expect((output as { generated_text: string }).generated_text.length).toBeGreaterThan(text.length);
        expect(error).toBeGreaterThan(0);
        expect(error).toBeLessThan(largestErrors[dtype]);
      }
    },
  );
});

async function fileSizes(folder: string): Promise<Record<string, number>> {
  const names = { fp32: "model.onnx", fp16: "model_fp16.onnx", q8: "model_quantized.onnx", q4: "model_q4.onnx" };
  const entries = Object.entries(names).map(async ([dtype, name]) => [dtype, (await stat(join(folder, name))).size]);
  return Object.fromEntries(await Promise.all(entries)) as Record<string, number>; // a number each, above
}

/** Logits after each token. */
async function logitsOf(
  folder: string,
  dtype: "fp32" | (typeof dtypes)[number],
  ids: readonly number[],
): Promise<Float32Array> {
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype });
  const input_ids = new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
  const attention_mask = new Tensor("int64", new BigInt64Array(ids.length).fill(1n), [1, ids.length]);
  const { logits } = (await model({ input_ids, attention_mask })) as { logits: Tensor };
  await model.dispose();
  return Float32Array.from(logits.data as Float32Array);
}

function relativeError(given: Float32Array, exact: Float32Array): number {
  const squares = (of: (value: number, i: number) => number): number =>
    exact.reduce((sum, value, i) => sum + of(value, i) ** 2, 0);
  return Math.sqrt(squares((value, i) => value - (given[i] ?? 0)) / squares((value) => value));
}
