import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openMemoryEngine } from "../src/federated/index.ts";
import {
  type FederationChoice,
  type JoinResult,
  joinFederation,
  type LoadedClients,
  type LoadedModel,
  loadClients,
  loadModel,
  serveFederation,
  simulateFederation,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { root } from "./helpers/cli.ts";

let folder: string;
let model: LoadedModel;
let data: LoadedClients;
const choice: FederationChoice = {
  ...{ rounds: 2, localSteps: 2, batchSize: 2, learningRate: 0.1, seed: 3 },
  ...{ methodOptions: { rank: 2 }, targetModules: ["q_proj"] },
};
const deviceOptions = { worker: false, threads: 1 } as const;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-federate-far-"));
  model = await loadModel(`${root}assets/quickstart/model`, { platform: nodePlatform });
  data = await loadClients(model, [`${root}assets/quickstart/heldout.jsonl`], {
    clients: 3,
    maxLength: 48,
    validation: 0,
  });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A coordinator and its clients, each as if alone, over one engine. */
async function apart(given: FederationChoice, names = data.clients.map(({ name }) => name)) {
  const engine = openMemoryEngine();
  const serving = serveFederation(model, {
    ...{ ...given, deviceOptions, transport: engine.connect("coordinator"), run: "test", clients: names.length },
    output: join(folder, `served-${Math.random()}`),
  });
  const joining = names.map((name): Promise<JoinResult> => {
    const { train = [] } = data.clients.find((client) => client.name === name) ?? {};
    const output = join(folder, `${name}-${Math.random()}`);
    return joinFederation(
      model,
      { train, kind: data.kind },
      { transport: engine.connect(name), output, pollMs: 50, deviceOptions },
    );
  });
  return { served: await serving, joined: await Promise.all(joining) };
}

describe("a federation of parties that share nothing", () => {
  it("comes to the same factors, bit for bit, as its simulation, on all sides", async () => {
    const simulated = await simulateFederation(model, data, { ...choice, deviceOptions });
    const { served, joined } = await apart(choice);
    expect(served.ended).toBe("finished");
    const expected = [...simulated.adapter.parameters].map(([name, { data: values }]) => [name, [...values]]);
    const found = (adapter: JoinResult["adapter"]): unknown =>
      [...(adapter?.parameters ?? [])].map(([name, { data: values }]) => [name, [...values]]);
    expect(found(served.adapter)).toEqual(expected);
    for (const { ended, rounds, adapter } of joined) {
      expect([ended, rounds]).toEqual(["finished", 2]);
      expect(found(adapter)).toEqual(expected);
    }
  });

  it("keeps privacy on the clients' side: each has a ledger, its secret goes when all is done", async () => {
    const { joined } = await apart({ ...choice, dpEpsilon: 8, dpClip: 1 });
    for (const { ended, spent } of joined) {
      expect(ended).toBe("finished");
      expect(spent?.steps).toBe(4);
      expect(spent?.epsilon).toBeGreaterThan(1);
      expect(spent?.epsilon).toBeLessThanOrEqual(8);
    }
    const files = (await readdir(folder, { recursive: true })).filter((name) => /client-1-/.test(name));
    expect(files.filter((name) => name.endsWith(".ledger"))).toHaveLength(1);
    expect(files.some((name) => name.endsWith(".key"))).toBe(false);
  });

  it("turns away a client that tunes something else, and goes on without it", async () => {
    const other = await loadModel(`${root}assets/quickstart/model`, {
      platform: nodePlatform,
      newTokens: ["<another>"],
    });
    const engine = openMemoryEngine();
    const [first, second] = data.clients as [LoadedClients["clients"][number], LoadedClients["clients"][number]];
    const serving = serveFederation(model, {
      ...{ ...choice, deviceOptions, transport: engine.connect("coordinator"), run: "test", clients: 1 },
    });
    const wrong = joinFederation(
      other,
      { train: second.train, kind: data.kind },
      { transport: engine.connect(second.name), pollMs: 50, deviceOptions },
    );
    await expect(wrong).rejects.toMatchObject({ code: "base-mismatch" });
    const right = joinFederation(
      model,
      { train: first.train, kind: data.kind },
      { transport: engine.connect(first.name), pollMs: 50, deviceOptions },
    );
    expect([(await serving).ended, (await right).ended]).toEqual(["finished", "finished"]);
  });

  it("turns away a client whose weights differ in one byte", async () => {
    const source = `${root}assets/quickstart/model`;
    const other = join(folder, "other-weights");
    await cp(source, other, { recursive: true });
    const weights = await readFile(join(other, "model.safetensors"));
    weights[weights.length - 1] = (weights.at(-1) ?? 0) ^ 1;
    await writeFile(join(other, "model.safetensors"), weights);
    const engine = openMemoryEngine();
    const stop = new AbortController();
    const serving = serveFederation(model, {
      ...{ ...choice, deviceOptions, transport: engine.connect("coordinator"), run: "test", clients: 1 },
      signal: stop.signal,
    });
    const [{ name, train }] = data.clients as [LoadedClients["clients"][number]];
    const joining = joinFederation(
      await loadModel(other, { platform: nodePlatform }),
      { train, kind: data.kind },
      { transport: engine.connect(name), pollMs: 50, deviceOptions },
    );
    await expect(joining).rejects.toMatchObject({ code: "base-mismatch" });
    stop.abort();
    expect((await serving).ended).toBe("interrupted");
  });

  it("refuses what does not fit before anything is opened", async () => {
    const engine = openMemoryEngine();
    const serve = (given: object): Promise<unknown> =>
      serveFederation(model, {
        ...{ transport: engine.connect("coordinator"), run: "test", clients: 2, deviceOptions },
        ...given,
      });
    await expect(serve({ run: "no spaces" })).rejects.toMatchObject({ code: "bad-option" });
    const hopeless = { ...choice, dpEpsilon: 1e-9, dpDelta: 1e-12, dpAccountant: "rdp", dpClip: 1 };
    await expect(serve(hopeless)).rejects.toMatchObject({ code: "budget-too-small" });
    await expect(serve({ clients: 0 })).rejects.toMatchObject({ code: "bad-option" });
    await expect(serve({ roundSeconds: -1, attempts: 0 })).rejects.toThrow(/roundSeconds.*\n.*attempts/);
    await expect(serve({ clientsPerRound: 3 })).rejects.toThrow(/clientsPerRound is 3, and there are 2/);
    await expect(serve({ transport: engine.connect("ana") })).rejects.toThrow(/speaks for ana/);
    await expect(serve({ targetModules: { modules: "all-linear", layers: [0] } })).rejects.toThrow(/leaves modules/);
  });
});
