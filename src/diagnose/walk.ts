import type { StopSignal } from "../signal.ts";
import type { MatrixPair } from "./pairs.ts";
import { hashMatrices } from "./products.ts";
import type { MatrixDiagnosis } from "./report.ts";
import type { Spectrum } from "./spectrum.ts";
import { weightMemory } from "./weight-memory.ts";

/** How far a diagnosis is. */
export interface DiagnosisProgress {
  readonly done: number;
  readonly total: number;
  /** The matrix that is next, or was just done. */
  readonly name: string;
  /** How it is looked at; absent before that is decided. */
  readonly method?: Spectrum["method"];
  /** Milliseconds that the rest takes, from what the matrices before took and how large they were; absent before the first. */
  readonly remainingMs?: number;
}

/** What is known of all matrices once they were looked at; of the first ones, where it was stopped. */
export interface Walked {
  readonly matrices: readonly MatrixDiagnosis[];
  /** What {@link hashMatrices} gives for each base weight. */
  readonly baseHashes: readonly string[];
}

/** A matrix that was looked at now, or in an earlier run. */
export interface LookedAt {
  readonly diagnosis: MatrixDiagnosis;
  readonly earlier?: boolean;
}

/**
 * Look at every pair in turn. What `look` is given reads each weight once, when it is first asked for; the next base is read
 * into the same memory, so nothing may be kept of one.
 */
export async function walkPairs(
  pairs: readonly MatrixPair[],
  {
    onProgress,
    signal,
  }: {
    readonly onProgress?: ((progress: DiagnosisProgress) => void) | undefined;
    readonly signal?: StopSignal | undefined;
  },
  look: (pair: MatrixPair) => Promise<LookedAt>,
): Promise<Walked> {
  const memory = weightMemory();
  const matrices: MatrixDiagnosis[] = [];
  const baseHashes: string[] = [];
  let [spentMs, worked, rest] = [0, 0, pairs.reduce((sum, pair) => sum + workOf(pair), 0)];
  const left = (): Pick<DiagnosisProgress, "remainingMs"> =>
    worked === 0 ? {} : { remainingMs: (spentMs / worked) * rest };
  for (const [i, lazy] of pairs.entries()) {
    if (signal?.aborted) break;
    const pair: MatrixPair = { ...lazy, base: once(() => lazy.base(memory)), tuned: once(lazy.tuned) };
    const { name } = pair;
    onProgress?.({ done: i, total: pairs.length, name, ...left() });
    const start = performance.now();
    const { diagnosis, earlier = false } = await look(pair);
    baseHashes.push(await hashMatrices(await pair.base()));
    matrices.push(diagnosis);
    rest -= workOf(pair);
    if (!earlier) {
      spentMs += performance.now() - start;
      worked += workOf(pair);
    }
    onProgress?.({ done: i + 1, total: pairs.length, name, method: diagnosis.method, ...left() });
  }
  return { matrices, baseHashes };
}

/** What a matrix takes in relation to another, about: its square, and products with the square and with itself. */
function workOf({ rows, cols }: Pick<MatrixPair, "rows" | "cols">): number {
  const small = Math.min(rows, cols);
  return small * (Math.max(rows, cols) + 2 * small);
}

/** Call it once, and keep what it gives. */
function once<T>(read: () => Promise<T>): () => Promise<T> {
  let kept: Promise<T> | undefined;
  return () => {
    kept ??= read();
    return kept;
  };
}
