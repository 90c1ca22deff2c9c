import { TuneError } from "../errors.ts";
import { computedTensor, type LazyTensor, type Tensor } from "../graph/index.ts";
import {
  besides,
  columnsOf,
  frobeniusNorm,
  type Matrix,
  matmul,
  qr,
  rowsOf,
  svd,
  toFloat64,
  transposed,
  zeroMatrix,
} from "../linalg/index.ts";
import { type Adapter, chooseMethod, isParameterOf, linearModules, parameterName } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type DiagnosisTools, type Examined, examine } from "./diagnose.ts";
import type { LowRank, MatrixPair } from "./pairs.ts";
import { difference, type Products } from "./products.ts";
import type { DiagnosisSettings } from "./settings.ts";
import { factorise } from "./update.ts";
import { type Walked, walkPairs } from "./walk.ts";

/** How intruders are mended. */
export interface MendSettings {
  /** The intruder of the largest singular value in each matrix, or all of them. */
  readonly mode: "top" | "all";
  /** What is kept of them: 1 changes nothing, 0 takes them out. */
  readonly lambda: number;
}

/** What is done unless told otherwise: as the paper advises, mildly. */
export const mendDefaults: MendSettings = { mode: "top", lambda: 0.75 };

/** @throws {TuneError} `bad-option` for a lambda that is negative or no number, or another mode. */
export function resolveMending(given: Partial<MendSettings>): MendSettings {
  const settings = { ...mendDefaults, ...given };
  const problems: string[] = [];
  if (!(settings.lambda >= 0 && Number.isFinite(settings.lambda))) {
    problems.push(`lambda is ${settings.lambda}, but it must be a number from 0`);
  }
  if (settings.mode !== "top" && settings.mode !== "all")
    problems.push(`mode is "${settings.mode}", but it must be top or all`);
  if (problems.length === 0) return settings;
  throw new TuneError("bad-option", problems, {
    at: "mending",
    fix: "lambda 0.75 keeps three quarters of an intruder",
  });
}

/** What is added to a module's weight [out, in]: left [out, n] · right [n, in]. */
export interface Correction extends LowRank {
  readonly module: string;
}

/**
 * What mends one matrix: (lambda − 1)·σ·u·vᵀ for each chosen vector, on the rows of its module that are its own.
 * `chosen` are places in the spectrum; with lambda 1, or without any, there is nothing to add.
 */
export function correctionOf(
  pair: MatrixPair,
  { spectrum }: Pick<Examined, "spectrum">,
  chosen: readonly number[],
  options: { readonly lambda: number; readonly side: DiagnosisSettings["side"]; readonly outFeatures: number },
): Correction | undefined {
  const { lambda, side, outFeatures } = options;
  if (chosen.length === 0 || lambda === 1) return undefined;
  const { U, Vt } = spectrum.vectors();
  const [outer, inner] = side === "left" ? [U, Vt] : [transposed(Vt), transposed(U)];
  const left = zeroMatrix(outFeatures, chosen.length);
  const right = zeroMatrix(chosen.length, pair.cols);
  const ranges = pair.part ?? [[0, outFeatures] as const];
  for (const [i, j] of chosen.entries()) {
    const factor = (lambda - 1) * (spectrum.sigma[j] ?? 0);
    let at = 0;
    for (const [from, to] of ranges) {
      for (let row = from; row < to; row++) {
        left.data[row * chosen.length + i] = factor * (outer.data[at * outer.cols + j] ?? 0);
        at += 1;
      }
    }
    right.data.set(inner.data.subarray(j * inner.cols, (j + 1) * inner.cols), i * pair.cols);
  }
  return { module: pair.module, left, right };
}

/** A diagnosis, and what mends what it found. */
export interface Mending extends Walked {
  readonly corrections: readonly Correction[];
}

/** Look at every pair, and say what mends its intruders. */
export async function planMending(
  pairs: readonly MatrixPair[],
  settings: DiagnosisSettings & MendSettings,
  outFeatures: (module: string) => number,
  tools: DiagnosisTools,
): Promise<Mending> {
  const { mode, lambda, side } = settings;
  const corrections: Correction[] = [];
  const walked = await walkPairs(pairs, tools, async (pair) => {
    const examined = await examine(pair, settings, tools);
    const { intruders } = examined.diagnosis;
    const chosen = mode === "top" ? intruders.slice(0, 1) : intruders;
    const correction = correctionOf(pair, examined, chosen, { lambda, side, outFeatures: outFeatures(pair.module) });
    if (correction) corrections.push(correction);
    return { diagnosis: examined.diagnosis };
  });
  return { ...walked, corrections };
}

/** A model with corrections added to its weights, computed when they are read. */
export function mendedModel(tuned: PretrainedModel, corrections: readonly Correction[]): PretrainedModel {
  const sites = linearModules(tuned.predict().outputs);
  const files = new Map<string, LazyTensor>([...tuned.weights].map(([name, { source }]) => [name, source]));
  for (const [module, { left, right }] of byModule(corrections)) {
    const site = sites.get(module);
    if (site?.weight.kind !== "weight") continue;
    const { name, source } = site.weight;
    const mended = computedTensor(source.shape, async () => {
      const { data } = await source.read();
      const added = matmul(left, right);
      const stored = site.layout === "out,in" ? added.data : transposed(added).data;
      return (data as Float32Array).map((value, i) => value + (stored[i] ?? 0)); // read as float32
    });
    files.set(name, mended);
  }
  return tuned.withTensors(files, tuned.json);
}

