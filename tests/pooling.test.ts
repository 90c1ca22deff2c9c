import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { exportModel, loadData, loadModel } from "../src/index.ts";
import { writeSafetensors } from "../src/io/safetensors.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { poolings } from "../src/models/sentence-pooling.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { chooseObjective } from "../src/train/objectives/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden, readGolden } from "./helpers/golden.ts";

const expected = await readGolden("pooling.expected.safetensors");
let folder: string;
let device: Device;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-pooling-"));
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

type Files = Readonly<Record<string, object | string>>;

/** The tiny BERT with files of sentence-transformers: modules of these kinds, and what their folders hold. */
async function written(name: string, kinds: readonly string[], files: Files = {}): Promise<string> {
  const target = join(folder, name);
  await cp(golden("encoders/bert-base"), target, { recursive: true });
  await cp(golden("encoder-tokenizers/wordpiece"), target, { recursive: true });
  const modules = kinds.map((kind, idx) => ({
    ...{ idx, name: String(idx), path: idx === 0 ? "" : `${idx}_${kind}` },
    type: `sentence_transformers.models.${kind}`,
  }));
  const whole: Files = { "modules.json": modules, ...files };
  for (const [file, content] of Object.entries(whole)) {
    await mkdir(join(target, file, ".."), { recursive: true });
    await writeFile(join(target, file), typeof content === "string" ? content : JSON.stringify(content));
  }
  return target;
}

const off = { word_embedding_dimension: 32, pooling_mode_mean_tokens: false };
const switchOf = (way: string): string =>
  (way === "cls" || way === "mean" || way === "max" ? `${way}_tokens` : way)
    .replace(/^cls_tokens$/, "cls_token")
    .replace("weightedmean", "weightedmean_tokens");
const pooled = (...ways: readonly string[]): object => ({
  ...off,
  ...Object.fromEntries(ways.map((way) => [`pooling_mode_${switchOf(way)}`, true])),
});

/** A Dense module of the goldens. */
async function dense(target: string, module: string, n: number, activation: string): Promise<void> {
  const weight = expected.get(`dense.${n}.weight`) as Tensor;
  const bias = expected.get(`dense.${n}.bias`);
  const [out, into] = weight.shape;
  await mkdir(join(target, module), { recursive: true });
  const json = { in_features: into, out_features: out, bias: bias !== undefined, activation_function: activation };
  await writeFile(join(target, module, "config.json"), JSON.stringify(json));
  const tensors = { "linear.weight": weight, ...(bias ? { "linear.bias": bias } : {}) };
  const entries = Object.entries(tensors).map(([key, tensor]) => ({ name: key, tensor }));
  await writeSafetensors(nodeStorage, join(target, module, "model.safetensors"), entries);
}

async function withDense(name: string): Promise<string> {
  const kinds = ["Transformer", "Pooling", "Normalize", "Dense", "Dense", "Normalize"];
  const target = await written(name, kinds, { "1_Pooling/config.json": pooled("mean", "lasttoken") });
  await dense(target, "3_Dense", 0, "torch.nn.modules.activation.Tanh");
  await dense(target, "4_Dense", 1, "torch.nn.modules.linear.Identity");
  return target;
}

/** The loss of the goldens' pairs and its gradients, of all weights. */
async function losses(model: PretrainedModel): Promise<{ loss: number; gradients: ReadonlyMap<string, Tensor> }> {
  const objective = chooseObjective("cosine", {}, "scored-texts");
  const trainer = await openTrainer(device, model, {
    ...{ choice: chooseMethod("full"), targets: "all-linear", objective, optimizer: chooseOptimizer("adamw") },
    ...{ maxGradNorm: 0, memory: "balanced", accumulates: true, seed: 0 },
  });
  const sequence = (key: string): Pick<TokenizedExample, "inputIds" | "trained"> => {
    const inputIds = Int32Array.from((expected.get(key) as Tensor).data as BigInt64Array, Number); // ids are int64
    return { inputIds, trained: new Uint8Array(inputIds.length) };
  };
  const examples = [0, 1, 2].map((i): TokenizedExample => {
    const answers = [Number(expected.get("scores")?.data[i])];
    return { ...sequence(`first.${i}`), against: [sequence(`second.${i}`)], answers, line: i + 1 };
  });
  const batch = objective.objective.batch(examples, { padId: 0, feed: model.reads.feed });
  const { loss } = await trainer.step(1, [batch], 0); // at rate zero, which leaves the gradients in their buffers
  const gradients = await trainer.state();
  await trainer.close();
  return { loss, gradients };
}

async function expectGolden(name: string, model: PretrainedModel): Promise<void> {
  const { loss, gradients } = await losses(model);
  expect(loss).toBeCloseTo(Number(expected.get(`${name}.loss`)?.data[0]), 5);
  for (const weight of ["embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"]) {
    const wanted = expected.get(`${name}.${weight}`)?.data as Float32Array;
    const found = (gradients.get(`${weight}#gradient`) ?? gradients.get(`bert.${weight}#gradient`))
      ?.data as Float32Array;
    const largest = Math.max(...Array.from(wanted, Math.abs));
    const worst = Math.max(...Array.from(wanted, (value, i) => Math.abs(value - (found[i] ?? Number.NaN))));
    expect(worst / largest, weight).toBeLessThan(1e-4);
  }
}

