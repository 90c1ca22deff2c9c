import { TuneError } from "../errors.ts";
import { type ObjectRef, sha256, type Transport } from "../federated/index.ts";
import { insideFolder, joinPath, type Storage } from "../io/storage.ts";
import type { StopSignal } from "../signal.ts";
import { checkFingerprint, type Facts } from "../train/fingerprint.ts";

/*
 * The runs of a comparison, made by other machines. The coordinator keeps a list of who has which run; a worker asks for one, says
 * from time to time that it is alive, and sends the run's files. A run whose worker falls silent goes to the next who asks. Events
 * may come twice: a run that is done stays done, and a worker has one run at a time.
 */

/** Over what a comparison reaches its workers, or a worker its comparison: the transport's party says which. */
export interface WorkersOptions {
  readonly transport: Transport;
  /** Where runs are handed out: milliseconds of silence after which a worker's run goes to another; 30000 unless given. */
  readonly silenceMs?: number;
}

/** What the coordinator tells its workers. */
interface WorkState {
  readonly version: 1;
  readonly phase: "open" | "done";
  /** What decides the first run: a worker with other model, data or options is told what differs. */
  readonly facts: Facts;
  /** A hash of all runs in their order. */
  readonly runs: string;
  readonly done: readonly number[];
  /** After so long without a word a worker's run goes to another. */
  readonly silenceMs: number;
  /** Who has which run. */
  readonly has: Readonly<Record<string, number>>;
  /** Workers that get no more, and why. */
  readonly away: Readonly<Record<string, string>>;
}

const stateName = "work";
const longestSilence = 30_000;
const mostFiles = 1000;

/** A file of a run. */
interface SentFile {
  readonly name: string;
  readonly object: ObjectRef;
}

/** What happens to a run that is handed out. */
export type HandedEvent =
  | { readonly kind: "handed-out"; readonly worker: string }
  | { readonly kind: "taken-back"; readonly worker: string; readonly why: string };

/** What the coordinator is handed. */
export interface HandOutOptions extends WorkersOptions {
  readonly facts: Facts;
  /** Every run as text, in order. */
  readonly runs: readonly string[];
  /** Runs that are done already. */
  readonly done: readonly number[];
  /** Take a run's files, by name; what it throws turns the worker away. */
  readonly accept: (index: number, files: ReadonlyMap<string, Uint8Array>, worker: string) => Promise<void>;
  readonly onEvent: (index: number, event: HandedEvent) => void;
  readonly signal?: StopSignal | undefined;
}

/**
 * Hand runs out until all are done, or the signal comes. Workers that are left wait for a coordinator that goes on.
 * @throws what the transport throws, and `TuneError`s of `accept` that are not the worker's fault (`write-failed`).
 */
