import { TuneError } from "../errors.ts";
import type { Accountant } from "../privacy/index.ts";
import type { AggregationOptions } from "./aggregate.ts";
import type { StrategyConfig } from "./strategies/table.ts";
import type { ObjectRef } from "./transport.ts";
import type { LayerType } from "./validate.ts";

/*
 * What the parties of a federation say to each other. Everything is JSON; factors travel as objects that are named here. What
 * comes from another party is checked by the readers below before anything is made of it.
 */

/** The version of these messages; parties of another version are refused. */
export const protocol = 1;

/** The state that the coordinator keeps, and everybody reads. */
export const runState = "run";

/** The state in which the coordinator is told to end; see {@link StopRequest}. */
export const stopState = "stop";

/** The coordinator ends once this round is closed, from 0; null where it has begun since. */
export interface StopRequest {
  readonly afterRound: number | null;
}

/** What every round is like; the same for all rounds and all clients. */
export interface FederationPlan {
  /** A name in `strategies`. */
  readonly strategy: string;
  readonly config: StrategyConfig;
  readonly rounds: number;
  /** Updates that a client makes in a round. */
  readonly localSteps: number;
  readonly learningRate: number;
  /** Examples of an update; with privacy the expected number. */
  readonly batchSize: number;
  /** Draws participants, and what a strategy draws anew. */
  readonly seed: number;
  /** How many clients are asked in a round; 0 asks all. */
  readonly clientsPerRound: number;
  /** With fewer uploads a round is not closed. */
  readonly minClients: number;
  /** Milliseconds for a round; 0 waits for all that were asked. */
  readonly roundMs: number;
  /** How often a round may be tried before the federation stops. */
  readonly attempts: number;
  readonly aggregation: AggregationOptions;
  /** The longest honest change of a client, where one is known; see `normBound`. */
  readonly normBound?: number;
  readonly privacy?: PrivacyPlan;
  /** What the model, its tokenizer and what is tuned of it are: clients with another are refused. */
  readonly base: string;
  /** What else a client's training needs to know, such as the optimiser. */
  readonly training: Readonly<Record<string, unknown>>;
}

/** What privacy every client keeps to. The noise that this takes, and the ledger, are each client's own. */
export interface PrivacyPlan {
  readonly clip: number;
  readonly delta: number;
  /** What a client's data may spend; 0 where the noise is given instead. */
  readonly epsilon: number;
  /** Standard deviation of the noise over the clipping norm; 0 where it follows from epsilon. */
  readonly noiseMultiplier: number;
  /** Rounds that a client's noise is made for; after these its budget is spent. */
  readonly maxRounds: number;
  readonly accountant: Accountant;
}

/** A client says that it is there. */
export interface Join {
  readonly protocol: number;
  /** Number of its examples. */
  readonly examples: number;
  /** Its model, its tokenizer, and what it tunes; must be the plan's. */
  readonly base: string;
}

/** A client says what it has trained. */
export interface Upload {
  readonly round: number;
  /** The SHA-256 of all that was tuned before it trained. */
  readonly base: string;
  readonly layers: readonly LayerType[];
  readonly object: ObjectRef;
  /** Mean training loss of its updates. */
  readonly loss: number;
  readonly steps: number;
}

/** A client says that it does not take part in a round. */
export interface Decline {
  readonly round: number;
  /** An error's code, such as `budget-spent`. */
  readonly reason: string;
  /** Whether it will take part in no later round either. */
  readonly forGood: boolean;
}

/** What a round came to. */
export interface RoundSummary {
  readonly round: number;
  readonly attempts: number;
  /** Clients whose uploads count, with what they said. */
  readonly clients: Readonly<Record<string, { readonly loss: number; readonly steps: number; readonly share: number }>>;
  readonly refused: Readonly<Record<string, string>>;
  readonly declined: Readonly<Record<string, string>>;
  /** Clients that were asked and said nothing in time. */
  readonly silent: readonly string[];
  readonly bytes: { readonly up: number; readonly down: number };
  /** What was measured of the result. */
  readonly measures: Readonly<Record<string, number>>;
}

