import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../src/cli/index.ts";
import {
  compare,
  diagnose,
  type LoadedData,
  type LoadedModel,
  loadAdapter,
  loadData,
  loadModel,
  quantize,
  type StopSignal,
  simulateFederation,
  TuneError,
  tune,
  tuneInOrder,
} from "../src/index.ts";
import { contentHash } from "../src/io/content-hash.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { root } from "./helpers/cli.ts";
import { corner } from "./helpers/corner.ts";

/*
 * A law of what is gone on from: in every file that a stopped run leaves, a byte is changed, half is cut off, all of it is
 * lost. The run is refused then, saying which file, or goes on to the very results that it would have had: because the file
 * is made again, or never read. A command that takes --resume, or that keeps something for later calls, without an entry
 * fails, and so does a file of it without a reason why it may be damaged.
 */

type Harmless = readonly [name: RegExp, why: string];

/** A command that goes on. */
interface Resumable {
  /**
   * Run, or go on, in a folder, until `signal` says stop; what comes of it, as JSON. `seen` hears of everything that happens.
   */
  readonly run: (output: string, how: { signal: StopSignal; resume: boolean; seen: () => void }) => Promise<unknown>;
  /** Events after which it is stopped. */
  readonly stopAfter: number;
  /** Where what it leaves lies, behind the name of its output. */
  readonly leaves?: string;
  /** Files that may be damaged because nothing that goes on reads them, and why: they are damaged together. */
  readonly unread?: readonly Harmless[];
  /** Files that may be damaged because they are made again, and why: each is damaged by itself. */
  readonly remade?: readonly Harmless[];
}

let folder: string;
let model: LoadedModel;
let data: LoadedData;
let more: LoadedData;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-damage-"));
  await corner(`${root}assets/quickstart/model`, join(folder, "m"));
  model = await loadModel(join(folder, "m"), { platform: nodePlatform });
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  await writeFile(join(folder, "a.jsonl"), rows.slice(0, 28).join("\n"));
  await writeFile(join(folder, "b.jsonl"), rows.slice(28, 44).join("\n"));
  data = await loadData(model, join(folder, "a.jsonl"), { maxLength: 48, validation: 4 });
  more = await loadData(model, join(folder, "b.jsonl"), { maxLength: 48, validation: 4 });
}, 120_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

const brief = { maxSteps: 4, batchSize: 2, checkpointEvery: 1 } as const;
const small = { ...brief, evaluateEvery: 2, methodOptions: { rank: 2 } } as const;
const deviceOptions = { threads: 1, worker: false };
/** Hashes of the files of weights in a folder. */
async function weightsIn(output: string): Promise<readonly string[]> {
  const files = (await readdir(output)).filter((name) => name.endsWith(".safetensors"));
  expect(files.length).toBeGreaterThan(0);
  return Promise.all(files.map(async (name) => contentHash(await readFile(join(output, name)))));
}

/** Lines of metrics of a run, which `scion runs` and people read. */
const metrics = (run: string): Promise<string> => readFile(join(run, "metrics.jsonl"), "utf8").catch(() => "none");

