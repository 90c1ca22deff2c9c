import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { sha256 } from "./digest.ts";
import type { Transport, TransportEvent } from "./transport.ts";

/** An engine as the suite uses it: the party `coordinator`, and the clients `ann` and `bob`. */
export interface EngineBench {
  connect(party: string): Promise<Transport>;
  /** What a killed process leaves: its connection is gone, and nobody said goodbye. Closing is the next best thing. */
  crash?(transport: Transport): Promise<void>;
  /** The engine is gone, and comes back with what it kept when the function that is returned is called. */
  interrupt?(): Promise<() => Promise<void>>;
  stop(): Promise<void>;
}

const eventually = async (what: () => void | Promise<void>, ms = 30_000): Promise<void> => {
  const until = performance.now() + ms;
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (performance.now() > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
};

/** What every engine of a federation promises. */
export function describeTransport(name: string, open: () => Promise<EngineBench>): void {
  describe(`a federation over ${name}`, () => {
    let bench: EngineBench;
    let coordinator: Transport;
    let ann: Transport;
    const opened: Transport[] = [];
    const connect = async (party: string): Promise<Transport> => {
      const transport = await bench.connect(party);
      opened.push(transport);
      return transport;
    };
    /** Subscribe, and remember what came. */
    const heard = async (transport: Transport, kind: string): Promise<TransportEvent[]> => {
      const events: TransportEvent[] = [];
      await transport.subscribe(kind, async (event) => void events.push(event));
      return events;
    };

    beforeEach(async () => {
      bench = await open();
      coordinator = await connect("coordinator");
      ann = await connect("ann");
    });
    afterEach(async () => {
      for (const transport of opened) await transport.close();
      opened.length = 0;
      await bench.stop();
    });

    it("tells events both ways, with who said them, those before the subscription too", async () => {
      await ann.publish({ kind: "upload", id: "1", body: { round: 1, text: "ä\n" } });
      await coordinator.publish({ kind: "round", id: "a", body: { round: 1 } });
      const uploads = await heard(coordinator, "upload");
      const rounds = await heard(ann, "round");
      await ann.publish({ kind: "upload", id: "2", body: null });
      await ann.publish({ kind: "other", id: "3", body: 1 });
      const bob = await connect("bob");
      await bob.publish({ kind: "upload", id: "1", body: [] });
      await coordinator.publish({ kind: "round", id: "b", body: { round: 2 } });
      await eventually(() => {
        expect(new Set(uploads.map(({ from, id, kind }) => `${from} ${id} ${kind}`))).toEqual(
          new Set(["ann 1 upload", "ann 2 upload", "bob 1 upload"]),
        );
        expect(uploads.find(({ id, from }) => id === "1" && from === "ann")?.body).toEqual({ round: 1, text: "ä\n" });
        expect(new Set(rounds.map(({ from, id }) => `${from} ${id}`))).toEqual(
          new Set(["coordinator a", "coordinator b"]),
        );
      });
      const late = await heard(bob, "round");
      await eventually(() => expect(new Set(late.map(({ id }) => id))).toEqual(new Set(["a", "b"])));
    });

    it("keeps an event that is published twice as one", async () => {
      for (let i = 0; i < 3; i++) await ann.publish({ kind: "upload", id: "same", body: { round: 1 } });
      const uploads = await heard(coordinator, "upload");
      await ann.publish({ kind: "upload", id: "next", body: {} });
      await eventually(() => expect(uploads.map(({ id }) => id)).toContain("next"));
      expect(uploads.filter(({ id }) => id === "same")).toHaveLength(1);
    });

    it("brings an event again whose handler failed, to the coordinator and to clients", async () => {
      for (const [from, to, kind] of [
        [ann, coordinator, "upload"],
        [coordinator, ann, "round"],
      ] as const) {
        let tries = 0;
        await to.subscribe(kind, async () => {
          tries += 1;
          if (tries < 3) throw new Error("not now");
        });
        await from.publish({ kind, id: "1", body: {} });
        await eventually(() => expect(tries).toBeGreaterThanOrEqual(3));
      }
    });

    it("brings an event again that was being handled when its handler's process ended", async () => {
      await ann.publish({ kind: "upload", id: "1", body: { round: 7 } });
      let begun = false;
      await coordinator.subscribe("upload", () => {
        begun = true;
        return new Promise(() => undefined); // never ends
      });
      await eventually(() => expect(begun).toBe(true));
      await (bench.crash ?? ((transport) => transport.close()))(coordinator);
      const uploads = await heard(await connect("coordinator"), "upload");
      await eventually(() => expect(uploads[0]).toMatchObject({ id: "1", from: "ann", body: { round: 7 } }));
    });

    it("brings what came while nobody listened, and nothing to who no longer does", async () => {
      const before: TransportEvent[] = [];
      const unsubscribe = await coordinator.subscribe("upload", async (event) => void before.push(event));
      await ann.publish({ kind: "upload", id: "1", body: {} });
      await eventually(() => expect(before).toHaveLength(1));
      await unsubscribe();
      await ann.publish({ kind: "upload", id: "late", body: {} });
      const after = await heard(coordinator, "upload");
      await eventually(() => expect(after.map(({ id }) => id)).toContain("late"));
      expect(before).toHaveLength(1);
    });

    it("changes a state by compare-and-set: of two at once, both count", async () => {
      expect(await ann.update("run", () => undefined)).toEqual({ value: undefined, revision: 0 });
      const other = await connect("coordinator");
      const count = async (transport: Transport): Promise<void> => {
        for (let i = 0; i < 10; i++) {
          await transport.update("run", ({ value }) => ({
            count: ((value as { count: number } | undefined)?.count ?? 0) + 1,
          }));
        }
      };
      await Promise.all([count(coordinator), count(other)]);
      const end = { value: { count: 20 }, revision: 20 };
      await eventually(async () => expect(await ann.update("run", () => undefined)).toEqual(end));
      expect(await coordinator.update("run", () => undefined)).toEqual(end);
      expect(await coordinator.update("another", () => undefined)).toEqual({ value: undefined, revision: 0 });
    });

    it("asks a change again where somebody was faster", async () => {
      const other = await connect("coordinator");
      await coordinator.update("run", () => "first");
      const seen: unknown[] = [];
      const entry = await coordinator.update("run", async ({ value, revision }) => {
        seen.push([value, revision]);
        if (seen.length === 1) await other.update("run", () => "second");
        return `${String(value)} and mine`;
      });
      expect(seen).toEqual([
        ["first", 1],
        ["second", 2],
      ]);
      expect(entry).toEqual({ value: "second and mine", revision: 3 });
    });

    it("keeps a state that is large", async () => {
      const value = { history: Array.from({ length: 30_000 }, (_, i) => `round ${i} of a long federation`) };
      await coordinator.update("run", () => value);
      await eventually(async () => expect((await ann.update("run", () => undefined)).value).toEqual(value));
    });

    it("lets no client change a state", async () => {
      await coordinator.update("run", () => ({ round: 1 }));
      await expect(ann.update("run", () => ({ round: 99 }))).rejects.toMatchObject({ code: "not-permitted" });
      await expect(ann.update("mine", () => ({ round: 99 }))).rejects.toMatchObject({ code: "not-permitted" });
      expect(await coordinator.update("run", () => undefined)).toEqual({ value: { round: 1 }, revision: 1 });
      // It is no worse off for having tried.
      await ann.publish({ kind: "upload", id: "1", body: {} });
    });

    it("carries objects of any size both ways, byte by byte", async () => {
      for (const size of [0, 1, 256 * 1024, 256 * 1024 + 1, 40 << 20]) {
        const bytes = new Uint8Array(size);
        for (let i = 0; i < size; i += 997) bytes[i] = i / 997;
        const [from, to] = size % 2 === 0 ? [coordinator, ann] : [ann, coordinator];
        const ref = await from.put(bytes);
        expect(ref).toEqual({ sha256: await sha256(bytes), bytes: size, from: from.party });
        const got = await to.get(ref);
        expect([size, got.byteLength, Buffer.compare(got, bytes)]).toEqual([size, size, 0]);
      }
    });

    it("says that an object is missing, or not what it was said to be", async () => {
      const ref = await coordinator.put(new Uint8Array(300_000).fill(3));
      expect(await coordinator.put(new Uint8Array(300_000).fill(3))).toEqual(ref);
      await expect(ann.get({ ...ref, sha256: "0".repeat(64) })).rejects.toMatchObject({ code: "object-missing" });
      for (const bytes of [299_999, 300_001, 5, 2 ** 45]) {
        await expect(ann.get({ ...ref, bytes })).rejects.toMatchObject({ code: expect.stringMatching(/^object-/) });
      }
      expect((await ann.get(ref)).byteLength).toBe(300_000);
    });

    it("ends when it is closed, and closes twice", async () => {
      const rounds = await heard(ann, "round");
      await ann.close();
      await ann.close();
      await coordinator.publish({ kind: "round", id: "after", body: {} });
      const closed = { code: "transport-closed" };
      await expect(ann.publish({ kind: "upload", id: "1", body: {} })).rejects.toMatchObject(closed);
      await expect(ann.put(new Uint8Array(3))).rejects.toMatchObject(closed);
      await expect(ann.update("run", () => undefined)).rejects.toMatchObject(closed);
      await expect(ann.subscribe("round", async () => undefined)).rejects.toMatchObject(closed);
      await expect(ann.get({ sha256: "0".repeat(64), bytes: 1, from: "coordinator" })).rejects.toMatchObject(closed);
      const again = await heard(await connect("ann"), "round");
      await eventually(() => expect(again.map(({ id }) => id)).toEqual(["after"]));
      expect(rounds).toEqual([]);
    });

    it("goes on by itself after the engine was gone, with all that it kept", async (context) => {
      if (!bench.interrupt) return context.skip();
      const uploads = await heard(coordinator, "upload");
      const rounds = await heard(ann, "round");
      await coordinator.update("run", () => ({ round: 3 }));
      const big = new Uint8Array(3 << 20).fill(9);
      const ref = await coordinator.put(big);
      await ann.publish({ kind: "upload", id: "before", body: {} });
      const back = await bench.interrupt();
      const during = [
        ann.publish({ kind: "upload", id: "during", body: {} }),
        coordinator.publish({ kind: "round", id: "during", body: {} }),
        coordinator.update("run", ({ value }) => ({ round: (value as { round: number }).round + 1 })),
        ann.get(ref).then((bytes) => expect(Buffer.compare(bytes, big)).toBe(0)),
      ];
      await new Promise((resolve) => setTimeout(resolve, 700));
      await back();
      await Promise.all(during);
      await eventually(() => {
        expect(uploads.map(({ id }) => id)).toEqual(expect.arrayContaining(["before", "during"]));
        expect(rounds.map(({ id }) => id)).toContain("during");
      });
      expect((await ann.update("run", () => undefined)).value).toEqual({ round: 4 });
      await ann.publish({ kind: "upload", id: "after", body: {} });
      await eventually(() => expect(uploads.map(({ id }) => id)).toContain("after"));
    });
  });
}
