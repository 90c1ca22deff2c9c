import type { JetStreamClient, JetStreamManager, JsMsg, StreamConfig } from "@nats-io/jetstream";
import type { ConnectionOptions, Msg, MsgHdrs, NatsConnection } from "@nats-io/nats-core";
import { TuneError } from "../../errors.ts";
import { parseJson } from "../../io/json.ts";
import { namesOf } from "../../io/module-names.ts";
import { sha256 } from "../digest.ts";
import type { ObjectRef, StateEntry, Transport, TransportEvent, Unsubscribe } from "../transport.ts";
import { closedError, engineMissing, faultOf, full, notPermitted, unreachable } from "./nats-errors.ts";
import { coordinatorName, directGet, type NatsNames, natsNames } from "./nats-names.ts";

/** Where the server is, and who connects. */
export interface NatsOptions {
  /** `connect` of `@nats-io/transport-node`, or `wsconnect` of `@nats-io/nats-core` in a page: takes their options. */
  readonly connect: (options: object) => Promise<unknown>;
  readonly servers: readonly string[];
  readonly run: string;
  /** `coordinator`, or a client's name. */
  readonly party: string;
  readonly user: string;
  readonly password: string;
  /** On how many servers of a cluster streams are kept; 1 unless given. Only the coordinator makes streams. */
  readonly replicas?: number;
  /** For how long a call tries again while the server gives no answer; a minute unless given. */
  readonly patienceMs?: number;
  /** After what time an event comes again whose handler gave no sign of life; 10 seconds unless given. */
  readonly ackWaitMs?: number;
}

/** A transport over NATS JetStream. */
export interface NatsTransport extends Transport {
  keep(hashes: Iterable<string>): Promise<void>;
}

const chunkBytes = 256 * 1024;
const inFlight = 4;
const nextMs = 2000;
const eventBytes = 512 * 1024;
const stateBytes = 64 * 1024; // larger states lie in an object
const apiTimeoutMs = 5000;
/** How long an answer is waited for: longer from try to try, as a slow line needs, where a lost one needs the next try soon. */
const answerMs = (tries: number): number => Math.min(30_000, 2000 * 2 ** tries);

/**
 * Connect to a NATS server. The coordinator's account has JetStream, the clients' account has none (`natsConfig`).
 * @throws {TuneError} `engine-missing`, `transport-unreachable`, `not-permitted`, `no-jetstream`.
 */
