import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openMemoryEngine } from "../src/federated/index.ts";
import { type CompareEvent, type CompareOptions, compare, type LoadedData, type LoadedModel } from "../src/index.ts";
import type { TextTokenizer } from "../src/io/tokenizer.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { jsonLines, root, runHere, scion, startScion } from "./helpers/cli.ts";
import { natsServer, natsSettings, type RunningNats, readText, startNats, withoutNats } from "./helpers/nats-server.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let folder: string;
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-workers-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** What a comparison came to, but for what depends on how fast a machine was and what it had in memory. */
async function resultOf(name: string): Promise<unknown> {
  const timed = new Set(["stepMs", "peakBytes", "plannedPeakBytes"]);
  const text = await readFile(at(`${name}/comparison.json`), "utf8");
  return JSON.parse(text, (key, value) => (timed.has(key) ? 0 : value));
}

describe("a comparison whose runs others make", () => {
  let model: LoadedModel;
  let data: LoadedData;
  beforeAll(async () => {
    const platform = { ...nodePlatform, openDevice: () => openNodeDevice({ worker: false, threads: 1 }) };
    const tokenizer = { padId: 0, eosId: 0 } as TextTokenizer; // of which only the padding is asked for
    model = {
      ...{ pretrained: await randomModel(), platform, source: "memory", folder: "memory" },
      tokenizer: async () => tokenizer,
    };
    data = {
      ...{ train: randomExamples(8, 64, 1), validation: randomExamples(4, 64, 2) },
      ...{ kind: "sequence", format: "text" },
    } as unknown as LoadedData; // as far as comparing looks at it
  });
  const options = (name: string, more: Partial<CompareOptions> = {}): CompareOptions => ({
    methods: [{ method: "lora" }, { method: "paca" }],
    ...{ learningRates: [1e-2], seeds: [0], rank: 2, scale: 4, batchSize: 4, maxSteps: 3 },
    ...{ targetModules: ["q_proj", "v_proj"], output: at(name), ...more },
  });

  it("comes to the same table, though one worker falls silent and one would make other runs", async () => {
    await compare(model, data, options("alone"));
    const engine = openMemoryEngine();
    const events: CompareEvent[] = [];
    const coordinating = compare(
      model,
      data,
      options("handed", {
        workers: { transport: engine.connect("coordinator"), silenceMs: 800 },
        onEvent: (event) => void events.push(event),
      }),
    );
    const stranger = compare(model, data, options("cleo", { rank: 3, workers: { transport: engine.connect("cleo") } }));
    await expect(stranger).rejects.toMatchObject({ code: "base-mismatch" });
    const silent = engine.connect("ben");
    const lost = compare(
      model,
      data,
      options("ben", {
        workers: { transport: silent },
        onEvent: () => void silent.close(), // at its first update
      }),
    );
    await expect(lost).rejects.toMatchObject({ code: "transport-closed" });
    const made = await compare(model, data, options("ana", { workers: { transport: engine.connect("ana") } }));
    const result = await coordinating;
    expect([made.done, result.done, result.total]).toEqual([2, 2, 2]);
    expect(await resultOf("handed")).toEqual(await resultOf("alone"));
    const backs = events.filter(({ kind }) => kind === "taken-back");
    expect(backs).toMatchObject([{ worker: "ben", why: "silent" }]);
    // What a worker made is here, whole: going on reads every run back.
    const again: CompareEvent[] = [];
    await compare(model, data, options("handed", { resume: true, onEvent: (event) => void again.push(event) }));
    expect(again.map((event) => event.kind === "done" && event.readBack)).toEqual([true, true]);
  });

  it("turns a worker away whose runs cannot be used, and waits for another", async () => {
    const engine = openMemoryEngine();
    const coordinating = compare(
      model,
      data,
      options("careful", { workers: { transport: engine.connect("coordinator") } }),
    );
    const mallory = engine.connect("mallory");
    const outside = await mallory.put(Uint8Array.of(1));
    const file = { name: "../../escaped", object: outside };
    await mallory.publish({ kind: "made", id: "1", body: { index: 0, files: [file] } });
    const forger = engine.connect("forger");
    const outcome = { facts: {}, outcome: { diverged: false, validationLoss: 0 } };
    const object = await forger.put(new TextEncoder().encode(JSON.stringify(outcome)));
    await forger.publish({ kind: "made", id: "2", body: { index: 0, files: [{ name: "outcome.json", object }] } });
    await forger.publish({ kind: "made", id: "3", body: { index: 99, files: "none" } });
    await engine.settled();
    for (const worker of ["mallory", "forger"]) {
      const late = compare(model, data, options(worker, { workers: { transport: engine.connect(worker) } }));
      await expect(late).rejects.toMatchObject({ code: "turned-away" });
    }
    await compare(model, data, options("good", { workers: { transport: engine.connect("good") } }));
    expect((await coordinating).done).toBe(2);
    expect(await nodePlatform.storage.sizeBytes(at("escaped"))).toBeUndefined();
  });
});

