import { TuneError } from "../errors.ts";
import type { StopSignal } from "../signal.ts";
import { type Change, type RunningMean, runningMean } from "./aggregate.ts";
import { hashOf } from "./digest.ts";
import { type Pieces, piecesOf, type Tuned, trainedPieces, tunedOf } from "./factors.ts";
import {
  type FederationPlan,
  protocol,
  type RoundSummary,
  type RunState,
  readDecline,
  readJoin,
  readState,
  readUpload,
  runState,
  type StopRequest,
  stopState,
} from "./messages.ts";
import {
  advanced,
  asked,
  awaited,
  dueAt,
  dueNow,
  ignores,
  reopened,
  summaryOf,
  timedAnew,
  withDecline,
  withMember,
  withRefusal,
  withUpload,
} from "./rounds.ts";
import { chooseStrategy } from "./strategies/table.ts";
import type { Transport, TransportEvent, Unsubscribe } from "./transport.ts";
import {
  bytesOfTypes,
  checkDeclared,
  checkNorm,
  type LayerType,
  readPieces,
  typesOf,
  writePieces,
} from "./validate.ts";

/** What a coordinator is handed. */
export interface CoordinatorOptions {
  readonly transport: Transport;
  /** The federation's name. */
  readonly run: string;
  readonly plan: FederationPlan;
  /** What the first round starts from; not read where the state that stands goes on. */
  readonly initial: () => Promise<Tuned>;
  /** Milliseconds; only differences count. */
  readonly now: () => number;
  /** Resolves after so many milliseconds, or when it is told to. */
  readonly wait: (ms: number, wake: Promise<void>) => Promise<void>;
  /** How many clients must be there before the first round. */
  readonly gather: number;
  /** What is measured of the result of a round, before it is told to anybody. */
  readonly measure?: (tuned: Tuned, round: number) => Promise<Readonly<Record<string, number>>>;
  readonly onEvent?: (event: CoordinatorEvent) => void | Promise<void>;
  /** Ends after what is under way; the state stays, and a later coordinator goes on. */
  readonly signal?: StopSignal;
  /** After so many milliseconds it looks whether it is told to end (`stopState`), and who was withdrawn; not at all unless given. */
  readonly pollMs?: number;
  /** Clients that take part no more. */
  readonly withdrawn?: () => readonly string[];
}

/** What happens at the coordinator. */
export type CoordinatorEvent =
  | { readonly kind: "open"; readonly state: RunState }
  | { readonly kind: "round"; readonly state: RunState }
  | { readonly kind: "turned-away"; readonly client: string; readonly why: string }
  | { readonly kind: "upload"; readonly client: string; readonly refused?: string; readonly state: RunState }
  | { readonly kind: "closed"; readonly summary: RoundSummary; readonly state: RunState };

/** How a federation ended. */
export interface CoordinatorResult {
  readonly state: RunState;
  readonly tuned: Tuned;
  /** Why it ended before its rounds were done: `too-few-clients`. */
  readonly stopped?: TuneError;
}

/**
 * Coordinate a federation until its rounds are done. All that it knows is the state and the objects which the state names: one
 * that was killed goes on where it was when it is called again, and uploads that came meanwhile count.
 * A round that cannot get the clients that it needs ends the federation, with what it has come to; called again, it is tried anew.
 * @throws {TuneError} `resume-mismatch` where the state that stands is another federation's, and what the transport throws.
 */
