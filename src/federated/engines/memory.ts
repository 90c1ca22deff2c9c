import { TuneError } from "../../errors.ts";
import type { Rng } from "../../linalg/index.ts";
import { sha256 } from "../digest.ts";
import type { ObjectRef, StateEntry, Transport, TransportEvent } from "../transport.ts";

/** How an engine in memory behaves. */
export interface MemoryEngineOptions {
  /** Deliver events in an order drawn by it, and some of them twice; in the order in which they were told, once, unless given. */
  readonly chaos?: Rng;
  /** Who may change states. */
  readonly coordinator?: string;
}

/** All parties of a federation in one process. */
export interface MemoryEngine {
  /** A transport of a party. A party that connects again hears what it has not handled yet. */
  connect(party: string): Transport;
  /** Wait until no event is under way. */
  settled(): Promise<void>;
  /** Forget objects but those with these hashes: whoever keeps the federation's state says which are still read. */
  keep(hashes: Iterable<string>): void;
}

interface Subscription {
  readonly party: string;
  readonly kind: string;
  readonly handle: (event: TransportEvent) => Promise<void>;
  /** What it has not heard yet, and how often it was tried. */
  readonly queue: { readonly event: TransportEvent; readonly tries: number }[];
  live: boolean;
  /** Under way while events are delivered; one that takes long holds up nobody else. */
  pumping?: Promise<void> | undefined;
}

/** An event that fails so often is given up, as no other party would ever see it handled. */
const attempts = 5;

/** An engine in this process, for simulations and tests: the same promises as an engine over a network keeps. */
export function openMemoryEngine({ chaos, coordinator = "coordinator" }: MemoryEngineOptions = {}): MemoryEngine {
  const events: TransportEvent[] = [];
  const known = new Set<string>();
  const objects = new Map<string, Uint8Array>();
  const states = new Map<string, StateEntry>();
  const handled = new Set<string>(); // party and event
  const subscriptions: Subscription[] = [];

  const keyOf = ({ kind, from, id }: TransportEvent): string => JSON.stringify([kind, from, id]);

  const pump = async (to: Subscription): Promise<void> => {
    for (;;) {
      const at = chaos && to.queue.length > 1 ? chaos.integer(to.queue.length) : 0;
      const [next] = to.queue.splice(at, 1);
      if (next === undefined || !to.live) return;
      const { event, tries } = next;
      try {
        await to.handle(event);
        handled.add(`${to.party} ${keyOf(event)}`);
        if (chaos && tries === 0 && chaos.uniform() < 0.3) to.queue.push({ event, tries: 1 });
      } catch {
        if (tries + 1 < attempts) to.queue.push({ event, tries: tries + 1 });
      }
    }
  };
  const wake = (to: Subscription): void => {
    to.pumping ??= Promise.resolve()
      .then(() => pump(to))
      .finally(() => {
        to.pumping = undefined;
        if (to.live && to.queue.length > 0) wake(to);
      });
  };
  const deliver = (to: Subscription, event: TransportEvent): void => {
    if (to.kind !== event.kind || handled.has(`${to.party} ${keyOf(event)}`)) return;
    to.queue.push({ event, tries: 0 });
    wake(to);
  };

  return {
    connect: (party) => {
      let closed = false;
      const own: Subscription[] = [];
      const check = (): void => {
        if (!closed) return;
        throw new TuneError("transport-closed", "The connection has been closed.", {
          at: party,
          fix: "connect again",
        });
      };
      return {
        party,
        publish: async ({ kind, id, body }) => {
          check();
          const event: TransportEvent = { kind, from: party, id, body: copyOf(body) };
          if (known.has(keyOf(event))) return;
          known.add(keyOf(event));
          events.push(event);
          for (const to of subscriptions) deliver(to, event);
        },
        subscribe: async (kind, handle) => {
          check();
          const subscription: Subscription = { party, kind, handle, queue: [], live: true };
          own.push(subscription);
          subscriptions.push(subscription);
          for (const event of events) deliver(subscription, event);
          return async () => {
            subscription.live = false;
          };
        },
        put: async (bytes) => {
          check();
          const hash = await sha256(bytes);
          if (!objects.has(hash)) objects.set(hash, bytes.slice());
          return { sha256: hash, bytes: bytes.byteLength, from: party };
        },
        get: async ({ sha256: hash, bytes }: ObjectRef) => {
          check();
          const found = objects.get(hash);
          if (found === undefined) {
            throw new TuneError("object-missing", "An object that was named is not there.", {
              at: hash,
              fix: "wait for the next round, or fetch the state again",
            });
          }
          if (found.byteLength !== bytes) {
            throw new TuneError("object-damaged", `An object has ${found.byteLength} bytes, not ${bytes}.`, {
              at: hash,
            });
          }
          return found.slice();
        },
        update: async (state, change) => {
          for (;;) {
            check();
            const now = states.get(state) ?? { value: undefined, revision: 0 };
            const value = await change({ ...now, value: copyOf(now.value) });
            if (value === undefined) return { ...now, value: copyOf(now.value) };
            if (party !== coordinator) {
              throw new TuneError("not-permitted", `${party} may not change the state of the federation.`, {
                at: state,
                fix: "only the coordinator does",
              });
            }
            if ((states.get(state)?.revision ?? 0) !== now.revision) continue;
            const entry = { value: copyOf(value), revision: now.revision + 1 };
            states.set(state, entry);
            return { ...entry, value: copyOf(value) };
          }
        },
        close: async () => {
          closed = true;
          for (const subscription of own) {
            subscription.live = false;
            subscriptions.splice(subscriptions.indexOf(subscription), 1);
          }
          own.length = 0;
        },
      };
    },
    settled: async () => {
      for (;;) {
        const busy = subscriptions.flatMap(({ pumping }) => (pumping ? [pumping] : []));
        if (busy.length === 0) return;
        await Promise.all(busy);
      }
    },
    keep: (hashes) => {
      const kept = new Set(hashes);
      for (const hash of objects.keys()) if (!kept.has(hash)) objects.delete(hash);
    },
  };
}

/** What arrives of a value that travels as JSON. */
function copyOf(value: unknown): unknown {
  return value === undefined ? undefined : JSON.parse(JSON.stringify(value));
}
