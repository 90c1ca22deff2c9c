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
  filePairs,
  folderCache,
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
  type Walked,
  warningsOf,
} from "../diagnose/index.ts";
import { TuneError } from "../errors.ts";
import { type MergedModel, mergeAdapter, writeSafetensorsFolder } from "../export/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { openSafetensors, type Safetensors } from "../io/safetensors.ts";
import type { Storage } from "../io/storage.ts";
import type { Adapter } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { checkNames, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { Platform } from "../runtime/platform.ts";
import type { StopSignal } from "../signal.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedModel } from "./load-model.ts";
import type { OutputOptions } from "./save.ts";

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

const comparisonNames: NamesOf<ComparisonOptions> = {
  k: true,
  eps: true,
  side: true,
  method: true,
  fused: true,
  adapter: true,
  adapterName: true,
  tuned: true,
  cacheFolder: true,
  cache: true,
  device: true,
  deviceOptions: true,
  onProgress: true,
};

/** How to diagnose. */
export interface DiagnoseOptions extends ComparisonOptions {
  /** A file that keeps results as they come, so that a diagnosis that is cut short goes on where it was. */
  readonly journal?: string;
  /** Ends the diagnosis after the current matrix, with `interrupted`. */
  readonly signal?: StopSignal;
}

const diagnoseNames: NamesOf<DiagnoseOptions> = { ...comparisonNames, journal: true, signal: true };

/**
 * What tuning did to a model's weights, matrix by matrix: spectra before and after, and the intruders: leading singular
 * vectors that are like none of the base's. Shuttleworth et al. 2024 (arXiv 2410.21228), algorithm 1.
 * @throws {TuneError} `bad-option`, `models-differ`, `not-finite-weight`, `interrupted`.
 */
export async function diagnose(base: LoadedModel, options: DiagnoseOptions): Promise<DiagnosisReport> {
  checkNames(options, diagnoseNames, "diagnose");
  return compare(base, options, (opened) =>
    look(opened, options, base.platform.storage, (walked) => reportOf(base, options, { ...opened, ...walked })),
  );
}

/** What of {@link DiagnoseOptions} applies to files of any model. */
export type FileDiagnosisOptions = Omit<DiagnoseOptions, "adapter" | "adapterName" | "tuned" | "fused">;

/**
 * The same for two safetensors files of a model that need not be known: every matrix that they hold, by its name, as
 * [out, in]. What is stored as [in, out] has its outputs on the right side.
 * @throws {TuneError} `file-not-found`, `damaged-file`, and as {@link diagnose}.
 */
export async function diagnoseFiles(
  platform: Platform,
  files: { readonly base: string; readonly tuned: string },
  options: FileDiagnosisOptions = {},
): Promise<DiagnosisReport> {
  const { adapter, adapterName, tuned: other, fused, ...names } = diagnoseNames;
  checkNames(options, names, "diagnoseFiles");
  checkCaches(options);
  const given = settingsOf(options);
  resolveDiagnosis(given);
  const { storage } = platform;
  const [base, tuned] = [await openSafetensors(storage, files.base), await openSafetensors(storage, files.tuned)];
  const pairs = filePairs(base.tensors, tuned.tensors, files.tuned);
  const settings = resolveFor(pairs, given);
  const { tools, close } = await openTools(platform, options);
  try {
    return await look({ pairs, settings, tools }, options, storage, async (walked) => ({
      ...files,
      ...(await summed({ settings, ...walked })),
      warnings: [...warningsOf(walked.matrices, settings), ...precisionWarning(storedAs(base), storedAs(tuned))],
      matrices: walked.matrices,
    }));
  } finally {
    await close();
  }
}

/** Look at all pairs, keeping a journal where one is wanted. */
async function look(
  { pairs, settings, tools }: Pick<Opened, "pairs" | "settings" | "tools">,
  { journal: path, signal }: Pick<DiagnoseOptions, "journal" | "signal">,
  storage: Storage,
  report: (walked: Walked) => Promise<DiagnosisReport>,
): Promise<DiagnosisReport> {
  const journal = path === undefined ? undefined : fileJournal(storage, path);
  const walked = await diagnosePairs(pairs, settings, {
    ...tools,
    ...(journal ? { journal } : {}),
    ...(signal ? { signal } : {}),
  });
  if (walked.matrices.length < pairs.length) {
    throw new TuneError("interrupted", `Stopped after ${walked.matrices.length} of ${pairs.length} matrices.`, {
      ...(path === undefined ? {} : { at: path }),
      fix: "start it again: what is done is not done again",
    });
  }
  const done = await report(walked);
  await journal?.remove();
  return done;
}

/** How to mend. */
export interface MendOptions extends ComparisonOptions, Partial<MendSettings> {}

const mendNames: NamesOf<MendOptions> = { ...comparisonNames, mode: true, lambda: true };

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
  checkNames(options, mendNames, "mend");
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
    const { corrections, ...walked } = await planMending(
      pairs,
      { ...settings, ...mending },
      (module) => sizes.get(module) ?? 0,
      tools,
    );
    const { folder } = adapterOf(options).adapter ?? {};
    const inputs = [base.folder, ...(options.tuned ? [options.tuned.folder] : []), ...(folder ? [folder] : [])];
    const storage = guardOutputs(base.platform.storage, { inputs });
    const model = { ...(options.tuned ?? base), platform: { ...base.platform, storage } };
    return {
      report: await reportOf(base, options, { settings, ...walked }),
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
  checkCaches(options);
  const { adapter, tuned: other } = options;
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
  const { device, tools, close: closeTools } = await openTools(base.platform, options);
  let merged: MergedModel | undefined;
  const close = async (): Promise<void> => {
    await merged?.close();
    await closeTools();
  };
  try {
    merged = adapter && mergeAdapter(device, base.pretrained, adapter);
    const tuned = merged?.model ?? (other as LoadedModel).pretrained; // one of the two is there
    const pairs = matrixPairs({
      base: base.pretrained,
      tuned,
      ...adapterOf(options),
      fused: given.fused === true,
    });
    return { pairs, settings: resolveFor(pairs, given), tools, tuned, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** @throws {TuneError} `bad-option` where one option makes another do nothing. */
function checkCaches(options: ComparisonOptions): void {
  checkDevice(options);
  const problems = [
    ...(options.cache && options.cacheFolder !== undefined ? ["cacheFolder does nothing beside cache"] : []),
    ...(options.adapterName !== undefined && options.tuned ? ["adapterName does nothing beside tuned"] : []),
  ];
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, { at: "diagnosis", fix: "leave one of the two out" });
}

/** A device for products, and where decompositions are kept. */
async function openTools(
  platform: Platform,
  { device: given, deviceOptions, cacheFolder, cache, onProgress }: ComparisonOptions,
): Promise<{ readonly device: Device; readonly tools: DiagnosisTools; readonly close: () => Promise<void> }> {
  // Products are most of the work, and ONNX Runtime alone may take fewer threads than there are.
  const device = given ?? (await platform.openDevice({ threads: platform.threads.threads, ...deviceOptions }));
  const products = deviceProducts(device);
  return {
    device,
    tools: {
      products,
      cache: cache ?? (cacheFolder === undefined ? memoryCache() : folderCache(platform.storage, cacheFolder)),
      ...(onProgress ? { onProgress } : {}),
    },
    close: async () => {
      await products.close();
      if (!given) await device.close();
    },
  };
}

/** Settings with defaults, checked against the lengths of the vectors. */
function resolveFor(pairs: readonly MatrixPair[], given: Partial<DiagnosisSettings>): DiagnosisSettings {
  return resolveDiagnosis(
    given,
    pairs.map(({ rows, cols }) => (given.side === "right" ? cols : rows)),
  );
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
  found: Pick<Opened, "settings"> & Walked,
): Promise<DiagnosisReport> {
  const { settings, matrices } = found;
  const differing = other ? precisionWarning(base.pretrained.storedAs, other.pretrained.storedAs) : [];
  return {
    base: base.source,
    tuned: other?.source ?? adapterName ?? "adapter",
    ...(await summed(found)),
    warnings: [...warningsOf(matrices, settings), ...differing],
    matrices,
  };
}

/** What a report says of all matrices together. */
async function summed({
  settings: { k, eps, side, fused },
  matrices,
  baseHashes,
}: Pick<Opened, "settings"> & Walked): Promise<Omit<DiagnosisReport, "base" | "tuned" | "warnings" | "matrices">> {
  const bytes = new TextEncoder().encode(baseHashes.join(""));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const baseHash = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { k, eps, side, fused, baseHash, ...countsOf(matrices) };
}

/** The types that a file holds its matrices in. */
function storedAs({ tensors }: Safetensors): ReadonlySet<string> {
  return new Set([...tensors.values()].flatMap(({ dtype, shape }) => (shape.length === 2 ? [dtype] : [])));
}

/** A base in 16 bits beside a tuned model in 32 differs by its roundings everywhere. */
function precisionWarning(base: Iterable<string>, tuned: Iterable<string>): readonly DiagnosisWarning[] {
  const [before, after] = [base, tuned].map((dtypes) => [...dtypes].sort().join(", "));
  if (before === after) return [];
  return [{ code: "precision-differs", matrices: [], detail: `${before} in the base, ${after} in the tuned model` }];
}

const outputNames: NamesOf<OutputOptions> = { inputs: true, replace: true };

/** Write a mended model as a Hugging Face folder. @throws {TuneError} as `exportModel`. */
export async function writeMended(
  mended: LoadedModel,
  folder: string,
  baseModel: string,
  options: OutputOptions = {},
): Promise<void> {
  checkNames(options, outputNames, "writeMended");
  const storage = guardOutputs(mended.platform.storage, options);
  await writeSafetensorsFolder(storage, folder, mended.pretrained, { baseModel });
}