export async function coordinate(options: CoordinatorOptions): Promise<CoordinatorResult> {
  const { transport, plan, signal } = options;
  const { strategy, config } = chooseStrategy(plan.strategy, plan.config);
  let state = await begin(options);
  let tuned = tunedOf(readPieces(await transport.get(state.base), state.layers, "the coordinator's own state"));
  const expected = uploadTypes(tuned, strategy.trains);

  // One thing at a time: events, and what is due.
  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const next = turn.then(work);
    turn = next.catch(() => undefined);
    return next;
  };
  let wake = (): void => undefined;
  let stopped: TuneError | undefined;
  let failed: { readonly error: unknown } | undefined;

  const change = async (by: (now: RunState) => RunState | undefined): Promise<boolean> => {
    let changed = false;
    const entry = await transport.update(runState, ({ value }) => {
      const next = by(value as RunState); // this coordinator, or one before it, wrote it
      changed = next !== undefined;
      return next;
    });
    state = entry.value as RunState;
    return changed;
  };

  let lastRound = Number.POSITIVE_INFINITY;
  /** Whether it was told to end, and nothing is under way. */
  const told = (): boolean => state.round > lastRound || (state.round === lastRound && state.participants.length === 0);
  const look = async (): Promise<void> => {
    if (options.pollMs === undefined) return;
    const { value } = await transport.update(stopState, () => undefined);
    lastRound = (value as StopRequest | undefined)?.afterRound ?? Number.POSITIVE_INFINITY; // the coordinator's party wrote it
    for (const client of options.withdrawn?.() ?? []) {
      if (!Object.hasOwn(state.members, client) || Object.hasOwn(state.gone, client)) continue;
      await change((now) => withDecline(now, client, { round: now.round, reason: "withdrawn", forGood: true }));
      await options.onEvent?.({ kind: "turned-away", client, why: "withdrawn" });
    }
  };

  const received = uploadsReceived(plan);
  const examplesOf = (client: string): number => state.members[client]?.examples ?? 1;

  const onUpload = async (event: TransportEvent): Promise<void> => {
    const { from, body } = event;
    const upload = readable(() => readUpload(body, `upload of ${from}`));
    if (upload === undefined || ignores(state, from, upload)) return;
    const at = `upload of ${from} in round ${upload.round}`;
    let delta: Pieces | undefined;
    const problem = await problemWith(async () => {
      if (upload.object.from !== from) {
        throw new TuneError("bad-upload", `The object was put by ${upload.object.from}.`, { at });
      }
      checkDeclared(upload.layers, expected, at);
      if (upload.object.bytes !== bytesOfTypes(expected)) {
        throw new TuneError(
          "bad-upload",
          `The object has ${upload.object.bytes} bytes, not ${bytesOfTypes(expected)}.`,
          { at },
        );
      }
      delta = readPieces(await transport.get(upload.object), expected, at);
      if (plan.normBound !== undefined) checkNorm(delta, plan.normBound, at);
    });
    const changed = await change((now) =>
      problem === undefined ? withUpload(now, from, upload) : withRefusal(now, from, upload, problem),
    );
    if (changed) {
      if (delta && problem === undefined) received.add(state, { client: from, examples: examplesOf(from), delta });
      await options.onEvent?.({
        kind: "upload",
        client: from,
        state,
        ...(problem === undefined ? {} : { refused: problem }),
      });
    }
  };

  const close = async (): Promise<void> => {
    const { round, uploads } = state;
    const context = { round, rounds: plan.rounds, seed: plan.seed };
    const changes: Change[] = [];
    for (const client of Object.keys(uploads).sort()) {
      const { object } = uploads[client] as RunState["uploads"][string]; // one of its own keys
      // Those that came to a coordinator before this one are fetched.
      const delta =
        received.change(round, client)?.delta ??
        readPieces(await transport.get(object), expected, `upload of ${client}`);
      changes.push({ client, examples: examplesOf(client), delta });
    }
    const mean = received.meanOf(round, changes);
    const finish = { ...context, aggregation: plan.aggregation, ...(mean ? { mean } : {}) };
    const news = strategy.finish(tuned, changes, finish, config);
    const next = strategy.follow(tuned, news, context, config);
    const measures = (await options.measure?.(next, round)) ?? {};
    const pieces = piecesOf(next);
    const after = {
      base: await transport.put(writePieces(pieces)),
      layers: typesOf(pieces),
      news: { from: state.base.sha256, object: await transport.put(writePieces(news)), layers: typesOf(news) },
    };
    const summary = summaryOf(state, measures);
    await change((now) => (now.round === round ? advanced(now, summary, after, options.now()) : undefined));
    tuned = next;
    await options.onEvent?.({ kind: "closed", summary, state });
  };

  const proceed = async (): Promise<void> => {
    for (;;) {
      if (state.participants.length === 0) await look(); // before anybody is asked
      if (told()) return;
      if (state.participants.length === 0 && state.round === 0 && Object.keys(state.members).length < options.gather)
        return;
      const due = dueNow(state, options.now());
      if (due === "wait" || signal?.aborted) return;
      if (due === "stop") {
        stopped = tooFew(state);
        await change((now) => ({ ...now, phase: "stopped" }));
        return;
      }
      if (due === "close") {
        await close();
        continue;
      }
      await change((now) => asked(now, options.now()));
      await options.onEvent?.({ kind: "round", state });
      const { run, round, attempt } = state;
      await transport.publish({ kind: "round", id: `${run}/${round}/${attempt}`, body: { round } });
    }
  };

  const handle = (work: (event: TransportEvent) => Promise<void>) => (event: TransportEvent) =>
    inTurn(async () => {
      // Whoever goes on after this coordinator is told again.
      if (failed || signal?.aborted) throw new TuneError("transport-closed", "This coordinator is ending.");
      if (state.phase !== "training") return;
      await work(event);
      await proceed();
    })
      .catch((error: unknown) => {
        if (error instanceof TuneError && error.code.startsWith("transport-")) throw error; // it comes again
        failed ??= { error };
      })
      .finally(() => wake());

  const aborted = (): void => wake();
  signal?.addEventListener("abort", aborted);
  const subscriptions: Unsubscribe[] = [
    await transport.subscribe(
      "join",
      handle(async ({ from, body }) => {
        const join = readable(() => readJoin(body, `join of ${from}`));
        if (join === undefined || join.base !== plan.base) {
          const why = join ? "base-mismatch" : "bad-message";
          await options.onEvent?.({ kind: "turned-away", client: from, why });
          return;
        }
        await change((now) => withMember(now, from, join.examples));
      }),
    ),
    await transport.subscribe("upload", handle(onUpload)),
    await transport.subscribe(
      "decline",
      handle(async ({ from, body }) => {
        const decline = readable(() => readDecline(body, `decline of ${from}`));
        if (decline) await change((now) => withDecline(now, from, decline));
      }),
    ),
  ];
  try {
    await options.onEvent?.({ kind: "open", state });
    if (options.pollMs !== undefined) {
      const none: StopRequest = { afterRound: null }; // what was said to a coordinator before
      await transport.update(stopState, ({ revision }) => (revision > 0 ? none : undefined));
    }
    while (state.phase === "training" && !signal?.aborted) {
      const woken = new Promise<void>((resolve) => {
        wake = resolve;
      });
      await inTurn(async () => {
        await look();
        await proceed();
      });
      if (failed || state.phase !== "training" || told()) break;
      const due = Math.min(dueAt(state) - options.now(), options.pollMs ?? Number.POSITIVE_INFINITY);
      await options.wait(Math.max(1, due), woken);
      if (failed) break;
    }
    if (failed) throw failed.error;
    return { state, tuned, ...(stopped ? { stopped } : {}) };
  } finally {
    signal?.removeEventListener("abort", aborted);
    for (const unsubscribe of subscriptions) await unsubscribe();
    await turn;
  }
}

