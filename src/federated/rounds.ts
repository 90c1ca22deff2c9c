import { createRng } from "../linalg/index.ts";
import { sharesOf } from "./aggregate.ts";
import type { Decline, RoundSummary, RunState, Upload } from "./messages.ts";
import { bytesOfTypes } from "./validate.ts";

/*
 * The rules of rounds, as functions from state to state. Each gives undefined where nothing changes, so that what comes twice,
 * late, or for another round does nothing.
 */

/** A client is there. Its number of examples is what it said first. */
export function withMember(state: RunState, client: string, examples: number): RunState | undefined {
  if (Object.hasOwn(state.members, client)) return undefined;
  return { ...state, members: { ...state.members, [client]: { examples } } };
}

/** Why an upload is not looked at: it is of another round or base, of nobody who was asked, or there is one already. */
export function ignores(state: RunState, client: string, { round, base }: Pick<Upload, "round" | "base">): boolean {
  return state.phase !== "training" || round !== state.round || base !== state.base.sha256 || !awaited(state, client);
}

/** Whether a client was asked in this round and has not answered. */
export function awaited({ participants, uploads, refused, declined }: RunState, client: string): boolean {
  return participants.includes(client) && ![uploads, refused, declined].some((those) => Object.hasOwn(those, client));
}

/** A client's upload counts. */
export function withUpload(state: RunState, client: string, upload: Upload): RunState | undefined {
  if (ignores(state, client, upload)) return undefined;
  const { object, loss, steps } = upload;
  return { ...state, uploads: { ...state.uploads, [client]: { object, loss, steps } } };
}

/** A client's upload does not count, and no other of this round will. */
export function withRefusal(state: RunState, client: string, upload: Upload, why: string): RunState | undefined {
  if (ignores(state, client, upload)) return undefined;
  return { ...state, refused: { ...state.refused, [client]: why } };
}

/** A state that was stopped for want of clients, to be tried again. */
export function reopened(state: RunState, now: number): RunState {
  return { ...state, phase: "training", attempt: 1, since: now, participants: Object.keys(state.uploads).sort() };
}

/** A state whose round has its time from now on: the clock of the coordinator that began it may differ by hours. */
export function timedAnew(state: RunState, now: number): RunState {
  return { ...state, since: now };
}

/** When something is due at the latest although nobody says anything: the coordinator's time; infinite where nothing is. */
export function dueAt({ plan, since, participants, gone }: RunState): number {
  if (plan.roundMs === 0) return Number.POSITIVE_INFINITY;
  if (participants.length > 0) return since + plan.roundMs;
  return Object.keys(gone).length > 0 ? since + plan.attempts * plan.roundMs : Number.POSITIVE_INFINITY;
}

/** A client takes no part in a round, or in none from now on. */
export function withDecline(
  state: RunState,
  client: string,
  { round, reason, forGood }: Decline,
): RunState | undefined {
  const gone = forGood && !Object.hasOwn(state.gone, client) ? { ...state.gone, [client]: reason } : state.gone;
  const here = state.phase === "training" && round === state.round && awaited(state, client);
  if (!here && gone === state.gone) return undefined;
  return { ...state, gone, ...(here ? { declined: { ...state.declined, [client]: reason } } : {}) };
}

/** What is to be done now: wait, ask (more) clients, close the round, or stop for want of clients. */
export type Due = "wait" | "ask" | "close" | "stop";

/** @param now the coordinator's time in milliseconds. */
export function dueNow(state: RunState, now: number): Due {
  const { plan, participants, phase, attempt, since } = state;
  if (phase !== "training") return "wait";
  const open = participants.filter((client) => awaited(state, client));
  const answered = Object.keys(state.uploads).length;
  const late = plan.roundMs > 0 && now - since >= plan.roundMs;
  if (participants.length === 0) {
    if (available(state).length >= plan.minClients) return "ask";
    // Others may still join; once some have left for good, nobody waits for ever.
    const patience = plan.attempts * plan.roundMs;
    return Object.keys(state.gone).length > 0 && now - since >= patience ? "stop" : "wait";
  }
  if (open.length > 0 && !late) return "wait";
  if (answered >= plan.minClients) return "close";
  if (attempt < plan.attempts && (late || available(state).length > 0)) return "ask";
  return "stop";
}

/** Members that could be asked besides those that were. */
function available({ members, gone, participants }: RunState): readonly string[] {
  return Object.keys(members)
    .filter((client) => !Object.hasOwn(gone, client) && !participants.includes(client))
    .sort();
}

/**
 * Ask clients: as many as the plan says, drawn without replacement by the plan's seed, the round and the attempt. In a further
 * attempt others are asked besides; whoever was asked before may still answer, and what was uploaded counts.
 */
export function asked(state: RunState, now: number): RunState {
  const { plan, round, participants, members, uploads } = state;
  const again = participants.length > 0;
  const attempt = again ? state.attempt + 1 : 1;
  const wanted = plan.clientsPerRound === 0 ? Object.keys(members).length : plan.clientsPerRound;
  const order = createRng(plan.seed, "participants", round, attempt).shuffle([...available(state)]);
  const added = order.slice(0, Math.max(0, wanted - Object.keys(uploads).length));
  return { ...state, attempt, since: now, participants: [...participants, ...added].sort() };
}

/** The shares that clients' changes have in this round's mean. */
export function sharesOfRound({ uploads, members, plan }: RunState): ReadonlyMap<string, number> {
  const clients = Object.keys(uploads).sort();
  const { weighting, maxWeight } = plan.aggregation;
  const counts = clients.map((client) => (weighting === "equal" ? 1 : (members[client]?.examples ?? 1)));
  const shares = sharesOf(counts, maxWeight);
  return new Map(clients.map((client, i) => [client, shares[i] ?? 0]));
}

/** What the round came to that is about to end. */
export function summaryOf(state: RunState, measures: Readonly<Record<string, number>>): RoundSummary {
  const { uploads, refused, declined, participants, news, base } = state;
  const shares = sharesOfRound(state);
  return {
    round: state.round,
    attempts: state.attempt,
    clients: Object.fromEntries(
      [...shares].map(([client, share]) => {
        const { loss, steps } = uploads[client] ?? { loss: Number.NaN, steps: 0 };
        return [client, { loss, steps, share }];
      }),
    ),
    refused,
    declined,
    silent: participants.filter((client) => awaited(state, client)),
    bytes: {
      up: Object.values(uploads).reduce((sum, { object }) => sum + object.bytes, 0),
      down: participants.length * (news ? bytesOfTypes(news.layers) : base.bytes),
    },
    measures,
  };
}

/** The next round, or the end. */
export function advanced(
  state: RunState,
  summary: RoundSummary,
  after: Pick<RunState, "base" | "layers"> & { readonly news: NonNullable<RunState["news"]> },
  now: number,
): RunState {
  const round = state.round + 1;
  return {
    ...state,
    ...after,
    phase: round >= state.plan.rounds ? "done" : "training",
    round,
    attempt: 1,
    since: now,
    participants: [],
    uploads: {},
    refused: {},
    declined: {},
    history: [...state.history, summary],
  };
}