const neverRead = "results for whoever asked for them: nothing that goes on reads them";
const resumable: Readonly<Record<string, Resumable>> = {
  tune: {
    run: async (output, { seen, ...how }) => {
      const result = await tune(model, data, {
        ...{ ...small, output, deviceOptions, learningRate: 1e-3, tensorboard: true },
        ...how,
        onEvent: ({ kind }) => (kind === "step" ? seen() : undefined),
      });
      return [result.best, [...result.adapter.parameters].map(([name, { data }]) => [name, [...data].map(String)])];
    },
    stopAfter: 2,
    unread: [[/tfevents/, "TensorBoard reads them, with checksums of its own"]],
  },
  compare: {
    run: async (output, { seen, ...how }) => {
      const { rows } = await compare(model, data, {
        ...brief,
        ...{ methods: [{ method: "lora" }], learningRates: [1e-3], seeds: [0, 1], rank: 2 },
        ...{ output, deviceOptions },
        ...how,
        onEvent: (event) => (event.kind === "training" && event.event.kind === "step" ? seen() : undefined),
      });
      return rows.map(({ name, best }) => [name, best?.validationLoss, best?.measures]);
    },
    stopAfter: 6,
    unread: [
      [/^lora\/1e-3-seed-0\/adapter\//, `the adapters of runs that are done are ${neverRead}`],
      [/^lora\/1e-3-seed-0\/\.scion\.json$/, "nothing more is written there: outcome.json stands for the run"],
    ],
    remade: [[/^comparison\.json$/, "it is written again from the outcomes"]],
  },
  continual: {
    run: (output, { seen, ...how }) =>
      tuneInOrder(
        model,
        [
          { name: "a", data },
          { name: "b", data: more },
        ],
        {
          ...{ ...small, output, deviceOptions, learningRate: 1e-3 },
          ...how,
          onEvent: (event) => (event.kind === "task" && event.event.kind === "step" ? seen() : undefined),
        },
      ),
    stopAfter: 6,
    unread: [
      [/^1-a\/adapter\//, `the adapters of tasks that are done are ${neverRead}`],
      [/^1-a\/\.scion\.json$/, "nothing more is written there: continual.json stands for the task"],
      [/^1-a\/model\/(\.scion\.json|README\.md|generation_config\.json|scion-run\.json)$/, "no number depends on it"],
      [/^1-a\/checkpoint\.safetensors$/, "a task that is done is not gone on with: continual.json stands for it"],
    ],
  },
  quantize: {
    run: async (output, { seen, ...how }) => {
      const choice = { method: "gptq", bits: { average: 3.5 }, calibrationRows: 24 } as const;
      const result = await quantize(model, data, { ...choice, output, deviceOptions, ...how, onEvent: seen });
      if (result.ended === "interrupted") return undefined;
      return [result.report.averageBits, await weightsIn(output)];
    },
    stopAfter: 12,
    leaves: ".work",
  },
  "federate simulate": {
    run: async (output, { seen, ...how }) => {
      const clients = [
        { name: "ana", train: data.train.slice(0, 12) },
        { name: "ben", train: more.train },
      ];
      const shared = { clients, validation: data.validation, kind: data.kind, leftOut: {}, read: [], files: [] };
      const result = await simulateFederation(model, shared, {
        ...{ rounds: 3, localSteps: 1, batchSize: 2, methodOptions: { rank: 2 } },
        ...{ output, deviceOptions, learningRate: 0.1 },
        ...how,
        onEvent: ({ kind }) => (kind === "round" ? seen() : undefined),
      });
      if (result.ended === "interrupted") return undefined;
      const { history, adapter } = result;
      return [
        history.map(({ measures }) => measures),
        [...adapter.parameters].map(([name, { data: values }]) => [name, [...values].map(String)]),
      ];
    },
    stopAfter: 1,
    remade: [[/^metrics\.jsonl$/, "they are written again from the rounds that state.json holds"]],
  },
  "quantize, tuning scales": {
    run: async (output, { seen, ...how }) => {
      const choice = { method: "rtn", bits: 4, calibrationRows: 24, tuneScales: brief } as const;
      const onEvent = ({ kind }: { readonly kind: string }): void => (kind === "tuning" ? seen() : undefined);
      const result = await quantize(model, data, { ...choice, output, deviceOptions, ...how, onEvent });
      if (result.ended === "interrupted") return undefined;
      return [result.report.averageBits, await weightsIn(output)];
    },
    stopAfter: 4,
    leaves: ".work",
  },
  diagnose: {
    run: async (output, { seen, signal }) => {
      const adapter = await loadAdapter(model, join(folder, "adapter"));
      const { total, matrices } = await diagnose(model, {
        ...{ adapter, deviceOptions, cacheFolder: join(output, "cache"), journal: join(output, "progress.jsonl") },
        ...{ signal, onProgress: seen },
      });
      return [total, matrices.map(({ name, maxCos }) => [name, maxCos])];
    },
    stopAfter: 2,
    remade: [[/./, "what is damaged is known by its checksum, and made again"]],
  },
};

/** Ways to damage a file. */
const wounds: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  "a byte in the middle": (bytes) => flipped(bytes, Math.floor(bytes.length / 2)),
  "a byte near the end": (bytes) => flipped(bytes, bytes.length - 3),
  "half of it": (bytes) => bytes.subarray(0, bytes.length >> 1),
  "all of it": () => Buffer.alloc(0),
};

function flipped(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

it("has an entry for every command that goes on with what is there", async () => {
  const going: string[] = [];
  for (const [name, { load }] of Object.entries(commands)) {
    const command = new Command(name);
    await (await load()).define(command);
    if (command.options.some(({ long }) => long === "--resume" || long === "--cache")) going.push(name);
  }
  // `mend` reads the same cache as `diagnose`, by the same function, and keeps no journal.
  // What `federate serve` goes on from is the server's, and the folder of `federate simulate`.
  expect(going.filter((name) => !["mend", "federate serve"].includes(name)).sort()).toEqual([
    ...new Set(
      Object.keys(resumable)
        .map((name) => name.split(",")[0])
        .sort(),
    ),
  ]);
});

describe.each(Object.entries(resumable))("%s", (name, { run, stopAfter, leaves = "", unread = [], remade = [] }) => {
  const at = (place: string): string => join(folder, `${name}-${place}`);
  const quiet = { signal: new AbortController().signal, resume: true, seen: () => undefined };

  it("goes on to the same results, or says which file is damaged", { timeout: 300_000 }, async () => {
    await makeAdapter();
    const stop = new AbortController();
    let events = 0;
    const seen = (): void => (++events >= stopAfter ? stop.abort() : undefined);
    await run(at("stopped"), { signal: stop.signal, resume: false, seen }).catch((error: unknown) => {
      if (!stop.signal.aborted) throw error;
    });
    const found = (await readdir(at(`stopped${leaves}`), { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(at(`stopped${leaves}`).length + 1));
    expect(found.length).toBeGreaterThan(1);

    /** Go on in a copy with files damaged; what came of it. */
    const goOn = async (damage: ReadonlyMap<string, (bytes: Buffer) => Buffer> = new Map()): Promise<unknown> => {
      const copy = `${at("copy")}${leaves}`;
      for (const old of [at("copy"), copy]) await rm(old, { recursive: true, force: true });
      await cp(at(`stopped${leaves}`), copy, { recursive: true });
      for (const [file, wound] of damage) await writeFile(join(copy, file), wound(await readFile(join(copy, file))));
      try {
        const result = await run(at("copy"), quiet);
        const runs = found.flatMap((one) => (one.endsWith("metrics.jsonl") ? [join(copy, one, "..")] : []));
        return JSON.stringify([result, await Promise.all(runs.map(metrics))]);
      } catch (error) {
        if (error instanceof TuneError) return error;
        throw error;
      }
    };

    const expected = await goOn();
    if (expected instanceof Error) throw expected;
    const ways = Object.entries(wounds);
    const problems: string[] = [];
    const of = (list: readonly Harmless[], file: string): Harmless | undefined =>
      list.find(([name]) => name.test(file));
    // What nothing reads is damaged all at once, each file in another way, until each has been damaged in all ways.
    const idle = found.filter((file) => of(unread, file));
    for (const turn of idle.length > 0 ? ways.keys() : []) {
      const damage = idle.map(
        (file, i) => [file, ways[(i + turn) % ways.length]?.[1] ?? (() => Buffer.alloc(0))] as const,
      );
      const result = await goOn(new Map(damage));
      if (result instanceof TuneError) problems.push(`${idle}: refused, though nothing reads them: ${result.message}`);
      else if (result !== expected) problems.push(`${idle}: other results, though nothing reads them`);
    }
    for (const file of found) {
      if (of(unread, file)) continue;
      const reason = of(remade, file);
      for (const [what, wound] of ways) {
        const result = await goOn(new Map([[file, wound]]));
        const lost = `${file} without ${what}`;
        if (!(result instanceof TuneError)) {
          if (result !== expected) problems.push(`${lost}: other results`);
          // A manifest says what may be replaced, whatever else it says: no number comes of it.
          else if (!reason && basename(file) !== ".scion.json")
            problems.push(`${lost}: goes on, and no reason is given why it may`);
        } else if (reason) problems.push(`${lost}: refused, though ${reason[1]}: ${result.message}`);
        else if (!names(result, file)) problems.push(`${lost}: refused without its name: ${result.message}`);
        else if (!result.fix) problems.push(`${lost}: refused, and nothing said of how to mend it: ${result.message}`);
      }
    }
    expect(problems).toEqual([]);
    expect([...unread, ...remade].filter(([name]) => !found.some((file) => name.test(file)))).toEqual([]);
  });
});

/** Whether an error names a file: itself, or what of it is wrong (`weights`, a file of the tokenizer) where it is known by content. */
function names({ code, message }: TuneError, file: string): boolean {
  if (message.includes(file)) return true;
  const there = message.includes(dirname(file)) && message.includes(basename(file));
  // Without its manifest, a folder is not known as ours.
  if (code === "output-exists") return file.endsWith(".scion.json") || there;
  if (code !== "resume-mismatch" || !message.includes(dirname(file))) return false;
  return message.includes(`tokenizer.${basename(file)}: `) || message.includes("weights: ");
}

let made: Promise<unknown> | undefined;
/** An adapter to diagnose. */
function makeAdapter(): Promise<unknown> {
  made ??= (async () => {
    const { exportModel } = await import("../src/index.ts");
    const { adapter } = await tune(model, data, {
      ...{ maxSteps: 4, batchSize: 2, deviceOptions, learningRate: 0.02 },
      ...{ targetModules: ["q_proj", "k_proj", "v_proj"] },
    });
    await exportModel(model, "peft", join(folder, "adapter"), { adapter });
  })();
  return made;
}
