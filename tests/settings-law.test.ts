import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type AttentionPlan, planned } from "../src/api/attention.ts";
import { type TuneOptions, tune, tuneNames } from "../src/api/tune.ts";
import { bytesOf } from "../src/graph/index.ts";
import { type LoadedData, type LoadedModel, TuneError } from "../src/index.ts";
import { contentHash } from "../src/io/content-hash.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import type { Storage } from "../src/io/storage.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { optimizers, schedules } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { baseWeights } from "../src/train/base-weights.ts";
import { reportData } from "../src/train/data/index.ts";
import { memoryChoices } from "../src/train/memory.ts";
import type { MetricLine } from "../src/train/metrics.ts";
import type { RunEvent } from "../src/train/run.ts";
import { randomExamples, randomModel, tinyLlama } from "./helpers/tiny-model.ts";
import { watchedDevice } from "./helpers/watched-device.ts";

/*
 * A law of every option of `tune`, over real runs: another value changes what a device is given, what comes of it, what is
 * written or what is told, or is refused by its name. An option without a sample does not compile, and fails. What repeats
 * the options is left out of the comparison: the settings in the first event, in checkpoints and in adapters, and the
 * learning rate that is reported. What methods, objectives and optimisers take is held to `option-laws.test.ts`.
 */

/** A value of an option that is to change something. */
interface Sample<Value> {
  readonly to: Value;
  /** Held against this value; against none unless given. */
  readonly from?: Value;
  /** Options that both runs have. */
  readonly beside?: TuneOptions;
  /** Options of a usual run that both leave out. */
  readonly drop?: readonly (keyof TuneOptions)[];
  /** Where both run, otherwise than usual. */
  readonly where?: Partial<Place>;
  /** The code that a run without it is refused with; it ends well unless given. */
  readonly refusedWithout?: string;
  /** The code that a run with it is refused with, and what the error says; it ends well unless given. */
  readonly refused?: { readonly code: string; readonly says: string };
}

/** What a run is made on. */
interface Place {
  readonly data: LoadedData;
  /** Files that are there, by path. */
  readonly files: Readonly<Record<string, Uint8Array | string>>;
  readonly availableBytes: number;
}

let pretrained: PretrainedModel;
let onCpu: Device;
/** Files of a run that was stopped after an update. */
let stopped: Place["files"];
/** What that run had trained. */
let trained: NonNullable<TuneOptions["initial"]>;

const sequences = dataOf("sequence", randomExamples(8));
const pairs = dataOf(
  "pair",
  randomExamples(8).map((example, i) => ({ ...example, against: [randomExamples(8, 64, 2)[i] ?? example] })),
);
const long = {
  inputIds: Int32Array.from({ length: 2048 }, (_, i) => (i * 7919 + (i >> 3)) % 64),
  ...{ trained: new Uint8Array(2048).fill(1), line: 1 },
};
function dataOf(kind: LoadedData["kind"], train: LoadedData["train"]): LoadedData {
  return {
    ...{ format: "made", kind, train, validation: train.slice(0, 2), report: reportData(train) },
    ...{ warnings: [], ignoredKeys: [], skipped: [], renamed: {}, preview: "" },
  };
}

beforeAll(async () => {
  // What is private differs from run to run by its secret; here all have the same.
  vi.spyOn(globalThis.crypto, "getRandomValues").mockImplementation((into) => {
    if (into instanceof Uint8Array) into.fill(7);
    return into;
  });
  pretrained = await randomModel({ ...tinyLlama, num_hidden_layers: 1, vocab_size: 128 });
  onCpu = await openNodeDevice({ worker: false, threads: 1 });
  const stop = new AbortController();
  const run = await made({ signal: stop.signal, onEvent: ({ kind }) => (kind === "step" ? stop.abort() : undefined) });
  stopped = run.files;
  trained = run.parameters;
}, 120_000);
afterAll(() => onCpu.close());

