import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { isJsonObject, parseJsonObject } from "../io/json.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { Storage } from "../io/storage.ts";

/** Where a run stands between two updates. Batch order and randomness follow from the step, so they are not kept. */
export interface Progress {
  /** Updates made. */
  readonly step: number;
  /** Lowest validation loss so far, and when it was. */
  readonly best: { readonly step: number; readonly loss: number } | undefined;
  /** Evaluations since then. */
  readonly evaluationsWithoutGain: number;
}

/** A saved run. */
export interface Checkpoint {
  readonly progress: Progress;
  /** The settings and data the run was started with, compared before it goes on. */
  readonly fingerprint: Readonly<Record<string, unknown>>;
  readonly state: ReadonlyMap<string, Tensor>;
  /** Parameters at the best evaluation. */
  readonly best: ReadonlyMap<string, Tensor> | undefined;
}

const bestPrefix = "best/";
const statePrefix = "state/";

/** Write a checkpoint as one safetensors file, which takes its name only when it is whole. */
export async function writeCheckpoint(storage: Storage, path: string, checkpoint: Checkpoint): Promise<void> {
  const { progress, fingerprint, state, best } = checkpoint;
  const entries = [
    ...[...state].map(([name, tensor]) => ({ name: statePrefix + name, tensor })),
    ...[...(best ?? [])].map(([name, tensor]) => ({ name: bestPrefix + name, tensor })),
  ];
  await writeSafetensors(storage, path, entries, { scion: JSON.stringify({ version: 1, progress, fingerprint }) });
}

/**
 * Read a checkpoint; undefined when there is none yet.
 * @throws {TuneError} `bad-checkpoint` when the file is not one, and what a malformed safetensors file throws.
 */
export async function readCheckpoint(storage: Storage, path: string): Promise<Checkpoint | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  const { metadata, tensors } = await openSafetensors(storage, path);
  const text = metadata["scion"];
  const header = text === undefined ? {} : parseJsonObject(new TextEncoder().encode(text), "bad-checkpoint", path);
  const { version, progress, fingerprint } = header;
  if (version !== 1 || !isProgress(progress) || !isJsonObject(fingerprint)) {
    throw new TuneError("bad-checkpoint", "This file does not hold the progress of a run.", {
      at: path,
      fix: "start the run again in an empty folder",
    });
  }
  const state = new Map<string, Tensor>();
  const best = new Map<string, Tensor>();
  for (const [name, lazy] of tensors) {
    if (name.startsWith(bestPrefix)) best.set(name.slice(bestPrefix.length), await lazy.read());
    else if (name.startsWith(statePrefix)) state.set(name.slice(statePrefix.length), await lazy.read());
  }
  return { progress, fingerprint, state, best: best.size > 0 ? best : undefined };
}

function isProgress(value: unknown): value is Progress {
  if (!isJsonObject(value)) return false;
  const { step, best, evaluationsWithoutGain } = value;
  const bestFits =
    best === undefined || (isJsonObject(best) && typeof best["step"] === "number" && typeof best["loss"] === "number");
  return Number.isSafeInteger(step) && Number(step) >= 0 && bestFits && typeof evaluationsWithoutGain === "number";
}

/**
 * Refuse to go on with other settings or data than the run was started with.
 * @throws {TuneError} `resume-mismatch` listing every difference.
 */
export function checkFingerprint(
  saved: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
  at: string,
): void {
  const differences = [...new Set([...Object.keys(saved), ...Object.keys(now)])]
    .filter((key) => JSON.stringify(saved[key]) !== JSON.stringify(now[key]))
    .map((key) => `${key}: ${JSON.stringify(saved[key])} then, ${JSON.stringify(now[key])} now`);
  if (differences.length === 0) return;
  throw new TuneError("resume-mismatch", `The run was started differently:\n  ${differences.join("\n  ")}`, {
    at,
    fix: "resume with the same settings, model and data, or start a new run in another folder",
  });
}
