import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  evaluate,
  exportModel,
  type LoadModelOptions,
  loadAdapter,
  loadData,
  loadModel,
  type TaskName,
  tune,
} from "../src/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice, nodePlatform as platform } from "../src/runtime/node.ts";
import { golden } from "./helpers/golden.ts";

const root = await mkdtemp(join(tmpdir(), "scion-tasks-"));
let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  for (const name of [
    "bert-sequence",
    "bert-multi-label",
    "bert-scores",
    "bert-base",
    "bert-token",
    "vit-image",
    "t5",
  ]) {
    await cp(golden(`encoders/${name}`), join(root, name), { recursive: true });
    await cp(golden("encoder-tokenizers/wordpiece"), join(root, name), { recursive: true });
  }
  for (const label of ["dark", "light"]) {
    await mkdir(join(root, "images", label), { recursive: true });
    for (const name of ["photo.png", "grey.png"]) await cp(golden(`images/${name}`), join(root, "images", label, name));
  }
});
afterAll(async () => {
  await device.close();
  await rm(root, { recursive: true });
});

async function rows(name: string, values: readonly object[]): Promise<string> {
  const path = join(root, `${name}.jsonl`);
  await writeFile(path, values.map((value) => `${JSON.stringify(value)}\n`).join(""));
  return path;
}

const moods = [
  { text: "the cat sat", label: "glad" },
  { text: "Ada codes", label: "sad" },
  { text: "the dog sat on the mat", label: "glad" },
  { text: "well", label: "sad" },
];

interface Case {
  readonly task: TaskName;
  readonly model: string;
  readonly data: () => Promise<string>;
  readonly scores: readonly string[];
}

const cases: readonly Case[] = [
  {
    task: "sequence-classification",
    model: "bert-base",
    data: () => rows("moods", moods),
    scores: ["accuracy", "f1", "matthews"],
  },
  {
    task: "regression",
    model: "bert-base",
    data: () =>
      rows(
        "scored",
        moods.map(({ text }, i) => ({ text, score: i / 2 })),
      ),
    scores: ["pearson", "spearman", "mse"],
  },
  {
    task: "multi-label-classification",
    model: "bert-base",
    data: () =>
      rows(
        "several",
        moods.map(({ text, label }, i) => ({ text, labels: i === 3 ? [] : [label, "calm"] })),
      ),
    scores: ["exactMatch", "microF1", "macroF1"],
  },
  {
    task: "multi-label-image-classification",
    model: "vit-image",
    data: () =>
      rows("seen", [
        { image: "images/dark/photo.png", labels: ["dark", "photo"] },
        { image: "images/light/grey.png", labels: ["light"] },
        { image: "images/light/photo.png", labels: ["light", "photo"] },
        { image: "images/dark/grey.png", labels: [] },
      ]),
    scores: ["exactMatch", "microF1", "macroF1"],
  },
  {
    task: "regression",
    model: "bert-base",
    data: () =>
      rows(
        "scores",
        moods.map(({ text }, i) => ({ text, scores: [i / 2, 1 - i, 0.5] })),
      ),
    scores: ["pearson", "spearman", "mse", "pearson_LABEL_0", "spearman_LABEL_1", "mse_LABEL_2"],
  },
  {
    task: "token-classification",
    model: "bert-base",
    data: () =>
      rows(
        "tags",
        moods.map(({ text }) => ({
          tokens: text.split(" "),
          tags: text.split(" ").map((w) => (w === "Ada" ? "B-PER" : "O")),
        })),
      ),
    scores: ["accuracy", "f1", "exactMatch"],
  },
  {
    task: "sentence-embedding",
    model: "bert-base",
    data: () =>
      rows(
        "pairs",
        moods.map(({ text }) => ({ text1: text, text2: `${text}.` })),
      ),
    scores: ["nearest"],
  },
  {
    task: "sentence-embedding",
    model: "bert-base",
    data: () =>
      rows(
        "alike",
        moods.map(({ text }, i) => ({ text1: text, text2: "the mat", score: i / 4 })),
      ),
    scores: ["pearson", "spearman"],
  },
  { task: "image-classification", model: "vit-image", data: async () => join(root, "images"), scores: ["accuracy"] },
  {
    task: "seq2seq-lm",
    model: "t5",
    data: () =>
      rows(
        "targets",
        moods.map(({ text }) => ({ source: text, target: "the mat" })),
      ),
    scores: [],
  },
];

