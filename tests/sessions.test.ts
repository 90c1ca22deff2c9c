import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openMemoryEngine } from "../src/federated/index.ts";
import {
  type Adapter,
  type Device,
  diagnose,
  diagnoseAttention,
  evaluate,
  exportModel,
  findLearningRate,
  generate,
  joinFederation,
  type LoadedClients,
  type LoadedData,
  type LoadedModel,
  loadModel,
  measureForgetting,
  mend,
  openSession,
  planTuning,
  quantize,
  type Session,
  serveFederation,
  simulateFederation,
  tune,
  tuneInOrder,
} from "../src/index.ts";
import type { TextTokenizer } from "../src/io/tokenizer.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { root } from "./helpers/cli.ts";
import { type CountingDevice, countingDevice } from "./helpers/counting-device.ts";
import { packFolder } from "./helpers/packed-model.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

/*
 * What lives on a device: every function that takes one leaves nothing there, however it ends; several may use one at the
 * same time; and what is closed is closed.
 */
let folder: string;
let device: Device;
let model: LoadedModel;
let chat: LoadedModel;
let packed: LoadedModel;
let data: LoadedData;
let adapter: Adapter;
let outputs = 0;

const search = { batchSize: 4, methodOptions: { rank: 2 } };
const settings = { ...search, maxSteps: 2, learningRate: 1e-3 };
const quickstart = `${root}assets/quickstart/model`;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-sessions-"));
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = inMemory(await randomModel());
  data = dataOf(randomExamples(8), randomExamples(2, 64, 2));
  adapter = (await tune(model, data, { ...settings, device })).adapter;
  chat = await loadModel(quickstart, { platform: nodePlatform });
  await packFolder(nodeStorage, quickstart, { storage: nodeStorage, folder: join(folder, "packed") }, packing);
  packed = await loadModel(join(folder, "packed"), { platform: nodePlatform });
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const packing = { bits: 4, scales: "columns" } as const;
/** A model in memory as the commands have it, with a token a letter. */
function inMemory(pretrained: PretrainedModel): LoadedModel {
  const own = { encode: (text: string) => [...text].map((letter) => letter.charCodeAt(0) % 64), decode: () => "a" };
  const tokenizer = { ...own, padId: 0, eosId: 0, eosIds: [0] } as unknown as TextTokenizer; // all that is asked of it here
  return { pretrained, platform: nodePlatform, source: "memory", folder: "memory", tokenizer: async () => tokenizer };
}

/** What `loadData` gives, as far as it is looked at here. */
function dataOf(train: readonly TokenizedExample[], validation: readonly TokenizedExample[]): LoadedData {
  return { format: "text", kind: "sequence", train, validation, preview: "" } as unknown as LoadedData;
}

const output = (): string => join(folder, `out-${++outputs}`);

async function textOf(pieces: AsyncGenerator<string, unknown>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}

const rounds = { rounds: 1, localSteps: 1, batchSize: 2, learningRate: 0.1, methodOptions: { rank: 2 } } as const;

function federated(): LoadedClients {
  const clients = [{ name: "ana", train: data.train.slice(0, 4) }];
  return { clients, validation: data.validation, kind: data.kind, leftOut: {}, read: [], files: [] };
}

/** A coordinator and a client, each with a device of its own unless given. */
async function apart(given: {
  readonly serving?: { readonly device: Device };
  readonly joining?: { readonly device: Device };
}): ReturnType<typeof serveFederation> {
  const engine = openMemoryEngine();
  const stop = new AbortController();
  const serving = serveFederation(model, {
    ...{ ...rounds, transport: engine.connect("coordinator"), run: "run", clients: 1, signal: stop.signal },
    ...given.serving,
  });
  const joining = joinFederation(
    model,
    { train: data.train.slice(0, 4), kind: data.kind },
    { transport: engine.connect("ana"), pollMs: 20, signal: stop.signal, ...given.joining },
  );
  try {
    const [served] = await Promise.all([serving, joining]);
    return served;
  } finally {
    stop.abort();
  }
}