export async function handOut(options: HandOutOptions): Promise<void> {
  const { transport, silenceMs = longestSilence, facts, runs, accept, onEvent, signal } = options;
  const done = new Set(options.done);
  const has = new Map<string, number>();
  const away = new Map<string, string>();
  const heard = new Map<string, number>(); // by this machine's clock: no other's counts
  const hash = await hashOf(runs);
  let failed: unknown;
  let wake = (): void => undefined;
  const write = async (): Promise<void> => {
    const state: WorkState = {
      ...{ version: 1, phase: done.size === runs.length ? "done" : "open", facts, runs: hash, silenceMs },
      ...{ done: [...done].sort((a, b) => a - b), has: Object.fromEntries(has), away: Object.fromEntries(away) },
    };
    await transport.update(stateName, () => state);
    await transport.publish({ kind: "work", id: crypto.randomUUID(), body: {} });
  };
  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = (work: () => Promise<void>): Promise<void> => {
    const next = turn.then(work);
    turn = next.catch(() => undefined);
    return next;
  };
  const handle =
    (work: (from: string, body: Readonly<Record<string, unknown>>) => Promise<void>) =>
    async ({ from, body }: { readonly from: string; readonly body: unknown }): Promise<void> =>
      inTurn(async () => {
        if (failed !== undefined || signal?.aborted)
          throw new TuneError("transport-closed", "This coordinator is ending.");
        heard.set(from, performance.now());
        if (away.has(from)) return;
        await work(from, (typeof body === "object" && body !== null ? body : {}) as Readonly<Record<string, unknown>>);
      })
        .catch((error: unknown) => {
          if (error instanceof TuneError && error.code.startsWith("transport-")) throw error; // it comes again
          failed ??= error;
        })
        .finally(() => wake());
  const next = (): number | undefined => {
    const taken = new Set(has.values());
    return [...runs.keys()].find((i) => !done.has(i) && !taken.has(i));
  };
  const give = async (worker: string): Promise<void> => {
    const index = has.has(worker) ? undefined : next();
    if (index === undefined) return;
    has.set(worker, index);
    onEvent(index, { kind: "handed-out", worker });
    await write();
  };
  const takeBack = (worker: string, why: string): void => {
    const index = has.get(worker);
    has.delete(worker);
    if (index !== undefined) onEvent(index, { kind: "taken-back", worker, why });
  };
  const turnAway = async (worker: string, why: string): Promise<void> => {
    away.set(worker, why);
    takeBack(worker, why);
    await write();
  };
  await write();
  const waiting = new Set<string>();
  const handWaiting = async (): Promise<void> => {
    for (const worker of waiting) {
      await give(worker);
      if (has.has(worker)) waiting.delete(worker);
    }
  };
  const subscriptions = [
    await transport.subscribe(
      "ask",
      handle(async (from) => {
        if (has.has(from)) return write(); // it was started again, and goes on with what it has
        waiting.add(from);
        await handWaiting();
      }),
    ),
    await transport.subscribe(
      "alive",
      handle(async (from, { index }) => {
        // Of one that is at work since before this coordinator was started again.
        const free =
          typeof index === "number" && index in runs && !done.has(index) && ![...has.values()].includes(index);
        if (!has.has(from) && free) {
          has.set(from, index);
          await write();
        }
      }),
    ),
    await transport.subscribe(
      "refuse",
      handle((from, { why }) => turnAway(from, String(why).slice(0, 200))),
    ),
    await transport.subscribe(
      "made",
      handle(async (from, { index, files }) => {
        if (typeof index !== "number" || !(index in runs)) return turnAway(from, "bad-message");
        if (!done.has(index)) {
          try {
            await accept(index, await fetched(transport, from, files), from);
          } catch (error) {
            const own = !(error instanceof TuneError) || /^(transport-|write-failed|in-use)/.test(error.code);
            if (own) throw error;
            return turnAway(from, error.code);
          }
          done.add(index);
        }
        for (const [worker, run] of has) if (run === index) has.delete(worker);
        await write();
      }),
    ),
  ];
  const aborted = (): void => wake();
  signal?.addEventListener("abort", aborted);
  try {
    while (done.size < runs.length && !signal?.aborted && failed === undefined) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, silenceMs / 4);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      await inTurn(async () => {
        const now = performance.now();
        for (const worker of [...has.keys()]) {
          if (now - (heard.get(worker) ?? now) < silenceMs) continue;
          waiting.delete(worker);
          takeBack(worker, "silent");
          await write();
        }
        await handWaiting();
      });
    }
    if (failed !== undefined) throw failed;
    await turn;
    if (done.size === runs.length) await transport.keep?.([]); // the files are here
  } finally {
    signal?.removeEventListener("abort", aborted);
    for (const unsubscribe of subscriptions) await unsubscribe();
  }
}

/** What a worker is handed. */
export interface TakeRunsOptions extends Pick<WorkersOptions, "transport"> {
  readonly facts: Facts;
  readonly runs: readonly string[];
  /** Make a run; undefined where it was interrupted. */
  readonly make: (index: number) => Promise<{ readonly folder: string } | undefined>;
  readonly storage: Storage;
  readonly signal?: StopSignal | undefined;
}

/**
 * Make runs for a comparison until it has all. A worker that was killed and started again goes on with the run that it had.
 * @throws {TuneError} `base-mismatch` where model, data or options are others than the comparison's; `turned-away`; what `make` and the
 * transport throw.
 */
