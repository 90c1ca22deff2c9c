import { mkdir, mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jetstreamManager } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { aggregationDefaults } from "../src/federated/aggregate.ts";
import { type LocalTraining, takePart } from "../src/federated/client.ts";
import { type CoordinatorResult, coordinate } from "../src/federated/coordinator.ts";
import { openMemoryEngine } from "../src/federated/engines/memory.ts";
import { type NatsOptions, type NatsTransport, openNats } from "../src/federated/engines/nats.ts";
import type { NatsServer } from "../src/federated/engines/nats-config.ts";
import { natsNames } from "../src/federated/engines/nats-names.ts";
import { piecesOf, type Tuned } from "../src/federated/factors.ts";
import {
  configOf,
  foundFederation,
  type Invitation,
  inviteClient,
  openClient,
  openCoordinator,
  readInvitation,
} from "../src/federated/invitations.ts";
import { newSigningKey } from "../src/federated/keys.ts";
import type { FederationPlan } from "../src/federated/messages.ts";
import { describeTransport } from "../src/federated/transport.conformance.ts";
import type { Transport, TransportEvent } from "../src/federated/transport.ts";
import { writePieces } from "../src/federated/validate.ts";
import {
  claimOutput,
  createFederation,
  inviteToFederation,
  openClientTransport,
  openCoordinatorTransport,
} from "../src/index.ts";
import { createRng } from "../src/linalg/index.ts";
import { natsConnect } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import {
  freePort,
  natsServer,
  natsSettings,
  passwordOf,
  type RunningNats,
  readText,
  startCluster,
  startNats,
  withoutNats,
} from "./helpers/nats-server.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-nats-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const as = (party: string, address: string, more: Partial<NatsOptions> = {}): NatsOptions => ({
  ...{ connect: connect as NatsOptions["connect"], servers: [address], run: "r1", ackWaitMs: 1500 },
  ...{ party, user: party, password: passwordOf(party), patienceMs: 20_000, ...more },
});

/** Which of a cluster's servers leads the queue of uploads. */
async function leaderOf(addresses: readonly string[], run: string): Promise<number> {
  const nc = await connect({ servers: [...addresses], user: "coordinator", pass: passwordOf("coordinator") });
  const { cluster } = await (await jetstreamManager(nc)).streams.info(natsNames(run).streams.events);
  await nc.close();
  return Number(cluster?.leader?.slice(1));
}

/** A federation of two clients and four rounds whose training is a formula; the bits that it comes to. */
async function federation(
  open: (party: string) => Promise<Transport>,
  onClosed?: (stop: () => void) => Promise<void>,
): Promise<string> {
  const rank = 2;
  const rng = createRng(3, "initial");
  const A = { rows: rank, cols: 300, data: Float32Array.from({ length: rank * 300 }, () => rng.normal()) };
  const B = { rows: 400, cols: rank, data: new Float32Array(400 * rank) };
  const initial: Tuned = { factors: new Map([["q", { A, B }]]), whole: new Map(), residual: new Map() };
  const plan: FederationPlan = {
    ...{ strategy: "fedsvd", config: {}, rounds: 4, localSteps: 2, learningRate: 0.1, batchSize: 1, seed: 9 },
    ...{ clientsPerRound: 0, minClients: 2, roundMs: 0, attempts: 3, aggregation: aggregationDefaults, base: "model" },
    training: {},
  };
  const trainingOf = (client: string): LocalTraining => ({
    ...{ examples: 10 + client.length, base: "model", spend: () => undefined },
    train: async ({ tuned, round }) => {
      const draws = createRng(1, client, round);
      const step = (data: Float32Array): Float32Array => data.map((value) => 0.9 * value + 0.1 * draws.normal());
      const factors = new Map(
        [...tuned.factors].map(([name, own]) => [name, { ...own, B: { ...own.B, data: step(own.B.data) } }]),
      );
      return { tuned: { ...tuned, factors }, loss: 1, steps: 2 };
    },
  });
  const coordinating = async (): Promise<CoordinatorResult> => {
    const transport = await open("coordinator");
    const stop = new AbortController();
    try {
      return await coordinate({
        ...{ transport, run: "r1", plan, initial: async () => initial, gather: 2, signal: stop.signal },
        now: () => performance.now(),
        wait: (ms, wake) =>
          Promise.race([wake, new Promise<void>((resolve) => setTimeout(resolve, Math.min(ms, 200)))]),
        onEvent: async ({ kind }) => {
          if (kind === "closed") await onClosed?.(() => stop.abort());
        },
      });
    } finally {
      await transport.close();
    }
  };
  let result = coordinating();
  const clients = ["ann", "bob"].map(async (name) => {
    const transport = await open(name);
    return { transport, client: await takePart({ transport, training: trainingOf(name) }) };
  });
  try {
    while ((await result).state.phase === "training") result = coordinating(); // as after a kill: all it has is the state
    const { tuned, state } = await result;
    expect(state.history).toHaveLength(4);
    return Buffer.from(writePieces(piecesOf(tuned))).toString("hex");
  } finally {
    for (const each of clients) {
      const { client, transport } = await each;
      await client.close();
      await transport.close();
    }
  }
}

