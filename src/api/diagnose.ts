import {
  type BaseCache,
  countsOf,
  type DiagnosisProgress,
  type DiagnosisReport,
  type DiagnosisSettings,
  type DiagnosisTools,
  type DiagnosisWarning,
  deviceProducts,
  diagnosePairs,
  fileJournal,
  folderCache,
  hashMatrices,
  type MatrixDiagnosis,
  type MatrixPair,
  type MendedAdapter,
  type MendSettings,
  matrixPairs,
  memoryCache,
  mendedAdapter,
  mendedModel,
  planMending,
  resolveDiagnosis,
  resolveMending,
  warningsOf,
} from "../diagnose/index.ts";
import { TuneError } from "../errors.ts";
import { type MergedModel, mergeAdapter, writeSafetensorsFolder } from "../export/index.ts";
import type { Adapter } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { LoadedModel } from "./load-model.ts";

/** What is compared with the base, and where. */
export interface ComparisonOptions extends Partial<DiagnosisSettings> {
  /** An adapter of the base. */
  readonly adapter?: Adapter;
  /** What reports call it. */
  readonly adapterName?: string;
  /** A tuned model of its own: merged, or tuned in full. */
  readonly tuned?: LoadedModel;
  /** A folder that keeps the decompositions of base weights between diagnoses; in memory alone unless given. */
  readonly cacheFolder?: string;
  /** The same, shared by several diagnoses of one program. */
  readonly cache?: BaseCache;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
  readonly onProgress?: (progress: DiagnosisProgress) => void;
}

/** How to diagnose. */
export interface DiagnoseOptions extends ComparisonOptions {
  /** A file that keeps results as they come, so that a diagnosis that is cut short goes on where it was. */
  readonly journal?: string;
  /** Ends the diagnosis after the current matrix, with `interrupted`. */
  readonly signal?: AbortSignal;
}

/**
 * What tuning did to a model's weights, matrix by matrix: spectra before and after, and the intruders: leading singular
 * vectors that are like none of the base's. Shuttleworth et al. 2024 (arXiv 2410.21228), algorithm 1.
 * @throws {TuneError} `bad-option`, `models-differ`, `not-finite-weight`, `interrupted`.
 */
export function diagnose(base: LoadedModel, options: DiagnoseOptions): Promise<DiagnosisReport> {
  return compare(base, options, async ({ pairs, settings, tools, tuned }) => {
    const journal = options.journal === undefined ? undefined : fileJournal(base.platform.storage, options.journal);
    const { signal } = options;
    const matrices = await diagnosePairs(pairs, settings, {
      ...tools,
      ...(journal ? { journal } : {}),
      ...(signal ? { signal } : {}),
    });
    if (matrices.length < pairs.length) {
      throw new TuneError("interrupted", `Stopped after ${matrices.length} of ${pairs.length} matrices.`, {
        ...(options.journal === undefined ? {} : { at: options.journal }),
        fix: "start it again: what is done is not done again",
      });
    }
    const report = await reportOf(base, options, { pairs, settings, matrices, tuned });
    await journal?.remove();
    return report;
  });
}

/** How to mend. */
export interface MendOptions extends ComparisonOptions, Partial<MendSettings> {}

/** A tuned model whose intruders are scaled down. */
export interface Mended {
  /** What was found, before mending. */
  readonly report: DiagnosisReport;
  /** Vectors that were scaled. */
  readonly scaled: number;
  /** The mended model, its weights computed when they are read. */
  readonly model: LoadedModel;
  /** The tuned model as it was. */
  readonly unmended: LoadedModel;
  /** The mended update as a LoRA adapter: exactly, of a higher rank where vectors were scaled, or cut back to its rank. */
  adapter(rank?: "exact" | "same"): Promise<MendedAdapter>;
  /** Free what the weights are computed with; they cannot be read afterwards. */
  close(): Promise<void>;
}

/**
 * Scale intruders down: W' = W + (lambda − 1)·σ·u·vᵀ for the first intruder of each matrix, or for all. Shuttleworth et
 * al. 2024, §5.
 * @throws {TuneError} as {@link diagnose}.
 */
