import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { TuneError } from "../errors.ts";
import { createRng } from "../linalg/index.ts";
import { aggregationDefaults } from "./aggregate.ts";
import { type Client, type ClientOptions, type LocalTraining, takePart } from "./client.ts";
import { type CoordinatorEvent, type CoordinatorOptions, coordinate } from "./coordinator.ts";
import { type MemoryEngine, openMemoryEngine } from "./engines/memory.ts";
import { piecesOf, type Tuned } from "./factors.ts";
import { type FederationPlan, protocol, type RunState, runState, type Upload } from "./messages.ts";
import type { Transport } from "./transport.ts";
import { typesOf, writePieces } from "./validate.ts";

const rank = 2;
const initial = (): Tuned => {
  const rng = createRng(3, "initial");
  const A = { rows: rank, cols: 5, data: Float32Array.from({ length: rank * 5 }, () => rng.normal()) };
  const B = { rows: 4, cols: rank, data: new Float32Array(4 * rank) };
  return {
    factors: new Map([["q", { A, B }]]),
    whole: new Map([["head", { shape: [2], data: new Float32Array(2) }]]),
    residual: new Map(),
  };
};

const planOf = (given: Partial<FederationPlan> = {}): FederationPlan => ({
  ...{ strategy: "fedsvd", config: {}, rounds: 4, localSteps: 2, learningRate: 0.1, batchSize: 1, seed: 9 },
  ...{
    clientsPerRound: 0,
    minClients: 1,
    roundMs: 0,
    attempts: 3,
    aggregation: aggregationDefaults,
    base: "model",
    training: {},
  },
  ...given,
});

/** Training that depends on nothing but what it is given, the client and the round. */
const trainingOf = (client: string, given: Partial<LocalTraining> = {}): LocalTraining => ({
  examples: 10 + client.length,
  base: "model",
  spend: () => undefined,
  train: async ({ tuned, round }) => {
    const rng = createRng(1, client, round);
    const factors = new Map(
      [...tuned.factors].map(([module, { A, B }]) => [
        module,
        { A, B: { ...B, data: B.data.map((value) => 0.9 * value + 0.1 * rng.normal()) } },
      ]),
    );
    return { tuned: { ...tuned, factors }, loss: rng.uniform(), steps: 2 };
  },
  ...given,
});

/** Time that stands still unless nothing has happened for a while. */
const clockOf = (): Pick<CoordinatorOptions, "now" | "wait"> => {
  let time = 1000;
  return {
    now: () => time,
    wait: async (ms, wake) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const late = new Promise<"late">((resolve) => {
        timer = setTimeout(() => resolve("late"), 300);
      });
      if ((await Promise.race([wake, late])) === "late" && Number.isFinite(ms)) time += ms;
      clearTimeout(timer);
    },
  };
};

const run = async (
  clients: readonly string[],
  plan: FederationPlan = planOf(),
  given: {
    readonly engine?: MemoryEngine;
    readonly training?: (client: string) => LocalTraining;
    readonly reserve?: (client: string) => NonNullable<ClientOptions["reserve"]>;
    readonly coordinator?: Partial<CoordinatorOptions>;
    readonly before?: (engine: MemoryEngine) => Promise<void>;
  } = {},
) => {
  const engine = given.engine ?? openMemoryEngine();
  const events: CoordinatorEvent[] = [];
  const transport = engine.connect("coordinator");
  const stop = new AbortController();
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const coordinating = coordinate({
    ...{ transport, run: "r", plan, initial: async () => initial(), gather: clients.length, signal: stop.signal },
    ...clockOf(),
    onEvent: (event) => {
      events.push(event);
      open();
    },
    ...given.coordinator,
  });
  await Promise.race([opened, coordinating]);
  await given.before?.(engine);
  const joined: Client[] = [];
  try {
    for (const client of clients) {
      const reserve = given.reserve?.(client);
      const training = given.training?.(client) ?? trainingOf(client);
      joined.push(await takePart({ transport: engine.connect(client), training, ...(reserve ? { reserve } : {}) }));
    }
    const result = await coordinating;
    return { ...result, events, joined, engine };
  } finally {
    stop.abort();
    await coordinating.catch(() => undefined);
    for (const client of joined) await client.close();
  }
};

