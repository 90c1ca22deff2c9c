import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { env, pipeline, type TextGenerationPipeline } from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mergeAdapter, readAdapter, writeAdapter, writeSafetensorsFolder } from "../src/export/index.ts";
import { type Tensor, tensor } from "../src/graph/index.ts";
import {
  exportModel,
  generate,
  type LoadedModel,
  loadAdapter,
  loadData,
  loadModel,
  type TuningChoice,
  tune,
} from "../src/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { readPeftAdapter } from "../src/io/peft.ts";
import { openSafetensors, writeSafetensors } from "../src/io/safetensors.ts";
import { chatTemplateOf } from "../src/io/tokenizer.ts";
import { type Adapter, chooseMethod, type MethodChoice } from "../src/methods/index.ts";
import {
  openModel,
  type PretrainedModel,
  supportedModelTypes,
  vocabularyTensors,
  withVocabulary,
} from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { root } from "./helpers/cli.ts";
import { familyBatch } from "./helpers/family-training.ts";
import { golden, readGolden } from "./helpers/golden.ts";
import { continueInLlamaCpp, openLlamaCpp } from "./helpers/llama-cpp.ts";
import { difference, lastLogits, lastOf, rowsOf } from "./helpers/logits.ts";
import { tinyConfig } from "./helpers/tiny-configs.ts";
import { randomModel } from "./helpers/tiny-model.ts";
import { waveAdapter } from "./helpers/wave-adapter.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** The rows of ids in a golden file, and the scores at the end of each. */
function expectedOf(file: ReadonlyMap<string, Tensor>): { readonly rows: number[][]; readonly logits: number[] } {
  return { rows: rowsOf(file.get("input_ids") as Tensor), logits: lastOf(file.get("logits") as Tensor) };
}

describe("PEFT's adapters with trained tokens", () => {
  it.each([
    ["peft-tokens", "llama-tiny", 64],
    ["peft-tokens-tied", "llama-rope", 64],
    ["peft-tokens-gpt2", "gpt2-tiny", 64],
    ["peft-tokens-grown", "llama-tiny", 67],
    ["peft-tokens-grown-tied", "llama-rope", 67],
    ["peft-grown-tied", "llama-rope", 67],
    ["peft-grown-whole", "llama-tiny", 67],
  ])("%s has PEFT's logits, written again and merged too", async (folder, base, vocabSize) => {
    const model = withVocabulary(await openModel(nodeStorage, golden(base)), vocabSize);
    const adapter = await readAdapter(nodeStorage, golden(folder), model);
    const { rows, logits } = expectedOf(await readGolden(`${folder}.expected.safetensors`));
    expect(difference(await lastLogits(device, model, rows, adapter), logits)).toBeLessThan(1e-5);

    const storage = memoryStorage();
    await writeAdapter(storage, "adapter", model, adapter, { baseModel: base });
    const again = await readAdapter(storage, "adapter", model);
    expect(again.choice.inPlace?.tokens).toEqual(
      adapter.choice.inPlace?.tokens &&
        Object.fromEntries(Object.entries(adapter.choice.inPlace.tokens).map(([module, ids]) => [module, ids])),
    );
    expect(again.parameters).toEqual(adapter.parameters);

    const merged = mergeAdapter(device, model, adapter);
    await writeSafetensorsFolder(storage, "merged", merged.model, { baseModel: base });
    await merged.close();
    const opened = await openModel(storage, "merged");
    expect(opened.sizes.vocabSize).toBe(vocabSize);
    expect(difference(await lastLogits(device, opened, rows), logits)).toBeLessThan(1e-5);
  });

  it.each([
    ["scion-tokens", "llama-tiny"],
    ["scion-tokens-tied", "llama-rope"],
  ])("%s: PEFT computes the same with what we write", async (folder, base) => {
    const model = withVocabulary(await openModel(nodeStorage, golden(base)), 66);
    const adapter = waveAdapter(model, [3, 64, 65]);
    const storage = memoryStorage();
    await writeAdapter(storage, "out", model, adapter, { baseModel: base });
    for (const name of ["adapter_config.json", "adapter_model.safetensors"])
      expect(await storage.read(`out/${name}`), name).toEqual(await nodeStorage.read(golden(`${folder}/${name}`)));
    const { rows, logits } = expectedOf(await readGolden(`${folder}.expected.safetensors`));
    expect(difference(await lastLogits(device, model, rows, adapter), logits)).toBeLessThan(1e-5);
  });

  it("hold the rows alone, not the embeddings", async () => {
    const model = withVocabulary(await openModel(nodeStorage, golden("llama-rope")), 67);
    const adapter = await readAdapter(nodeStorage, golden("peft-tokens-grown-tied"), model);
    expect(adapter.choice.inPlace).toEqual({
      modules: [],
      biases: "none",
      tokens: { "model.embed_tokens": [64, 65, 66] },
    });
    const storage = memoryStorage();
    await writeAdapter(storage, "adapter", model, adapter, { baseModel: "llama-rope" });
    const { tensors } = await openSafetensors(storage, "adapter/adapter_model.safetensors");
    expect([...tensors].filter(([name]) => !name.includes("lora_")).map(([name, { shape }]) => [name, shape])).toEqual([
      ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", [3, 32]],
    ]);
  });
});

