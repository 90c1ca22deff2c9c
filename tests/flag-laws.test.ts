import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { Command, type Option } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { commands } from "../src/cli/index.ts";
import { givenFlags } from "../src/cli/parsing.ts";
import type { Field } from "../src/fields.ts";
import { type LoadedModel, methods, objectives, optimizers, schemes, strategies, TuneError } from "../src/index.ts";
import { openLedger } from "../src/privacy/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { root } from "./helpers/cli.ts";

/*
 * A law of every flag of every command, in each of its modes: given, it changes what the command asks of the API or what it
 * says, or it is refused by name. A flag without a value here fails, and so does a command without a mode.
 */

/** What is asked of the API, in order, while a command runs. */
const trace = vi.hoisted(() => ({ on: false, writes: false, calls: [] as unknown[] }));
/** Thrown where what follows would take long. */
class Enough extends Error {}

vi.mock("../src/index.ts", async (importOriginal) => {
  const original = await importOriginal<Record<string, unknown>>();
  const once = new Map<string, unknown>();
  const wrapped = Object.entries(original).map(([name, value]): [string, unknown] => {
    if (typeof value !== "function" || name === "TuneError") return [name, value];
    const call = value as (...args: unknown[]) => unknown;
    return [
      name,
      (...args: unknown[]) => {
        if (!trace.on) return call(...args);
        const asked = [name, JSON.parse(plain(args))] as const;
        // What may be replaced decides nothing where nothing is written.
        if (trace.writes || name !== "guardOutputs") trace.calls.push(asked);
        const standIn = standIns[name];
        if (standIn) return standIn(...args);
        if (!cached.has(name)) return call(...args);
        const key = plain(asked);
        if (!once.has(key)) once.set(key, call(...args));
        return once.get(key);
      },
    ];
  });
  return Object.fromEntries(wrapped);
});

/** What takes a while and is the same each time. */
const cached: ReadonlySet<string> = new Set(["loadModel", "loadData", "loadClients", "loadAdapter", "dataSize"]);

/** Arguments as text: models and data by where they are from, what cannot be told by its kind. */
function plain(value: unknown): string {
  return (
    JSON.stringify(value, (key, part: unknown) => {
      if (typeof part === "function") return "a function";
      if (typeof part !== "object" || part === null || Array.isArray(part)) return part;
      if (part instanceof RegExp) return String(part);
      if (part instanceof Map) return [...part.keys()];
      if ("pretrained" in part) return `the model ${(part as LoadedModel).source}`;
      if ("train" in part && "report" in part) return "data";
      if (["storage", "platform", "signal"].includes(key) || "writeAtomic" in part || "openDevice" in part) return key;
      if ("sizeBytes" in part && "list" in part) return "a storage";
      if ("choice" in part && "tensors" in part) return "an adapter";
      return part;
    }) ?? ""
  );
}