/** Everything that takes a device, by the options that take it. */
const uses: Readonly<Record<string, (on: Device) => Promise<unknown>>> = {
  TuneOptions: async (on) => (await tune(model, data, { ...settings, trackIntruders: true, device: on })).best?.loss,
  FindLearningRateOptions: async (on) =>
    (await findLearningRate(model, data, { ...search, steps: 10, device: on })).points.map(({ loss }) => loss),
  EvaluateOptions: async (on) =>
    (await evaluate(model, data.train.slice(0, 2), { adapter, exactMatch: true, device: on })).loss,
  GenerateOptions: (on) => textOf(generate(model, "Wake me", { adapter, maxNewTokens: 4, device: on })),
  ForgettingOptions: async (on) => (await measureForgetting(model, data.validation, { adapter, device: on })).tunedLoss,
  ComparisonOptions: async (on) => {
    const { report, unmended, close } = await mend(model, { adapter, mode: "all", lambda: 0.5, device: on });
    try {
      for (const { source } of unmended.pretrained.weights.values()) await source.read();
    } finally {
      await close();
    }
    return [report.total, (await diagnose(model, { adapter, device: on })).total];
  },
  ExportOptions: (on) => exportModel(model, "safetensors", output(), { adapter, device: on }),
  QuantizeOptions: async (on) => {
    const tuneScales = { maxSteps: 1, batchSize: 2 };
    const done = await quantize(model, data, { method: "rtn", bits: 3, output: output(), tuneScales, device: on });
    return done.ended;
  },
  PlanTuningOptions: async (on) => (await planTuning(model, data, { ...settings, device: on })).fits,
  DiagnoseAttentionOptions: async (on) =>
    (await diagnoseAttention(model, data.train, { length: 8, texts: 1, adapter, device: on })).report.heads.map(
      ({ bound }) => bound, // what it would cost is measured
    ),
  SimulateOptions: async (on) =>
    (await simulateFederation(model, federated(), { ...rounds, device: on })).history.map(({ clients }) => clients),
  ServeOptions: async (on) => (await apart({ serving: { device: on } })).history.length,
  JoinOptions: async (on) => (await apart({ joining: { device: on } })).history.length,
  ContinualOptions: async (on) => {
    const tasks = ["one", "two"].map((name) => ({ name, data }));
    return (await tuneInOrder(model, tasks, { ...settings, output: output(), device: on })).stages[0]?.losses;
  },
};

it("is tried with every function whose options take a device", () => {
  const api = readdirSync(`${root}src/api`).filter((name) => name.endsWith(".ts"));
  const text = api.map((name) => readFileSync(`${root}src/api/${name}`, "utf8")).join("\n");
  const taking = [...text.matchAll(/export interface (\w+)[^{]*\{((?:(?!\n\})[\s\S])*)\n\}/g)]
    .filter(([, , body = ""]) => /readonly device\?: Device;/.test(body))
    .map(([, name = ""]) => name);
  expect(taking.length).toBeGreaterThan(7);
  expect(taking.filter((name) => !(name in uses))).toEqual([]);
});