describe("new tokens", () => {
  const source = `${root}assets/quickstart/model`;
  const asked = ["<call>", "</call>"];
  const prompt = [{ role: "user", content: "Switch off the nursery light now" }] as const;
  let folder: string;
  let data: string;
  const at = (...names: string[]): string => join(folder, ...names);
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-tokens-"));
    data = at("calls.jsonl");
    const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n").slice(0, 400);
    const called = rows.map((row) => {
      const [user, assistant] = (JSON.parse(row) as { messages: { content: string }[] }).messages;
      const { name } = JSON.parse(assistant?.content ?? "") as { name: string };
      return JSON.stringify({ messages: [user, { role: "assistant", content: `<call>${name}</call>` }] });
    });
    await writeFile(data, `${called.join("\n")}\n`);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const settings = { batchSize: 8, learningRate: 5e-3, methodOptions: { rank: 4 } } as const;
  const opened = (newTokens: readonly string[] = asked): Promise<LoadedModel> =>
    loadModel(source, { platform: nodePlatform, newTokens });

  async function said(model: LoadedModel, adapter?: Adapter): Promise<string> {
    const answered = generate(model, prompt, { maxNewTokens: 12, ...(adapter ? { adapter } : {}) });
    let text = "";
    for await (const piece of answered) text += piece;
    return text;
  }

  it("are learnt, with the adapter, and are there in every form that it is written in", async () => {
    const model = await opened();
    const { adapter } = await tune(model, await loadData(model, data), {
      ...settings,
      maxSteps: 60,
      output: at("run"),
    });
    expect(model.newTokens).toEqual([1024, 1025]);
    await exportModel(model, "peft", at("adapter"), { adapter });
    const read = await loadModel(source, { platform: nodePlatform, forAdapter: at("adapter") });
    expect((await read.tokenizer()).encode("<call>", { addSpecialTokens: false })).toEqual([1024]);
    const again = await loadAdapter(read, at("adapter"));
    expect(again.parameters).toEqual(adapter.parameters);
    const answer = await said(read, again);
    expect(answer).toMatch(/^<call>\w+<\/call>$/);

    // Merged: every other row is the model's own, and input and output still share them.
    await exportModel(read, "safetensors", at("merged"), { adapter: again });
    const merged = await loadModel(at("merged"), { platform: nodePlatform });
    expect(await said(merged)).toBe(answer);
    const before = await model.pretrained.weights.get("model.embed_tokens.weight")?.source.read();
    const after = await merged.pretrained.weights.get("model.embed_tokens.weight")?.source.read();
    const others = 1024 * model.pretrained.sizes.hiddenSize;
    expect(after?.data.slice(0, others)).toEqual(before?.data.slice(0, others));
    expect(after?.data.slice(others)).toEqual(adapter.parameters.get("model.embed_tokens.trainable_tokens")?.data);
    expect(merged.pretrained.weights.has("lm_head.weight")).toBe(false);

    await exportModel(read, "transformers.js", at("web"), { adapter: again });
    env.allowRemoteModels = false;
    env.localModelPath = folder;
    const pipe: TextGenerationPipeline = await pipeline("text-generation", "web", { device: "cpu" });
    const [output] = await pipe([...prompt], { max_new_tokens: 12, do_sample: false });
    expect(JSON.stringify(output)).toContain(JSON.stringify(answer));
    await pipe.dispose();

    const llama = await openLlamaCpp();
    if (!llama) return;
    await exportModel(read, "gguf", at("gguf"), { adapter: again, dtypes: ["f32"], preTokenizer: "smollm" });
    const text = chatTemplateOf(await read.tokenizer()).render(prompt, { addGenerationPrompt: true });
    const ids = (await read.tokenizer()).encode(text, { addSpecialTokens: false });
    const [file = ""] = (await readdir(at("gguf"))).filter((name) => name.endsWith(".gguf"));
    const expected = (await read.tokenizer()).encode(`${answer}<|eos|>`, { addSpecialTokens: false });
    const theirs = await continueInLlamaCpp(llama, at("gguf", file), ids, { count: expected.length });
    expect(theirs.ids).toEqual(expected);
    await llama.dispose();
  }, 120_000);

  it("of a run that was stopped go on as if it had not been", async () => {
    const model = await opened();
    const loaded = await loadData(model, data);
    const run = { ...settings, maxSteps: 6, checkpointEvery: 2 };
    const whole = await tune(model, loaded, { ...run, output: at("whole") });
    const stop = new AbortController();
    await tune(model, loaded, {
      ...run,
      output: at("stopped"),
      signal: stop.signal,
      onEvent: (event) => {
        if (event.kind === "step" && event.step === 3) stop.abort();
      },
    });
    const resumed = await tune(model, loaded, { ...run, output: at("stopped"), resume: true });
    expect(resumed.adapter.parameters).toEqual(whole.adapter.parameters);
    await expect(
      tune(await opened(["<call>"]), loaded, { ...run, output: at("stopped"), resume: true }),
    ).rejects.toMatchObject({ code: "resume-mismatch" });
  });

  it("that are in the vocabulary already keep their ids, and train no more than their rows", async () => {
    const model = await opened(["<|user|>"]);
    expect(model.pretrained.sizes.vocabSize).toBe(1024);
    const run = { ...settings, maxSteps: 1, output: at("there") };
    const { adapter } = await tune(model, await loadData(model, data), run);
    expect(adapter.parameters.get("model.embed_tokens.trainable_tokens")?.shape).toEqual([1, 128]);
  });

  it("are refused where they cannot be", async () => {
    await expect(opened(["<call>", "<call>"])).rejects.toMatchObject({ code: "bad-option" });
    await expect(opened([" "])).rejects.toMatchObject({ code: "bad-option" });
    const tiny = await openModel(nodeStorage, golden("llama-tiny"));
    expect(() => withVocabulary(tiny, 1e9)).toThrow(expect.objectContaining({ code: "bad-option" }));
    const model = await opened();
    const loaded = await loadData(model, data);
    const refused = async (choice: TuningChoice, of = model): Promise<unknown> =>
      tune(of, loaded, { ...settings, ...choice, maxSteps: 1, output: at("refused") }).catch((error) => error);
    expect(await refused({ method: "paca" })).toMatchObject({
      code: "bad-option",
      fix: "use lora, dora, adalora, or full",
    });
    expect(await refused({ targetModules: ["lm_head", "q_proj"] })).toMatchObject({
      code: "bad-option",
      message: expect.stringContaining("lm_head is tuned otherwise already"),
    });
    const plain = await opened([]);
    expect(await refused({ inPlace: { tokens: { embed_tokens: [1024] } } }, plain)).toMatchObject({
      code: "bad-option",
      message: expect.stringContaining("rows for the tokens 0 to 1023; there is none for 1024"),
    });
    expect(await refused({ inPlace: { tokens: { embed_token: [1] } } }, plain)).toMatchObject({
      code: "unknown-target-modules",
    });
  });
});