const stop = (): never => {
  throw new Enough();
};
const spectra = {
  matrices: [],
  total: 0,
  perMatrix: 0,
  fractionWithIntruder: 0,
  k: 1,
  eps: 0.5,
  side: "left",
  warnings: [],
};
// biome-ignore lint/suspicious/noExplicitAny: each has the arguments of its own function
const standIns: Readonly<Record<string, (...args: any[]) => unknown>> = {
  tune: stop,
  compare: stop,
  simulateFederation: stop,
  compareFederations: stop,
  tuneInOrder: stop,
  openCoordinatorTransport: async () => ({
    run: "shoot",
    withdrawn: () => [],
    refresh: async () => undefined,
    close: async () => undefined,
  }),
  createFederation: async () => undefined,
  inviteToFederation: async () => ({}),
  withdrawFromFederation: async () => undefined,
  federationStatus: async () => ({ run: "shoot", phase: "done", round: 1, rounds: 1, clients: [] }),
  stopFederation: async () => 1,
  federationReport: async () => ({ page: "", round: 1, rounds: 1 }),
  claimOutput: async () => undefined,
  openClientTransport: async () => ({ party: "ana", close: async () => undefined }),
  serveFederation: stop,
  joinFederation: stop,
  quantize: stop,
  compareQuantized: stop,
  planTuning: stop,
  streamData: stop,
  exportModel: async () => undefined,
  writeMended: async () => undefined,
  diagnose: async () => spectra,
  diagnoseFiles: async () => spectra,
  diagnoseAttention: async () => ({ report: { heads: [], length: 8, threshold: 1, weightError: 1 }, plan: {} }),
  attentionPage: () => "",
  drawHeads: () => "",
  drawDegrees: () => "",
  drawSpectra: () => "",
  drawCounts: () => "",
  drawSimilarities: () => "",
  reportPage: () => "",
  mend: async () => ({
    ...{ report: spectra, scaled: 0, model: { source: "mended" }, unmended: { source: "unmended" } },
    adapter: async (rank: unknown) => ({ adapter: rank, error: 0 }),
    close: async () => undefined,
  }),
  combine: () => ({ choice: { config: { rank: 1 } } }),
  evaluate: async (_model, _data, { exactMatch }: { exactMatch?: boolean } = {}) => ({
    ...{ loss: 1, perplexity: 2, targets: 3, meanOver: "tokens", measures: {} },
    ...(exactMatch
      ? { exactMatch: { matches: 0, total: 9, answers: Array(9).fill({ line: 1, matches: false }) } }
      : {}),
  }),
  measureForgetting: async () => ({ forgetting: 0, tunedLoss: 0, baseLoss: 0 }),
  findLearningRate: async () => ({ points: [{ learningRate: 1, loss: 1, smoothed: 1 }], suggested: 1, lowest: 1 }),
  writePicture: async () => undefined,
  openSession: async () => ({
    close: async () => undefined,
    async *generate(...args: unknown[]) {
      trace.calls.push(["generate", JSON.parse(plain(args))]);
      yield "";
      return { text: "", ids: [], promptTokens: 1, finishReason: "stop" };
    },
  }),
};

const base = ["-m", "in/base"];
const adapter = ["-a", "in/run/adapter"];
const rows = ["-d", "in/rows.jsonl"];
const out = ["-o", "out/NAME"];
const compared = ["-b", "in/base", ...adapter, "--cache", "cache"];
const workers = ["--workers", "nats://127.0.0.1:4222"];
const calibration = ["--calibration", "in/rows.jsonl"];

