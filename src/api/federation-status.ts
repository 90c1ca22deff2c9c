import { TuneError } from "../errors.ts";
import {
  awaited,
  type FederationPlan,
  type RoundSummary,
  type RunState,
  readState,
  runState,
  type StopRequest,
  stopState,
  type Transport,
} from "../federated/index.ts";
import { readSealed } from "../io/sealed.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { accountants } from "../privacy/index.ts";
import type { FederationResult } from "./federate.ts";
import { federationPage } from "./federation-report.ts";
import { spendOf } from "./federation-trainer.ts";

/** How a federation stands that is coordinated somewhere. */
export interface FederationStatus {
  readonly run: string;
  readonly phase: RunState["phase"];
  /** Whether the coordinator was told to end after a round, and has not begun again. */
  readonly stopping: boolean;
  /** Rounds that were closed. */
  readonly round: number;
  readonly rounds: number;
  /** How often the round under way was tried, from 1, and for how long it has been; where the coordinator's clock is another, by that. */
  readonly attempt: number;
  readonly seconds: number;
  readonly strategy: string;
  readonly clients: readonly ClientStatus[];
  /** What the last round came to. */
  readonly last?: RoundSummary;
}

/** How a client stands. */
export interface ClientStatus {
  readonly client: string;
  /** As it says itself. */
  readonly examples: number;
  /**
   * In the round under way. It is late where it was asked and has not answered, though half of those that were asked have, or the
   * round's time is over.
   */
  readonly now: "idle" | "training" | "late" | "sent" | "refused" | "declined" | "gone";
  /** Why it was refused, declined, or is gone. */
  readonly why?: string;
  /** Rounds that count it, and those that went on without it. */
  readonly rounds: number;
  readonly missed: number;
  /** What its data have spent at most: as if it had trained in every round in which it was asked. Its own ledger says what is so. */
  readonly spent?: { readonly epsilon: number; readonly delta: number; readonly steps: number };
}

/**
 * Look at a federation through its coordinator's transport.
 * @throws {TuneError} `no-federation` where no coordinator has begun; what the transport throws.
 */
export async function federationStatus(transport: Transport): Promise<FederationStatus> {
  const state = await standing(transport);
  const { value } = await transport.update(stopState, () => undefined);
  const after = (value as StopRequest | undefined)?.afterRound ?? undefined; // a coordinator wrote it
  const { run, phase, round, attempt, plan, members, history, participants, since } = state;
  const open = participants.filter((client) => awaited(state, client));
  const milliseconds = participants.length > 0 && phase === "training" ? Math.max(0, Date.now() - since) : 0;
  const over = (plan.roundMs > 0 && milliseconds > plan.roundMs) || 2 * open.length <= participants.length;
  const nowOf = (client: string): Pick<ClientStatus, "now" | "why"> => {
    const { gone, refused, declined, uploads } = state;
    if (gone[client] !== undefined) return { now: "gone", why: gone[client] };
    if (refused[client] !== undefined) return { now: "refused", why: refused[client] };
    if (declined[client] !== undefined) return { now: "declined", why: declined[client] };
    if (uploads[client] !== undefined) return { now: "sent" };
    return { now: !open.includes(client) || phase !== "training" ? "idle" : over ? "late" : "training" };
  };
  const clients = Object.entries(members).map(([client, { examples }]): ClientStatus => {
    const counted = history.filter((each) => client in each.clients).length;
    const missed = history.filter((each) => isMissing(each, client)).length;
    const asked = counted + missed + (participants.includes(client) ? 1 : 0);
    return { client, examples, ...nowOf(client), rounds: counted, missed, ...spentBy(plan, examples, asked) };
  });
  const last = history.at(-1);
  return {
    ...{ run, phase, round, rounds: plan.rounds, attempt, strategy: plan.strategy },
    stopping: phase === "training" && after !== undefined,
    seconds: Math.round(milliseconds / 1000),
    clients: clients.sort((a, b) => (a.client < b.client ? -1 : 1)),
    ...(last ? { last } : {}),
  };
}

/**
 * Tell the coordinator of a federation to end once the round under way is closed. What stands is kept: the same coordinator goes on
 * when it is started again, and clients wait for it.
 * @returns the number of rounds that will have been closed; undefined where the federation has ended already.
 * @throws {TuneError} `no-federation` where no coordinator has begun; what the transport throws.
 */
export async function stopFederation(transport: Transport): Promise<number | undefined> {
  const { phase, round, participants } = await standing(transport);
  if (phase !== "training") return undefined;
  const request: StopRequest = { afterRound: round };
  await transport.update(stopState, () => request);
  return participants.length > 0 ? round + 1 : round;
}

/**
 * The page, with pictures, of a federation whose folder is there: a coordinator's or a simulation's, also while it goes on.
 * @throws {TuneError} `file-not-found` where the folder holds none; `bad-checkpoint` where its state is damaged.
 */
export async function federationReport(
  storage: Storage,
  folder: string,
): Promise<{ readonly page: string; readonly round: number; readonly rounds: number }> {
  const path = joinPath(folder, "state.json");
  const content = await readSealed(storage, path);
  if (content === undefined || !("state" in content)) {
    throw new TuneError("file-not-found", `${folder} holds no federation that has begun.`, {
      at: path,
      fix: "name the folder that scion federate simulate or serve wrote to (--output)",
    });
  }
  const { state, base } = content as unknown as { state: RunState; base: FederationResult["base"] }; // as it was written, by its checksum
  const { phase, history, plan, members, round } = state;
  const ended = ({ done: "finished", stopped: "too-few-clients", training: "interrupted" } as const)[phase];
  const examples = Object.fromEntries(Object.entries(members).map(([name, member]) => [name, member.examples]));
  return { page: federationPage({ history, base, plan, ended }, examples), round, rounds: plan.rounds };
}

async function standing(transport: Transport): Promise<RunState> {
  const state = readState((await transport.update(runState, () => undefined)).value, "state of the federation");
  if (state) return state;
  throw new TuneError("no-federation", "No coordinator has begun this federation.", {
    fix: "start it: scion federate serve",
  });
}

function isMissing({ refused, declined, silent }: RoundSummary, client: string): boolean {
  return Object.hasOwn(refused, client) || Object.hasOwn(declined, client) || silent.includes(client);
}

function spentBy(plan: FederationPlan, examples: number, rounds: number): Pick<ClientStatus, "spent"> {
  const spend = spendOf(plan, examples);
  if (!spend || !plan.privacy) return {};
  const { delta, accountant, maxRounds } = plan.privacy;
  const steps = spend.steps * Math.min(rounds, maxRounds);
  const epsilon = steps === 0 ? 0 : accountants[accountant]([{ ...spend, steps }], delta).epsilon;
  return { spent: { epsilon, delta, steps } };
}
