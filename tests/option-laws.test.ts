import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TuningChoice } from "../src/api/describe-run.ts";
import type { Field } from "../src/fields.ts";
import { type LoadedModel, loadModel, methods, objectives, optimizers, schemes, TuneError } from "../src/index.ts";
import { createRng } from "../src/linalg/index.ts";
import { activationFunctions } from "../src/ops/index.ts";
import { learningRateAt, schedules } from "../src/optim/index.ts";
import { chooseScheme } from "../src/quant/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { ExampleKind } from "../src/train/data/index.ts";
import { golden } from "./helpers/golden.ts";
import { packFolder } from "./helpers/packed-model.ts";
import { randomModel, tinyLlama } from "./helpers/tiny-model.ts";
import { whatIsMade } from "./helpers/what-is-made.ts";

/*
 * A law of every option of every method, objective, optimiser and scheme: another value than its own makes something else.
 * An option without a sample fails, and so does a choice of one that no sample takes.
 */

type Options = Readonly<Record<string, number | boolean | string>>;

/** A value of an option that is to make something else. */
interface Sample {
  readonly to: number | boolean | string;
  /** Held against this value instead of the option's own. */
  readonly from?: number | boolean | string;
  /** Options that both have. */
  readonly beside?: Options;
  /** Options that it needs. */
  readonly and?: Options;
  /** What it is tried on; a model that continues texts unless given. */
  readonly on?: Subject;
}

/** By option: one sample, or several. */
type Samples = Readonly<Record<string, Sample | readonly Sample[]>>;

type Subject = "causal" | "packed" | "seq2seq" | "labels" | "texts";
const kinds = { causal: "sequence", packed: "sequence", seq2seq: "target", labels: "label", texts: "texts" } as const;

let folder: string;
const models: Partial<Record<Subject, LoadedModel>> = {};
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-option-laws-"));
  const load = (path: string): Promise<LoadedModel> => loadModel(path, { platform: nodePlatform });
  const tokenizer = { padId: 0, eosId: 0 } as never; // all that is asked of it
  models.causal = {
    ...{
      pretrained: await randomModel({ ...tinyLlama, num_hidden_layers: 1, attention_bias: true }),
      platform: nodePlatform,
    },
    ...{ source: "tiny", folder, tokenizer: async () => tokenizer },
  };
  const packed = join(folder, "packed");
  await packFolder(
    nodeStorage,
    golden("llama-tiny"),
    { storage: nodeStorage, folder: packed },
    { bits: 3, scales: "rows" },
  );
  models.packed = { ...(await load(packed)), tokenizer: async () => tokenizer };
  for (const [subject, name] of [
    ["seq2seq", "t5"],
    ["labels", "bert-sequence"],
    ["texts", "bert-base"],
  ] as const) {
    models[subject] = { ...(await load(golden(`encoders/${name}`))), tokenizer: async () => tokenizer };
  }
});
afterAll(() => rm(folder, { recursive: true, force: true }));

type Made = ReturnType<typeof whatIsMade>;
const before = new Map<string, Made>();
/** What a choice makes, once for each. */
function made(on: Subject, choice: TuningChoice, kind: ExampleKind = kinds[on]): Made {
  const key = JSON.stringify([on, kind, choice]);
  const making = before.get(key) ?? whatIsMade(models[on] as LoadedModel, kind, choice); // all of them are loaded
  before.set(key, making);
  return making;
}

const lora: Samples = {
  rank: { to: 4, beside: { alpha: 8 } },
  alpha: { to: 3 },
  rslora: { to: true, beside: { alpha: 8 } },
  dropout: { to: 0.1 },
  plusRatio: { to: 16 },
  freezeA: { to: true },
  init: ["gaussian", "pissa", "olora", "random"].map((to) => ({ to })),
};
const bottleneck: Samples = {
  reduction: { to: 8 },
  positions: [{ to: "feed-forward" }, { to: "attention" }],
  crossAttention: { to: true, on: "seq2seq" },
  placement: [{ to: "residual" }, { to: "parallel" }, { to: "normed", on: "labels" }],
  // Several names stand for one function, so each is held against one that has no other.
  activation: Object.keys(activationFunctions).map((to) => ({ to, from: to === "relu2" ? "relu" : "relu2" })),
  scaling: { to: 2 },
  dropout: { to: 0.1 },
  frozenNorms: { to: true },
};
const kronecker: Samples = { ...bottleneck, terms: { to: 2 }, frozenRule: { to: true } };
const compacter: Samples = { ...kronecker, fastRank: { to: 2 }, ownRules: { to: true } };
const columns = "0,1,2,3,4,5,6,7";