const bitsOf = (tuned: Tuned): string => Buffer.from(writePieces(piecesOf(tuned))).toString("hex");
const five = ["a", "b", "c", "d", "e"];

describe("a federation in one process", () => {
  test.each(["fedsvd", "ffa", "ffa-orth", "fedavg", "flora", "fedex", "fedsvd-sqrt"])(
    "%s runs all rounds",
    async (strategy) => {
      const { state, tuned } = await run(five, planOf({ strategy }));
      expect(state.phase).toBe("done");
      expect(state.history).toHaveLength(4);
      expect(state.history.map(({ clients }) => Object.keys(clients))).toEqual([five, five, five, five]);
      expect(Math.max(...(tuned.factors.get("q")?.B.data ?? []))).toBeGreaterThan(strategy === "flora" ? -1 : 0);
      const first = state.history[1];
      expect(first?.bytes.up).toBe(
        5 * Number(strategy.startsWith("f") && ["fedavg", "flora", "fedex"].includes(strategy) ? 80 : 40),
      );
    },
  );

  test("three of five are drawn in a round, others in another, the same for a seed", async () => {
    const drawn = async (seed: number) =>
      (await run(five, planOf({ clientsPerRound: 3, seed }))).state.history.map(({ clients }) =>
        Object.keys(clients).join(""),
      );
    const one = await drawn(1);
    expect(one.every((clients) => clients.length === 3)).toBe(true);
    expect(new Set(one).size).toBeGreaterThan(1);
    expect(await drawn(1)).toEqual(one);
    expect(await drawn(2)).not.toEqual(one);
  });

  test("events in any order, twice: the same bits", async () => {
    const plain = await run(five, planOf({ clientsPerRound: 3 }));
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 1e6 }), async (seed) => {
        const engine = openMemoryEngine({ chaos: createRng(seed, "chaos") });
        const found = await run(five, planOf({ clientsPerRound: 3 }), { engine });
        expect(bitsOf(found.tuned)).toBe(bitsOf(plain.tuned));
        expect(found.state.history).toEqual(plain.state.history);
      }),
      { numRuns: 25 },
    );
  });

  test("a coordinator that ends anywhere is followed by one that goes on: the same bits, and uploads count", async () => {
    const plan = planOf({ clientsPerRound: 3, rounds: 3 });
    const plain = await run(five, plan);
    for (let after = 1; after <= 14; after += 1) {
      const engine = openMemoryEngine({ chaos: createRng(after, "kills") });
      const stop = new AbortController();
      let seen = 0;
      const trained: string[] = [];
      const training = (client: string): LocalTraining =>
        trainingOf(client, {
          train: (request) => {
            trained.push(`${client} ${request.round}`);
            return trainingOf(client).train(request);
          },
        });
      const first = coordinate({
        ...{ transport: engine.connect("coordinator"), run: "r", plan, initial: async () => initial(), gather: 5 },
        ...clockOf(),
        signal: stop.signal,
        onEvent: () => {
          seen += 1;
          if (seen === after) stop.abort();
        },
      });
      const joined: Client[] = [];
      for (const client of five)
        joined.push(await takePart({ transport: engine.connect(client), training: training(client) }));
      await first;
      const second = await coordinate({
        ...{ transport: engine.connect("coordinator"), run: "r", plan, initial: async () => initial(), gather: 5 },
        ...clockOf(),
      });
      expect(second.state.phase).toBe("done");
      expect(bitsOf(second.tuned)).toBe(bitsOf(plain.tuned));
      expect(new Set(trained).size).toBe(trained.length); // nobody trained a round twice
      for (const client of joined) await client.close();
    }
  });

  test("another plan, or another run, does not go on with what stands there", async () => {
    const { engine } = await run(five);
    const again = (given: Partial<CoordinatorOptions>) =>
      coordinate({
        ...{
          transport: engine.connect("coordinator"),
          run: "r",
          plan: planOf(),
          initial: async () => initial(),
          gather: 1,
        },
        ...clockOf(),
        ...given,
      });
    expect((await again({})).state.phase).toBe("done");
    await expect(again({ plan: planOf({ learningRate: 0.2 }) })).rejects.toThrow(/planned otherwise/);
    await expect(again({ run: "s" })).rejects.toThrow(/planned otherwise/);
  });
});

