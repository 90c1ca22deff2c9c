import { TuneError } from "../errors.ts";
import type { Spend } from "../privacy/index.ts";
import type { StopSignal } from "../signal.ts";
import { hashOf, sha256 } from "./digest.ts";
import { type Pieces, piecesOf, type Tuned, trainedPieces, tunedOf } from "./factors.ts";
import {
  type Decline,
  type FederationPlan,
  type Join,
  protocol,
  type RunState,
  readState,
  runState,
  type Upload,
} from "./messages.ts";
import { awaited } from "./rounds.ts";
import { chooseStrategy } from "./strategies/table.ts";
import type { Transport } from "./transport.ts";
import { readPieces, typesOf, writePieces } from "./validate.ts";

/** How a client trains. It knows model and data; nothing else of a client does. */
export interface LocalTraining {
  /** Number of examples. */
  readonly examples: number;
  /** What the model, its tokenizer and what is tuned are; must be the plan's `base`. */
  readonly base: string;
  /** What a round costs of the privacy of the data; undefined without noise. */
  spend(plan: FederationPlan): Spend | undefined;
  /** Make the updates of a round, with an optimiser that starts anew; with the plan's privacy, each clipped and noised. */
  train(request: TrainingRequest): Promise<LocallyTrained>;
}

/** What is to be trained. */
export interface TrainingRequest {
  readonly tuned: Tuned;
  /** From 0. */
  readonly round: number;
  readonly plan: FederationPlan;
  readonly signal?: StopSignal;
}

/** What was trained. */
export interface LocallyTrained {
  /** All that is tuned, after the updates. */
  readonly tuned: Tuned;
  /** Mean loss of the updates. */
  readonly loss: number;
  readonly steps: number;
}

/** What a client is handed. */
export interface ClientOptions {
  readonly transport: Transport;
  readonly training: LocalTraining;
  /**
   * Write down what a round is about to spend, before it is spent: a ledger's `reserve` with a budget. The same id again is the
   * same spend, as its noise is the same too. Needed where the plan has privacy.
   * @throws {TuneError} `budget-spent` where it would be too much.
   */
  readonly reserve?: (id: string, spend: Spend) => Promise<void>;
  readonly signal?: StopSignal;
  readonly onEvent?: (event: ClientEvent) => void;
}

/** What happens at a client. */
export type ClientEvent =
  | { readonly kind: "training"; readonly round: number }
  | { readonly kind: "uploaded"; readonly round: number; readonly upload: Upload }
  | { readonly kind: "declined"; readonly round: number; readonly reason: string };

/** A client that takes part. */
export interface Client {
  /** Look at the state, and do what it asks; events do the same. */
  attend(): Promise<void>;
  /** Why the client has left for good; undefined while it takes part. */
  readonly left: () => TuneError | undefined;
  /** Take part no more. What was reserved stays reserved. */
  close(): Promise<void>;
}

/**
 * Take part in a federation: join it, and train whenever it is asked to. Budget is written down before the first update of a
 * round; a client whose budget is spent says so and takes part no more.
 * @throws {TuneError} `base-mismatch` where the federation tunes another model, `bad-message`, and what the transport throws.
 */
