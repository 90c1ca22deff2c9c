import { listing, TuneError } from "../errors.ts";
import { isJsonObject, type JsonObject } from "../io/json.ts";
import { readSealed, writeSealed } from "../io/sealed.ts";
import type { Storage } from "../io/storage.ts";
import { type Accountant, accountants } from "./calibrate.ts";
import { rdpEpsilon } from "./rdp.ts";
import { composed, problems, refuse, type Spend } from "./spend.ts";

/** Steps that were made with some data, or may have been: they were written down before. */
export interface LedgerEntry extends Spend {
  /** What they were made for, such as a run and a round; one entry an id. */
  readonly id: string;
  /** Whether the noise came from a key that others may know, as in tests: then nothing was private. */
  readonly notPrivate?: true;
}

/** What may be spent in all. */
export interface Budget {
  readonly epsilon: number;
  readonly delta: number;
  /** Who says what was spent; `prv` when absent. */
  readonly accountant?: Accountant;
}

/** What training with some data has cost so far. It is kept beside the data, by whoever holds them. */
export interface Ledger {
  readonly entries: readonly LedgerEntry[];
  /**
   * Write steps down, before they are made. Steps of an id that is there already, with the same rate and noise, are those steps
   * again, for a run that goes on after it was killed and draws the same batches and noise: only what is more counts.
   * @throws {TuneError} `budget-spent` when they would exceed the budget, with nothing written; `ledger-mismatch` when the id has
   * another rate or noise.
   */
  reserve(entry: LedgerEntry, budget: Budget): Promise<void>;
  /**
   * Say that no more than so many steps of an id were made, and that no more will be: a run that stopped early gives the rest back.
   */
  settle(id: string, steps: number): Promise<void>;
  /** Let others have it. */
  close(): Promise<void>;
}

const kind = "scion-privacy-ledger";
const version = 1;

/**
 * Open a ledger for writing, or begin one where there is no file. Nobody else can until it is closed.
 * @throws {TuneError} `ledger-damaged` when the file is not as it was written: it is never begun anew; `in-use`.
 */
export async function openLedger(storage: Storage, path: string): Promise<Ledger> {
  const lock = await storage.lock(path);
  let entries: readonly LedgerEntry[];
  try {
    entries = (await readLedger(storage, path)) ?? [];
  } catch (error) {
    await lock.release();
    throw error;
  }
  let queue: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const result = queue.then(work);
    queue = result.catch(() => undefined);
    return result;
  };
  const keep = async (next: readonly LedgerEntry[]): Promise<void> => {
    await writeSealed(storage, path, { kind, version, entries: next });
    entries = next;
  };
  const without = (id: string): readonly LedgerEntry[] => entries.filter((entry) => entry.id !== id);

  return {
    get entries() {
      return entries;
    },
    reserve: (entry, budget) =>
      inTurn(async () => {
        refuse([...entryProblems(entry), problems.epsilon(budget.epsilon), problems.delta(budget.delta)]);
        const known = entries.find(({ id }) => id === entry.id);
        if (known !== undefined) requireSame(known, entry, path);
        const steps = Math.max(entry.steps, known?.steps ?? 0);
        const notPrivate = entry.notPrivate ?? known?.notPrivate;
        const { id, samplingRate, noiseMultiplier } = entry;
        const next = [
          ...without(id),
          { id, samplingRate, noiseMultiplier, steps, ...(notPrivate === undefined ? {} : { notPrivate }) },
        ];
        if (steps === known?.steps && notPrivate === known.notPrivate) return;
        requireWithin(entries, next, budget, path);
        await keep(next);
      }),
    settle: (id, steps) =>
      inTurn(async () => {
        const known = entries.find((entry) => entry.id === id);
        if (known === undefined || steps >= known.steps) return;
        refuse([problems.steps(steps)]);
        await keep([...without(id), { ...known, steps }]);
      }),
    close: async () => {
      await queue;
      await lock.release();
    },
  };
}

