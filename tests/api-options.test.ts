import { beforeAll, describe, expect, it } from "vitest";
import type { LoadedClients, LoadedData, LoadedModel } from "../src/index.ts";
import * as api from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { reportData } from "../src/train/data/index.ts";
import { root } from "./helpers/cli.ts";
import { golden } from "./helpers/golden.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

/*
 * A law of every published function: one that takes an object of options refuses a name that is none of them, with the one
 * that is meant, before anything else.
 */
let model: LoadedModel;
const data: LoadedData = {
  ...{ format: "text", kind: "sequence", train: randomExamples(8), validation: randomExamples(2) },
  ...{ report: reportData(randomExamples(8)), warnings: [], ignoredKeys: [], skipped: [], renamed: {}, preview: "" },
};
const clients: LoadedClients = {
  ...{ clients: [{ name: "a", train: data.train }], validation: data.validation, kind: "sequence" },
  ...{ leftOut: {}, read: [data], files: [] },
};
beforeAll(async () => {
  const tokenizer = { padId: 0, eosId: 0 } as never; // all that is asked of it
  const place = { platform: nodePlatform, source: "tiny", folder: "tiny" };
  model = { pretrained: await randomModel(), ...place, tokenizer: async () => tokenizer };
});

type Options = Readonly<Record<string, unknown>>;

/** Functions with options: how each is called with some. */
const takers: Readonly<Record<string, (options: Options) => unknown>> = {
  loadModel: (options) => api.loadModel("nowhere", { platform: nodePlatform, ...options }),
  loadData: (options) => api.loadData(model, "nowhere.jsonl", options),
  streamData: (options) => api.streamData(model, "nowhere.jsonl", { folder: "nowhere", ...options }),
  checkTuning: (options) => api.checkTuning(options),
  tune: (options) => api.tune(model, data, options),
  findLearningRate: (options) => api.findLearningRate(model, data, options),
  planTuning: (options) => api.planTuning(model, data, options),
  loadClients: (options) => api.loadClients(model, ["nowhere.jsonl"], options),
  simulateFederation: (options) => api.simulateFederation(model, clients, options),
  compareFederations: (options) =>
    api.compareFederations(model, clients, { strategies: ["ffa"], learningRates: [1], output: "nowhere", ...options }),
  compare: (options) => api.compare(model, data, { methods: [{ method: "lora" }], output: "nowhere", ...options }),
  tuneInOrder: (options) => api.tuneInOrder(model, [], { output: "nowhere", ...options }),
  generate: (options) => api.generate(model, "a", options).next(),
  openSession: (options) => api.openSession(model, options),
  evaluate: (options) => api.evaluate(model, data.train, options),
  measureForgetting: (options) => api.measureForgetting(model, data.train, options),
  quantize: (options) => api.quantize(model, data, { output: "nowhere", ...options }),
  checkQuantizing: (options) => api.checkQuantizing(options),
  compareQuantized: (options) => api.compareQuantized(model, data, { output: "nowhere", ...options }),
  standardCandidates: (options) => api.standardCandidates(options),
  exportModel: (options) => api.exportModel(model, "safetensors", "nowhere", options),
  checkExport: (options) => api.checkExport("safetensors", options),
  combine: (options) => api.combine(model, {}, options),
  diagnose: (options) => api.diagnose(model, options),
  serveFederation: (options) =>
    api.serveFederation(model, { transport: {} as never, run: "run", clients: 1, ...options }), // names come first
  joinFederation: (options) => api.joinFederation(model, data, { transport: {} as never, ...options }), // likewise
  diagnoseAttention: (options) => api.diagnoseAttention(model, data.train, { length: 8, ...options }),
  diagnoseFiles: (options) => api.diagnoseFiles(nodePlatform, { base: "a", tuned: "b" }, options),
  mend: (options) => api.mend(model, options),
  createFederation: (options) =>
    api.createFederation(nodePlatform.storage, "nowhere", { run: "r", addresses: ["nats://a"], ...options }),
  privacySpent: (options) => api.privacySpent({ spends: [], ...options }),
  noiseFor: (options) => api.noiseFor({ epsilon: 1, samplingRate: 0.1, steps: 1, ...options }),
  writeMended: (options) => api.writeMended(model, "nowhere", "base", options),
};

/** Functions that take none, or check them as values of their own kind. */
const others = [
  ...[
    "chooseObjective",
    "dataSize",
    "describeQuantisation",
    "drawCounts",
    "drawSimilarities",
    "drawSimilarity",
    "drawSpectra",
    "drawSpectrum",
  ],
  ...["findRuns", "inspect", "loadAdapter", "parseTargets", "ranksLeft", "refuseOtherRun", "remarkable", "reportPage"],
  ...["comparisonTable", "federationPage", "federationReport", "federationStatus"],
  ...["stopFederation", "withdrawFromFederation"],
  ...["attentionPage", "drawDegrees", "drawHeads", "planFileOf", "readPlan", "sayQualified"],
  ...["calibrationNeed", "pipelineNote", "resolveSampling", "sayWarning", "TuneError", "isPrivate", "readLedger"],
  ...["inviteToFederation", "openClientTransport", "openCoordinatorTransport"],
  ...[
    "checkOutput",
    "claimOutput",
    "folderKind",
    "addFile",
    "checkFolder",
    "checkPicture",
    "guardOutputs",
    "writePicture",
  ],
];