export async function takePart(options: ClientOptions): Promise<Client> {
  const { transport, training, reserve, signal } = options;
  const name = transport.party;
  if (!(training.examples > 0)) {
    throw new TuneError("no-examples", "A client without examples has nothing to train on.", {
      at: `client ${name}`,
      fix: "give it data, or leave it out",
    });
  }
  const state = readState((await transport.update(runState, () => undefined)).value, "state of the federation");
  if (state) checkPlan(state.plan, options);
  let agreed: string | undefined = state && (await hashOf(state.plan));
  let known: { readonly hash: string; readonly tuned: Tuned } | undefined;
  let done = -1; // the last round that was trained
  let last: Upload | undefined;
  let left: TuneError | undefined;
  let turn: Promise<void> = Promise.resolve();

  const decline = async (round: number, error: TuneError, forGood: boolean): Promise<void> => {
    const body: Decline = { round, reason: error.code, forGood };
    await transport.publish({ kind: "decline", id: `${name}/${round}/${error.code}`, body });
    options.onEvent?.({ kind: "declined", round, reason: error.code });
    if (forGood) left = error;
  };

  const attendOnce = async (): Promise<void> => {
    const now = readState((await transport.update(runState, () => undefined)).value, "state of the federation");
    if (left || !now || signal?.aborted) return;
    const { round, plan } = now;
    if (agreed === undefined) {
      try {
        checkPlan(plan, options);
      } catch (error) {
        if (error instanceof TuneError) return decline(round, error, true);
        throw error;
      }
      agreed = await hashOf(plan);
    }
    if (now.phase !== "training" || !awaited(now, name)) return;
    if (agreed !== (await hashOf(plan))) {
      const error = new TuneError("plan-changed", "The plan of the federation is not the one that was agreed to.", {
        at: now.run,
        fix: "join again, if the new plan is fine",
      });
      return decline(round, error, true);
    }
    if (done === round && last) return tell(now.run, last);
    const tuned = await tunedAt(now);
    const spend = training.spend(plan);
    if (spend) {
      try {
        await reserve?.(`${now.run} round ${round + 1}`, spend); // `checkPlan` has refused to go without
      } catch (error) {
        if (error instanceof TuneError && error.code === "budget-spent") return decline(round, error, true);
        throw error;
      }
    }
    options.onEvent?.({ kind: "training", round });
    const result = await training
      .train({ tuned, round, plan, ...(signal ? { signal } : {}) })
      .catch(async (error: unknown) => {
        if (!(error instanceof TuneError) || error.code !== "not-finite-loss") throw error;
        await decline(round, error, false); // the others go on without it
        return undefined;
      });
    if (result === undefined) return;
    const { strategy } = chooseStrategy(plan.strategy, plan.config);
    const delta = difference(trainedPieces(result.tuned, strategy.trains), trainedPieces(tuned, strategy.trains));
    const upload: Upload = {
      round,
      base: now.base.sha256,
      layers: typesOf(delta),
      object: await transport.put(writePieces(delta)),
      // The loss on private data tells of them; only what is noised goes out.
      loss: plan.privacy ? Number.NaN : result.loss,
      steps: result.steps,
    };
    done = round;
    last = upload;
    await tell(now.run, upload);
  };

  const tell = async (run: string, upload: Upload): Promise<void> => {
    await transport.publish({ kind: "upload", id: `${run}/${upload.round}/${name}`, body: upload });
    options.onEvent?.({ kind: "uploaded", round: upload.round, upload });
  };

  /** What is tuned now: from the news where this client knows what stood before, else whole. */
  const tunedAt = async ({ base, layers, news, plan, round }: RunState): Promise<Tuned> => {
    if (known?.hash === base.sha256) return known.tuned;
    if (known && news && news.from === known.hash) {
      const { strategy, config } = chooseStrategy(plan.strategy, plan.config);
      const pieces = readPieces(await transport.get(news.object), news.layers, "news of the coordinator");
      const context = { round: round - 1, rounds: plan.rounds, seed: plan.seed };
      const tuned = strategy.follow(known.tuned, pieces, context, config);
      if ((await sha256(writePieces(piecesOf(tuned)))) === base.sha256) {
        known = { hash: base.sha256, tuned };
        return tuned;
      }
    }
    const tuned = tunedOf(readPieces(await transport.get(base), layers, "factors of the coordinator"));
    known = { hash: base.sha256, tuned };
    return tuned;
  };

  const attend = (): Promise<void> => {
    const next = turn.then(attendOnce);
    turn = next.catch(() => undefined);
    return next;
  };
  const join: Join = { protocol, examples: training.examples, base: training.base };
  const unsubscribe = await transport.subscribe("round", attend);
  await transport.publish({ kind: "join", id: name, body: join });
  await attend();
  return {
    attend,
    left: () => left,
    close: async () => {
      await unsubscribe();
      await turn;
    },
  };
}

/** All that is tuned, as a state says it. @throws {TuneError} `object-missing`, `object-damaged`, `bad-upload`. */
export async function tunedAtEnd(transport: Transport, { base, layers }: RunState): Promise<Tuned> {
  return tunedOf(readPieces(await transport.get(base), layers, "factors of the coordinator"));
}

/** @throws {TuneError} for a plan that this client cannot or may not follow. */
function checkPlan(plan: FederationPlan, { training, reserve, transport }: ClientOptions): void {
  const at = `client ${transport.party}`;
  if (plan.base !== training.base) {
    throw new TuneError(
      "base-mismatch",
      "The federation tunes another model, or tunes it otherwise, than this client has.",
      {
        at,
        fix: "use the same model, tokenizer and targets as the coordinator",
      },
    );
  }
  if (plan.privacy && reserve === undefined) {
    throw new TuneError(
      "bad-option",
      "The federation is private, and this client has no ledger for what its data spend.",
      {
        at,
        fix: "give it one (reserve)",
      },
    );
  }
}

function difference(after: Pieces, before: Pieces): Pieces {
  return new Map(
    [...after].map(([name, { shape, data }]) => {
      const from = before.get(name)?.data;
      return [name, { shape, data: data.map((value, i) => value - (from?.[i] ?? 0)) }];
    }),
  );
}