/** The ways in which a command is used, each as its arguments. */
const modes: Readonly<Record<string, readonly (readonly string[])[]>> = {
  tune: [
    [...base, ...rows, ...out],
    [...base, ...rows, ...out, "--method", "full"],
    [...base, ...rows, ...out, "--method", "compacter"],
  ],
  compare: [
    [...base, ...rows, ...out, "--methods", "lora,paca"],
    [...base, ...rows, ...out, "--methods", "full"],
    [...base, ...rows, ...out, "--methods", "lora", ...workers, "--federation", "in/federation"],
    [...base, ...rows, ...out, "--methods", "lora", ...workers, "--invite", "in/ana.json"],
  ],
  continual: [[...base, ...rows, ...out, "--then", "in/more.jsonl"]],
  "federate simulate": [
    [...base, ...rows, ...out, "--clients", "3"],
    [...base, ...rows, ...out, "--clients", "3", "--method", "fedavg"],
    [...base, ...rows, ...out, "--clients", "3", "--dp-epsilon", "3"],
    [...base, ...rows, ...out, "--clients", "3", "--compare", "fedsvd,ffa", "--rates", "0.1"],
  ],
  "federate create": [
    [..."--run shoot --servers 3 -o out/cluster --address nats://a:4222 nats://b:4222 nats://c:4222".split(" ")],
    ["--run", "shoot", "--address", "nats://127.0.0.1:4222", "-o", "out/setup"],
    [
      "--run",
      "shoot",
      "--address",
      "nats://a:4222",
      "--websocket",
      "0.0.0.0:80",
      "--origin",
      "https://a",
      "-o",
      "out/web",
    ],
    ["--run", "shoot", "--address", "tls://a:4222", "--certificate", "in/a.pem", "--key", "in/a.key", "-o", "out/tls"],
  ],
  "federate invite": [
    ["--federation", "in/federation", "--client", "ana", "-o", "out/invitation.json", "--replace"],
    ["--federation", "in/federation", "--withdraw", "ana"],
  ],
  "federate serve": [
    [...base, ...out, "--clients", "3", "--federation", "in/federation"],
    [...base, ...rows, ...out, "--clients", "3", "--federation", "in/federation", "--dp-epsilon", "3"],
  ],
  "federate join": [[...base, ...rows, ...out, "--invite", "in/ana.json"]],
  "federate status": [["--federation", "in/federation"]],
  "federate stop": [["--federation", "in/federation"]],
  "federate report": [["in/run"]],
  plan: [[...base, ...rows]],
  lr: [[...base, ...rows, "--picture", "picture.svg"]],
  quantize: [
    [...base, ...out, ...calibration],
    [...base, ...out, "--method", "rtn"],
    [...base, ...out, ...calibration, "--method", "gptq", "--bits", "mixed:2.5"],
    [...base, ...out, ...calibration, "--method", "bcq"],
    [...base, ...out, ...calibration, "--tune-scales"],
    [...base, ...out, ...calibration, "--compare"],
  ],
  generate: [
    [...base, "-p", "hello"],
    [...base, "-p", "hello", "--temperature", "0.7"],
    [...base, "-p", "hello", "--raw"],
    [...base, ...adapter, "-p", "hello"],
    [...base, "-a", "one=in/run/adapter", "-a", "two=in/run/adapter", "-p", "hello"],
  ],
  chat: [base, [...base, "--temperature", "0.7"], [...base, ...adapter]],
  eval: [
    [...base, ...rows],
    [...base, ...rows, "--no-exact-match"],
    [...base, "-d", "in/book.txt"],
    [...base, ...rows, ...adapter, "--base-text", "in/book.txt"],
    [...base, ...rows, "--base-text", "in/book.txt", "--base-model", "in/other"],
  ],
  diagnose: [
    compared,
    [...compared, ...out],
    ["-b", "in/base", "--tuned", "in/other", "--cache", "cache"],
    ["-b", "in/base/model.safetensors", "-t", "in/other/model.safetensors", "--cache", "cache"],
    ["--attention", ...base, ...rows, "--length", "8"],
    ["--attention", ...base, ...rows, "--length", "8", ...adapter, "-o", "out/attention"],
  ],
  mend: [
    [...compared, ...out],
    [...compared, ...out, "--to", "peft"],
    [...compared, ...out, ...rows],
    [...compared, ...out, "--base-text", "in/book.txt"],
  ],
  combine: [
    [...base, "-a", "one=in/run/adapter", "-a", "two=in/run/adapter", ...out],
    [...base, "-a", "one=in/run/adapter", "-a", "two=in/run/adapter", ...out, "--how", "svd"],
  ],
  merge: [[...base, ...adapter, ...out]],
  export: [
    [...base, "--to", "safetensors", ...out],
    [...base, ...adapter, "--to", "transformers.js", ...out],
    [...base, "--to", "gguf", ...out],
    [...base, ...adapter, "--to", "peft", ...out],
  ],
  runs: [["in/run"], ["in/run", "--picture", "picture.svg"]],
  privacy: [
    [..."--sampling-rate 0.01 --noise 1.1 --steps 100".split(" ")],
    [..."--sampling-rate 0.01 --epsilon 3 --steps 100".split(" ")],
    ["--ledger", "in/ledger.json"],
  ],
  inspect: [["in/base"]],
};