export async function openNats(options: NatsOptions): Promise<NatsTransport> {
  const { party, run, patienceMs = 60_000, ackWaitMs = 10_000, replicas = 1 } = options;
  const names = natsNames(run);
  const core = await import("@nats-io/nats-core").then(namesOf, (cause: unknown) => {
    throw engineMissing(cause);
  });
  const nc = await connected(options, names, patienceMs);
  let closed = false;
  const stops = new Set<() => void>();
  const isCoordinator = party === coordinatorName;

  /** Ask the server, again and again while it gives no answer: everything that is asked may be asked twice. */
  const ask = async (subject: string, data: Uint8Array | string, headers?: MsgHdrs): Promise<Msg> => {
    const until = performance.now() + patienceMs;
    for (let tries = 0; ; tries++) {
      if (closed) throw closedError(party);
      try {
        return await nc.request(subject, data, { timeout: answerMs(tries), ...(headers ? { headers } : {}) });
      } catch (error) {
        const fault = faultOf(error);
        if (closed) throw closedError(party);
        if (fault === "permission") throw notPermitted(party, subject, error);
        if (fault === "closed") throw notPermitted(party, `it has ended the connection`, error);
        if (fault === "unknown") throw error;
        if (performance.now() > until) throw unreachable(party, messageOf(error), error);
        await pause(Math.min(2000, 100 * 2 ** tries));
      }
    }
  };

  /** Have the server keep a message. @returns undefined where the subject's last message is not the expected one. */
  const store = async (
    subject: string,
    data: Uint8Array | string,
    { id, after }: { readonly id?: string; readonly after?: number },
  ): Promise<{ readonly seq: number } | undefined> => {
    const headers = core.headers();
    if (id !== undefined) headers.set("Nats-Msg-Id", id);
    if (after !== undefined) headers.set("Nats-Expected-Last-Subject-Sequence", String(after));
    const until = performance.now() + patienceMs;
    for (let tries = 0; ; tries++) {
      const { error, seq = 0 } = (await ask(subject, data, headers)).json<Acknowledgement>();
      if (error === undefined) return { seq };
      if (error.err_code === wrongLastSequence) return undefined;
      if (noRoom.includes(error.err_code)) throw full(party, error.description);
      if (error.code !== 503) throw notPermitted(party, `${subject}: ${error.description}`);
      if (performance.now() > until) throw unreachable(party, error.description);
      await pause(Math.min(2000, 100 * 2 ** tries));
    }
  };

  /** The last message of a subject; undefined where there is none. A replica may lag behind: absence is asked about again. */
  const last = async (stream: string, subject: string, patience: number): Promise<Msg | undefined> => {
    for (let tries = 0; ; tries++) {
      const message = await ask(`${directGet}.${stream}.${subject}`, "");
      const code = message.headers?.code ?? 0;
      if (code < 300) return message;
      if (tries >= patience) return undefined;
      await pause(50 * 2 ** tries);
    }
  };

  const put = async (bytes: Uint8Array): Promise<ObjectRef> => {
    const hash = await sha256(bytes);
    const count = Math.max(1, Math.ceil(bytes.byteLength / chunkBytes));
    await parallel(count, async (i) => {
      const chunk = bytes.subarray(i * chunkBytes, (i + 1) * chunkBytes);
      await store(names.chunk(party, hash, i), chunk, {});
    });
    return { sha256: hash, bytes: bytes.byteLength, from: party };
  };

  const get = async ({ sha256: hash, bytes, from }: ObjectRef): Promise<Uint8Array> => {
    const chunkAt = async (i: number): Promise<Uint8Array> => {
      const message = await last(names.objects(from), names.chunk(from, hash, i), 4);
      if (message === undefined) {
        throw new TuneError("object-missing", "An object that was named is not there.", {
          at: hash,
          fix: "wait for the next round, or fetch the state again",
        });
      }
      if (message.data.length !== Math.min(chunkBytes, bytes - i * chunkBytes)) throw objectDamaged(hash, bytes);
      return message.data;
    };
    const count = Math.max(1, Math.ceil(bytes / chunkBytes));
    const [first, end] = [await chunkAt(0), await chunkAt(count - 1)]; // before memory is taken for all that it is said to be
    const whole = new Uint8Array(bytes);
    whole.set(first);
    whole.set(end, (count - 1) * chunkBytes);
    await parallel(count - 2, async (i) => {
      whole.set(await chunkAt(i + 1), (i + 1) * chunkBytes);
    });
    if ((await sha256(whole)) !== hash) throw objectDamaged(hash, bytes);
    return whole;
  };

  const readStored = async (name: string): Promise<StoredState> => {
    const message = await last(names.streams.state, names.state(name), 0);
    if (message === undefined) return { revision: 0, write: "", seq: 0, value: undefined };
    return { ...message.json<StoredState>(), seq: Number(message.headers?.get("Nats-Sequence") ?? 0) };
  };

  const readState = async (name: string): Promise<StoredState> => {
    const stored = await readStored(name);
    if (stored.object === undefined) return stored;
    return { ...stored, value: parseJson(new TextDecoder().decode(await get(stored.object))) };
  };

  const update: Transport["update"] = async (name, change) => {
    for (let tries = 0; ; tries++) {
      const { seq, revision, value } = await readState(name);
      const now: StateEntry = { value, revision };
      const next = await change(now);
      if (next === undefined) return now;
      const text = JSON.stringify(next);
      const bytes = new TextEncoder().encode(text);
      const content = bytes.byteLength <= stateBytes ? { value: next } : { object: await put(bytes) };
      const write = crypto.randomUUID();
      const body = JSON.stringify({ revision: revision + 1, write, ...content });
      const written = await store(names.state(name), body, { after: seq });
      // Refused also where an answer was lost and the first of two tries counted.
      if (written !== undefined || (await readState(name)).write === write) {
        return { value: JSON.parse(text), revision: revision + 1 };
      }
      await pause(Math.random() * Math.min(1000, 20 * 2 ** tries));
    }
  };

  let js: JetStreamClient | undefined;
  let jsm: JetStreamManager | undefined;
  if (isCoordinator) {
    try {
      const jetstream = await import("@nats-io/jetstream").then(namesOf, (cause: unknown) => {
        throw engineMissing(cause);
      });
      jsm = await makeStreams(
        () => jetstream.jetstreamManager(nc, { timeout: apiTimeoutMs }),
        names,
        replicas,
        patienceMs,
        party,
      );
      js = jetstream.jetstream(nc);
    } catch (error) {
      await nc.close();
      throw error;
    }
  }

  const subjectsOf = async (stream: string): Promise<Readonly<Record<string, number>>> =>
    (await jsm?.streams.info(stream, { subjects_filter: ">" }))?.state.subjects ?? {};

  const removeAllBut = async (kept: Set<string>): Promise<void> => {
    for (const subject of Object.keys(await subjectsOf(names.streams.state))) {
      const { object } = await readStored(subject.split(".").at(-1) ?? ""); // where a state that is large lies
      if (object) kept.add(object.sha256);
    }
    for (const stream of [names.streams.model, names.streams.uploads]) {
      const gone = new Set(
        Object.keys(await subjectsOf(stream)).flatMap((subject) => {
          const parts = subject.split(".");
          return kept.has(parts.at(-2) ?? "") ? [] : [parts.slice(0, -1).join(".")];
        }),
      );
      for (const prefix of gone) await jsm?.streams.purge(stream, { filter: `${prefix}.>` });
    }
  };

  /** The coordinator hears clients: a work queue, from which an event goes when it is handled. */
  const hearClients = async (kind: string, handle: Handler, live: () => boolean): Promise<void> => {
    const durable = `coordinator-${kind}`;
    const open = async () => {
      await jsm?.consumers.add(names.streams.events, {
        durable_name: durable,
        filter_subject: names.event("*", kind),
        ack_policy: "explicit",
        ack_wait: ackWaitMs * 1e6,
        max_deliver: -1,
      });
      return js?.consumers.get(names.streams.events, durable);
    };
    let consumer: Awaited<ReturnType<typeof open>>;
    while (live()) {
      let message: JsMsg | null | undefined;
      try {
        consumer ??= await open();
        message = await within(3 * nextMs, consumer?.next({ expires: nextMs }));
      } catch {
        consumer = undefined; // the server is gone, or has lost it
        await pause(300);
        continue;
      }
      if (!message) continue;
      const [, , , from = ""] = message.subject.split(".");
      const alive = setInterval(() => message?.working(), ackWaitMs / 3);
      let handled = false;
      try {
        const { id, body } = message.json<Pick<TransportEvent, "id" | "body">>();
        if (live()) {
          await handle({ kind, from, id: String(id), body });
          handled = true;
        }
      } catch {
        // it comes again
      } finally {
        clearInterval(alive);
      }
      if (nc.isClosed()) return; // unsaid: it comes again, later
      if (handled) message.ack();
      else message.nak(Math.min(5000, 50 * 2 ** message.info.deliveryCount));
    }
  };

  /** A client hears the coordinator: a log that it reads from its beginning, told when there is more. */
  const hearCoordinator = async (kind: string, handle: Handler, live: () => boolean, wake: Waking): Promise<void> => {
    let cursor = 1;
    for (let failures = 0; live(); ) {
      try {
        const asked = JSON.stringify({ seq: cursor, next_by_subj: names.control(kind) });
        const message = await ask(`${directGet}.${names.streams.control}`, asked);
        if ((message.headers?.code ?? 0) >= 300) {
          await wake.wait(2000);
          continue;
        }
        const { id, body } = message.json<Pick<TransportEvent, "id" | "body">>();
        if (!live()) return;
        await handle({ kind, from: coordinatorName, id, body });
        cursor = Number(message.headers?.get("Nats-Sequence") ?? cursor) + 1;
        failures = 0;
      } catch {
        if (!live()) return;
        await pause(Math.min(5000, 50 * 2 ** failures));
        failures += 1;
      }
    }
  };

  const subscribe = async (kind: string, handle: Handler): Promise<Unsubscribe> => {
    if (closed) throw closedError(party);
    let on = true;
    const wake = waking();
    const live = (): boolean => on && !closed;
    const hint = isCoordinator ? undefined : nc.subscribe(names.control(kind), { callback: () => wake.now() });
    const loop = isCoordinator ? hearClients(kind, handle, live) : hearCoordinator(kind, handle, live, wake);
    const stop = (): void => {
      on = false;
      wake.now();
      if (!closed) hint?.unsubscribe();
    };
    stops.add(stop);
    void loop; // it ends when the transport does, and never fails
    return async () => {
      stops.delete(stop);
      stop();
    };
  };

  return {
    party,
    publish: async ({ kind, id, body }) => {
      const data = new TextEncoder().encode(JSON.stringify({ id, body }));
      if (data.byteLength > eventBytes) {
        throw new TuneError("bad-message", `An event of ${data.byteLength} bytes is too large.`, {
          at: `${kind} of ${party}`,
          fix: "put what is large as an object",
        });
      }
      const subject = isCoordinator ? names.control(kind) : names.event(party, kind);
      await store(subject, data, { id: `${party}/${kind}/${id}` });
    },
    subscribe,
    put,
    get,
    update,
    keep: async (hashes) => {
      if (closed) throw closedError(party);
      try {
        await removeAllBut(new Set(hashes));
      } catch (error) {
        if (faultOf(error) !== "again") throw error; // else the next call removes more
      }
    },
    close: async () => {
      if (closed) return;
      closed = true;
      for (const stop of stops) stop();
      await nc.close();
    },
  };
}