describeTransport("memory", async () => {
  const engine = openMemoryEngine();
  return { connect: async (party) => engine.connect(party), stop: async () => undefined };
});

const skipped = natsServer === undefined;
describe.skipIf(skipped)(skipped ? withoutNats : "NATS", () => {
  let count = 0;
  const place = (): string => join(folder, String(count++));
  const running: RunningNats[] = [];
  const transports: { close(): Promise<void> }[] = [];
  const start = async (
    changes: Partial<NatsServer> = {},
    plain?: (settings: NatsServer) => string,
  ): Promise<RunningNats> => {
    const own = place();
    const settings = await natsSettings(own, changes);
    const server = await startNats(own, settings, plain?.(settings));
    running.push(server);
    return server;
  };
  const open = async (party: string, server: RunningNats, more: Partial<NatsOptions> = {}): Promise<NatsTransport> => {
    const transport = await openNats(as(party, server.address, more));
    transports.push(transport);
    return transport;
  };
  /** A connection that does what it likes. */
  const raw = async (user: string, server: RunningNats): Promise<NatsConnection> => {
    const nc = await connect({ servers: server.address, user, pass: passwordOf(user), inboxPrefix: `_INBOX_${user}` });
    transports.push(nc);
    return nc;
  };
  afterEach(async () => {
    for (const transport of transports) await transport.close();
    for (const server of running) await server.kill();
    transports.length = 0;
    running.length = 0;
  });

  describeTransport("NATS JetStream", async () => {
    const own = place();
    const server = await startNats(own, await natsSettings(own));
    return {
      connect: (party) => openNats(as(party, server.address)),
      interrupt: async () => {
        await server.kill();
        return () => server.start();
      },
      stop: () => server.kill(),
    };
  });

  it("lets nobody write as another: not by any subject, and not by an answer that is sent elsewhere", async () => {
    const server = await start();
    const coordinator = await open("coordinator", server);
    const ann = await open("ann", server);
    const uploads: TransportEvent[] = [];
    await coordinator.update("run", () => ({ round: 1 }));
    await coordinator.publish({ kind: "round", id: "1", body: {} });
    const ref = await coordinator.put(new Uint8Array(1000).fill(1));
    const annRef = await ann.put(new Uint8Array(10).fill(2));
    await coordinator.subscribe("upload", async (event) => void uploads.push(event));
    const bob = await raw("bob", server);
    const names = natsNames("r1");
    const own = names.permissions("bob").publish;
    const foreign = [
      names.event("ann", "upload"),
      names.chunk("ann", annRef.sha256, 0),
      names.chunk("coordinator", ref.sha256, 0),
      names.state("run"),
      names.control("round"),
    ];
    const api = [
      ...[
        "STREAM.LIST",
        "STREAM.NAMES",
        `STREAM.DELETE.${names.streams.model}`,
        `STREAM.PURGE.${names.streams.events}`,
      ],
      ...["STREAM.CREATE.EVIL", `CONSUMER.CREATE.${names.streams.events}`, `STREAM.MSG.GET.${names.streams.uploads}`],
      `DIRECT.GET.${names.streams.uploads}.${names.chunk("ann", annRef.sha256, 0)}`,
      `CONSUMER.MSG.NEXT.${names.streams.events}.coordinator-upload`,
      "INFO",
    ].map((name) => `$JS.API.${name}`);
    const body = JSON.stringify({ id: "forged", body: { round: 1 } });
    for (const subject of [...foreign, ...api]) {
      await expect(bob.request(subject, body, { timeout: 1500 }), subject).rejects.toThrow(/permissions violation/i);
    }
    // Answers of what it may ask, sent where it may not write.
    const allowed = [
      names.event("bob", "upload"),
      names.chunk("bob", annRef.sha256, 0),
      ...own.slice(2).map((subject) => subject.replace(">", subject.includes("state") ? "run" : `${ref.sha256}.0`)),
    ];
    for (const reply of [...foreign, `$JS.API.STREAM.DELETE.${names.streams.model}`]) {
      for (const subject of allowed) bob.publish(subject, body, { reply });
    }
    await bob.flush();
    for (const subject of [names.inbox("ann"), names.event("*", "upload"), names.chunk("ann", "*", ">"), ">"]) {
      const listening = bob.subscribe(subject.startsWith("_") ? `${subject}.>` : subject);
      await expect(
        (async () => {
          for await (const message of listening) return message.subject;
          return "closed";
        })(),
      ).rejects.toThrow(/permissions violation/i);
    }
    await ann.publish({ kind: "upload", id: "real", body: {} });
    await vi.waitFor(() => expect(uploads.map(({ from, id }) => `${from} ${id}`)).toContain("ann real"), 10_000);
    expect(uploads.filter(({ from }) => from === "ann")).toHaveLength(1);
    expect(await ann.update("run", () => undefined)).toEqual({ value: { round: 1 }, revision: 1 });
    expect(await ann.get(ref)).toEqual(new Uint8Array(1000).fill(1));
    expect(await coordinator.get(annRef)).toEqual(new Uint8Array(10).fill(2));
    const rounds: string[] = [];
    await ann.subscribe("round", async ({ id }) => void rounds.push(id));
    await vi.waitFor(() => expect(rounds).toEqual(["1"]), 10_000);
  });

  it("lets in who was invited while it runs, and puts out who is removed, without a word to the others", async () => {
    const server = await start({ clients: [{ name: "ann", password: passwordOf("ann") }] });
    const coordinator = await open("coordinator", server);
    const ann = await open("ann", server);
    await expect(open("bob", server)).rejects.toMatchObject({ code: "not-permitted" });
    const both = ["ann", "bob"].map((name) => ({ name, password: passwordOf(name) }));
    await server.reload({ clients: both });
    const bob = await open("bob", server);
    await bob.publish({ kind: "join", id: "bob", body: {} });
    await ann.publish({ kind: "join", id: "ann", body: {} });
    await server.reload({ clients: both.slice(0, 1) });
    await expect(bob.publish({ kind: "join", id: "again", body: {} })).rejects.toMatchObject({
      code: expect.stringMatching(/not-permitted|transport-unreachable/),
    });
    await ann.publish({ kind: "upload", id: "1", body: {} });
    await coordinator.update("run", () => 1);
  });

  it("says what a server lacks: JetStream, an answer, the password, the packages", async () => {
    const without = await start(
      {},
      ({ listen }) =>
        `listen: "${listen}"\nauthorization { user: coordinator, password: "${passwordOf("coordinator")}" }\n`,
    );
    const quick = { patienceMs: 300 };
    await expect(open("coordinator", without, quick)).rejects.toMatchObject({ code: "no-jetstream" });
    const server = await start();
    await expect(open("ann", server, { ...quick, password: "wrong" })).rejects.toMatchObject({ code: "not-permitted" });
    await expect(open("eve", server, quick)).rejects.toMatchObject({ code: "not-permitted" });
    // No coordinator has been there.
    const early = await open("ann", server, quick);
    await expect(early.update("run", () => undefined)).rejects.toMatchObject({ code: "transport-unreachable" });
    await server.kill();
    await expect(open("ann", server, quick)).rejects.toMatchObject({ code: "transport-unreachable" });
    await expect(early.publish({ kind: "join", id: "1", body: {} })).rejects.toMatchObject({
      code: "transport-unreachable",
    });
  });

  it("says that the server is full, loses nothing that it kept, and goes on when there is room", async () => {
    const own = place();
    const settings = await natsSettings(own, { maxFile: "2MB" });
    let server = await startNats(own, settings);
    running.push(server);
    const coordinator = await open("coordinator", server);
    await coordinator.update("run", () => ({ round: 1 }));
    const small = await coordinator.put(new Uint8Array(100_000).fill(4));
    const big = new Uint8Array(4 << 20).fill(5);
    await expect(coordinator.put(big)).rejects.toMatchObject({ code: "transport-full" });
    expect((await coordinator.update("run", () => undefined)).value).toEqual({ round: 1 });
    await server.kill("SIGTERM");
    server = await startNats(own, { ...settings, maxFile: "1GB" });
    running.push(server);
    expect((await coordinator.get(await coordinator.put(big))).byteLength).toBe(big.byteLength);
    expect((await coordinator.get(small)).byteLength).toBe(100_000);
  });

  it("keeps too much of one client from filling the queue of the others", async () => {
    const server = await start();
    await open("coordinator", server);
    const [ann, bob] = [await open("ann", server), await open("bob", server)];
    for (let i = 0; i < 64; i++) await ann.publish({ kind: "upload", id: String(i), body: {} });
    await expect(ann.publish({ kind: "upload", id: "more", body: {} })).rejects.toMatchObject({
      code: "transport-full",
    });
    await bob.publish({ kind: "upload", id: "1", body: {} });
    await expect(bob.publish({ kind: "upload", id: "2", body: { text: "x".repeat(600_000) } })).rejects.toMatchObject({
      code: "bad-message",
    });
  });

  it("does not mind clocks that differ by hours", async () => {
    const server = await start();
    const coordinator = await open("coordinator", server);
    const uploads: string[] = [];
    await coordinator.subscribe("upload", async ({ id }) => void uploads.push(id));
    for (const hours of [-9, 30]) {
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + hours * 3_600_000 });
      try {
        const ann = await open("ann", server);
        await ann.publish({ kind: "upload", id: `at ${hours}`, body: {} });
        await ann.get(await coordinator.put(new Uint8Array(500_000)));
      } finally {
        vi.useRealTimers();
      }
    }
    await vi.waitFor(() => expect(uploads).toEqual(["at -9", "at 30"]), 10_000);
  });

  it("keeps only the objects that are named", async () => {
    const server = await start();
    const [coordinator, ann] = [await open("coordinator", server), await open("ann", server)];
    const kept = await coordinator.put(new Uint8Array(600_000).fill(1));
    const gone = [await coordinator.put(new Uint8Array(600_000).fill(2)), await ann.put(new Uint8Array(5).fill(3))];
    await coordinator.keep([kept.sha256]);
    expect((await coordinator.get(kept)).byteLength).toBe(600_000);
    for (const ref of gone) await expect(coordinator.get(ref)).rejects.toMatchObject({ code: "object-missing" });
  });

  it("is founded, invites clients while it runs, and takes each invitation once", async () => {
    const own = place();
    const { listen, store, maxFile, run } = await natsSettings(own);
    let federation = await foundFederation({ run, listen, store, maxFile }, [`nats://${listen}`]);
    const invite = async (name: string): Promise<Invitation> => {
      const { federation: next, invitation } = await inviteClient(federation, name);
      federation = next;
      return readInvitation(JSON.parse(JSON.stringify(invitation)), name);
    };
    const ann = await invite("ann");
    const { password } = federation;
    const clientsOf = () =>
      Object.entries(federation.clients).map(([name, client]) => ({ name, password: client.password }));
    const server = await startNats(own, { ...federation.server, coordinatorPassword: password, clients: clientsOf() });
    running.push(server);
    expect(readText(join(own, "nats.conf"))).toBe(configOf(federation));
    const reach = { connect: connect as NatsOptions["connect"], patienceMs: 5000, ackWaitMs: 1500 };
    const forged: string[] = [];
    const coordinator = await openCoordinator(() => federation, {
      ...reach,
      onForged: ({ why }) => void forged.push(why),
    });
    transports.push(coordinator);
    const uploads: TransportEvent[] = [];
    await coordinator.subscribe("upload", async (event) => void uploads.push(event));
    await coordinator.update("run", () => ({ history: Array(30_000).fill("long") }));

    const key = await newSigningKey();
    const first = await openClient(ann, key, reach);
    transports.push(first);
    await first.publish({ kind: "upload", id: "1", body: { round: 1 } });
    await vi.waitFor(() => expect(uploads).toHaveLength(1), 10_000);
    await expect(openClient(ann, await newSigningKey(), reach)).rejects.toMatchObject({ code: "invitation-used" });
    transports.push(await openClient(ann, key, reach)); // the same client again
    expect(((await first.update("run", () => undefined)).value as { history: unknown[] }).history).toHaveLength(30_000);

    const bob = await invite("bob");
    await expect(openClient(bob, key, reach)).rejects.toMatchObject({ code: "not-permitted" }); // before the server knows
    await server.reload({ clients: clientsOf() });
    const second = await openClient(bob, await newSigningKey(), reach);
    transports.push(second);
    await second.publish({ kind: "upload", id: "2", body: { round: 1 } });
    await vi.waitFor(() => expect(uploads.map(({ from }) => from)).toEqual(["ann", "bob"]), 10_000);
    await coordinator.keep([]); // a large state is no object that can be spared
    expect(((await second.update("run", () => undefined)).value as { history: unknown[] }).history).toHaveLength(
      30_000,
    );
    // Ann's password alone makes nobody ann.
    const raw = await openNats({
      ...reach,
      servers: ann.addresses,
      run,
      party: "ann",
      user: "ann",
      password: ann.password,
    });
    transports.push(raw);
    await raw.publish({ kind: "upload", id: "3", body: { body: { round: 2 } } });
    await vi.waitFor(() => expect(forged).toEqual(["it is not signed"]), 10_000);
    await expect(inviteClient(federation, "ann")).rejects.toMatchObject({ code: "client-exists" });
    for (const name of ["coordinator", "a.b", "", "x y", "*"]) {
      await expect(inviteClient(federation, name)).rejects.toMatchObject({
        code: name === "coordinator" ? "client-exists" : "bad-option",
      });
    }
    for (const bad of [null, {}, { ...ann, key: {} }, { ...ann, addresses: [] }]) {
      expect(() => readInvitation(bad, "file")).toThrow(expect.objectContaining({ code: "bad-invitation" }));
    }
    await expect(foundFederation({ run, listen: "nowhere", store, maxFile: "2" }, ["http://x"])).rejects.toThrow(
      /maxFile[\s\S]*nowhere[\s\S]*http:/,
    );
  });

  it("is set up in a folder, whose secrets are for its owner alone, and joined by invitations", async () => {
    const [own, home] = [place(), place()];
    await mkdir(home, { recursive: true });
    const { listen } = await natsSettings(own);
    const address = `nats://${listen}`;
    await createFederation(nodeStorage, own, { run: "r2", listen, addresses: ["ws://pages.example", address] });
    await expect(createFederation(nodeStorage, own, { run: "r3", addresses: [address] })).rejects.toMatchObject({
      code: "run-exists",
    });
    const ann = await inviteToFederation(nodeStorage, own, "ann");
    for (const name of ["federation.json", "nats.conf"]) expect((await stat(join(own, name))).mode & 0o77).toBe(0);
    const server = await startNats(own, await natsSettings(own, { listen }), readText(join(own, "nats.conf")));
    running.push(server);
    const reach = { connect: natsConnect, patienceMs: 5000, ackWaitMs: 1500 };
    const coordinator = await openCoordinatorTransport(nodeStorage, own, reach);
    transports.push(coordinator);
    const joins: string[] = [];
    await coordinator.subscribe("join", async ({ from }) => void joins.push(from));
    for (let i = 0; i < 2; i++) {
      const client = await openClientTransport(nodeStorage, home, JSON.parse(JSON.stringify(ann)), reach);
      await client.publish({ kind: "join", id: String(i), body: {} });
      await client.close();
      await vi.waitFor(() => expect(joins).toHaveLength(i + 1), 10_000);
    }
    expect((await stat(join(home, "r2.ann.key"))).mode & 0o77).toBe(0);
    const elsewhere = openClientTransport(nodeStorage, place(), ann, reach);
    await expect(elsewhere).rejects.toMatchObject({ code: "invitation-used" });
    await expect(openClientTransport(nodeStorage, own, ann, reach)).rejects.toMatchObject({ code: "output-exists" });
    await claimOutput(nodeStorage, home, "federation-client"); // as joinFederation does: the folder is a client's by now
    await inviteToFederation(nodeStorage, own, "bob");
    await expect(inviteToFederation(nodeStorage, own, "bob")).rejects.toMatchObject({ code: "client-exists" });
    await expect(inviteToFederation(nodeStorage, home, "bob")).rejects.toMatchObject({ code: "file-not-found" });
    await coordinator.refresh();
  });

  it("is set up for three servers, of which one may be lost, and which let no stranger be one of them", async () => {
    const [own, home] = [place(), place()];
    const ports = await Promise.all([0, 1, 2].map(freePort));
    const addresses = ports.map((port) => `nats://127.0.0.1:${port}`);
    const options = { run: "r2", listen: "127.0.0.1:1", addresses, servers: 3, maxFile: "100MB" };
    await createFederation(nodeStorage, own, options);
    const ann = await inviteToFederation(nodeStorage, own, "ann");
    const start = async (i: number, text: string): Promise<RunningNats> => {
      const settings = await natsSettings(own, { listen: `127.0.0.1:${ports[i]}` });
      const server = await startNats(join(own, `started-${i}`), settings, text);
      running.push(server);
      return server;
    };
    const texts = [1, 2, 3].map((i) => readText(join(own, `nats-${i}.conf`)));
    for (const i of [1, 2, 3]) expect((await stat(join(own, `nats-${i}.conf`))).mode & 0o77).toBe(0);
    const [first] = await Promise.all(texts.map((text, i) => start(i, text)));
    const reach = { connect: natsConnect, ackWaitMs: 1500 };
    const coordinator = await openCoordinatorTransport(nodeStorage, own, reach);
    transports.push(coordinator);
    const client = await openClientTransport(nodeStorage, home, ann, reach);
    transports.push(client);
    const heard: string[] = [];
    await coordinator.subscribe("upload", async ({ id }) => void heard.push(id));
    const kept = await coordinator.put(Uint8Array.of(1, 2, 3));
    await client.publish({ kind: "upload", id: "before", body: {} });
    await first?.kill();
    await client.publish({ kind: "upload", id: "after", body: {} });
    await vi.waitFor(() => expect([...heard].sort()).toEqual(["after", "before"]), 30_000);
    expect(await client.get(kept)).toEqual(Uint8Array.of(1, 2, 3));
    // In the place of the one that is gone, with another password: the two that are left do not speak to it.
    const text = texts[0] ?? "";
    const stranger = await start(0, text.replaceAll(/route:(\w+)@/.exec(text)?.[1] ?? "none", "guessed"));
    await vi.waitFor(() => expect(stranger.log()).toMatch(/Authorization Violation|authentication error/i), 20_000);

    const refused = (changes: object): Promise<void> =>
      createFederation(nodeStorage, place(), { ...options, ...changes });
    await expect(refused({ servers: 2 })).rejects.toThrow(/a cluster has 3 or 5[\s\S]*3 addresses/);
    await expect(refused({ addresses: [...addresses.slice(1), "nats://a:65000"] })).rejects.toThrow(/has no port/);
    await expect(refused({ addresses: [...addresses.slice(1), addresses[1]] })).rejects.toThrow(/the same address/);
  });

  it("comes to the bits of the same federation in memory, with a server that is killed and a coordinator that starts again", async () => {
    const server = await start();
    const engine = openMemoryEngine();
    const inMemory = await federation(async (party) => engine.connect(party));
    let round = 0;
    const overNats = await federation(
      (party) => openNats(as(party, server.address)),
      async (stop) => {
        round += 1;
        if (round === 2) {
          await server.kill();
          setTimeout(() => void server.start(), 500);
        }
        if (round === 3) stop();
      },
    );
    expect(overNats).toEqual(inMemory);
  });

  it("loses nothing where the leader of three servers is killed in mid-round", async () => {
    const own = place();
    const { servers, addresses } = await startCluster(own);
    running.push(...servers);
    const all = { servers: addresses, replicas: 3, patienceMs: 60_000 };
    const coordinator = await open("coordinator", servers[0] as RunningNats, all);
    const ann = await open("ann", servers[1] as RunningNats, all);
    const uploads: string[] = [];
    await coordinator.subscribe("upload", async ({ id }) => void uploads.push(id));
    await coordinator.update("run", () => ({ round: 1 }));
    const model = await coordinator.put(new Uint8Array(2 << 20).fill(6));
    await ann.publish({ kind: "upload", id: "before", body: {} });
    const leader = await leaderOf(addresses, "r1");
    await (servers[leader] as RunningNats).kill();
    const ref = await ann.put(new Uint8Array(1 << 20).fill(7));
    await ann.publish({ kind: "upload", id: "after", body: {} });
    await ann.publish({ kind: "upload", id: "before", body: {} }); // as after an answer that was lost
    await coordinator.update("run", ({ value }) => ({ round: (value as { round: number }).round + 1 }));
    await vi.waitFor(() => expect(uploads).toEqual(expect.arrayContaining(["before", "after"])), 60_000);
    expect(uploads.filter((id) => id === "before")).toHaveLength(1);
    expect((await coordinator.update("run", () => undefined)).value).toEqual({ round: 2 });
    expect(await ann.get(model)).toEqual(new Uint8Array(2 << 20).fill(6));
    expect(await coordinator.get(ref)).toEqual(new Uint8Array(1 << 20).fill(7));
    await (servers[leader] as RunningNats).start();
    await ann.publish({ kind: "upload", id: "back", body: {} });
    await vi.waitFor(() => expect(uploads).toContain("back"), 60_000);
  });
});
