import { cp, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  AutoModelForSeq2SeqLM,
  env,
  type FeatureExtractionPipeline,
  type ImageClassificationPipeline,
  pipeline,
  RawImage,
  Tensor,
  type TextClassificationPipeline,
  type TokenClassificationPipeline,
} from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeTransformersJsFolder } from "../src/export/index.ts";
import { generateTarget } from "../src/generate/index.ts";
import { graph, type Tensor as OwnTensor } from "../src/graph/index.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { compileGraph } from "../src/runtime/program.ts";
import { openReader } from "../src/train/data/reader.ts";
import { golden, readGolden } from "./helpers/golden.ts";

const root = await mkdtemp(join(tmpdir(), "scion-pipelines-"));
let device: Device;
beforeAll(async () => {
  env.allowRemoteModels = false;
  env.localModelPath = root;
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

const text = "Ada codes well.";

/** A golden model with a tokenizer beside it, and the folder that it is exported into. */
async function exported(
  name: string,
  task?: "sentence-embedding",
): Promise<{ model: PretrainedModel; folder: string }> {
  const source = join(root, `source-${name}`);
  await cp(golden(`encoders/${name}`), source, { recursive: true });
  await cp(golden("encoder-tokenizers/wordpiece"), source, { recursive: true });
  const model = await openModel(nodeStorage, source, task ? { task } : {});
  await writeTransformersJsFolder(nodeStorage, join(root, name), model, { baseModel: name, dtypes: ["fp32"] });
  return { model, folder: name };
}

/** What a model says of a text: its only output. */
async function said(model: PretrainedModel): Promise<OwnTensor> {
  const reader = await openReader(model.reads, 40, () => loadTokenizer(nodeStorage, model.folder));
  const { feeds } = model.reads.feed([reader.read(text)], reader.padId);
  const program = await compileGraph(device, graph(model.predict()));
  const [output] = Object.values(await program.run({ feeds }));
  await program.release();
  return output as OwnTensor;
}

function softmax(logits: ArrayLike<number>): number[] {
  const powers = Array.from(logits, Math.exp);
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

describe("transformers.js loads exported encoders and says what we say", () => {
  it("text-classification", async () => {
    const { model, folder } = await exported("bert-sequence");
    const classify: TextClassificationPipeline = await pipeline("text-classification", folder, { device: "cpu" });
    const found = (await classify(text, { top_k: 3 })) as { label: string; score: number }[];
    await classify.dispose();
    const ours = softmax((await said(model)).data as Float32Array);
    expect(Object.fromEntries(found.map(({ label, score }) => [label, score.toFixed(4)]))).toEqual(
      Object.fromEntries((model.labels ?? []).map((label, i) => [label, (ours[i] ?? 0).toFixed(4)])),
    );
  });

  it("text-classification of several labels: each by itself", async () => {
    const { model, folder } = await exported("bert-multi-label");
    const classify: TextClassificationPipeline = await pipeline("text-classification", folder, { device: "cpu" });
    const found = (await classify(text, { top_k: 3 })) as { label: string; score: number }[];
    await classify.dispose();
    const ours = Array.from((await said(model)).data as Float32Array, (logit) => 1 / (1 + Math.exp(-logit)));
    expect(Object.fromEntries(found.map(({ label, score }) => [label, score.toFixed(4)]))).toEqual(
      Object.fromEntries((model.labels ?? []).map((label, i) => [label, (ours[i] ?? 0).toFixed(4)])),
    );
  });

  it.each([
    ["bert-scores", /softmax of all outputs, which are scores.*AutoModelForSequenceClassification/],
    ["vit-multi-label", /softmax over all labels.*AutoModelForImageClassification/],
    ["bert-multi-label", undefined],
  ] as const)("the card of %s says where a pipeline computes something else", async (name, note) => {
    const { folder } = await exported(name);
    const card = await readFile(join(root, folder, "README.md"), "utf8");
    if (note) expect(card).toMatch(note);
    else expect(card).not.toMatch(/softmax/);
  });

  it("token-classification", async () => {
    const { model, folder } = await exported("bert-token");
    const tag: TokenClassificationPipeline = await pipeline("token-classification", folder, { device: "cpu" });
    const found = (await tag(text, { ignore_labels: [] })) as { entity: string }[];
    await tag.dispose();
    const { data, shape } = await said(model);
    const rows = Array.from({ length: shape[1] ?? 0 }, (_, i) => Array.from(data.slice(3 * i, 3 * i + 3), Number));
    const ours = rows.map((row) => model.labels?.[row.indexOf(Math.max(...row))]);
    expect(found.map(({ entity }) => entity)).toEqual(ours.slice(1, -1)); // without what stands around the text
  });

  it("feature-extraction", async () => {
    const { model, folder } = await exported("bert-base");
    const extract: FeatureExtractionPipeline = await pipeline("feature-extraction", folder, { device: "cpu" });
    const found = await extract(text, { pooling: "none" });
    const mean = await extract(text, { pooling: "mean", normalize: true });
    await extract.dispose();
    const ours = await said(model);
    expect(found.dims).toEqual(ours.shape);
    const worst = Array.from(found.data as Float32Array, (value, i) => Math.abs(value - Number(ours.data[i])));
    expect(Math.max(...worst)).toBeLessThan(1e-5);
    expect(mean.dims).toEqual([1, 32]);
  });

  it("image-classification", async () => {
    const { model, folder } = await exported("vit-image"); // its preprocessor's file is written with it
    const classify: ImageClassificationPipeline = await pipeline("image-classification", folder, { device: "cpu" });
    const pixels = Uint8ClampedArray.from({ length: 3 * 256 }, (_, i) => (i * 37) % 256);
    const found = await classify(new RawImage(pixels, 16, 16, 3), { top_k: 3 });
    await classify.dispose();
    const numbers = Int32Array.from({ length: 256 }, (_, i) =>
      [0, 1, 2].reduce((sum, channel) => (sum << 8) | (pixels[3 * i + channel] ?? 0), 0),
    );
    const program = await compileGraph(device, graph(model.predict()));
    const { logits } = await program.run({ feeds: model.reads.feed([{ inputIds: numbers }], 0).feeds });
    await program.release();
    const ours = softmax(logits?.data as Float32Array);
    const theirs = found as { label: string; score: number }[];
    for (const { label, score } of theirs) expect(ours[model.labels?.indexOf(label) ?? -1]).toBeCloseTo(score, 4);
  });

  it.each(["t5", "t5-gated"])("text2text: %s", async (name) => {
    const { model, folder } = await exported(name);
    const theirs = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device: "cpu", dtype: "fp32" });
    const { input_ids: given } = Object.fromEntries(await readGolden(`encoders/${name}.expected.safetensors`));
    const ids = Array.from((given as OwnTensor).data.slice(0, 20), Number);
    const tensor = (values: readonly number[]): Tensor =>
      new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const output = await theirs.generate({
      ...{ inputs: tensor(ids), attention_mask: tensor(ids.map(() => 1)) },
      ...{ max_new_tokens: 12, do_sample: false, decoder_start_token_id: 0, eos_token_id: 1, pad_token_id: 0 },
    });
    await theirs.dispose();
    const [ours] = await generateTarget(device, model, [Int32Array.from(ids)], {
      padId: 0,
      eosId: 1,
      maxNewTokens: 12,
    });
    const found = Array.from((output as Tensor).data as BigInt64Array, Number).slice(1);
    expect(found.filter((id) => id !== 1)).toEqual(ours);
  });
});