type Handler = (event: TransportEvent) => Promise<void>;

interface StoredState extends StateEntry {
  /** Where the value is, if it is large. */
  readonly object?: ObjectRef;
  /** Which write it was. */
  readonly write: string;
  readonly seq: number;
}

interface Acknowledgement {
  readonly seq?: number;
  readonly error?: { readonly code: number; readonly err_code: number; readonly description: string };
}

/** Error codes of JetStream. */
const wrongLastSequence = 10071;
const noRoom: readonly number[] = [10023, 10028, 10047, 10054, 10077, 10122];

async function connected(options: NatsOptions, names: NatsNames, patienceMs: number): Promise<NatsConnection> {
  const { connect, servers, party, user, password } = options;
  const asked: ConnectionOptions = {
    servers: [...servers],
    user,
    pass: password,
    name: party,
    inboxPrefix: names.inbox(party),
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    timeout: apiTimeoutMs,
    ignoreClusterUpdates: true, // addresses inside a cluster need not be ours
  };
  const until = performance.now() + patienceMs;
  for (;;) {
    try {
      return (await connect(asked)) as NatsConnection; // what both functions give
    } catch (error) {
      const fault = faultOf(error);
      if (fault === "authorization" || fault === "permission")
        throw notPermitted(party, "it does not let it in", error);
      if (fault === "unknown") throw error;
      if (performance.now() > until) throw unreachable(party, `${servers.join(", ")}: ${messageOf(error)}`, error);
      await pause(250);
    }
  }
}

