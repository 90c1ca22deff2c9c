import { beforeAll, describe, expect, it, vi } from "vitest";
import { openMemoryEngine } from "./engines/memory.ts";
import { isSignedBy, newSigningKey, type SigningKey, sign } from "./keys.ts";
import { type SignedClient, type SignedCoordinator, signed } from "./signed.ts";
import { describeTransport } from "./transport.conformance.ts";
import type { Transport, TransportEvent } from "./transport.ts";

const parties = ["coordinator", "ann", "bob", "ann's invitation", "bob's invitation", "a thief"] as const;
let keys: Readonly<Record<(typeof parties)[number], SigningKey>>;
beforeAll(async () => {
  const pairs = await Promise.all(parties.map(async (name) => [name, await newSigningKey()] as const));
  keys = Object.fromEntries(pairs) as typeof keys;
});

const asCoordinator = (more: Partial<SignedCoordinator> = {}): SignedCoordinator => ({
  ...{ run: "r", key: keys.coordinator },
  invited: (client) => (client === "ann" || client === "bob" ? keys[`${client}'s invitation`].publicKey : undefined),
  ...more,
});
const asClient = (name: "ann" | "bob", more: Partial<SignedClient> = {}): SignedClient => ({
  ...{ run: "r", key: keys[name], invitation: keys[`${name}'s invitation`], coordinator: keys.coordinator.publicKey },
  ...more,
});

describeTransport("memory, signed", async () => {
  const engine = openMemoryEngine();
  return {
    connect: (party) =>
      signed(engine.connect(party), party === "coordinator" ? asCoordinator() : asClient(party as "ann" | "bob")),
    stop: async () => undefined,
  };
});

describe("signatures", () => {
  it("are of one value and one key, whatever the order of its names", async () => {
    const signature = await sign(keys.ann, { a: 1, b: [2] });
    expect(await isSignedBy(keys.ann.publicKey, { b: [2], a: 1 }, signature)).toBe(true);
    expect(await isSignedBy(keys.ann.publicKey, { b: [3], a: 1 }, signature)).toBe(false);
    expect(await isSignedBy(keys.bob.publicKey, { a: 1, b: [2] }, signature)).toBe(false);
    for (const bad of [undefined, 3, "", "!!", signature.slice(1)]) {
      expect(await isSignedBy(keys.ann.publicKey, { a: 1, b: [2] }, bad)).toBe(false);
    }
    expect(await isSignedBy("no key", 1, signature)).toBe(false);
  });
});

describe("a signed federation", () => {
  const setUp = async () => {
    const engine = openMemoryEngine();
    const forged: { from: string; why: string }[] = [];
    const coordinator = await signed(
      engine.connect("coordinator"),
      asCoordinator({ onForged: ({ from, why }) => void forged.push({ from, why }) }),
    );
    const uploads: TransportEvent[] = [];
    await coordinator.subscribe("upload", async (event) => void uploads.push(event));
    return { engine, coordinator, uploads, forged };
  };
  /** What a server, or whoever has a client's password, could send: raw events of an engine. */
  const capture = async (transport: (inner: Transport) => Promise<Transport>, id: string): Promise<TransportEvent> => {
    const engine = openMemoryEngine();
    const own = await transport(engine.connect("ann"));
    let seen: TransportEvent | undefined;
    await engine.connect("coordinator").subscribe("upload", async (event) => {
      seen = event;
    });
    await own.publish({ kind: "upload", id, body: { round: 1 } });
    await engine.settled();
    return seen as TransportEvent; // published just now
  };

  it("hears nothing that a client has not signed, with its own words, name, kind and run", async () => {
    const { engine, uploads, forged } = await setUp();
    const real = await capture((inner) => signed(inner, asClient("ann")), "1");
    const body = real.body as Record<string, unknown>;
    const raw = engine.connect("ann");
    const wrong: readonly (readonly [string, unknown])[] = [
      ["plain", { round: 1 }],
      ["empty", null],
      ["changed", { ...body, body: { round: 2 } }],
      ["another id", body],
      ["own key", { ...body, key: keys["a thief"].publicKey }],
      [
        "no proof",
        {
          ...((await capture((inner) => signed(inner, asClient("ann", { key: keys["a thief"] })), "no proof"))
            .body as object),
          proof: body["proof"],
        },
      ],
      ["another run", (await capture((inner) => signed(inner, asClient("ann", { run: "s" })), "another run")).body],
    ];
    for (const [id, forgery] of wrong) await raw.publish({ kind: "upload", id, body: forgery });
    await engine.connect("bob").publish({ kind: "upload", id: "1", body }); // as another
    await engine.connect("eve").publish({ kind: "upload", id: "1", body }); // as nobody
    await engine.settled();
    expect(uploads).toEqual([]);
    expect(forged).toHaveLength(wrong.length + 2);
    await raw.publish({ kind: "upload", id: "1", body });
    await engine.settled();
    expect(uploads).toEqual([{ kind: "upload", from: "ann", id: "1", body: { round: 1 } }]);
  });

  it("shows clients no state and no event that the coordinator has not signed", async () => {
    const { engine, coordinator } = await setUp();
    await coordinator.update("run", () => ({ round: 1 }));
    const ann = await signed(engine.connect("ann"), asClient("ann"));
    expect((await ann.update("run", () => undefined)).value).toEqual({ round: 1 });
    const server = engine.connect("coordinator"); // whoever runs the engine, without the key
    const first = (await server.update("run", () => undefined)).value;
    for (const forgery of [{ round: 2 }, first, { ...(first as object), value: { round: 2 } }]) {
      await server.update("run", () => forgery); // the second is the old state at another revision
      await expect(ann.update("run", () => undefined)).rejects.toMatchObject({ code: "bad-signature" });
      await expect(coordinator.update("run", () => 3)).rejects.toMatchObject({ code: "bad-signature" });
    }
    const rounds: string[] = [];
    await ann.subscribe("round", async ({ id }) => void rounds.push(id));
    await server.publish({ kind: "round", id: "forged", body: { round: 1 } });
    await coordinator.publish({ kind: "round", id: "real", body: { round: 1 } });
    await engine.settled();
    expect(rounds).toEqual(["real"]);
  });

  it("takes an invitation once: with another key it is refused, with the first one it goes on", async () => {
    const { engine, uploads, forged } = await setUp();
    const ann = await signed(engine.connect("ann"), asClient("ann"));
    const thief = await signed(engine.connect("ann"), asClient("ann", { key: keys["a thief"] }));
    await ann.publish({ kind: "upload", id: "1", body: {} });
    await vi.waitFor(() => expect(uploads).toHaveLength(1));
    await expect(thief.publish({ kind: "upload", id: "2", body: {} })).rejects.toMatchObject({
      code: "invitation-used",
    });
    // One who does not ask is not heard.
    const { body } = await capture((inner) => signed(inner, asClient("ann", { key: keys["a thief"] })), "3");
    await engine.connect("ann").publish({ kind: "upload", id: "3", body });
    await engine.settled();
    expect(forged).toEqual([{ from: "ann", why: "its invitation was used with another key before" }]);
    const again = await signed(engine.connect("ann"), asClient("ann"));
    await again.publish({ kind: "upload", id: "4", body: {} });
    await engine.settled();
    expect(uploads.map(({ id }) => id)).toEqual(["1", "4"]);
  });
});