/** A plan by which the first head attends by a polynomial, whatever its scores. */
function oneHead(): AttentionPlan {
  const heads = [{ layer: 0, head: 0, degree: 2, range: 1e6 }] as const;
  return { chunk: 32, alone: true, length: 1000, model: planned({ pretrained } as LoadedModel), heads }; // all that it asks of
}

/** What every run has unless a sample says otherwise. */
const usual: TuneOptions = {
  ...{ learningRate: 1e-2, schedule: "linear", warmup: 0, maxSteps: 3, batchSize: 2, checkpointEvery: 2 },
  ...{ methodOptions: { rank: 2 }, output: "run" },
};

/** What the devices, and who listens, are told during a run. */
let noted: string[] = [];
const watched = (name: string): Device => watchedDevice(onCpu, (line) => noted.push(`${name}: ${line}`));

/** Made when they are asked for: some are of what is made before. */
const samples: { readonly [Name in keyof Required<TuneOptions>]: () => readonly Sample<TuneOptions[Name]>[] } = {
  learningRate: () => [{ to: 2e-2 }],
  schedule: () => [{ to: "cosine" }],
  warmup: () => [{ to: 2 }, { to: 0.5 }],
  epochs: () => [{ from: 1, to: 0.5, drop: ["maxSteps"] }],
  maxSteps: () => [{ to: 2 }],
  batchSize: () => [{ to: 3 }],
  accumulationSteps: () => [{ to: 2 }],
  optimizer: () => [{ to: "sgd" }],
  optimizerOptions: () => [{ to: { weightDecay: 0.1 } }],
  maxGradNorm: () => [{ to: 0.01 }, { to: 0 }],
  dpEpsilon: () => [
    { from: 3, to: 6 },
    { to: 3, beside: { dpNoise: 1 }, refused: { code: "bad-option", says: "dpEpsilon" } },
  ],
  dpDelta: () => [
    { to: 1e-3, beside: { dpNoise: 1 } },
    { to: 1e-3, refused: { code: "bad-option", says: "dpDelta" } },
  ],
  dpClip: () => [
    { to: 0.5, beside: { dpNoise: 1 } },
    { to: 0.5, refused: { code: "bad-option", says: "dpClip" } },
  ],
  dpNoise: () => [{ from: 1, to: 2 }],
  dpAccountant: () => [
    { to: "rdp", beside: { dpEpsilon: 3 } },
    { to: "rdp", beside: { dpNoise: 1 }, refused: { code: "bad-option", says: "dpAccountant" } },
  ],
  memory: () => [{ to: "small" }],
  baseWeights: () => [{ to: "q8" }],
  evaluateEvery: () => [{ to: 1 }],
  patience: () => [{ to: 1, beside: { learningRate: 0, evaluateEvery: 1 } }],
  checkpointEvery: () => [
    { to: 1 },
    { to: 1, drop: ["output", "checkpointEvery"], refused: { code: "bad-option", says: "checkpointEvery" } },
  ],
  seed: () => [{ to: 1 }],
  method: () => [{ to: "dora" }],
  methodOptions: () => [{ to: { rank: 4 } }],
  targetModules: () => [{ to: ["q_proj"] }, { to: { modules: "all-linear", exclude: ["q_proj"] } }],
  objective: () => [
    { from: "dpo", to: "ipo", where: { data: pairs } },
    { to: "dpo", refused: { code: "objective-mismatch", says: "dpo" } },
  ],
  objectiveOptions: () => [
    { to: { beta: 0.5 }, beside: { objective: "dpo" }, where: { data: pairs } },
    { to: { beta: 0.5 }, refused: { code: "bad-option", says: "beta" } },
  ],
  patterns: () => [{ to: { rank: { q_proj: 4 } } }],
  inPlace: () => [{ to: { modules: ["lm_head"] } }],
  output: () => [{ to: "elsewhere" }],
  replace: () => [{ to: true, where: { files: { "run/notes.txt": "mine" } }, refusedWithout: "output-exists" }],
  inputs: () => [
    {
      ...{ to: ["run/rows.jsonl"], beside: { replace: true }, where: { files: { "run/rows.jsonl": "{}" } } },
      refused: { code: "output-is-input", says: "run/rows.jsonl" },
    },
  ],
  tensorboard: () => [
    { to: true },
    { to: true, drop: ["output", "checkpointEvery"], refused: { code: "bad-option", says: "tensorboard" } },
  ],
  resume: () => [
    { to: true, where: { files: stopped }, refusedWithout: "run-exists" },
    { to: true, drop: ["output", "checkpointEvery"], refused: { code: "bad-option", says: "resume" } },
  ],
  initial: () => [{ to: trained }],
  device: () => [{ from: watched("one"), to: watched("another") }],
  deviceOptions: () => [
    { from: { threads: 1 }, to: { threads: 2 }, drop: ["device"] },
    { to: { threads: 2 }, refused: { code: "bad-option", says: "deviceOptions" } },
  ],
  baseText: () => [{ to: randomExamples(2, 64, 3) }],
  trackIntruders: () => [{ to: true }],
  attention: () => [{ to: "auto" }, { to: oneHead() }],
  attentionError: () => [
    // On texts as long, polynomials are a fifth of the work, and no head's scores are small enough to be certified.
    {
      ...{ to: 0.9, beside: { attention: "auto", signal: AbortSignal.abort() } },
      where: { data: dataOf("sequence", [long]) },
    },
    { to: 0.9, refused: { code: "bad-option", says: "attentionError" } },
  ],
  ignoreMemory: () => [{ to: true, where: { availableBytes: 1000 }, refusedWithout: "not-enough-memory" }],
  signal: () => [{ to: AbortSignal.abort() }],
  onEvent: () => [{ from: () => undefined, to: ({ kind }) => noted.push(kind) }],
};

