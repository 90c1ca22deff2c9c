import { TuneError } from "../errors.ts";
import { isSignedBy, type SigningKey, sign } from "./keys.ts";
import type { Transport, TransportEvent } from "./transport.ts";

/** What the coordinator signs with, and whom it has invited. */
export interface SignedCoordinator {
  readonly run: string;
  readonly key: SigningKey;
  /** The public key of a client's invitation; undefined for who was not invited. */
  readonly invited: (client: string) => string | undefined;
  /** It only looks, or says something: clients that greet are left to the coordinator that serves. */
  readonly observes?: boolean;
  /** An event that was not what it said it was; nobody is told of it. */
  readonly onForged?: (event: { readonly kind: string; readonly from: string; readonly why: string }) => void;
}

/** What a client signs with. */
export interface SignedClient {
  readonly run: string;
  /** The client's own, made where it runs. */
  readonly key: SigningKey;
  /** That of its invitation, which proves once that the client's own key is to be believed. */
  readonly invitation: SigningKey;
  /** The coordinator's public key. */
  readonly coordinator: string;
}

/** The state in which the coordinator keeps whose key is whose. */
const keysState = "keys";

type Keys = Readonly<Record<string, string>>;

/**
 * A transport whose events and states are signed (Ed25519), over any engine: who can write to the engine, such as whoever runs the
 * server, can withhold and repeat what parties say, and say nothing in their place. States carry their revision in the signature.
 * A client's invitation is bound to the first key that is used with it; with another it is refused (`invitation-used`).
 */
export async function signed(transport: Transport, parties: SignedCoordinator | SignedClient): Promise<Transport> {
  const { run, key } = parties;
  const { party } = transport;
  const client = "invitation" in parties ? parties : undefined;
  const coordinatorKey = client ? client.coordinator : key.publicKey;
  const proof = client && (await sign(client.invitation, keyClaim(run, party, key.publicKey)));

  const update: Transport["update"] = async (state, change) => {
    const entry = await transport.update(state, async ({ value, revision }) => {
      const next = await change({ value: await opened(state, value, revision), revision });
      if (next === undefined) return undefined;
      const plain = JSON.parse(JSON.stringify(next)) as unknown;
      return { value: plain, signature: await sign(key, stateClaim(run, state, revision + 1, plain)) };
    });
    return { ...entry, value: await opened(state, entry.value, entry.revision) };
  };

  /** What the coordinator has signed. */
  const opened = async (state: string, sealed: unknown, revision: number): Promise<unknown> => {
    if (revision === 0) return undefined;
    const { value, signature } = (sealed ?? {}) as { readonly value?: unknown; readonly signature?: unknown }; // checked below
    if (await isSignedBy(coordinatorKey, stateClaim(run, state, revision, value), signature)) return value;
    throw new TuneError("bad-signature", `The state ${state} was not written by the coordinator of ${run}.`, {
      at: party,
      fix: "ask whoever runs the server, and the coordinator for a new invitation",
    });
  };

  const keys = async (): Promise<Keys> => ((await update(keysState, () => undefined)).value ?? {}) as Keys; // the coordinator's

  /** Why an event is not what it says; undefined where it is. */
  const problemWith = async ({ kind, from, id, body }: TransportEvent, own: unknown): Promise<string | undefined> => {
    const claim = { ...((body ?? {}) as { key?: unknown; proof?: unknown; signature?: unknown }) }; // checked below
    const said = eventClaim(run, kind, from, id, own);
    if (client) return (await isSignedBy(coordinatorKey, said, claim.signature)) ? undefined : "it is not signed";
    const invited = "invited" in parties ? parties.invited(from) : undefined;
    if (invited === undefined) return "nobody invited it";
    if (typeof claim.key !== "string" || !(await isSignedBy(claim.key, said, claim.signature)))
      return "it is not signed";
    let bound = (await keys())[from];
    if (bound === undefined) {
      if (!(await isSignedBy(invited, keyClaim(run, from, claim.key), claim.proof)))
        return "its key is not that of its invitation";
      const first = claim.key;
      const { value } = await update(keysState, (now) => {
        const known = (now.value ?? {}) as Keys; // as above
        return Object.hasOwn(known, from) ? undefined : { ...known, [from]: first };
      });
      bound = (value as Keys)[from];
    }
    return bound === claim.key ? undefined : "its invitation was used with another key before";
  };

  const refuseUsed = async (): Promise<void> => {
    const bound = client && (await keys())[party];
    if (bound === undefined || bound === key.publicKey) return;
    throw new TuneError(
      "invitation-used",
      `The invitation of ${party} was used before, by a client with another key.`,
      {
        at: party,
        fix: "go on in the folder in which the client was first started, or ask for another invitation",
      },
    );
  };

  // Whoever greets binds its invitation, before it says anything that counts.
  if (!client && !("observes" in parties && parties.observes)) {
    await transport.subscribe("hello", async (event) => {
      const why = await problemWith(event, ((event.body ?? {}) as { body?: unknown }).body ?? null);
      if (why !== undefined && "onForged" in parties) parties.onForged?.({ kind: "hello", from: event.from, why });
    });
  }

  return {
    party,
    publish: async ({ kind, id, body }) => {
      await refuseUsed();
      const plain = JSON.parse(JSON.stringify(body ?? null)) as unknown;
      const signature = await sign(key, eventClaim(run, kind, party, id, plain));
      const who = client ? { key: key.publicKey, proof } : {};
      await transport.publish({ kind, id, body: { body: plain, ...who, signature } });
    },
    subscribe: (kind, handle) =>
      transport.subscribe(kind, async (event) => {
        const own = ((event.body ?? {}) as { body?: unknown }).body ?? null;
        const why = await problemWith(event, own);
        if (why === undefined) return handle({ ...event, body: own });
        if ("onForged" in parties) parties.onForged?.({ kind, from: event.from, why });
      }),
    put: (bytes) => transport.put(bytes),
    get: (ref) => transport.get(ref),
    update,
    ...(transport.keep ? { keep: (hashes: Iterable<string>) => transport.keep?.(hashes) ?? Promise.resolve() } : {}),
    close: () => transport.close(),
  };
}

// What is signed says what it is, so that no signature of one thing is one of another.
const keyClaim = (run: string, client: string, key: string): unknown => ["scion key", run, client, key];
const stateClaim = (run: string, state: string, revision: number, value: unknown): unknown => [
  ...["scion state", run, state, revision],
  value,
];
const eventClaim = (run: string, kind: string, from: string, id: string, body: unknown): unknown => [
  ...["scion event", run, kind, from, id],
  body,
];