export async function takeRuns(options: TakeRunsOptions): Promise<void> {
  const { transport, facts, runs, make, storage, signal } = options;
  const own = transport.party;
  const hash = await hashOf(runs);
  let wake = (): void => undefined;
  const unsubscribe = await transport.subscribe("work", async () => wake());
  const aborted = (): void => wake();
  signal?.addEventListener("abort", aborted);
  const tell = (kind: string, body: unknown): Promise<void> =>
    transport.publish({ kind, id: crypto.randomUUID(), body });
  try {
    for (let askedAt = Number.NEGATIVE_INFINITY; !signal?.aborted; ) {
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const state = (await transport.update(stateName, () => undefined)).value as WorkState | undefined; // signed by the coordinator
      if (state && (state.phase === "open" || state.runs === hash)) {
        if (state.phase === "done") return;
        await checkSame(state, { facts, hash, own }, (why) => tell("refuse", { why }));
        const index = state.has[own];
        if (index !== undefined) {
          const alive = setInterval(() => void tell("alive", { index }).catch(() => undefined), state.silenceMs / 4);
          try {
            const made = await make(index);
            if (made === undefined) return;
            await tell("made", { index, files: await sent(transport, storage, made.folder) });
          } finally {
            clearInterval(alive);
          }
          await handled(transport, own, index, signal);
          askedAt = Number.NEGATIVE_INFINITY;
          continue;
        }
        if (performance.now() - askedAt > state.silenceMs / 2) {
          await tell("ask", {}); // again now and then: a coordinator that is started again has forgotten who waits
          askedAt = performance.now();
        }
      }
      await Promise.race([woken, new Promise<void>((resolve) => setTimeout(resolve, 1000))]);
    }
  } finally {
    signal?.removeEventListener("abort", aborted);
    await unsubscribe();
  }
}

/** Wait until the coordinator has taken what was made, or given it to another. */
async function handled(
  transport: Transport,
  own: string,
  index: number,
  signal: StopSignal | undefined,
): Promise<void> {
  while (!signal?.aborted) {
    const state = (await transport.update(stateName, () => undefined)).value as WorkState; // as above
    if (state.done.includes(index) || state.has[own] !== index || state.away[own] !== undefined) return;
    await new Promise<void>((resolve) => setTimeout(resolve, 200));
  }
}

async function checkSame(
  { facts: asked, runs, away }: WorkState,
  { facts, hash, own }: { readonly facts: Facts; readonly hash: string; readonly own: string },
  refuse: (why: string) => Promise<void>,
): Promise<void> {
  const why = away[own];
  if (why !== undefined) {
    throw new TuneError("turned-away", `The comparison takes no more runs of this worker: ${why}.`, {
      at: own,
      fix: "give it the model, data and options of the comparison, and start the comparison again",
    });
  }
  let differs = runs === hash ? undefined : "The methods, rates, seeds or their options are others.";
  try {
    checkFingerprint(asked, facts, own);
  } catch (error) {
    if (!(error instanceof TuneError)) throw error;
    differs = error.what;
  }
  if (differs === undefined) return;
  await refuse("base-mismatch");
  throw new TuneError("base-mismatch", `This worker would make other runs than the comparison asks for. ${differs}`, {
    at: own,
    fix: "give it the same model, data and options",
  });
}

async function sent(transport: Transport, storage: Storage, folder: string): Promise<readonly SentFile[]> {
  const files: SentFile[] = [];
  const add = async (inside: string): Promise<void> => {
    for (const name of await storage.list(joinPath(folder, inside))) {
      const path = joinPath(inside, name);
      if (name.endsWith("/")) await add(path.slice(0, -1));
      else if (!name.endsWith(".lock")) {
        files.push({ name: path, object: await transport.put(await storage.read(joinPath(folder, path))) });
      }
    }
  };
  await add("");
  return files;
}

/** @throws {TuneError} `bad-message`, `path-outside-folder`, and what `get` throws. */
async function fetched(transport: Transport, from: string, given: unknown): Promise<ReadonlyMap<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  const list = Array.isArray(given) && given.length <= mostFiles ? (given as readonly Partial<SentFile>[]) : [{}];
  for (const { name, object } of list) {
    const { sha256: hash, bytes, from: by } = { ...object } as Partial<ObjectRef>;
    const isRef =
      /^[0-9a-f]{64}$/.test(String(hash)) && Number.isSafeInteger(bytes) && Number(bytes) >= 0 && by === from;
    if (typeof name !== "string" || !isRef) {
      throw new TuneError("bad-message", "What a worker sent is no list of files.", { at: from });
    }
    files.set(insideFolder("", name), await transport.get(object as ObjectRef)); // looked at just now
  }
  return files;
}

function hashOf(runs: readonly string[]): Promise<string> {
  return sha256(new TextEncoder().encode(runs.join("\n")));
}