describe("a model is tuned, judged, saved and judged again the same", () => {
  it.each(cases)("$task, $scores", async ({ task, model: name, data: make, scores }) => {
    const path = await make();
    const source = join(root, name);
    const model = await loadModel(source, {
      platform,
      task,
      labelsFrom: path,
      newHead: task.endsWith("image-classification"),
    });
    const data = await loadData(model, path);
    const options = { device, maxSteps: 3, batchSize: 4, learningRate: 1e-2, targetModules: "all-linear" } as const;
    const { adapter } = await tune(model, data, { ...options, methodOptions: { rank: 2 } });
    const asks = { device, adapter, exactMatch: task === "seq2seq-lm" };
    const judged = await evaluate(model, data.train, asks);
    expect(Object.keys(judged.measures)).toEqual(expect.arrayContaining([...scores]));
    expect(Number.isFinite(judged.loss)).toBe(true);
    if (task === "seq2seq-lm") expect(judged.exactMatch?.total).toBe(4);

    const saved = join(root, `${task}-${scores.length}`);
    await exportModel(model, "peft", saved, { adapter });
    const again = await loadModel(source, {
      platform,
      task,
      forAdapter: saved,
      ...(task.endsWith("image-classification") ? { newHead: true } : {}),
    });
    expect(again.pretrained.labels).toEqual(model.pretrained.labels);
    const { loss } = await evaluate(again, (await loadData(again, path)).train, {
      device,
      adapter: await loadAdapter(again, saved),
    });
    expect(loss).toBeCloseTo(judged.loss, 5);

    await exportModel(model, "safetensors", `${saved}-merged`, { adapter, device });
    const merged = await loadModel(`${saved}-merged`, { platform }); // its config.json says what it is for
    expect([merged.pretrained.task, merged.pretrained.labels]).toEqual([task, model.pretrained.labels]);
    expect((await evaluate(merged, data.train, { device })).loss).toBeCloseTo(judged.loss, 4);
  });
});

describe.each([
  ["sequence-classification", "bert-base", () => rows("moods", moods)],
  [
    "seq2seq-lm",
    "t5",
    () =>
      rows(
        "targets",
        moods.map(({ text }) => ({ source: text, target: "the mat" })),
      ),
  ],
] as const)("%s of %s is tuned, saved and judged again the same", (task, name, make) => {
  const residual = name === "t5" ? "residual" : "normed";
  it.each([
    ["dora", { rank: 2 }],
    ["adalora", { initialRank: 4, targetRank: 2 }],
    ["paca", { rank: 2 }],
    ["compacter", { reduction: 4 }],
    ["compacter++", { reduction: 4, placement: residual }],
    ["phm", { reduction: 4 }],
    ["bottleneck", { reduction: 8, frozenNorms: true }],
  ] as const)("by %s", async (method, methodOptions) => {
    const path = await make();
    const source = join(root, name);
    const model = await loadModel(source, { platform, task, labelsFrom: path });
    const data = await loadData(model, path);
    const options = { device, maxSteps: 3, batchSize: 4, learningRate: 1e-2, method, methodOptions } as const;
    const { adapter } = await tune(model, data, options);
    const judged = await evaluate(model, data.train, { device, adapter });
    const fresh = await loadModel(source, { platform, task, labelsFrom: path });
    expect((await evaluate(fresh, data.train, { device })).loss).not.toBeCloseTo(judged.loss, 5);
    const saved = join(root, `${task}-${method}`);
    await exportModel(model, method === "dora" || method.endsWith("a") ? "peft" : "adapterhub", saved, { adapter });
    const again = await loadModel(source, { platform, task, forAdapter: saved });
    const read = await loadAdapter(again, saved);
    const { loss } = await evaluate(again, (await loadData(again, path)).train, { device, adapter: read });
    expect(loss).toBeCloseTo(judged.loss, 5);
  });
});