async function refusal(taker: string, options: Options): Promise<{ code: string; message: string }> {
  try {
    await takers[taker]?.(options);
  } catch (error) {
    return error as { code: string; message: string };
  }
  throw new Error(`${taker} took ${Object.keys(options).join(", ")}`);
}

it("every published function is among those with options, or among those without", () => {
  const functions = Object.entries(api).filter(([, value]) => typeof value === "function");
  const known = [...Object.keys(takers), ...others].sort();
  expect(functions.map(([name]) => name).filter((name) => !known.includes(name))).toEqual([]);
  expect(Object.keys(takers).filter((name) => !(name in api))).toEqual([]);
});

describe.each(Object.keys(takers))("%s", (taker) => {
  it("refuses every name that is no option", async () => {
    const { code, message } = await refusal(taker, { qwertz: 1, asdf: 2 });
    expect(code).toBe("bad-option");
    expect(message).toContain('there is no option "qwertz"');
    expect(message).toContain('there is no option "asdf"');
  });

  it("refuses such a name in the options of a device too, and threads that are none", async () => {
    const { code, message } = await refusal(taker, { deviceOptions: { provder: "cpu" } });
    expect(code).toBe("bad-option");
    expect(message).toMatch(/"deviceOptions"|"provder" \(nearest: provider\)/);
    expect((await refusal(taker, { deviceOptions: { threads: 0 } })).message).toMatch(/"deviceOptions"|threads is 0/);
  });
});