const open = (target: string): Promise<PretrainedModel> =>
  openModel(nodeStorage, target, { task: "sentence-embedding" });

describe("texts of uneven length are pooled, and gradients flow, as by the formulas in torch", () => {
  it.each([...poolings, poolings.join("+")])("%s", async (name) => {
    const ways = name.split("+");
    const target = await written(name, ["Transformer", "Pooling"], { "1_Pooling/config.json": pooled(...ways) });
    const model = await open(target);
    expect(model.sentence?.poolings).toEqual(ways);
    await expectGolden(name, model);
  });

  it("Dense modules behind two ways of pooling, of which nothing is trained", async () => {
    const model = await open(await withDense("dense"));
    await expectGolden("dense", model);
    const { gradients } = await losses(model);
    expect([...gradients.keys()].filter((key) => /dense\.\d|linear\./i.test(key) && !key.includes("layer"))).toEqual(
      [],
    );
  });
});

it("exports hold Dense modules, and are read the same; a page's form is refused", async () => {
  const model = await loadModel(await withDense("exported"), { platform: nodePlatform, task: "sentence-embedding" });
  const target = join(folder, "written");
  await exportModel(model, "safetensors", target);
  const again = await open(target);
  expect(again.sentence).toEqual(model.pretrained.sentence);
  expect(await readFile(join(target, "3_Dense/model.safetensors"))).toEqual(
    await readFile(join(folder, "exported/3_Dense/model.safetensors")),
  );
  await expect(exportModel(model, "transformers.js", join(folder, "page"))).rejects.toMatchObject({
    code: "unsupported-module",
    message: expect.stringContaining("Dense"),
  });
});

it("texts get the default prompt, and small letters where the files say so", async () => {
  const pooling = { "1_Pooling/config.json": pooled("mean") };
  const plain = await written("plain", ["Transformer", "Pooling"], pooling);
  const said = await written("said", ["Transformer", "Pooling"], {
    ...pooling,
    "sentence_bert_config.json": { max_seq_length: 16, do_lower_case: true },
    "config_sentence_transformers.json": { prompts: { query: "The " }, default_prompt_name: "query" },
  });
  const read = async (source: string, text: string): Promise<unknown> => {
    const model = await loadModel(source, { platform: nodePlatform, task: "sentence-embedding" });
    return (await loadData(model, [{ text1: text, text2: text }])).train[0]?.inputIds;
  };
  expect(await read(said, "CAT Sat ")).toEqual(await read(plain, "the cat sat"));
});

describe("what is not built, or does not fit, is refused by name", () => {
  const pooling = { "1_Pooling/config.json": pooled("mean") };
  it.each([
    ["WeightedLayerPooling", ["Transformer", "Pooling", "LSTM"], pooling, "the module LSTM"],
    ["no pooling", ["Transformer"], {}, "without a Pooling module"],
    ["none on", ["Transformer", "Pooling"], { "1_Pooling/config.json": off }, "of which none is on"],
    [
      "landmarks",
      ["Transformer", "Pooling"],
      { "1_Pooling/config.json": { pooling_mode_lmk: true } },
      "pooling_mode_lmk true",
    ],
    ["a mode", ["Transformer", "Pooling"], { "1_Pooling/config.json": { pooling_mode: "attention" } }, '"attention"'],
    [
      "prompts apart",
      ["Transformer", "Pooling"],
      { "1_Pooling/config.json": { include_prompt: false } },
      "include_prompt false",
    ],
    [
      "an activation",
      ["Transformer", "Pooling", "Dense"],
      {
        ...pooling,
        "2_Dense/config.json": {
          in_features: 32,
          out_features: 2,
          activation_function: "torch.nn.modules.activation.Softsign",
        },
      },
      "Softsign",
    ],
  ])("%s", async (name, kinds, files, message) => {
    await expect(open(await written(name, kinds, files))).rejects.toMatchObject({
      code: "unsupported-module",
      message: expect.stringContaining(message),
    });
  });

  it("a Dense module for embeddings of another width", async () => {
    const target = await written("width", ["Transformer", "Pooling", "Dense"], pooling);
    await dense(target, "2_Dense", 0, "torch.nn.modules.activation.Tanh");
    await expect(open(target)).rejects.toThrow("reads 64 numbers, but 32 stand before it");
  });

  it("switches that are absent have sentence-transformers' defaults: tokens are averaged too", async () => {
    const target = await written("defaults", ["Transformer", "Pooling"], {
      "1_Pooling/config.json": { pooling_mode_cls_token: true },
    });
    expect((await open(target)).sentence?.poolings).toEqual(["cls", "mean"]);
  });
});