describe("what goes wrong", () => {
  test("silent clients: the round goes on with those that answered, their weights add up to 1", async () => {
    const training = (client: string): LocalTraining =>
      client === "e" ? trainingOf(client, { train: () => new Promise(() => undefined) }) : trainingOf(client);
    const engine = openMemoryEngine();
    const coordinating = coordinate({
      ...{ transport: engine.connect("coordinator"), run: "r", plan: planOf({ roundMs: 1000, rounds: 2 }), gather: 5 },
      initial: async () => initial(),
      ...clockOf(),
    });
    for (const client of five.slice(0, 4))
      await takePart({ transport: engine.connect(client), training: training(client) });
    void takePart({ transport: engine.connect("e"), training: training("e") });
    const { state } = await coordinating;
    expect(state.phase).toBe("done");
    const [first] = state.history;
    expect(first?.silent).toEqual(["e"]);
    expect(Object.values(first?.clients ?? {}).reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 12);
  });

  test.each([-9, 30])(
    "a coordinator whose clock differs by %i hours from that before it gives a round its time",
    async (hours) => {
      const engine = openMemoryEngine();
      const stop = new AbortController();
      const plan = planOf({ roundMs: 1000, rounds: 1 });
      const common = { run: "r", plan, initial: async () => initial(), gather: 2 };
      const first = coordinate({
        ...{ ...common, transport: engine.connect("coordinator"), signal: stop.signal },
        ...clockOf(),
        onEvent: ({ kind }) => {
          if (kind === "upload") stop.abort();
        },
      });
      const training = trainingOf("e", { train: () => new Promise(() => undefined) });
      void takePart({ transport: engine.connect("e"), training });
      const a = await takePart({ transport: engine.connect("a"), training: trainingOf("a") });
      await first;
      const began = 1000 + hours * 3_600_000;
      let time = began;
      const { state } = await coordinate({
        ...{ ...common, transport: engine.connect("coordinator"), now: () => time },
        wait: async (ms) => {
          time += ms;
        },
      });
      expect(state.history.map(({ clients, silent }) => [Object.keys(clients), silent])).toEqual([[["a"], ["e"]]]);
      expect(time - began).toBe(1000);
      await a.close();
    },
  );

  test("below minClients the round is tried again with others, and what was uploaded counts", async () => {
    const failing = new Set(["a", "b"]);
    const training = (client: string): LocalTraining =>
      failing.has(client)
        ? trainingOf(client, { train: async () => Promise.reject(new TuneError("not-finite-loss", "NaN")) })
        : trainingOf(client);
    const { state } = await run(five, planOf({ clientsPerRound: 3, minClients: 3, attempts: 5, rounds: 2 }), {
      training,
    });
    expect(state.phase).toBe("done");
    for (const { clients } of state.history) expect(Object.keys(clients)).toEqual(["c", "d", "e"]);
    expect(state.history.some(({ attempts }) => attempts > 1)).toBe(true);
  });

  test("where nobody is left the federation stops with what it has, and goes on when it is called again", async () => {
    let broken = true;
    const training = (client: string): LocalTraining =>
      trainingOf(client, {
        train: async (request) => {
          if (broken && request.round === 2) throw new TuneError("not-finite-loss", "NaN");
          return trainingOf(client).train(request);
        },
      });
    const first = await run(["a", "b"], planOf({ minClients: 2 }), { training });
    expect(first.state.phase).toBe("stopped");
    expect(first.state.history).toHaveLength(2);
    expect(first.stopped?.code).toBe("too-few-clients");
    expect(first.stopped?.message).toMatch(/Round 3 has 0 uploads/);
    broken = false;
  });

  test("budget: it is reserved before training, and a client that has spent it leaves while the others go on", async () => {
    const order: string[] = [];
    const reserve = (client: string): NonNullable<ClientOptions["reserve"]> => {
      let left = client === "a" ? 2 : 10;
      return async (id) => {
        if (left === 0) throw new TuneError("budget-spent", "spent");
        left -= 1;
        order.push(`${client} reserves ${Number(/(\d+)$/.exec(id)?.[1]) - 1}`);
      };
    };
    const training = (client: string): LocalTraining =>
      trainingOf(client, {
        spend: () => ({ samplingRate: 0.1, noiseMultiplier: 1, steps: 2 }),
        train: (request) => {
          order.push(`${client} trains ${request.round}`);
          return trainingOf(client).train(request);
        },
      });
    const plan = planOf({
      privacy: { clip: 1, noiseMultiplier: 1, epsilon: 0, delta: 1e-5, maxRounds: 4, accountant: "rdp" },
    });
    const { state, joined } = await run(["a", "b"], plan, { training, reserve });
    expect(state.history.map(({ clients }) => Object.keys(clients).join(""))).toEqual(["ab", "ab", "b", "b"]);
    expect(state.gone).toEqual({ a: "budget-spent" });
    expect(joined[0]?.left()?.code).toBe("budget-spent");
    for (const entry of order.filter((one) => one.includes("trains"))) {
      expect(order.indexOf(entry.replace("trains", "reserves"))).toBeLessThan(order.indexOf(entry));
    }
    await expect(run(["a"], plan, { training })).rejects.toThrow(/no ledger/);
  });

  test("a client with another model, or without examples, cannot join", async () => {
    await expect(run(["a"], planOf(), { training: (c) => trainingOf(c, { base: "other" }) })).rejects.toThrow(
      /another model/,
    );
    await expect(run(["a"], planOf(), { training: (c) => trainingOf(c, { examples: 0 }) })).rejects.toThrow(
      /without examples/,
    );
  });

  test("a plan that changes on the way is not followed", async () => {
    const engine = openMemoryEngine();
    const coordinator = engine.connect("coordinator");
    const started = await run(["a"], planOf({ rounds: 1 }), { engine });
    const other = { ...started.state, plan: planOf({ rounds: 9 }), phase: "training", round: 1, participants: ["b"] };
    const client = await takePart({ transport: engine.connect("b"), training: trainingOf("b") });
    await coordinator.update(runState, () => other);
    await client.attend();
    expect(client.left()?.code).toBe("plan-changed");
  });

  describe("uploads that are not taken", () => {
    /** A client that says what it likes, whenever it is asked. */
    const forger = async (
      engine: MemoryEngine,
      name: string,
      lie: (honest: Upload, transport: Transport) => Promise<unknown>,
    ) => {
      const transport = engine.connect(name);
      const training = trainingOf(name);
      await transport.publish({ kind: "join", id: name, body: { protocol, examples: 5, base: "model" } });
      await transport.subscribe("round", async () => {
        const state = (await transport.update(runState, () => undefined)).value as RunState;
        const tuned = initial();
        const { round, plan, base } = state;
        const after = await training.train({ tuned, round, plan });
        const layers = new Map([...piecesOf(after.tuned)].filter(([key]) => !key.startsWith("A/")));
        const object = await transport.put(writePieces(layers));
        const honest = { round, base: base.sha256, layers: typesOf(layers), object, loss: 1, steps: 2 };
        await transport.publish({ kind: "upload", id: `lie ${round}`, body: await lie(honest, transport) });
      });
    };
    const infinite = writePieces(new Map([["B/q", { shape: [10], data: new Float32Array(10).fill(Number.NaN) }]]));

    test.each<[string, (honest: Upload, transport: Transport) => Promise<unknown>, RegExp]>([
      ["NaN", async (honest, transport) => ({ ...honest, object: await transport.put(infinite) }), /has NaN/],
      [
        "another shape",
        async (honest) => ({ ...honest, layers: honest.layers.map((l) => ({ ...l, shape: [1] })) }),
        /shape of/,
      ],
      [
        "too few bytes",
        async (honest, transport) => ({ ...honest, object: await transport.put(new Uint8Array(8)) }),
        /8 bytes, not 40/,
      ],
      [
        "bytes that lie",
        async (honest) => ({ ...honest, object: { ...honest.object, bytes: 41 } }),
        /41 bytes, not 40/,
      ],
      [
        "an object that is not there",
        async (honest) => ({ ...honest, object: { ...honest.object, sha256: "0".repeat(64) } }),
        /object-missing/,
      ],
      ["another's object", async (honest) => ({ ...honest, object: { ...honest.object, from: "a" } }), /put by a/],
      [
        "far too long a change",
        async (honest, transport) => ({
          ...honest,
          object: await transport.put(
            writePieces(new Map([["B/q", { shape: [10], data: new Float32Array(10).fill(1e6) }]])),
          ),
        }),
        /honest training/,
      ],
    ])("%s: refused, and nobody waits for it", async (_name, lie, why) => {
      const before = (engine: MemoryEngine): Promise<void> => forger(engine, "x", lie);
      const plan = planOf({ normBound: 5, rounds: 2 });
      const { state } = await run(["a", "b"], plan, { before, coordinator: { gather: 3 } });
      expect(state.phase).toBe("done");
      expect(state.history[0]?.refused["x"]).toMatch(why);
      expect(Object.keys(state.history[0]?.clients ?? {})).toEqual(["a", "b"]);
    });

    test.each<[string, (honest: Upload) => Promise<unknown>]>([
      ["of another round", async (honest) => ({ ...honest, round: honest.round + 1 })],
      ["of another base", async (honest) => ({ ...honest, base: "0".repeat(64) })],
      ["that are no messages", async () => "garbage"],
      ["without an object", async (honest) => ({ ...honest, object: undefined })],
      ["with a round that is no number", async (honest) => ({ ...honest, round: "1" })],
    ])("%s: ignored", async (_name, lie) => {
      const engine = openMemoryEngine();
      const before = (): Promise<void> => forger(engine, "x", lie);
      const plan = planOf({ roundMs: 10_000, rounds: 2 });
      const { state } = await run(["a", "b"], plan, { engine, before, coordinator: { gather: 3 } });
      expect(state.history[0]?.silent).toEqual(["x"]);
      expect(Object.keys(state.history[0]?.clients ?? {})).toEqual(["a", "b"]);
    });

    test("joins of another version or model are turned away, and say so", async () => {
      const before = async (engine: MemoryEngine): Promise<void> => {
        for (const [name, body] of Object.entries({
          x: { protocol: 2 },
          y: { protocol, examples: 1, base: "other" },
          z: null,
        })) {
          await engine.connect(name).publish({ kind: "join", id: name, body });
        }
      };
      const { events, state } = await run(["a"], planOf({ rounds: 1 }), { before });
      expect(events.filter(({ kind }) => kind === "turned-away")).toHaveLength(3);
      expect(Object.keys(state.members)).toEqual(["a"]);
    });

    test("a client may not write the state", async () => {
      const engine = openMemoryEngine();
      await expect(engine.connect("x").update(runState, () => ({ phase: "done" }))).rejects.toThrow(/may not change/);
    });
  });

  test("a client that missed rounds, or comes to other factors, fetches all", async () => {
    const { state, tuned, engine } = await run(["a", "b"], planOf({ rounds: 3 }));
    const standing = { ...state, phase: "training", participants: ["late"], plan: { ...state.plan, rounds: 9 } };
    await engine.connect("coordinator").update(runState, () => standing);
    let seen: Tuned | undefined;
    const training = trainingOf("late", {
      train: async (request) => {
        seen = request.tuned;
        return trainingOf("late").train(request);
      },
    });
    await takePart({ transport: engine.connect("late"), training });
    expect(bitsOf(seen as Tuned)).toBe(bitsOf(tuned));
  });
});
