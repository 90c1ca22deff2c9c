import { TuneError } from "../errors.ts";
import { type RoundSummary, type RunState, sha256 } from "../federated/index.ts";
import { readSealed, writeSealed } from "../io/sealed.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { tfRecord } from "../io/tfevents.ts";
import type { Facts } from "../train/fingerprint.ts";
import { checkOutput, claimOutput } from "./outputs.ts";

/** What a simulation goes on from. */
interface Saved {
  readonly state: RunState;
  /** The bytes of the object that the state names: all that is tuned. */
  readonly object: Uint8Array;
  readonly facts: Facts;
  readonly base: Readonly<Record<string, number>>;
}

/** The folder of a federation that is under way. */
export interface FederationFolder {
  readonly saved: Saved | undefined;
  /** Keep what decides the results, what the base model measured, and what stands before the first round. */
  begin(facts: Facts, base: Readonly<Record<string, number>>, state: RunState, object: Uint8Array): Promise<void>;
  /** Keep what stands after a round, and add its metrics. */
  keep(state: RunState, object: Uint8Array, summary: RoundSummary): Promise<void>;
  close(): Promise<void>;
}

/** One line of a federation's `metrics.jsonl`. */
export type FederationMetric =
  | {
      readonly kind: "round";
      readonly round: number;
      readonly loss: number | null;
      readonly measures: Readonly<Record<string, number>>;
      readonly clients: number;
      readonly attempts: number;
      readonly bytesUp: number;
      readonly bytesDown: number;
    }
  | {
      readonly kind: "client";
      readonly round: number;
      readonly client: string;
      readonly loss: number;
      readonly steps: number;
      readonly share: number;
    }
  | { readonly kind: "absent"; readonly round: number; readonly client: string; readonly why: string };

const stateFile = "state.json";
const metricsFile = "metrics.jsonl";

/**
 * Open the folder of a federation, and claim it.
 * @throws {TuneError} `run-exists` where one is and `resume` is not set; `bad-checkpoint`; `in-use`; as `checkOutput`.
 */
export async function openFederationFolder(
  storage: Storage,
  folder: string,
  { resume, tensorboard }: { readonly resume: boolean; readonly tensorboard: boolean },
): Promise<FederationFolder> {
  const path = joinPath(folder, stateFile);
  const replaces = storage.guard?.replace === true;
  await checkOutput(storage, folder, "federation");
  const lock = await storage.lock(joinPath(folder, "federation"));
  try {
    if (!resume && !replaces && (await storage.sizeBytes(path)) !== undefined) {
      throw new TuneError("run-exists", "This folder holds a federation already.", {
        at: path,
        fix: "go on with it (resume), start over (replace), or choose another output folder",
      });
    }
    await claimOutput(storage, folder, "federation", { fresh: !resume });
    const found = resume ? await readState(storage, folder) : undefined;
    let facts: Facts = found?.facts ?? {};
    let base = found?.base ?? {};
    const lines = textOf(found?.state.history ?? []);
    // What a kill or damage has left of them is made again of the rounds that the state holds.
    if (lines !== "" || (await storage.sizeBytes(joinPath(folder, metricsFile))) !== undefined)
      await storage.write(joinPath(folder, metricsFile), lines);
    const events = tensorboard ? await openEvents(storage, folder, found?.state.round ?? 0) : undefined;
    const write = async (state: RunState, object: Uint8Array): Promise<void> => {
      const own = `${state.base.sha256}.bin`;
      await storage.write(joinPath(folder, "objects", own), object);
      await writeSealed(storage, path, { state, facts, base });
      for (const name of await storage.list(joinPath(folder, "objects"))) {
        if (name !== own) await storage.remove(joinPath(folder, "objects", name));
      }
    };
    return {
      saved: found,
      begin: async (given, measured, state, object) => {
        facts = given;
        base = measured;
        await events?.add(0, scalarsOf(measured));
        await write(state, object);
      },
      keep: async (state, object, summary) => {
        await storage.append(joinPath(folder, metricsFile), textOf([summary]));
        await events?.add(summary.round + 1, {
          ...scalarsOf(summary.measures),
          ...Object.fromEntries(
            Object.entries(summary.clients).map(([client, { loss }]) => [`clients/${client}/loss`, loss]),
          ),
        });
        await write(state, object);
      },
      close: () => lock.release(),
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function readState(storage: Storage, folder: string): Promise<Saved | undefined> {
  const content = await readSealed(storage, joinPath(folder, stateFile));
  if (content === undefined) return undefined;
  const { state, facts, base } = content as unknown as Omit<Saved, "object">; // as it was written, by its checksum
  const path = joinPath(folder, "objects", `${state.base.sha256}.bin`);
  const object = await storage.read(path);
  if ((await sha256(object)) === state.base.sha256) return { state, facts, base, object };
  throw new TuneError("bad-checkpoint", "The file is not as it was written: its checksum differs.", {
    at: path,
    fix: "take it from a backup, or start again in another folder (or here, with replace)",
  });
}

function linesOf({
  round,
  measures,
  clients,
  attempts,
  bytes,
  refused,
  declined,
  silent,
}: RoundSummary): readonly FederationMetric[] {
  const { loss = null, ...others } = measures as Readonly<Record<string, number>> & { readonly loss?: number };
  const absent = { ...refused, ...declined, ...Object.fromEntries(silent.map((client) => [client, "silent"])) };
  return [
    ...Object.entries(clients).map(
      ([client, own]): FederationMetric => ({ kind: "client", round: round + 1, client, ...own }),
    ),
    ...Object.entries(absent).map(
      ([client, why]): FederationMetric => ({ kind: "absent", round: round + 1, client, why }),
    ),
    {
      ...{ kind: "round", round: round + 1, loss, measures: others, clients: Object.keys(clients).length, attempts },
      ...{ bytesUp: bytes.up, bytesDown: bytes.down },
    },
  ];
}

/** The lines of some rounds. */
function textOf(history: readonly RoundSummary[]): string {
  return history
    .flatMap(linesOf)
    .map((line) => `${JSON.stringify(line)}\n`)
    .join("");
}

/** By the tags that Hugging Face's Trainer uses. */
function scalarsOf(measures: Readonly<Record<string, number>>): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(measures).map(([name, value]) => [`eval/${name}`, value]));
}

/** A file of events whose steps are rounds. */
async function openEvents(
  storage: Storage,
  folder: string,
  firstStep: number,
): Promise<{ add(step: number, scalars: Readonly<Record<string, number>>): Promise<void> }> {
  const now = (): number => Date.now() / 1000;
  const path = joinPath(folder, `events.out.tfevents.${String(Math.floor(now())).padStart(10, "0")}.scion`);
  await storage.append(path, tfRecord({ step: 0, wallTime: now(), fileVersion: "brain.Event:2" }));
  await storage.append(path, tfRecord({ step: firstStep + 1, wallTime: now(), starts: true }));
  return { add: (step, scalars) => storage.append(path, tfRecord({ step, wallTime: now(), scalars })) };
}