const ofMethods: Readonly<Record<string, Samples>> = {
  lora,
  dora: lora,
  adalora: {
    initialRank: { to: 10, beside: { alpha: 8 } },
    targetRank: { to: 4 },
    alpha: { to: 3 },
    dropout: { to: 0.1 },
    budgetWarmup: { to: 0.2 },
    budgetFinal: { to: 0.2 },
    budgetEvery: { to: 2 },
    sensitivityDecay: { to: 0.5 },
    uncertaintyDecay: { to: 0.5 },
    orthogonalWeight: { to: 0.1 },
    orthogonalForm: { to: "paper" },
  },
  paca: {
    rank: { to: 4, beside: { alpha: 8 } },
    alpha: { to: 3 },
    select: [{ to: "first" }, { to: "norm" }, { to: "list", and: { columnList: "1,2,3,4,5,6,7,8" } }],
    columnList: { to: "1,2,3,4,5,6,7,8", from: columns, beside: { select: "list" } },
  },
  alpha: {},
  compacter,
  "compacter++": { ...compacter, positions: [{ to: "both" }, { to: "attention" }] },
  phm: { ...kronecker, sharedRule: { to: true } },
  bottleneck,
  full: {},
};

/** Options that a tiny model needs. */
const usual: Readonly<Record<string, Options>> = Object.fromEntries(
  ["compacter", "compacter++", "phm", "bottleneck"].map((name) => [name, { reduction: 4 }]),
);

const ofObjectives: Readonly<Record<string, Samples>> = {
  "causal-lm": {},
  dpo: { beta: { to: 0.3 }, labelSmoothing: { to: 0.1 } },
  ipo: { beta: { to: 0.3 } },
  classification: {},
  "multi-label-classification": {},
  regression: {},
  "token-classification": {},
  contrastive: { similarityScale: { to: 10 } },
  cosine: {},
  "seq2seq-lm": {},
};

const adamw: Samples = { beta1: { to: 0.5 }, beta2: { to: 0.9 }, epsilon: { to: 1e-4 }, weightDecay: { to: 0.1 } };
const ofOptimizers: Readonly<Record<string, Samples>> = {
  adamw,
  adamw8bit: adamw,
  sgd: { momentum: { to: 0.5 }, nesterov: { to: true }, weightDecay: { to: 0.1 } },
};

const sweeping: Samples = { damping: { to: 0.5 }, activationOrder: { to: false } };
const ofSchemes: Readonly<Record<string, Samples>> = {
  shiftadd: {
    terms: { to: 1 },
    rounds: { to: 1 },
    blockWise: { to: true },
    rowGroup: { to: 4 },
    ...sweeping,
  },
  gptq: { groupSize: { to: 8 }, ...sweeping },
  bcq: {
    groupSize: { to: 8 },
    rounds: { to: 0 },
    compensate: { to: true },
    damping: { to: 0.5, beside: { compensate: true } },
  },
  rtn: { groupSize: { to: 8 } },
};

interface Optioned {
  readonly name: string;
  readonly fields: object;
}

function list(samples: Samples | undefined, option: string): readonly Sample[] {
  const own = samples?.[option];
  return own === undefined ? [] : "to" in own ? [own as Sample] : own; // one, or several
}

/** What a table of samples lacks, and has too much, against the records that it is of. */
function gaps(records: Iterable<Optioned>, table: Readonly<Record<string, Samples>>): readonly string[] {
  const all = [...records];
  const strangers = Object.entries(table).flatMap(([name, samples]) => {
    const record = all.find((one) => one.name === name);
    if (record === undefined) return [`there is no ${name}`];
    return Object.keys(samples)
      .filter((option) => !Object.hasOwn(record.fields, option))
      .map((option) => `${name} has no option ${option}`);
  });
  const missing = all.flatMap(({ name, fields }) => {
    if (table[name] === undefined) return [`${name} has no samples`];
    return Object.entries<Field<unknown>>(fields as never).flatMap(([option, field]) => {
      const samples = list(table[name], option);
      const initial = samples.filter(({ to, from = field.initial }) => to === from);
      const untried = (field.choices ?? []).filter(
        (choice) => choice !== field.initial && !samples.some(({ to }) => to === choice),
      );
      return [
        ...(samples.length === 0 ? [`${name} has no sample of ${option}`] : []),
        ...initial.map(({ to }) => `${name}: a sample of ${option} is held against itself, ${to}`),
        ...untried.map((choice) => `${name} has no sample of ${option} ${choice}`),
      ];
    });
  });
  return [...strangers, ...missing];
}