export async function mend(base: LoadedModel, options: MendOptions): Promise<Mended> {
  const { mode, lambda, ...comparison } = options;
  const mending = resolveMending({
    ...(mode === undefined ? {} : { mode }),
    ...(lambda === undefined ? {} : { lambda }),
  });
  const opened = await open(base, comparison);
  try {
    const { pairs, settings, tools, tuned } = opened;
    const whole = matrixPairs({ base: base.pretrained, tuned, ...adapterOf(options), fused: true });
    const sizes = new Map(whole.map(({ module, rows }) => [module, rows]));
    const { matrices, corrections } = await planMending(
      pairs,
      { ...settings, ...mending },
      (module) => sizes.get(module) ?? 0,
      tools,
    );
    const model = { ...(options.tuned ?? base) };
    return {
      report: await reportOf(base, options, { pairs, settings, matrices, tuned }),
      scaled: corrections.reduce((sum, { left }) => sum + left.cols, 0),
      model: { ...model, pretrained: mendedModel(tuned, corrections) },
      unmended: { ...model, pretrained: tuned },
      adapter: (rank = "exact") =>
        mendedAdapter(whole, corrections, { products: tools.products, rank, ...adapterOf(options) }),
      close: opened.close,
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

interface Opened {
  readonly pairs: readonly MatrixPair[];
  readonly settings: DiagnosisSettings;
  readonly tools: DiagnosisTools;
  readonly tuned: PretrainedModel;
  readonly close: () => Promise<void>;
}

async function compare<T>(
  base: LoadedModel,
  options: ComparisonOptions,
  work: (opened: Opened) => Promise<T>,
): Promise<T> {
  const opened = await open(base, options);
  try {
    return await work(opened);
  } finally {
    await opened.close();
  }
}

async function open(base: LoadedModel, options: ComparisonOptions): Promise<Opened> {
  const { adapter, tuned: other, cacheFolder, cache, onProgress } = options;
  if ((adapter === undefined) === (other === undefined)) {
    throw new TuneError(
      "bad-option",
      "A diagnosis compares a base with an adapter or with a tuned model, one of them.",
      {
        at: "diagnosis",
        fix: "give --adapter or --tuned",
      },
    );
  }
  const given = settingsOf(options);
  resolveDiagnosis(given); // what is wrong with the options themselves, before anything is opened
  const device = options.device ?? (await base.platform.openDevice(options.deviceOptions));
  const products = deviceProducts(device);
  let merged: MergedModel | undefined;
  const close = async (): Promise<void> => {
    await merged?.close();
    await products.close();
    if (!options.device) await device.close();
  };
  try {
    merged = adapter && mergeAdapter(device, base.pretrained, adapter);
    const tuned = merged?.model ?? (other as LoadedModel).pretrained; // one of the two is there
    const fused = given.fused === true;
    const pairs = matrixPairs({ base: base.pretrained, tuned, ...adapterOf(options), fused });
    const settings = resolveDiagnosis(
      given,
      pairs.map(({ rows, cols }) => (given.side === "right" ? cols : rows)),
    );
    const tools: DiagnosisTools = {
      products,
      cache: cache ?? (cacheFolder === undefined ? memoryCache() : folderCache(base.platform.storage, cacheFolder)),
      ...(onProgress ? { onProgress } : {}),
    };
    return { pairs, settings, tools, tuned, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function settingsOf({ k, eps, side, method, fused }: ComparisonOptions): Partial<DiagnosisSettings> {
  return {
    ...(k === undefined ? {} : { k }),
    ...(eps === undefined ? {} : { eps }),
    ...(side === undefined ? {} : { side }),
    ...(method === undefined ? {} : { method }),
    ...(fused === undefined ? {} : { fused }),
  };
}

function adapterOf({ adapter }: ComparisonOptions): { readonly adapter?: Adapter } {
  return adapter ? { adapter } : {};
}

async function reportOf(
  base: LoadedModel,
  { tuned: other, adapterName }: ComparisonOptions,
  {
    pairs,
    settings,
    matrices,
  }: Pick<Opened, "pairs" | "settings" | "tuned"> & { readonly matrices: readonly MatrixDiagnosis[] },
): Promise<DiagnosisReport> {
  const { k, eps, side, fused } = settings;
  const hashes: string[] = [];
  for (const pair of pairs) hashes.push(await hashMatrices(await pair.base()));
  const bytes = new TextEncoder().encode(hashes.join(""));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return {
    base: base.source,
    tuned: other?.source ?? adapterName ?? "adapter",
    k,
    eps,
    side,
    fused,
    baseHash: Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    ...countsOf(matrices),
    warnings: [...warningsOf(matrices, settings), ...precisionWarning(base, other)],
    matrices,
  };
}

/** A base in 16 bits beside a tuned model in 32 differs by its roundings everywhere. */
function precisionWarning(base: LoadedModel, other: LoadedModel | undefined): readonly DiagnosisWarning[] {
  if (!other) return [];
  const [held, tuned] = [base, other].map(({ pretrained }) => [...pretrained.storedAs].sort().join(", "));
  if (held === tuned) return [];
  return [{ code: "precision-differs", matrices: [], detail: `${held} in the base, ${tuned} in the tuned model` }];
}

/** Write a mended model as a Hugging Face folder. */
export function writeMended(mended: LoadedModel, folder: string, baseModel: string): Promise<void> {
  return writeSafetensorsFolder(mended.platform.storage, folder, mended.pretrained, { baseModel });
}