describe("labels that do not fit", () => {
  it("are refused for a head that is there, by name, unless it starts anew", async () => {
    const path = await rows("other", [...moods, { text: "a", label: "glads" }, { text: "a", label: "calmer" }]);
    const source = join(root, "bert-sequence");
    await expect(loadModel(source, { platform, labelsFrom: path })).rejects.toMatchObject({
      code: "label-mismatch",
      message: expect.stringMatching(/3 labels, the data 4.*"calmer".*calm.*"glads".*glad/s),
    });
    const { pretrained } = await loadModel(source, { platform, labelsFrom: path, newHead: true });
    expect(pretrained.labels).toEqual(["calmer", "glad", "glads", "sad"]);
    expect(pretrained.weights.get("classifier.weight")?.shape).toEqual([4, 32]);
    expect(pretrained.json["id2label"]).toEqual({ 0: "calmer", 1: "glad", 2: "glads", 3: "sad" });
  });

  it("are those of rows in memory, as of a file that holds them", async () => {
    const given = [...moods, { text: "a", label: "calm" }];
    const source = join(root, "bert-sequence");
    const labelsOf = async (labelsFrom: LoadModelOptions["labelsFrom"]): Promise<unknown> =>
      (await loadModel(source, { platform, newHead: true, ...(labelsFrom ? { labelsFrom } : {}) })).pretrained.labels;
    async function* slowly(): AsyncGenerator<object> {
      yield* given;
    }
    const expected = await labelsOf(await rows("in-a-file", given));
    expect(expected).toEqual(["calm", "glad", "sad"]);
    for (const from of [given, slowly(), [{ rows: given.slice(0, 1) }, { rows: given.slice(1) }]])
      expect(await labelsOf(from)).toEqual(expected);
    await expect(labelsOf([])).rejects.toMatchObject({ code: "empty-data" });
  });

  it("are refused when a model is judged", async () => {
    const model = await loadModel(join(root, "bert-sequence"), { platform });
    const path = await rows("strange", [{ text: "a", label: "happy" }]);
    await expect(loadData(model, path)).rejects.toMatchObject({ code: "unknown-label" });
  });

  it("must be known for a head that is not there", async () => {
    const asked = loadModel(join(root, "bert-base"), { platform, task: "token-classification" });
    await expect(asked).rejects.toMatchObject({ code: "labels-needed" });
  });

  it("are not asked of models that continue texts, nor continuations of encoders", async () => {
    const none = loadModel(join(root, "bert-base"), { platform, task: "causal-lm" });
    await expect(none).rejects.toMatchObject({ code: "unknown-task" });
    const { pretrained } = await loadModel(join(root, "bert-base"), { platform });
    expect(() => pretrained.decode({ logits: "all" })).toThrow(/does not continue texts/);
  });
});

describe("what a head learns", () => {
  const problem = async (name: string, options: Omit<Parameters<typeof loadModel>[1], "platform">): Promise<unknown> =>
    (await loadModel(join(root, name), { platform, ...options })).pretrained.json["problem_type"];

  it("is said by problem_type, and written as it is now", async () => {
    const moody = await rows("moods", moods);
    expect(await problem("bert-multi-label", {})).toBe("multi_label_classification");
    expect(await problem("bert-scores", {})).toBe("regression");
    expect(await problem("bert-sequence", {})).toBeUndefined();
    expect(await problem("bert-sequence", { task: "multi-label-classification" })).toBe("multi_label_classification");
    expect(await problem("bert-multi-label", { task: "sequence-classification" })).toBe("single_label_classification");
    const one = await rows("one", [{ text: "a", label: "glad" }]);
    const asked = { task: "sequence-classification", newHead: true } as const;
    expect(await problem("bert-scores", { ...asked, labelsFrom: moody })).toBe("single_label_classification");
    expect(await problem("bert-sequence", { ...asked, labelsFrom: one })).toBe("single_label_classification");
  });

  it("has as many scores as the head gives, or starts anew", async () => {
    const two = await rows("two", [{ text: "a", scores: [1, 2] }]);
    const one = await rows("single", [{ text: "a", score: 1 }]);
    await expect(loadModel(join(root, "bert-scores"), { platform, labelsFrom: two })).rejects.toMatchObject({
      code: "label-mismatch",
      message: expect.stringContaining("The head gives 3 scores, the data 2 scores"),
    });
    const model = await loadModel(join(root, "bert-scores"), { platform });
    await expect(loadData(model, one)).rejects.toMatchObject({
      code: "malformed-data",
      message: expect.stringMatching(/line 1.*has 1 score, and the model gives 3 scores/s),
    });
    const labelsOf = async (labelsFrom: string): Promise<unknown> =>
      (await loadModel(join(root, "bert-scores"), { platform, labelsFrom, newHead: true })).pretrained.labels;
    expect(await labelsOf(two)).toEqual(["LABEL_0", "LABEL_1"]);
    expect(await labelsOf(one)).toEqual(["score"]);
  });

  it("is refused where the family has no such head", async () => {
    const folder = join(root, "vit-scores");
    await cp(join(root, "vit-image"), folder, { recursive: true });
    const json = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
    await writeFile(join(folder, "config.json"), JSON.stringify({ ...json, problem_type: "regression" }));
    await expect(loadModel(folder, { platform })).rejects.toMatchObject({
      code: "bad-config",
      message: expect.stringMatching(/"problem_type" is "regression".*ViTForImageClassification.*multi_label/s),
    });
  });
});

it("an image that does not decode is named with its row", async () => {
  await writeFile(join(root, "broken.png"), "no image");
  const model = await loadModel(join(root, "vit-image"), { platform });
  const path = await rows("broken", [{ image: "broken.png", label: "sad" }]);
  await expect(loadData(model, path)).rejects.toMatchObject({
    code: "bad-image",
    message: expect.stringContaining("line 1"),
  });
  const outside = await rows("outside", [{ image: "../x.png", label: "sad" }]);
  await expect(loadData(model, outside)).rejects.toMatchObject({ code: "path-outside-folder" });
});