/** Every sample as the options with it and without. */
function pairs(
  table: Readonly<Record<string, Samples>>,
): readonly { name: string; option: string; sample: Sample; without: Options; as: Options; says: string }[] {
  return Object.entries(table).flatMap(([name, samples]) =>
    Object.keys(samples).flatMap((option) =>
      list(samples, option).map((sample) => {
        const { from, to, beside = {}, and = {} } = sample;
        const shared = { ...usual[name], ...beside };
        const without = { ...shared, ...(from === undefined ? {} : { [option]: from }) };
        return { name, option, sample, without, as: { ...shared, ...and, [option]: to }, says: `${option} ${to}` };
      }),
    ),
  );
}

const records = { methods, objectives, optimizers, schemes };
const tables = { methods: ofMethods, objectives: ofObjectives, optimizers: ofOptimizers, schemes: ofSchemes };
it.each(Object.keys(tables) as (keyof typeof tables)[])("every option of %s has samples", (of) => {
  expect(gaps(records[of].values(), tables[of])).toEqual([]);
});

describe("each changes what is made", () => {
  it.each(pairs(ofMethods))("$name: $says", async ({ name, sample, without, as }) => {
    const subject = sample.on ?? "causal";
    const plain = await made(subject, { method: name, methodOptions: without });
    expect(await made(subject, { method: name, methodOptions: as })).not.toEqual(plain);
  });

  const subjects: Readonly<Record<string, Subject>> = { contrastive: "texts" };
  it.each(pairs(ofObjectives))("$name: $says", async ({ name, without, as }) => {
    const subject = subjects[name] ?? "causal";
    const kind = objectives.get(name)?.learnsFrom ?? "sequence";
    const choice = { objective: name };
    const plain = await made(subject, { ...choice, objectiveOptions: without }, kind);
    expect(await made(subject, { ...choice, objectiveOptions: as }, kind)).not.toEqual(plain);
  });

  // An option of an optimiser acts on what a method trains, so each is tried with each.
  const trained: readonly (readonly [method: string, on: Subject])[] = [...methods.keys()].map((name) => [
    name,
    name === "alpha" ? "packed" : "causal",
  ]);
  describe.each(trained)("with %s", (method, subject) => {
    it.each(pairs(ofOptimizers))("$name: $says", async ({ name, option, without, as }) => {
      const choice = { method, methodOptions: usual[method] ?? {}, optimizer: name };
      const plain = await made(subject, { ...choice, optimizerOptions: without });
      const other = await made(subject, { ...choice, optimizerOptions: as }).catch((error: unknown) => error);
      if (other instanceof TuneError)
        expect(other).toMatchObject({ code: "bad-option", message: expect.stringContaining(option) });
      else expect(other).not.toEqual(plain);
    });
  });

  it.each(pairs(ofSchemes))("$name: $says", async ({ name, without, as }) => {
    const [rows, columns] = [16, 24];
    const rng = createRng(1, "weight");
    const weight = Float64Array.from({ length: rows * columns }, () => rng.normal());
    const inputs = Array.from({ length: 64 }, () =>
      Float64Array.from({ length: columns }, (_, i) => (1 + i / 4) * rng.normal()),
    );
    const values = Float64Array.from({ length: columns * columns }, (_, at) =>
      inputs.reduce((sum, x) => sum + (x[Math.floor(at / columns)] ?? 0) * (x[at % columns] ?? 0), 0),
    );
    const packed = async (options: Options): Promise<string> => {
      const { scheme, config } = chooseScheme(name, options);
      const site = { name: "w", rows, columns, weight, hessian: { columns, values } };
      const { matrix } = await scheme.quantise(site, 3, config);
      return JSON.stringify(matrix, (_, value) => (ArrayBuffer.isView(value) ? [...(value as Uint8Array)] : value));
    };
    expect(await packed(as)).not.toEqual(await packed(without));
  });
});

describe("learning rates over a run", () => {
  const usual = { peak: 1e-3, schedule: "linear", warmupSteps: 2, totalSteps: 12 } as const;
  const rates = (options: Partial<Parameters<typeof learningRateAt>[1]>): string =>
    JSON.stringify(Array.from({ length: 12 }, (_, step) => learningRateAt(step, { ...usual, ...options })));

  it("are others by every schedule", () => {
    const all = Object.keys(schedules).map((schedule) => rates({ schedule: schedule as keyof typeof schedules }));
    expect(new Set(all).size).toBe(all.length);
  });

  it.each([{ peak: 1e-2 }, { schedule: "cosine" }, { warmupSteps: 4 }, { totalSteps: 20 }] as const)(
    "are others by %j",
    (options) => {
      expect(rates(options)).not.toEqual(rates({}));
    },
  );
});