/** Values of flags that are no field of a record, other than their defaults. */
const values: Readonly<Record<string, string | readonly string[]>> = {
  // biome-ignore lint/suspicious/noThenProperty: a flag of continual, and nothing that is awaited
  then: "in/rows.jsonl",
  clients: "2",
  split: "files",
  compare: "flora",
  dpEpsilon: "2",
  dpDelta: "1e-6",
  dpClip: "2",
  dpNoise: "1",
  dpRounds: "2",
  epsilons: "inf,3",
  trim: "0.1",
  maxWeight: "0.5",
  model: "in/other",
  base: "in/other",
  tuned: "in/other",
  adapter: "in/another/adapter",
  data: "in/more.jsonl",
  prompt: "good morning",
  task: "embedding",
  chatTemplate: "alpaca",
  threads: "2",
  columns: "messages=talk",
  config: "in/options.yaml",
  output: "elsewhere/NAME",
  picture: "other.svg",
  objective: "dpo",
  targetModules: "q_proj",
  excludeModules: "q_proj",
  layers: "0",
  rankPattern: "q_proj=2",
  alphaPattern: "q_proj=2",
  modulesToSave: "lm_head",
  newTokens: "<a>",
  maxLength: "20",
  validation: "0.2",
  validationData: "in/more.jsonl",
  testData: "in/more.jsonl",
  baseText: "in/book.txt",
  baseModel: "in/another-base",
  available: "1",
  rates: "1e-2",
  seeds: "7",
  methods: "dora",
  calibration: "in/more.jsonl",
  evaluation: "in/more.jsonl",
  bits: "2",
  use: "none",
  system: "be kind",
  stop: "x",
  weights: "0.3,0.7",
  dtype: "fp16",
  length: "12",
  engine: "nats://127.0.0.1:4999",
  workers: "nats://127.0.0.1:4999",
  federation: "in/another",
  run: "other",
  address: "nats://elsewhere:4222",
  servers: "3",
  listen: "127.0.0.1:4223",
  store: "elsewhere/js",
  maxFile: "1GB",
  websocket: "127.0.0.1:443",
  origin: "https://b",
  certificate: "in/b.pem",
  key: "in/b.key",
  client: "ben",
  invite: "in/ben.json",
  withdraw: "ben",
  attentionError: "0.02",
  attention: "auto",
  preTokenizer: "smollm",
  cache: "elsewhere",
  columnList: "0,3",
  memory: "fast",
  baseWeights: "f16",
  schedule: "cosine",
  learningRate: "0.01",
  device: "auto",
  samplingRate: "0.02",
  noise: "1.2",
  steps: "50",
  epsilon: "4",
  ledger: "in/other-ledger.json",
};

/** Flags that say the same as another, or nothing but where and how much, and why that is no fault. */
const allowed: Readonly<Record<string, string>> = {
  "quantize tuneScales": "asks for the text that scales are tuned on",
  "federate serve config": "the file has max-length, which is refused by its own name without data",
};

const fields = new Map<string, Field<unknown>>(
  [methods, objectives, optimizers, schemes, strategies].flatMap((records) =>
    [...records.values()].flatMap(({ fields: own }) => Object.entries<Field<unknown>>(own as never)),
  ),
);

/** A flag as it is given, with another value than its own. */
function givenAs(option: Option): readonly string[] {
  const name = option.attributeName();
  const long = option.long ?? "";
  if (!option.required && !option.optional) return [long];
  const own = values[name];
  if (own !== undefined) return [long, ...[own].flat()];
  const word = option.argChoices?.find((choice) => choice !== option.defaultValue);
  if (word !== undefined) return [long, word];
  const field = fields.get(name);
  const initial = Number(option.defaultValue ?? field?.initial);
  if (!Number.isFinite(initial)) throw new Error(`tests/flag-laws.test.ts has no value for ${long}`);
  return [long, String(field?.kind === "integer" || Number.isInteger(initial) ? initial + 1 : initial / 2)];
}

const letters = (text: string): string => text.toLowerCase().replace(/[^a-z]/g, "");

let folder: string;
/** A path of these tests as it is on the disk: `in/base`, or `one=in/run/adapter`. */
const at = (path: string): string =>
  path.replace(/^(\w+=)?(?=(in|out|cache|elsewhere|picture|other)\b)/, `$1${folder}/`);
const stdin = Object.getOwnPropertyDescriptor(process, "stdin") as PropertyDescriptor; // it has one

async function defined(name: string): Promise<{ readonly command: Command; readonly run: (typeof entry)["run"] }> {
  const entry = await (commands[name] as (typeof commands)[string]).load(); // one of them
  const command = new Command(name).exitOverride().configureOutput({ writeErr: () => undefined });
  await entry.define(command);
  return { command, run: entry.run };
}