/** Corrections of one module (parts of a fused one have each their own) side by side. */
function byModule(corrections: readonly Correction[]): ReadonlyMap<string, LowRank> {
  const result = new Map<string, LowRank>();
  for (const { module, left, right } of corrections) {
    const before = result.get(module);
    result.set(module, before ? joined(before, { left, right }) : { left, right });
  }
  return result;
}

/** The sum of two updates: [left₁ | left₂] · [right₁ ; right₂]. */
export function joined(first: LowRank, second: LowRank): LowRank {
  return {
    left: besides(first.left, second.left),
    right: transposed(besides(transposed(first.right), transposed(second.right))),
  };
}

/** The nearest update of rank `rank`, and how far it is in relation to the update's own length. */
export function truncated({ left, right }: LowRank, rank: number): LowRank & { readonly error: number } {
  const outer = qr(left);
  const inner = qr(transposed(right));
  const core = matmul(outer.R, inner.R, { transB: true });
  const { U, S, Vt } = svd(core);
  const kept = Math.min(rank, S.length);
  // Half of each singular value on either side, as PEFT does.
  const halves = S.map((value) => Math.sqrt(value));
  const scaled = (matrix: Matrix<Float64Array>): Matrix<Float64Array> => ({
    ...matrix,
    data: matrix.data.map((value, i) => value * (halves[i % matrix.cols] ?? 0)),
  });
  const lost = Math.sqrt(S.subarray(kept).reduce((sum, value) => sum + value * value, 0));
  return {
    left: matmul(outer.Q, scaled(columnsOf(U, 0, kept))),
    right: transposed(matmul(inner.Q, scaled(transposed(rowsOf(Vt, 0, kept))))),
    error: lost / (frobeniusNorm(core) || 1),
  };
}

/** A mended adapter, and the largest relative error of its updates (0 where nothing was cut off). */
export interface MendedAdapter {
  readonly adapter: Adapter;
  readonly error: number;
}

/**
 * The mended update as a LoRA adapter: exactly, of rank r + q where a module of rank r had q vectors mended, or cut back to
 * rank r. `whole` are the modules' matrices, not taken apart.
 * @throws {TuneError} `no-adapter-form` listing the modules whose update fills their matrix (full tuning, DoRA).
 */
export async function mendedAdapter(
  whole: readonly MatrixPair[],
  corrections: readonly Correction[],
  options: { readonly products: Products; readonly rank: "exact" | "same"; readonly adapter?: Adapter },
): Promise<MendedAdapter> {
  const { products, rank, adapter } = options;
  const added = byModule(corrections);
  const parameters = new Map<string, Tensor>();
  const ranks: Record<string, number> = {};
  const filled: string[] = [];
  let error = 0;
  for (const pair of whole) {
    const update = pair.update?.() ?? (await factorsOf(pair, products));
    if (update === undefined) {
      filled.push(pair.module);
      continue;
    }
    const correction = added.get(pair.module);
    const exact = correction ? joined(update, correction) : update;
    const written = rank === "same" && correction ? truncated(exact, update.left.cols) : { ...exact, error: 0 };
    error = Math.max(error, written.error);
    const count = written.left.cols;
    if (count === 0) continue; // a module that tuning left alone
    ranks[pair.module] = count;
    parameters.set(parameterName(pair.module, "lora", "A"), tensorOf(written.right));
    parameters.set(parameterName(pair.module, "lora", "B"), tensorOf(written.left));
  }
  if (filled.length > 0 || Object.keys(ranks).length === 0) {
    const what =
      filled.length > 0
        ? `The update fills its matrix, so that no adapter holds it, in ${filled.slice(0, 6).join(", ")}${filled.length > 6 ? `, and ${filled.length - 6} more` : ""}.`
        : "The tuned model is the base itself: there is nothing to write.";
    throw new TuneError("no-adapter-form", what, { at: "mending", fix: "write merged weights instead (safetensors)" });
  }
  const usual = mostFrequent(Object.values(ranks));
  const unusual = Object.entries(ranks).filter(([, count]) => count !== usual);
  const others = Object.fromEntries(unusual.map(([module, count]) => [escaped(module), count]));
  const lora = chooseMethod("lora", { rank: usual, alpha: usual }, { rank: others, alpha: others });
  const inPlace = adapter?.choice.inPlace;
  if (inPlace)
    for (const [name, values] of adapter.parameters)
      if (!isParameterOf(name, adapter.choice.method.name)) parameters.set(name, values);
  return { adapter: { choice: inPlace ? { ...lora, inPlace } : lora, targets: Object.keys(ranks), parameters }, error };
}

function mostFrequent(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((most, next) => (next[1] > most[1] ? next : most))[0];
}

/** A module's path as a pattern that matches it alone. */
function escaped(module: string): string {
  return module.replaceAll(".", "\\.");
}

async function factorsOf(pair: MatrixPair, products: Products): Promise<LowRank | undefined> {
  const base = await pair.base();
  const change = difference(toFloat64(await pair.tuned()), base);
  const size = base.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return factorise(change, products, { size, most: Math.floor(Math.min(pair.rows, pair.cols) / 2) });
}

function tensorOf({ rows, cols, data }: Matrix): Tensor<"float32"> {
  return { dtype: "float32", shape: [rows, cols], data: new Float32Array(data) };
}
