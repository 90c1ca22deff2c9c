import { cp, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Device,
  evaluate,
  exportModel,
  type FederationEvent,
  type LoadedClients,
  type LoadedModel,
  loadAdapter,
  loadClients,
  loadModel,
  type SimulateOptions,
  simulateFederation,
  strategies,
  TuneError,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { jsonLines, root, runHere } from "./helpers/cli.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let loaded: LoadedModel;
let data: LoadedClients;
let device: Device;
const at = (name: string): string => join(folder, name);
const small: SimulateOptions = {
  ...{ rounds: 4, localSteps: 2, batchSize: 4, learningRate: 0.3, methodOptions: { rank: 2 }, seed: 3 },
  clientsPerRound: 3,
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-federate-"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).trim().split("\n").slice(0, 80);
  const marked = rows.map((row, i) => JSON.stringify({ ...JSON.parse(row), who: ["Ana", "Bén/x", "Cy"][i % 3] }));
  await writeFile(at("rows.jsonl"), marked.join("\n"));
  await writeFile(at("a.jsonl"), rows.slice(0, 10).join("\n"));
  await writeFile(at("b.jsonl"), rows.slice(10, 40).join("\n"));
  loaded = await loadModel(model, { platform: nodePlatform });
  data = await loadClients(loaded, [at("rows.jsonl")], { split: "iid", clients: 4, validation: 8, maxLength: 48 });
  device = await nodePlatform.openDevice();
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const simulate = (options: SimulateOptions = {}) => simulateFederation(loaded, data, { ...small, device, ...options });
const codeOf = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "nothing",
    (error: unknown) => (error instanceof TuneError ? error.code : String(error)),
  );

describe("a simulated federation", () => {
  it.each([...strategies.keys()])(
    "%s learns, and its adapter says what was measured, read back from PEFT's files too",
    async (strategy) => {
      const result = await simulate({ strategy });
      expect(result.ended).toBe("finished");
      const last = result.history.at(-1)?.measures["loss"] ?? Number.NaN;
      expect(last).toBeLessThan((result.base["loss"] ?? 0) - 0.05);
      const measured = await evaluate(loaded, data.validation, { adapter: result.adapter, device });
      expect(Math.abs(measured.loss - last)).toBeLessThan(2e-5);
      await exportModel(loaded, "peft", at(`peft-${strategy}`), { adapter: result.adapter, device });
      const back = await loadAdapter(loaded, at(`peft-${strategy}`));
      expect(Math.abs((await evaluate(loaded, data.validation, { adapter: back, device })).loss - last)).toBeLessThan(
        2e-5,
      );
    },
  );

  it("refreshes leave the factors for the weights without loss", async () => {
    const result = await simulate({ strategyOptions: { refreshEvery: 1, refreshKeep: 1 } });
    const measured = await evaluate(loaded, data.validation, { adapter: result.adapter, device });
    expect(Math.abs(measured.loss - (result.history.at(-1)?.measures["loss"] ?? 0))).toBeLessThan(2e-5);
    expect(result.adapter.choice.patterns?.["rank"]).toBeDefined();
  });

  it("FedSVD is FFA-orth, in float32 on a model (E1)", async () => {
    const [one, other, kaiming] = [
      await simulate({ strategy: "ffa-orth" }),
      await simulate({ strategy: "fedsvd" }),
      await simulate({ strategy: "ffa" }),
    ].map(({ history }) => history.map(({ measures }) => measures["loss"] ?? 0));
    for (const [i, loss] of (one ?? []).entries()) {
      expect(Math.abs(loss / (other?.[i] ?? 0) - 1)).toBeLessThan(1e-4);
      expect(Math.abs(loss - (kaiming?.[i] ?? 0))).toBeGreaterThan(1e-3);
    }
  });

  it("the same seed gives the same bits, whether it was stopped on the way or not", async () => {
    const whole = await simulate({ output: at("whole"), tensorboard: true });
    for (const [i, stopAt] of [1, 4, 8].entries()) {
      const output = at(`stopped-${i}`);
      const stop = new AbortController();
      let trained = 0;
      const onEvent = (event: FederationEvent): void => {
        if (event.kind !== "training") return;
        trained += 1;
        if (trained === stopAt) stop.abort();
      };
      const first = await simulate({ output, signal: stop.signal, onEvent });
      expect(first.ended).toBe("interrupted");
      expect(first.rounds).toBeLessThan(4);
      expect(await codeOf(simulate({ output }))).toBe("run-exists");
      const second = await simulate({ output, resume: true });
      expect(second.ended).toBe("finished");
      for (const [name, { data: values }] of whole.adapter.parameters) {
        expect(second.adapter.parameters.get(name)?.data, name).toEqual(values);
      }
      const lines = async (run: string): Promise<string> => readFile(join(run, "metrics.jsonl"), "utf8");
      expect(await lines(output)).toBe(await lines(at("whole")));
    }
    const metrics = jsonLines(await readFile(join(at("whole"), "metrics.jsonl"), "utf8"));
    expect(metrics.filter(({ kind }) => kind === "round")).toHaveLength(4);
    expect(metrics.filter(({ kind }) => kind === "client")).toHaveLength(12);
    expect((await readdir(at("whole"))).some((name) => name.includes("tfevents"))).toBe(true);
  });

  it("does not go on with other settings, data or damage", async () => {
    const output = at("kept");
    await simulate({ output, rounds: 2 });
    expect(await codeOf(simulate({ output, rounds: 2, resume: true }))).toBe("nothing");
    expect(await codeOf(simulate({ output, rounds: 3, resume: true }))).toBe("resume-mismatch");
    expect(await codeOf(simulate({ output, rounds: 2, learningRate: 0.1, resume: true }))).toBe("resume-mismatch");
    const fewer = { ...data, clients: data.clients.map((one) => ({ ...one, train: one.train.slice(1) })) };
    expect(await codeOf(simulateFederation(loaded, fewer, { ...small, device, output, rounds: 2, resume: true }))).toBe(
      "resume-mismatch",
    );
    const [object = ""] = await readdir(join(output, "objects"));
    const bytes = await readFile(join(output, "objects", object));
    bytes[5] = (bytes[5] ?? 0) ^ 1;
    await writeFile(join(output, "objects", object), bytes);
    expect(await codeOf(simulate({ output, rounds: 2, resume: true }))).toBe("bad-checkpoint");
    await writeFile(join(output, "state.json"), "{}");
    expect(await codeOf(simulate({ output, rounds: 2, resume: true }))).toBe("bad-checkpoint");
  });

  it("a client whose loss is not finite is left out, and one federation of such clients says so", async () => {
    const result = await simulate({ learningRate: 1e30, maxGradNorm: 0, rounds: 1, clientsPerRound: 0 });
    expect(result.ended).toBe("too-few-clients");
    expect(result.why).toMatch(/not-finite-loss/);
  });
});

describe("a private federation", () => {
  const dp: SimulateOptions = { dpEpsilon: 4, dpDelta: 1e-4, dpClip: 0.5, dpAccountant: "rdp", clientsPerRound: 0 };
  const readLines = async (run: string): Promise<Record<string, unknown>[]> =>
    jsonLines(await readFile(join(at(run), "metrics.jsonl"), "utf8"));

  it("each client spends its budget and no more, writes it down, and keeps its losses and its secret", async () => {
    const events: FederationEvent[] = [];
    const result = await simulate({ ...dp, output: at("private"), onEvent: (event) => void events.push(event) });
    expect(result.ended).toBe("finished");
    for (const { epsilon, steps } of result.privacy ?? []) {
      expect(epsilon).toBeLessThanOrEqual(4);
      expect(epsilon).toBeGreaterThan(3.9);
      expect(steps).toBe(8);
    }
    expect(result.privacy).toHaveLength(4);
    expect((await readdir(join(at("private"), "clients"))).sort()).toEqual(
      [1, 2, 3, 4].map((k) => `client-${k}.ledger`),
    );
    for (const { kind, loss } of await readLines("private")) if (kind === "client") expect(loss).toBeNull();
    expect(JSON.stringify(events)).not.toMatch(/"loss":\d[\d.]*,"steps"/);
    expect(await codeOf(simulate({ ...dp, output: at("private"), resume: true }))).toBe("nothing");
  });

  it("other secrets, other noise; what is stopped goes on with the same noise, to the last bit", async () => {
    const parameters = (result: Awaited<ReturnType<typeof simulate>>): string =>
      [...result.adapter.parameters]
        .map(([name, { data: values }]) => `${name} ${Buffer.from((values as Float32Array).buffer).toString("base64")}`)
        .join();
    const one = await simulate({ ...dp, rounds: 2 });
    expect(parameters(await simulate({ ...dp, rounds: 2 }))).not.toBe(parameters(one));
    // A copy of a stopped federation's folder, secrets too, comes to the same twice.
    const stop = new AbortController();
    const stopped = await simulate({
      ...{ ...dp, rounds: 3, output: at("halved"), signal: stop.signal },
      onEvent: (event) => (event.kind === "round" ? stop.abort() : undefined),
    });
    expect(stopped.rounds).toBe(1);
    await cp(at("halved"), at("halved-too"), { recursive: true });
    const first = await simulate({ ...dp, rounds: 3, output: at("halved"), resume: true });
    const second = await simulate({ ...dp, rounds: 3, output: at("halved-too"), resume: true });
    expect(parameters(first)).toBe(parameters(second));
    const ledger = await readFile(join(at("halved"), "clients/client-1.ledger"), "utf8");
    expect(JSON.parse(ledger).entries).toHaveLength(3);
  });

  it("a secret that is gone is not replaced", async () => {
    const stop = new AbortController();
    const output = at("keyless");
    await simulate({
      ...dp,
      output,
      signal: stop.signal,
      onEvent: (e) => (e.kind === "round" ? stop.abort() : undefined),
    });
    expect((await stat(join(output, "clients/client-2.key"))).mode & 0o77).toBe(0); // nobody else may read it
    await rm(join(output, "clients/client-2.key"));
    expect(await codeOf(simulate({ ...dp, output, resume: true }))).toBe("no-privacy-key");
  });

  it("after the rounds that its noise is made for a client takes part no more", async () => {
    const result = await simulate({ ...dp, dpRounds: 2 });
    expect(result.ended).toBe("too-few-clients");
    expect(result.rounds).toBe(2);
    expect(result.why).toMatch(/budget-spent/);
  });

  it.each<[string, SimulateOptions, RegExp]>([
    ["no budget", { dpEpsilon: 0 }, /dpEpsilon is 0/],
    ["a negative one", { dpEpsilon: -1 }, /dpEpsilon is -1/],
    ["NaN", { dpEpsilon: Number.NaN }, /dpEpsilon is NaN/],
    ["an infinite one", { dpEpsilon: Infinity }, /dpEpsilon is Infinity/],
    ["delta 1", { dpEpsilon: 1, dpDelta: 1 }, /dpDelta is 1/],
    ["noise 0", { dpNoise: 0 }, /dpNoise is 0/],
    ["both", { dpNoise: 1, dpEpsilon: 1 }, /both given/],
    ["a clip without privacy", { dpClip: 1 }, /dpClip is 1, which would do nothing/],
    ["more rounds than there are", { dpEpsilon: 1, dpRounds: 5 }, /dpRounds is 5/],
    ["another clipping", { dpEpsilon: 1, maxGradNorm: 1 }, /maxGradNorm is 1/],
  ])("%s is refused", async (_name, options, why) => {
    await expect(simulate(options)).rejects.toThrow(why);
  });

  it("a client with fewer examples than a batch trains on all that it has, with privacy at a rate of 1", async () => {
    const [first] = data.clients as [(typeof data.clients)[number]];
    const few = { ...data, clients: [{ ...first, train: first.train.slice(0, 3) }] };
    const alone = { ...small, rounds: 1, clientsPerRound: 0, device };
    const [larger, equal] = [
      await simulateFederation(loaded, few, { ...alone, batchSize: 8 }),
      await simulateFederation(loaded, few, { ...alone, batchSize: 3 }),
    ];
    const bits = ({ adapter }: typeof larger) =>
      [...adapter.parameters].map(([name, { data: own }]) => [name, [...own]]);
    expect(bits(larger)).toEqual(bits(equal));
    const { privacy } = await simulateFederation(loaded, few, { ...alone, batchSize: 8, dpNoise: 1, dpClip: 1 });
    expect(privacy).toMatchObject([{ samplingRate: 1, steps: 2 }]);
  });

  it("a budget that no noise keeps to", async () => {
    expect(await codeOf(simulate({ dpEpsilon: 1e-9, dpDelta: 1e-12, dpAccountant: "rdp" }))).toBe("budget-too-small");
  });
});

describe("what is refused", () => {
  it.each<[string, SimulateOptions, RegExp]>([
    ["a strategy that is none", { strategy: "fedsdv" }, /nearest: fedsvd/],
    ["another's option", { strategy: "ffa", strategyOptions: { period: 2 } }, /ffa has no option "period"/],
    ["no round", { rounds: 0 }, /rounds is 0/],
    ["more clients than there are", { clientsPerRound: 9 }, /there are 4 clients/],
    ["more uploads than are asked", { minClients: 4 }, /3 are asked/],
    ["a median of products", { strategy: "flora", aggregation: { rule: "median" } }, /no median/],
    ["a rank that a refresh cannot keep", { strategyOptions: { refreshEvery: 1 } }, /below the rank 2/],
    ["NaN", { aggregation: { maxWeight: Number.NaN } }, /maxWeight is NaN/],
    ["weights of a median", { aggregation: { rule: "median", maxWeight: 0.5 } }, /a median has no weights/],
    ["an idle trim", { aggregation: { trim: 0.1 } }, /nothing is trimmed/],
    ["dropout", { methodOptions: { rank: 2, dropout: 0.1 } }, /dropout is 0.1/],
    ["PiSSA", { methodOptions: { rank: 2, init: "pissa" } }, /init is pissa/],
    ["a frozen A", { methodOptions: { rank: 2, freezeA: true } }, /freezeA is true/],
    ["an option that is none", { round: 3 } as SimulateOptions, /nearest: rounds/],
    ["a schedule", { schedule: "linear" } as SimulateOptions, /schedule/],
    ["events without a folder", { tensorboard: true }, /no output folder/],
  ])("%s", async (_name, options, why) => {
    await expect(simulate(options)).rejects.toThrow(why);
  });

  it("clients without examples, by name", async () => {
    const empty = { ...data, clients: [...data.clients, { name: "nobody", train: [] }] };
    await expect(simulateFederation(loaded, empty, { ...small, device })).rejects.toThrow(/nobody has no examples/);
  });
});

describe("data of clients", () => {
  const load = (options: Parameters<typeof loadClients>[2], files = [at("rows.jsonl")]) =>
    loadClients(loaded, files, { maxLength: 48, ...options });

  it("by a column: a client a value, the largest first, names that fit paths, and what is left out is said", async () => {
    const { clients, leftOut } = await load({ split: "by:who" });
    expect(clients.map(({ name, train }) => [name, train.length])).toEqual([
      ["Ana", 27],
      ["Be-n-x", 27],
      ["Cy", 26],
    ]);
    expect(leftOut).toEqual({});
    expect((await load({ split: "by:who", clients: 2 })).leftOut).toEqual({ Cy: 26 });
    await expect(load({ split: "by:whom" })).rejects.toThrow(/nearest: who/);
    await expect(load({ split: "by:who", clients: 4 })).rejects.toThrow(/3 groups for 4/);
  });

  it("by files, and evenly", async () => {
    const files = [at("a.jsonl"), at("b.jsonl")];
    expect((await load({ split: "files" }, files)).clients.map(({ name, train }) => [name, train.length])).toEqual([
      ["a", 10],
      ["b", 30],
    ]);
    await expect(load({ split: "files", clients: 3 }, files)).rejects.toThrow(/each of 2 files/);
    const even = await load({ clients: 7 });
    expect(even.clients.map(({ train }) => train.length)).toEqual([12, 12, 12, 11, 11, 11, 11]);
    expect(new Set(even.clients.flatMap(({ train }) => train.map(({ line }) => line))).size).toBe(80);
    await expect(load({ clients: 81 })).rejects.toThrow(/not enough/);
    await expect(load({})).rejects.toThrow(/number of clients/);
  });

  it.each(["dirichlet:0", "dirichlet:NaN", "dirichlet", "by:", "by", "half", "files:2"])(
    "%s is no split",
    async (split) => {
      await expect(load({ split, clients: 2 })).rejects.toThrow(/no way to share/);
    },
  );

  it("a Dirichlet split goes by labels: few of them where the concentration is small, nothing lost", async () => {
    await expect(load({ split: "dirichlet:0.5", clients: 2 })).rejects.toThrow(/goes by labels/);
    const { shareByDirichlet } = await import("../src/train/data/index.ts");
    const labels = Array.from({ length: 600 }, (_, i) => i % 6);
    const shared = (concentration: number, seed = 1) => shareByDirichlet(labels, { clients: 5, concentration, seed });
    for (const concentration of [0.1, 0.5, 100]) {
      const parts = shared(concentration);
      expect(parts.flat().sort((a, b) => a - b)).toEqual(labels.map((_, i) => i));
      expect(shared(concentration)).toEqual(parts);
      expect(shared(concentration, 2)).not.toEqual(parts);
    }
    const skew = (concentration: number): number => {
      const shares = shared(concentration).flatMap((part) => {
        const counts = Array.from({ length: 6 }, (_, label) => part.filter((i) => labels[i] === label).length);
        return Math.max(...counts) / part.length;
      });
      return shares.reduce((sum, share) => sum + share, 0) / shares.length;
    };
    expect(skew(0.1)).toBeGreaterThan(0.4);
    expect(skew(100)).toBeLessThan(0.25);
    expect(() => shareByDirichlet([0, 1], { clients: 3, concentration: 1, seed: 0 })).toThrow(/shared out/);
  });
});

describe("scion federate simulate", () => {
  const line = (): readonly string[] => [
    ...["-m", model, "-d", at("rows.jsonl"), "--split", "by:who", "--validation", "6", "--max-length", "48"],
    ..."--rounds 2 --local-steps 1 --batch-size 4 --rank 2".split(" "),
  ];

  it("writes state, metrics, events, a page and an adapter that other commands take", async () => {
    const { code, said } = await runHere("federate simulate", ...line(), "-o", at("cli"), "--method", "ffa");
    expect(code).toBe(0);
    expect(said).toMatch(/3 clients with/);
    expect(said).toMatch(/round 2 of 2: training loss .*; validation loss/);
    const page = await readFile(join(at("cli"), "report.html"), "utf8");
    expect(page).toContain("<svg");
    expect(page).toContain("Be-n-x");
    const evaluated = await runHere(
      "eval",
      "-m",
      model,
      "-a",
      join(at("cli"), "adapter"),
      "-d",
      at("a.jsonl"),
      "--no-exact-match",
    );
    expect(evaluated.code).toBe(0);
  });

  it("compares methods at rates and seeds in one table", async () => {
    const compare = ["--compare", "fedsvd,fedavg", "--rates", "0.1,0.3", "--seeds", "0", "-o", at("compared")];
    const { code, said } = await runHere("federate simulate", ...line(), ...compare);
    expect(code).toBe(0);
    expect(said).toMatch(/\| fedsvd \| 3e-1 \(edge\) \|/);
    const found = JSON.parse(await readFile(join(at("compared"), "comparison.json"), "utf8"));
    expect(found.runs).toHaveLength(4);
    expect(found.rows.map(({ trainedParameters }: { trainedParameters: number }) => trainedParameters)).toEqual([
      expect.any(Number),
      expect.any(Number),
    ]);
    expect(found.rows[1].trainedParameters).toBeGreaterThan(found.rows[0].trainedParameters);
    const before = await readFile(join(at("compared"), "comparison.json"), "utf8");
    await runHere("federate simulate", ...line(), ...compare, "--resume");
    expect(await readFile(join(at("compared"), "comparison.json"), "utf8")).toBe(before);
    expect(await readFile(join(at("compared"), "report.html"), "utf8")).toContain("Loss at every rate");
  });

  it("a comparison without rates is refused: one rate says nothing", async () => {
    await expect(runHere("federate simulate", ...line(), "--compare", "ffa", "-o", at("none"))).rejects.toThrow(
      /--rates is missing/,
    );
  });
});