/** What a command line asks and says, or how it is refused. */
async function done(name: string, args: readonly string[]): Promise<readonly unknown[] | TuneError> {
  const { command, run } = await defined(name);
  const said: unknown[] = [];
  Object.defineProperty(process, "stdin", { ...stdin, get: () => Readable.from(["hello\n"]) });
  trace.calls = [];
  trace.on = true;
  trace.writes = command.options.some(
    ({ long }) => ["--output", "--picture"].includes(long ?? "") && args.some((arg) => [long, "-o"].includes(arg)),
  );
  try {
    command.parse(
      args.map((arg) => at(arg).replace("NAME", name)),
      { from: "user" },
    );
    if (args.includes("--config")) {
      const { applyConfig } = await import("../src/cli/config.ts");
      await applyConfig(command, at(String(values["config"])));
    }
    const output = {
      ...{ json: true, write: () => undefined },
      say: (...lines: readonly string[]) => void said.push(lines),
      record: (value: unknown) => void said.push(plain(value)),
    };
    await run(command.opts() as never, output, command.args, givenFlags(command)); // the flags that `define` declared
  } catch (error) {
    if (error instanceof TuneError) return error;
    if (!(error instanceof Enough)) return new TuneError("bad-option", String(error), { cause: error });
  } finally {
    trace.on = false;
    Object.defineProperty(process, "stdin", stdin);
  }
  return [...trace.calls, ...said];
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-flag-laws-"));
  await mkdir(join(folder, "in"));
  for (const name of ["base", "other", "another-base"])
    await cp(`${root}assets/quickstart/model`, join(folder, "in", name), { recursive: true });
  const lines = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  await writeFile(at("in/rows.jsonl"), lines.slice(0, 24).join("\n"));
  await writeFile(at("in/more.jsonl"), lines.slice(24, 40).join("\n"));
  await writeFile(at("in/book.txt"), "the quick brown fox jumps over the lazy dog");
  for (const [name, steps] of [
    ["in/ledger.json", 10],
    ["in/other-ledger.json", 20],
  ] as const) {
    const ledger = await openLedger(nodeStorage, at(name));
    const entry = { id: "a run", samplingRate: 0.1, noiseMultiplier: 1.5, steps };
    await ledger.reserve(entry, { epsilon: 9, delta: 1e-5 });
    await ledger.close();
  }
  for (const client of ["ana", "ben"]) await writeFile(at(`in/${client}.json`), JSON.stringify({ client }));
  await writeFile(at("in/options.yaml"), "max-length: 20\n");
  for (const [to, rank] of [
    ["run", 2],
    ["another", 3],
  ]) {
    const { command, run } = await defined("tune");
    const line = [
      ...base,
      ...rows,
      "-o",
      `in/${to}`,
      ..."--max-steps 1 --batch-size 1 --no-tensorboard".split(" "),
      "--rank",
      String(rank),
    ];
    command.parse(line.map(at), { from: "user" });
    const quiet = { json: true, write: () => undefined, say: () => undefined, record: () => undefined };
    await run(command.opts() as never, quiet, [], givenFlags(command)); // as above
  }
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

it("every command has a mode here", () => {
  expect(Object.keys(modes).sort()).toEqual(Object.keys(commands).sort());
});

const all = Object.entries(modes).flatMap(([name, ways]) => ways.map((args) => ({ name, args, says: args.join(" ") })));
describe.each(all)("scion $name $says", ({ name, args }) => {
  it("changes with every flag, or refuses it", async () => {
    const without = await done(name, args);
    if (without instanceof TuneError) throw without;
    const idle: string[] = [];
    for (const option of (await defined(name)).command.options) {
      const flag = option.attributeName();
      if (allowed[`${name} ${flag}`] !== undefined || ["version", "help"].includes(flag)) continue;
      const asked = givenAs(option);
      if (args.join(" ").includes(asked.join(" "))) continue; // the mode itself
      const other = await done(name, [...args, ...asked]);
      const line = asked.join(" ");
      if (other instanceof TuneError) {
        const said = `${other.message} ${other.at ?? ""}`;
        const named = letters(said).includes(letters(flag));
        if (!named) idle.push(`${line} is refused without its name: ${other.message}`);
      } else if (JSON.stringify(other) === JSON.stringify(without)) idle.push(`${line} changes nothing`);
    }
    expect(idle).toEqual([]);
  });
});
