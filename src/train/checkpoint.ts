import { TuneError } from "../errors.ts";
import { bytesOf, type Tensor } from "../graph/index.ts";
import { contentHash, createContentHash } from "../io/content-hash.ts";
import { isJsonObject, parseJsonObject } from "../io/json.ts";
import {
  headerBytes,
  type NamedTensor,
  openSafetensors,
  safetensorsLayout,
  writeSafetensors,
} from "../io/safetensors.ts";
import { damaged } from "../io/sealed.ts";
import type { Storage } from "../io/storage.ts";
import type { WatchedHead } from "../models/index.ts";

/** Where a run stands between two updates. Batch order and randomness follow from the step, so they are not kept. */
export interface Progress {
  /** Updates made. */
  readonly step: number;
  /** Lowest validation loss so far, and when it was. */
  readonly best: { readonly step: number; readonly loss: number } | undefined;
  /** Evaluations since then. */
  readonly evaluationsWithoutGain: number;
  /** Heads of a plan that attend exactly by now, because their scores grew beyond it. */
  readonly exactHeads?: readonly WatchedHead[];
}

/** A saved run. */
export interface Checkpoint {
  readonly progress: Progress;
  /** The settings and data the run was started with, compared before it goes on. */
  readonly fingerprint: Readonly<Record<string, unknown>>;
  /** Hash of the lines of metrics up to here; undefined in checkpoints of before it was kept. */
  readonly metrics: string | undefined;
  readonly state: ReadonlyMap<string, Tensor>;
  /** Parameters at the best evaluation. */
  readonly best: ReadonlyMap<string, Tensor> | undefined;
}

const bestPrefix = "best/";
const statePrefix = "state/";

/** Write a checkpoint as one safetensors file, which takes its name only when it is whole. */
export async function writeCheckpoint(storage: Storage, path: string, checkpoint: Checkpoint): Promise<void> {
  const { progress, fingerprint, metrics, state, best } = checkpoint;
  const entries = [
    ...[...state].map(([name, tensor]) => ({ name: statePrefix + name, tensor })),
    ...[...(best ?? [])].map(([name, tensor]) => ({ name: bestPrefix + name, tensor })),
  ];
  const scion = JSON.stringify({ version: 2, progress, fingerprint, metrics });
  await writeSafetensors(storage, path, entries, { scion, checksum: checksumOf(entries, scion, path) });
}

/** A hash of the whole file, with zeros where the hash itself stands. */
function checksumOf(entries: readonly NamedTensor[], scion: string, path: string): string {
  const { text, sorted } = safetensorsLayout(entries, { scion, checksum: "0".repeat(32) }, path);
  const hash = createContentHash();
  hash.update(headerBytes(text));
  for (const { tensor } of sorted) if ("data" in tensor) hash.update(bytesOf(tensor.data));
  return hash.digest();
}

/**
 * Read a checkpoint; undefined when there is none yet.
 * @throws {TuneError} `bad-checkpoint` when the file is not one, or is not as it was written; what a malformed safetensors file throws.
 */
export async function readCheckpoint(storage: Storage, path: string): Promise<Checkpoint | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  const { metadata, tensors } = await openSafetensors(storage, path);
  const text = metadata["scion"];
  const header = text === undefined ? {} : parseJsonObject(new TextEncoder().encode(text), "bad-checkpoint", path);
  const { version, progress, fingerprint, metrics } = header;
  if (version === 1) {
    throw new TuneError("bad-checkpoint", "The checkpoint is of an older Scion, which kept no checksum of it.", {
      at: path,
      fix: "start the run again in another folder, or finish it with the version that began it",
    });
  }
  if (version !== 2 || text === undefined || !isProgress(progress) || !isJsonObject(fingerprint)) {
    throw new TuneError("bad-checkpoint", "This file does not hold the progress of a run.", {
      at: path,
      fix: "start the run again in an empty folder",
    });
  }
  const entries: { readonly name: string; readonly tensor: Tensor }[] = [];
  for (const [name, lazy] of tensors) entries.push({ name, tensor: await lazy.read() });
  const checksum = metadata["checksum"] ?? "";
  const first = headerBytes(safetensorsLayout(entries, { scion: text, checksum }, path).text);
  const written = await storage.read(path, { start: 0, end: first.length });
  if (checksum !== checksumOf(entries, text, path) || contentHash(first) !== contentHash(written)) throw damaged(path);
  const state = new Map<string, Tensor>();
  const best = new Map<string, Tensor>();
  for (const { name, tensor } of entries) {
    if (name.startsWith(bestPrefix)) best.set(name.slice(bestPrefix.length), tensor);
    else if (name.startsWith(statePrefix)) state.set(name.slice(statePrefix.length), tensor);
  }
  return {
    progress,
    fingerprint,
    metrics: typeof metrics === "string" ? metrics : undefined,
    state,
    best: best.size > 0 ? best : undefined,
  };
}

function isProgress(value: unknown): value is Progress {
  if (!isJsonObject(value)) return false;
  const { step, best, evaluationsWithoutGain, exactHeads = [] } = value;
  const isHead = (head: unknown): boolean =>
    isJsonObject(head) && Number.isSafeInteger(head["layer"]) && Number.isSafeInteger(head["head"]);
  if (!Array.isArray(exactHeads) || !exactHeads.every(isHead)) return false;
  const bestFits =
    best === undefined || (isJsonObject(best) && typeof best["step"] === "number" && typeof best["loss"] === "number");
  return Number.isSafeInteger(step) && Number(step) >= 0 && bestFits && typeof evaluationsWithoutGain === "number";
}