/** All that can be seen of a run. */
interface Made {
  readonly error: TuneError | undefined;
  readonly noted: readonly string[];
  readonly events: readonly unknown[];
  readonly ended: unknown;
  readonly parameters: NonNullable<TuneOptions["initial"]>;
  readonly files: Place["files"];
}

/** Make a run with options, on a storage of its own. */
async function made(options: TuneOptions, { drop = [], where = {} }: Partial<Sample<unknown>> = {}): Promise<Made> {
  const storage = memoryStorage(where.files ?? {});
  const { availableBytes = 1e12, data = sequences } = where;
  const model: LoadedModel = {
    platform: {
      ...nodePlatform,
      storage,
      memory: () => ({ processBytes: 0, availableBytes }),
      openDevice: async (asked) => watched(`opened with ${JSON.stringify(asked)}`),
    },
    ...{ pretrained, source: "made", folder: "made" },
    tokenizer: async () => ({ padId: 0, eosId: 0 }) as never, // all that is asked of it
  };
  const events: unknown[] = [];
  const onEvent = (event: RunEvent): void => {
    events.push(withoutOptions(event));
  };
  const whole = { device: watched("given"), onEvent, ...usual, ...options };
  const given = Object.entries(whole).filter(([name]) => name in options || !drop.includes(name as keyof TuneOptions));
  noted = [];
  const result = await tune(model, data, Object.fromEntries(given)).catch((error: unknown) => error);
  const error = result instanceof TuneError ? result : undefined;
  if (result instanceof Error && !error) throw result;
  const { adapter, ...ended } = error ? { adapter: undefined } : (result as Awaited<ReturnType<typeof tune>>);
  const parameters = adapter?.parameters ?? new Map();
  return { error, noted, events, ended, parameters, files: await filesIn(storage) };
}

/** A run with nothing but what is usual, made once. */
function usualRun(): Promise<Made> {
  once ??= made({});
  return once;
}
let once: Promise<Made> | undefined;

/** What of an event or a line repeats the options, and what a clock says. */
const repeats = ["settings", "method", "objective", "learningRate", "tokensPerSecond", "remainingMs"];