it.each([
  ["tune", { lr: 1 }, /"lr" \(nearest: learningRate\)/],
  ["tune", { batch_size: 1 }, /"batch_size" \(nearest: batchSize\)/],
  ["tune", { num_train_epochs: 1 }, /nearest: epochs/],
  ["tune", { rank: 8 }, /"rank" \(it belongs into methodOptions: \{ rank \}\)/],
  ["tune", { lora_alpha: 8 }, /belongs into methodOptions: \{ alpha \}/],
  ["tune", { beta: 0.1 }, /objectiveOptions: \{ beta \}/],
  ["tune", { weightDecay: 0.1 }, /optimizerOptions: \{ weightDecay \}/],
  ["tune", { methodOptions: { rnak: 8 } }, /lora has no option "rnak" \(nearest: rank\)/],
  ["tune", { methodOptions: { initialRank: 8 } }, /lora has no option "initialRank", which adalora takes/],
  [
    "tune",
    { optimizer: "sgd", optimizerOptions: { beta1: 0.5 } },
    /sgd has no option "beta1", which adamw or adamw8bit/,
  ],
  [
    "tune",
    { objectiveOptions: { beta: 1 } },
    /no objective is named, so nothing takes .* "beta", which dpo or ipo takes/,
  ],
  [
    "tune",
    { objective: "causal-lm", objectiveOptions: { beta: 1 } },
    /causal-lm has no option "beta", which dpo or ipo takes/,
  ],
  ["tune", { inPlace: { module: [] } }, /"module" \(nearest: modules\)/],
  ["tune", { inPlace: { biases: "some" } }, /biases is "some"/],
  ["tune", { targetModules: { modules: "all-linear", layer: [0] } }, /"layer" \(nearest: layers\)/],
  ["tune", { epochs: 1, maxSteps: 3 }, /epochs is 1, which would do nothing/],
  [
    "tune",
    { tensorboard: true, resume: true, checkpointEvery: 3 },
    /tensorboard: [\s\S]*resume: [\s\S]*checkpointEvery: /,
  ],
  ["tune", { memory: "smal" }, /memory is "smal"/],
  ["tune", { method: "full", targetModules: ["q_proj"] }, /targetModules: full trains every weight/],
  ["tune", { method: "paca", methodOptions: { columnList: "1" } }, /columnList .* would do nothing: select is random/],
  ["findLearningRate", { learningRate: 1 }, /"learningRate"/],
  ["compare", { learningRate: 1 }, /"learningRate" \(nearest: learningRates\)/],
  ["compare", { methods: [{ method: "lora", rank: 3 }] }, /"rank" \(it belongs into methodOptions/],
  ["compare", { methods: [{ method: "full" }], rank: 4 }, /rank: none of the methods has a rank/],
  ["loadModel", { task: "chat" }, /task is "chat"/],
  ["loadData", { tooLong: "cut" }, /tooLong is "cut"/],
  ["loadData", { max_seq_length: 5 }, /nearest: maxLength/],
  [
    "tune",
    { method: "full", targetModules: { modules: "all-linear", layers: [0] } },
    /targetModules \(layers\): full trains/,
  ],
  ["tune", { method: "full", inPlace: { modules: ["lm_head"] } }, /modules to save and biases would change nothing/],
  ["tune", { method: "full", patterns: { rank: { q_proj: 2 } } }, /full has no option "rank"[\s\S]*at rank pattern/],
  [
    "tune",
    { method: "bottleneck", methodOptions: { reduction: 4 }, optimizerOptions: { weightDecay: 0.1 } },
    /weightDecay: nothing that bottleneck trains/,
  ],
  ["loadData", { validation: 2, validationPath: "a" }, /validation is 2, which would do nothing/],
  ["tuneInOrder", { between: "join" }, /between is "join"/],
  ["generate", { topP: 0.9 }, /topP is 0.9, which would do nothing: temperature is 0/],
  ["generate", { max_tokens: 3 }, /nearest: maxNewTokens/],
  ["generate", { lookups: "fast" }, /the model is not packed/],
  ["quantize", { keepAs: "f16" }, /keepAs is "f16"/],
  ["quantize", { groupSize: 3 }, /it belongs into methodOptions: \{ groupSize \}/],
  [
    "quantize",
    { method: "rtn", methodOptions: { rounds: 2 } },
    /rtn has no option "rounds", which shiftadd or bcq takes/,
  ],
  ["quantize", { bits: { average: 2.2, how: "rule" } }, /"how"/],
  ["quantize", { tuneScales: { patience: 3 } }, /"patience"/],
  ["exportModel", { preTokenizer: "llama" }, /safetensors does not take preTokenizer: gguf does/],
  ["exportModel", { dtypes: ["fp16"] }, /holds no numbers as fp16/],
  ["combine", { how: "sum" }, /how is "sum"/],
])("%s, %j", async (taker, options, message) => {
  expect(await refusal(taker, options)).toMatchObject({ code: "bad-option", message: expect.stringMatching(message) });
});

describe("options that a model has no use for are refused by name", () => {
  const causal = `${root}assets/quickstart/model`;
  it.each([
    [causal, { newHead: true }, "no head of labels that a new head could replace"],
    [causal, { labels: ["a", "b"] }, "labels: a model for causal-lm has none"],
    [causal, { readOptions: { skipBadRows: true } }, "readOptions: there is no labelsFrom"],
  ])("loadModel %s %j", async (source, options, message) => {
    await expect(api.loadModel(source, { platform: nodePlatform, ...options })).rejects.toMatchObject({
      ...{ code: "bad-option", message: expect.stringContaining(message) },
    });
  });

  it.each([
    ["vit-image", { maxLength: 5 }, "maxLength is 5, which would do nothing: images have no tokens"],
    ["bert-sequence", { tooLong: "split" }, "Rows for sequence-classification are not split"],
  ] as const)("loadData for %s, %j", async (name, options, message) => {
    const loaded = await api.loadModel(golden(`encoders/${name}`), { platform: nodePlatform });
    await expect(api.loadData(loaded, "nowhere.jsonl", options)).rejects.toMatchObject({
      ...{ code: "bad-option", message: expect.stringContaining(message) },
    });
  });

  it("streamData for what is not read as a stream", async () => {
    const loaded = await api.loadModel(golden("encoders/bert-sequence"), { platform: nodePlatform });
    await expect(api.streamData(loaded, "nowhere.jsonl", { folder: "nowhere" })).rejects.toMatchObject({
      ...{ code: "bad-option", message: expect.stringContaining("is not read as a stream") },
    });
  });

  it("a decay is left out of a comparison for methods that train nothing which decays, and refused where none does", async () => {
    const compared = (...names: readonly string[]): Promise<unknown> =>
      api.compare(model, data, {
        ...{ methods: names.map((method) => ({ method, methodOptions: method === "lora" ? {} : { reduction: 4 } })) },
        ...{ output: "nowhere", optimizerOptions: { weightDecay: 0.1 }, learningRates: [1e-3], seeds: [0] },
      });
    await expect(compared("bottleneck", "compacter")).rejects.toThrow("weightDecay: nothing that bottleneck trains");
  });
});

it("learning rates are those of the method and the objective, whoever asks", async () => {
  const starts = new Map<string, number>();
  for (const method of ["lora", "full", "paca"]) {
    await api
      .tune(model, data, {
        ...{ method, maxSteps: 1, deviceOptions: { worker: false }, signal: AbortSignal.abort() },
        onEvent: (event) => event.kind === "start" && starts.set(method, event.settings.learningRate),
      })
      .catch(() => undefined);
  }
  expect(Object.fromEntries(starts)).toEqual({ lora: 3e-4, full: 3e-5, paca: 1e-3 });
});