/** Make the streams that are not there; a cluster may need a while until it can. */
async function makeStreams(
  open: () => Promise<JetStreamManager>,
  names: NatsNames,
  replicas: number,
  patienceMs: number,
  party: string,
): Promise<JetStreamManager> {
  const file = { storage: "file", num_replicas: replicas, allow_direct: true } as const;
  const window = { duplicate_window: 600e9 };
  const wanted: readonly (Partial<StreamConfig> & { readonly name: string })[] = [
    {
      ...{ name: names.streams.events, subjects: [names.event("*", "*")], retention: "workqueue" },
      ...{ max_msg_size: eventBytes + 1024, max_msgs_per_subject: 64, ...file, ...window },
      ...{ discard: "new", discard_new_per_subject: true },
    },
    { name: names.streams.uploads, subjects: [names.chunk("*", "*", ">")], max_msgs_per_subject: 1, ...file },
    { name: names.streams.model, subjects: [names.chunk(coordinatorName, "*", ">")], max_msgs_per_subject: 1, ...file },
    { name: names.streams.state, subjects: [names.state("*")], max_msgs_per_subject: 5, ...file },
    { name: names.streams.control, subjects: [names.control("*")], max_msgs_per_subject: 64, ...file, ...window },
  ];
  const until = performance.now() + patienceMs;
  for (;;) {
    try {
      const jsm = await open();
      for (const config of wanted) await jsm.streams.add(config);
      return jsm;
    } catch (error) {
      if (error instanceof Error && error.name === "JetStreamNotEnabled") {
        throw new TuneError("no-jetstream", "The server has no JetStream in the coordinator's account.", {
          at: party,
          fix: "start nats-server with the configuration that scion federate create writes",
          cause: error,
        });
      }
      if (error instanceof Error && /insufficient|exceeded|no space/i.test(error.message))
        throw full(party, error.message);
      if (faultOf(error) === "permission") throw notPermitted(party, "make streams", error);
      if (performance.now() > until) throw unreachable(party, messageOf(error), error);
      await pause(300);
    }
  }
}

function objectDamaged(hash: string, bytes: number): TuneError {
  return new TuneError("object-damaged", `An object is not the ${bytes} bytes that it was said to be.`, { at: hash });
}

/** A wait that can be cut short, also just before it begins. */
interface Waking {
  wait(ms: number): Promise<void>;
  now(): void;
}

function waking(): Waking {
  let pending = false;
  let resume: (() => void) | undefined;
  return {
    wait: (ms) =>
      new Promise((resolve) => {
        if (pending) {
          pending = false;
          return resolve();
        }
        const timer = setTimeout(() => resume?.(), ms);
        resume = () => {
          clearTimeout(timer);
          resume = undefined;
          pending = false;
          resolve();
        };
      }),
    now: () => {
      pending = true;
      resume?.();
    },
  };
}

/** Do something for 0 … count − 1, a few at a time. */
async function parallel(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.max(0, Math.min(inFlight, count)) }, worker));
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
/** What a promise gives, unless it takes too long. */
async function within<T>(ms: number, promise: Promise<T> | undefined): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