describe("the gradient of a token's row is that of the whole embeddings", () => {
  /** What one step of plain gradient descent makes of a model's trained tensors, less what they were. */
  async function moved(model: PretrainedModel, choice: MethodChoice): Promise<ReadonlyMap<string, readonly number[]>> {
    const { objective, batch } = familyBatch(model, 1);
    const trainer = await openTrainer(device, model, {
      ...{ choice, objective, targets: "all-linear", memory: "balanced", maxGradNorm: 0, accumulates: false, seed: 3 },
      optimizer: chooseOptimizer("sgd", { momentum: 0 }),
    });
    const before = (await trainer.adapter()).parameters;
    await trainer.step(1, [batch], 1);
    const after = (await trainer.adapter()).parameters;
    await trainer.close();
    return new Map(
      [...after].map(([name, { data }]) => {
        const old = before.get(name)?.data ?? [];
        return [name, Array.from(data as ArrayLike<number>, (value, i) => value - Number(old[i]))];
      }),
    );
  }

  it.each(supportedModelTypes)("%s", async (modelType) => {
    const model = await randomModel(await tinyConfig(modelType));
    const modules = vocabularyTensors(model).map((name) => name.replace(/\.weight$/, ""));
    if (modules.length === 0) return; // pixels and characters have no rows
    const { input_ids: read } = familyBatch(model, 1).batch.feeds;
    const seen = [...new Set(Array.from(read?.data ?? [], Number))];
    const asked = [
      ...seen.slice(0, 3),
      Array.from({ length: 64 }, (_, id) => id).find((id) => !seen.includes(id)) ?? 0,
    ];
    const tokens = Object.fromEntries(modules.map((module) => [module, asked]));
    const rows = await moved(model, chooseMethod("lora", { rank: 2 }, {}, { tokens, modules: model.headModules }));
    const whole = await moved(model, chooseMethod("full"));
    for (const module of modules) {
      const all = whole.get(`${module}.weight`) ?? [];
      const width = all.length / model.sizes.vocabSize;
      const expected = asked.flatMap((id) => all.slice(id * width, (id + 1) * width));
      expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(0);
      expect(difference(rows.get(`${module}.trainable_tokens`) ?? [], expected)).toBeLessThan(1e-4);
    }
  });
});