/**
 * What a ledger says, in the order in which it was last changed; undefined where there is none. Nobody is kept from writing to it.
 * @throws {TuneError} `ledger-damaged`.
 */
export async function readLedger(storage: Storage, path: string): Promise<readonly LedgerEntry[] | undefined> {
  let content: JsonObject | undefined;
  try {
    content = await readSealed(storage, path);
  } catch (cause) {
    if (cause instanceof TuneError && cause.code === "bad-checkpoint") throw damaged(path, cause);
    throw cause;
  }
  if (content === undefined) return undefined;
  const { entries } = content;
  if (content["kind"] !== kind || content["version"] !== version || !Array.isArray(entries)) throw damaged(path);
  if (!entries.every(isEntry)) throw damaged(path);
  return entries;
}

/** Whether all noise of a ledger was secret. */
export function isPrivate(entries: readonly LedgerEntry[]): boolean {
  return entries.every((entry) => entry.notPrivate === undefined);
}

function isEntry(value: unknown): value is LedgerEntry {
  if (!isJsonObject(value)) return false;
  const { id, samplingRate, noiseMultiplier, steps, notPrivate } = value;
  if (typeof id !== "string" || typeof samplingRate !== "number" || typeof noiseMultiplier !== "number") return false;
  if (typeof steps !== "number" || (notPrivate !== undefined && notPrivate !== true)) return false;
  return entryProblems({ id, samplingRate, noiseMultiplier, steps }).every((problem) => problem === undefined);
}

function entryProblems(entry: LedgerEntry): readonly (string | undefined)[] {
  return [
    problems.samplingRate(entry.samplingRate),
    problems.noiseMultiplier(entry.noiseMultiplier),
    problems.steps(entry.steps),
  ];
}

function damaged(path: string, cause?: unknown): TuneError {
  return new TuneError(
    "ledger-damaged",
    "The ledger is not as it was written: what these data have spent is unknown.",
    {
      at: path,
      fix: "take the file from a backup; without it, nothing more can be promised for these data",
      cause,
    },
  );
}

function requireSame(known: LedgerEntry, entry: LedgerEntry, path: string): void {
  const differences = (["samplingRate", "noiseMultiplier"] as const)
    .filter((name) => known[name] !== entry[name])
    .map((name) => `${name}: ${known[name]} then, ${entry[name]} now`);
  if (differences.length === 0) return;
  throw new TuneError("ledger-mismatch", listing(`Steps of "${entry.id}" were written down otherwise:`, differences), {
    at: path,
    fix: "go on with the numbers of then, or give the run another name, as which it spends anew",
  });
}

function requireWithin(before: readonly LedgerEntry[], after: readonly Spend[], budget: Budget, path: string): void {
  const { epsilon, delta, accountant = "prv" } = budget;
  if (rdpEpsilon(after, delta).epsilon <= epsilon) return; // the truth is below that: no need to ask another
  const then = epsilonAfter(after, delta, accountant);
  if (then <= epsilon) return;
  const now = epsilonAfter(before, delta, accountant);
  throw new TuneError(
    "budget-spent",
    `These steps would bring what the data have spent from epsilon ${now.toFixed(3)} to ${then.toFixed(3)}, beyond ${epsilon} (delta ${delta}).`,
    { at: path, fix: "take fewer steps or more noise, or allow a larger epsilon" },
  );
}

/** Epsilons that were computed last, as clients of a federation ask for the same ones. */
const remembered = new Map<string, number>();

function epsilonAfter(spends: readonly Spend[], delta: number, accountant: Accountant): number {
  const all = composed(spends);
  const key = JSON.stringify([accountant, delta, all.map((one) => [one.samplingRate, one.noiseMultiplier, one.steps])]);
  const known = remembered.get(key);
  if (known !== undefined) return known;
  const { epsilon } = accountants[accountant](all, delta);
  if (remembered.size >= 1000) remembered.clear();
  remembered.set(key, epsilon);
  return epsilon;
}