describe.skipIf(natsServer === undefined)(`scion compare --workers (${natsServer ?? withoutNats})`, () => {
  let server: RunningNats;
  let address: string;
  const model = `${root}assets/quickstart/model`;
  const compared = (output: string): readonly string[] => [
    ...["-m", model, "-d", at("rows.jsonl"), "--validation", "0.2", "--methods", "lora", "--rates", "1e-3"],
    ...["--seeds", "0,1", "--max-steps", "20", "--batch-size", "2", "--rank", "2", "--threads", "1", "-o", at(output)],
  ];

  beforeAll(async () => {
    const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
    await writeFile(at("rows.jsonl"), rows.slice(0, 20).join("\n"));
    const settings = await natsSettings(at("fed"));
    address = `nats://${settings.listen}`;
    const here = ["--listen", settings.listen, "--address", address];
    await runHere("federate create", "--run", "sweep", ...here, "-o", at("fed"));
    for (const name of ["ana", "ben"])
      await runHere("federate invite", "--federation", at("fed"), "--client", name, "-o", at(`${name}.json`));
    server = await startNats(at("fed"), settings, readText(at("fed/nats.conf")));
  }, 60_000);
  afterAll(() => server.kill());

  it("comes to what one machine comes to, though a worker is killed in the middle of a run", async () => {
    const handing = startScion(
      ...["compare", ...compared("far"), "--workers", address, "--federation", at("fed"), "--silence", "2", "--json"],
    );
    const worker = (name: string) =>
      startScion("compare", ...compared(`of-${name}`), "--workers", address, "--invite", at(`${name}.json`), "--json");
    const ben = worker("ben");
    await new Promise<void>((resolve) => {
      ben.child.stdout?.on("data", (text: Buffer) => String(text).includes('"step"') && resolve());
    });
    ben.child.kill("SIGKILL");
    await ben.ended;
    const [handed, ana] = await Promise.all([handing.ended, worker("ana").ended]);
    expect([handed.code, ana.code, handed.stderr, ana.stderr]).toEqual([0, 0, handed.stderr, ana.stderr]);
    expect(jsonLines(handed.stdout).filter(({ kind }) => kind === "taken-back")).toMatchObject([{ worker: "ben" }]);
    expect(jsonLines(ana.stdout).at(-1)).toMatchObject({ kind: "end", made: 2, total: 2 });
    expect((await runHere("compare", ...compared("near"))).code).toBe(0);
    expect(await resultOf("far")).toEqual(await resultOf("near"));
  }, 120_000);

  it("says which flags do not go together", async () => {
    const failure = async (...flags: readonly string[]): Promise<string> => {
      const { code, stdout } = await scion(["compare", ...compared("none"), ...flags, "--json"]);
      expect(code).toBe(2);
      return String((jsonLines(stdout).at(-1)?.["error"] as { readonly code: string } | undefined)?.code);
    };
    expect(await failure("--workers", address)).toBe("bad-option");
    expect(await failure("--workers", address, "--federation", at("nowhere"))).toBe("file-not-found");
  }, 60_000);
});