/** The uploads of the round under way that this coordinator has seen, and their mean, which is added up as they come. */
function uploadsReceived({ aggregation }: FederationPlan): {
  add(state: RunState, change: Change): void;
  change(round: number, client: string): Change | undefined;
  /** The mean of just these; undefined where others were expected. */
  meanOf(round: number, changes: readonly Change[]): Pieces | undefined;
} {
  let of = -1;
  let changes = new Map<string, Change>();
  let mean: RunningMean | undefined;
  return {
    add: (state, change) => {
      if (of !== state.round) {
        of = state.round;
        changes = new Map();
        mean = undefined;
      }
      changes.set(change.client, change);
      if (aggregation.rule !== "mean") return;
      // Whoever has sent, or still may. Where somebody declines, or others are asked, the shares are others: it is begun anew.
      const expected = state.participants
        .filter((client) => awaited(state, client) || Object.hasOwn(state.uploads, client))
        .map((client) => ({ client, examples: state.members[client]?.examples ?? 1 }));
      if (mean?.isOf(expected)) return mean.add(change);
      mean = runningMean(expected, aggregation);
      for (const each of changes.values()) mean.add(each);
    },
    change: (round, client) => (round === of ? changes.get(client) : undefined),
    meanOf: (round, all) => (round === of && mean?.isOf(all) ? mean.result() : undefined),
  };
}