/** The whole memory of a coordinator, with the objects that it names. */
export interface RunState {
  readonly protocol: number;
  readonly run: string;
  readonly plan: FederationPlan;
  readonly phase: "training" | "done" | "stopped";
  readonly round: number;
  /** How often this round was tried, from 1. */
  readonly attempt: number;
  /** The coordinator's time at which this attempt began. */
  readonly since: number;
  readonly participants: readonly string[];
  /** All that is tuned, as it stands before this round. */
  readonly base: ObjectRef;
  readonly layers: readonly LayerType[];
  /** How `base` follows from what stood before the last round, for those who have that. */
  readonly news?: { readonly from: string; readonly object: ObjectRef; readonly layers: readonly LayerType[] };
  readonly members: Readonly<Record<string, { readonly examples: number }>>;
  readonly uploads: Readonly<Record<string, Pick<Upload, "object" | "loss" | "steps">>>;
  readonly refused: Readonly<Record<string, string>>;
  readonly declined: Readonly<Record<string, string>>;
  /** Members that take part no more, and why. */
  readonly gone: Readonly<Record<string, string>>;
  readonly history: readonly RoundSummary[];
}

type Fields = Readonly<Record<string, unknown>>;

/** @throws {TuneError} `bad-message` for what is no such message. */
export function readJoin(body: unknown, at: string): Join {
  const { protocol: version, examples, base } = fieldsOf(body, at);
  if (version !== protocol) throw badMessage(`it speaks version ${String(version)}, not ${protocol}`, at);
  return { protocol, examples: count(examples, 1, "examples", at), base: text(base, "base", at) };
}

/**
 * What an upload says; its layers are held against what they must be by `checkDeclared`.
 * @throws {TuneError} `bad-message` for what is no such message.
 */
export function readUpload(body: unknown, at: string): Upload {
  const { round, base, layers, object, loss, steps } = fieldsOf(body, at);
  return {
    round: count(round, 0, "round", at),
    base: text(base, "base", at),
    layers: (Array.isArray(layers) ? layers : []) as readonly LayerType[], // `checkDeclared` looks at each
    object: readRef(object, at),
    loss: typeof loss === "number" && Number.isFinite(loss) ? loss : Number.NaN,
    steps: count(steps, 0, "steps", at),
  };
}

/** @throws {TuneError} `bad-message` for what is no such message. */
export function readDecline(body: unknown, at: string): Decline {
  const { round, reason, forGood } = fieldsOf(body, at);
  return {
    round: count(round, 0, "round", at),
    reason: text(reason, "reason", at).slice(0, 100),
    forGood: forGood === true,
  };
}

/**
 * The state as a client reads it. Only what decides whether it can be understood is checked: who may write it, the transport
 * decides.
 * @throws {TuneError} `bad-message` for another version, or for what is no state.
 */
export function readState(value: unknown, at: string): RunState | undefined {
  if (value === undefined) return undefined;
  const state = fieldsOf(value, at);
  if (state["protocol"] !== protocol) {
    throw badMessage(`the coordinator speaks version ${String(state["protocol"])}, not ${protocol}`, at);
  }
  return state as unknown as RunState; // written by a coordinator of this version
}

function readRef(value: unknown, at: string): ObjectRef {
  const { sha256, bytes, from } = fieldsOf(value, at);
  const hash = text(sha256, "sha256", at);
  if (!/^[0-9a-f]{64}$/.test(hash)) throw badMessage("sha256 is no hash", at);
  return { sha256: hash, bytes: count(bytes, 0, "bytes", at), from: text(from, "from", at) };
}

function fieldsOf(body: unknown, at: string): Fields {
  if (typeof body !== "object" || body === null || Array.isArray(body)) throw badMessage("it is no object", at);
  return body as Fields;
}

function count(value: unknown, least: number, name: string, at: string): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
  throw badMessage(`${name} is ${JSON.stringify(value)?.slice(0, 100)}, not a whole number from ${least}`, at);
}

function text(value: unknown, name: string, at: string): string {
  if (typeof value === "string" && value.length > 0 && value.length <= 1000) return value;
  throw badMessage(`${name} is no text`, at);
}

function badMessage(what: string, at: string): TuneError {
  return new TuneError("bad-message", `A message cannot be used: ${what}.`, {
    at,
    fix: "use the same version of Scion on all sides",
  });
}