describe("rows of tokens in PEFT's files are refused", () => {
  const config = { peft_type: "LORA", r: 2, lora_alpha: 4, target_modules: ["q_proj"] };
  const rows = tensor(
    "float32",
    [2, 4],
    Array.from({ length: 8 }, (_, i) => i),
  );
  const others = tensor(
    "float32",
    [2, 4],
    Array.from({ length: 8 }, (_, i) => -i),
  );
  const lora = [
    { name: "base_model.model.q_proj.lora_A.weight", tensor: tensor("float32", [2, 4], new Float32Array(8)) },
    { name: "base_model.model.q_proj.lora_B.weight", tensor: tensor("float32", [4, 2], new Float32Array(8)) },
  ];
  const named = (module: string, values: Tensor): { name: string; tensor: Tensor } => ({
    name: `base_model.model.${module}.token_adapter.trainable_tokens_delta`,
    tensor: values,
  });

  it.each([
    ["that are named and missing", [1, 2], [], "peft-bad-tensors", "no rows of them"],
    ["that nobody names", null, [named("embed_tokens", rows)], "peft-bad-tensors", "does not name"],
    [
      "whose copy is another",
      [1, 2],
      [named("embed_tokens", rows), named("lm_head", others)],
      "peft-bad-tensors",
      "lm_head",
    ],
    ["of a module without its list", { lm_head: [1, 2] }, [], "peft-bad-tensors", "tokens of lm_head"],
    ["that are no ids", ["a"], [named("embed_tokens", rows)], "peft-bad-config", "neither a list"],
    ["below zero", [-1], [named("embed_tokens", rows)], "peft-bad-config", "neither a list"],
  ])("%s", async (_, indices, more, code, message) => {
    const storage = memoryStorage();
    await storage.write("a/adapter_config.json", JSON.stringify({ ...config, trainable_token_indices: indices }));
    await writeSafetensors(storage, "a/adapter_model.safetensors", [...lora, ...more]);
    const layouts = [{ type: "LORA", tensors: { A: "lora_A.weight", B: "lora_B.weight" }, tokenRows: true }];
    await expect(readPeftAdapter(storage, "a", layouts)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
    });
  });
});