function withoutOptions(event: RunEvent | MetricLine): unknown {
  return Object.fromEntries(Object.entries(event).filter(([name]) => !repeats.includes(name)));
}

async function filesIn(storage: Storage, folder = ""): Promise<Readonly<Record<string, Uint8Array>>> {
  const names = (await storage.list(folder)).map((name) => `${folder}${name}`);
  const found = await Promise.all(
    names.map(async (name) => (name.endsWith("/") ? filesIn(storage, name) : { [name]: await storage.read(name) })),
  );
  return Object.assign({}, ...found);
}

/** What of a run is compared: of files only their paths, as their content repeats options, and the metrics. */
function compared({ error, noted, events, ended, parameters, files }: Made): string {
  const lines = Object.entries(files).flatMap(([path, bytes]) =>
    path.endsWith("metrics.jsonl") ? new TextDecoder().decode(bytes as Uint8Array).split("\n") : [],
  );
  return JSON.stringify({
    ...{ code: error?.code, noted, events, ended },
    parameters: [...parameters].map(([name, { shape, data }]) => [name, shape, contentHash(bytesOf(data))]),
    paths: Object.keys(files).map((path) => path.replace(/\d{8,}/, "time")),
    metrics: lines.filter((line) => line !== "").map((line) => withoutOptions(JSON.parse(line) as MetricLine)),
  });
}

it("every option of tune has a sample, and nothing else has", () => {
  expect(Object.keys(samples).sort()).toEqual(Object.keys(tuneNames).sort());
});

it("the usual run trains, and is watched", async () => {
  const { error, noted: lines, events, ended } = await usualRun();
  expect({ error, ended }).toMatchObject({ error: undefined, ended: { step: 3, ended: "finished" } });
  expect(lines.length).toBeGreaterThan(20);
  expect(events.length).toBeGreaterThan(4);
});

describe.each(Object.keys(samples) as (keyof TuneOptions)[])("%s", (name) => {
  it("changes what can be seen of a run, or is refused by name", async () => {
    const own = samples[name]() as readonly Sample<unknown>[];
    expect(own.length).toBeGreaterThan(0);
    for (const sample of own) {
      const { to, from, beside = {}, refusedWithout, refused } = sample;
      const special = [from, sample.beside, sample.drop, sample.where].some((given) => given !== undefined);
      const without = await (special
        ? made({ ...beside, ...(from === undefined ? {} : { [name]: from }) }, sample)
        : usualRun());
      const as = await made({ ...beside, [name]: to }, sample);
      expect({ without: without.error?.code, as: as.error?.code }, String(as.error ?? without.error)).toEqual({
        without: refusedWithout,
        as: refused?.code,
      });
      if (refused) expect(as.error?.message).toContain(refused.says);
      expect(compared(as) === compared(without), `${name}: ${JSON.stringify(to)} changes nothing`).toBe(false);
      if (refused) continue;
      const again = await made({ ...beside, [name]: to }, sample);
      expect(compared(again) === compared(as), `${name}: what is compared changes by itself`).toBe(true);
    }
  });
});

/** Records that an option names, and what the run of each has besides. */
const records: Partial<Record<keyof TuneOptions, readonly [names: Iterable<string>, beside?: TuneOptions]>> = {
  schedule: [Object.keys(schedules)],
  // Eight bits are for tensors of 4096 elements or more: the output layer has as many.
  optimizer: [optimizers.keys(), { inPlace: { modules: ["lm_head"] } }],
  memory: [Object.keys(memoryChoices)],
  baseWeights: [Object.keys(baseWeights)],
};
it.each(Object.entries(records))("each %s is another run", async (option, [names, beside]) => {
  const runs = new Map<string, string>();
  for (const name of names) {
    const run = await made({ ...beside, [option]: name });
    if (run.error) throw run.error;
    const same = runs.get(compared(run));
    expect(same === undefined, `${option}: ${name} is the same run as ${same}`).toBe(true);
    runs.set(compared(run), name);
  }
});