describe.each(Object.entries(uses))("%s", (_name, use) => {
  let watched: CountingDevice;
  beforeAll(() => {
    watched = countingDevice(device);
  });

  it("leaves nothing on the device that it was given, nor when something fails there", async () => {
    await use(watched);
    const total = watched.calls;
    expect(total).toBeGreaterThan(1);
    expect(watched.left()).toEqual({ programs: 0, buffers: [] });
    // The first calls, which open things, and some in the middle and at the end.
    for (const call of new Set([1, 2, Math.ceil(total / 3), Math.ceil((2 * total) / 3), total])) {
      watched.failAt(call);
      await use(watched).then(
        () => undefined,
        (error: unknown) => expect(error).toMatchObject({ code: expect.any(String) }),
      );
      watched.failAt(undefined);
      expect(watched.left(), `after call ${call} of ${total} failed`).toEqual({ programs: 0, buffers: [] });
    }
  });

  it("has the same result beside a run on the same device, and leaves that run its own", async () => {
    const losses = async (): Promise<readonly number[]> => {
      const seen: number[] = [];
      await tune(model, data, {
        ...settings,
        maxSteps: 4,
        device,
        onEvent: (event) => event.kind === "step" && seen.push(event.loss),
      });
      return seen;
    };
    const [alone, result] = [await losses(), await use(device)];
    const [beside, again] = await Promise.all([losses(), use(device)]);
    expect(beside).toEqual(alone);
    expect(again).toEqual(result);
  });
});

it("tells a run that is stopped while it waits for another on its device", async () => {
  const stop = new AbortController();
  const first = tune(model, data, { ...settings, device });
  const second = tune(model, data, { ...settings, device, signal: stop.signal });
  stop.abort();
  await expect(second).rejects.toMatchObject({ code: "interrupted" });
  expect((await first).ended).toBe("finished");
});

const sessions: Readonly<Record<string, () => Promise<Session>>> = {
  "a session on a device of its own": () => openSession(chat),
  "a session on a device that is given": () => openSession(chat, { device }),
  "a packed session on threads": () => openSession(packed, { deviceOptions: { threads: 2 } }),
};

describe.each(Object.entries(sessions))("%s", (_name, open) => {
  it("closes twice, and in the middle of an answer, and is closed then", async () => {
    const session = await open();
    const [pieces, left] = [session.generate("Wake me", { maxNewTokens: 30 }), session.generate("Wake me")];
    await pieces.next();
    await left.next();
    await Promise.all([session.close(), session.close()]);
    await session.close();
    await expect(pieces.next()).rejects.toMatchObject({ code: "session-closed" });
    await left.return({ text: "", ids: [], promptTokens: 0, finishReason: "aborted" });
    await expect(session.generate("Wake me").next()).rejects.toMatchObject({ code: "session-closed" });
    await expect(session.decoder.start([[1]])).rejects.toMatchObject({ code: "session-closed" });
  });

  it("ends an answer that is aborted, before it begins and in its middle, and gives the next one", async () => {
    const session = await open();
    const whole = await textOf(session.generate("Wake me", { maxNewTokens: 8 }));
    const stop = new AbortController();
    const pieces = session.generate("Wake me", { maxNewTokens: 8, signal: stop.signal });
    expect((await pieces.next()).done).toBe(false);
    stop.abort();
    let step = await pieces.next();
    while (!step.done) step = await pieces.next();
    expect(step.value.finishReason).toBe("aborted");
    const none = await session.generate("Wake me", { signal: AbortSignal.abort() }).next();
    expect(none).toMatchObject({ done: true, value: { text: "", finishReason: "aborted" } });
    expect(await textOf(session.generate("Wake me", { maxNewTokens: 8 }))).toBe(whole);
    await session.close();
  });
});

it("frees what an abandoned answer held, whether its reader stops, throws or never comes back", async () => {
  const watched = countingDevice(device);
  for await (const _piece of generate(chat, "Wake me", { device: watched, maxNewTokens: 30 })) break;
  expect(watched.left()).toEqual({ programs: 0, buffers: [] });
  const reading = async (): Promise<void> => {
    for await (const _piece of generate(chat, "Wake me", { device: watched })) throw new Error("mine");
  };
  await expect(reading()).rejects.toThrow("mine");
  expect(watched.left()).toEqual({ programs: 0, buffers: [] });
  const session = await openSession(chat, { device: watched });
  await session.generate("Wake me", { maxNewTokens: 30 }).next();
  expect(watched.left().buffers.length).toBeGreaterThan(0);
  await session.close();
  expect(watched.left()).toEqual({ programs: 0, buffers: [] });
});