/** The types of what clients upload. */
export function uploadTypes(tuned: Tuned, trains: readonly ("A" | "B")[]): readonly LayerType[] {
  return typesOf(trainedPieces(tuned, trains));
}

/** The state that stands, or a new one. */
async function begin({ transport, run, plan, initial, now }: CoordinatorOptions): Promise<RunState> {
  const { value } = await transport.update(runState, () => undefined);
  const found = readState(value, `state of ${run}`);
  if (found) {
    if (found.run === run && (await hashOf(found.plan)) === (await hashOf(plan))) {
      if (found.phase === "done" || (found.phase === "training" && found.plan.roundMs === 0)) return found;
      const entry = await transport.update(runState, ({ value: standing }) => {
        const own = standing as RunState; // as it was read above
        return found.phase === "stopped" ? reopened(own, now()) : timedAnew(own, now());
      });
      return entry.value as RunState; // written just now
    }
    throw new TuneError("resume-mismatch", `The federation that stands there is ${found.run}, planned otherwise.`, {
      at: run,
      fix: "go on with the settings that it was started with, or choose another name",
    });
  }
  const { strategy, config } = chooseStrategy(plan.strategy, plan.config);
  const given = await initial();
  const tuned = strategy.start?.(given, config) ?? given;
  const pieces = piecesOf(tuned);
  const base = await transport.put(writePieces(pieces));
  const state: RunState = {
    ...{ protocol, run, plan, base, phase: "training", round: 0, attempt: 1, since: now(), layers: typesOf(pieces) },
    ...{ participants: [], members: {}, uploads: {}, refused: {}, declined: {}, gone: {}, history: [] },
  };
  const entry = await transport.update(runState, (standing) => (standing.revision === 0 ? state : undefined));
  return entry.value as RunState; // written just now
}

/** What a reader gives; undefined for what cannot be read, which changes nothing. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof TuneError) return undefined;
    throw error;
  }
}

/** What is wrong with an upload; what the transport cannot do now is thrown, so that the event comes again. */
async function problemWith(check: () => Promise<void>): Promise<string | undefined> {
  try {
    await check();
    return undefined;
  } catch (error) {
    if (error instanceof TuneError && !error.code.startsWith("transport-"))
      return `${error.code}: ${error.what}`.slice(0, 500);
    throw error;
  }
}

function tooFew({ round, plan, uploads, refused, declined, gone }: RunState): TuneError {
  const why = { ...gone, ...declined, ...refused };
  const { length } = Object.keys(uploads);
  return new TuneError(
    "too-few-clients",
    [
      `Round ${round + 1} has ${length} upload${length === 1 ? "" : "s"}, and needs ${plan.minClients}.`,
      ...Object.entries(why)
        .slice(0, 20)
        .map(([client, reason]) => `${client}: ${reason}`),
    ],
    {
      at: `round ${round + 1} of ${plan.rounds}`,
      fix: "ask for fewer clients (minClients), give them more time or budget, or let more join",
    },
  );
}
