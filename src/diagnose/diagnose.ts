import type { Matrix } from "../linalg/index.ts";
import { matmul, toFloat64 } from "../linalg/index.ts";
import type { StopSignal } from "../signal.ts";
import type { BaseCache } from "./base-svd.ts";
import type { Journal } from "./journal.ts";
import { type LowRank, type MatrixPair, onItsSide, refuseNotFinite } from "./pairs.ts";
import { difference, hashMatrices, type Products, sum } from "./products.ts";
import type { DiagnosisWarning, MatrixDiagnosis } from "./report.ts";
import { chanceLevel, type DiagnosisSettings } from "./settings.ts";
import { certifiedSpectrum, exactSpectrum, rotatedSpectrum, type Spectrum } from "./spectrum.ts";
import { factorise, measureDense, measureFactors, type UpdateMeasures } from "./update.ts";
import { type DiagnosisProgress, type Walked, walkPairs } from "./walk.ts";

/** What a diagnosis works with. */
export interface DiagnosisTools {
  readonly products: Products;
  /** Decompositions of base weights, kept between diagnoses. */
  readonly cache: BaseCache;
  /** Results of a diagnosis that was cut short. */
  readonly journal?: Journal;
  readonly onProgress?: (progress: DiagnosisProgress) => void;
  /** Ends the diagnosis after the current matrix; what is done is in the journal. */
  readonly signal?: StopSignal;
}

/** One matrix and its spectrum: the numbers to report, and the vectors to mend with. */
export interface Examined {
  readonly diagnosis: MatrixDiagnosis;
  readonly spectrum: Spectrum;
  /** The update in factors, where it has few directions. */
  readonly update: LowRank | undefined;
}

/**
 * Look at every pair in turn.
 * @throws {TuneError} `not-finite-weight`; and what reading and computing weights throws.
 */
export async function diagnosePairs(
  pairs: readonly MatrixPair[],
  settings: DiagnosisSettings,
  tools: DiagnosisTools,
): Promise<Walked> {
  const { journal } = tools;
  const known = (await journal?.read()) ?? new Map<string, MatrixDiagnosis>();
  return walkPairs(pairs, tools, async (pair) => {
    const key = journal ? await keyOf(pair, settings) : "";
    const found = known.get(key);
    if (found) return { diagnosis: { ...found, name: pair.name }, earlier: true };
    const { diagnosis } = await examine(pair, settings, tools);
    await journal?.append(key, diagnosis);
    return { diagnosis };
  });
}

/** What decides a result: the content of both matrices, and the question. */
async function keyOf(pair: MatrixPair, { k, eps, side, method }: DiagnosisSettings): Promise<string> {
  const base = await pair.base();
  const update = pair.update?.();
  const hash = await hashMatrices(base, ...(update ? [update.left, update.right] : [await pair.tuned()]));
  return JSON.stringify([hash, k, eps, side, method]);
}

/** Look at one pair, from the side that the settings ask for. */
export async function examine(
  upright: MatrixPair,
  settings: DiagnosisSettings,
  tools: DiagnosisTools,
): Promise<Examined> {
  const pair = settings.side === "left" ? upright : onItsSide(upright);
  const { products } = tools;
  const base = await pair.base();
  const tuned = pair.update ? undefined : refuseNotFinite(toFloat64(await pair.tuned()), pair.name);
  const dense = tuned && difference(tuned, base);
  const update = pair.update?.() ?? (dense && (await factorise(dense, products, factorLimits(base))));
  const measures = update ? measureFactors(update) : await measureDense(dense ?? toFloat64(base), products);
  const spectrum = await spectrumOf(pair, base, update, tuned, settings, tools);
  return { diagnosis: describe(upright, spectrum, measures, settings), spectrum, update };
}

/** More directions than this are no longer few: products with the factors would cost what those with the matrix do. */
function factorLimits({ rows, cols, data }: Matrix): { size: number; most: number } {
  let size = 0;
  for (let i = 0; i < data.length; i++) size = Math.max(size, Math.abs(data[i] ?? 0));
  return { size, most: Math.min(64, Math.floor(Math.min(rows, cols) / 4)) };
}

async function spectrumOf(
  pair: MatrixPair,
  base: Matrix<Float32Array>,
  update: LowRank | undefined,
  tuned: Matrix<Float64Array> | undefined,
  settings: DiagnosisSettings,
  { products, cache }: DiagnosisTools,
): Promise<Spectrum> {
  const options = { k: settings.k, eps: settings.eps, products };
  // From the factors where there are any: the base is at hand, and is not read once more.
  const whole = async (): Promise<Matrix> =>
    tuned ?? (update ? sum(matmul(update.left, update.right), base) : await pair.tuned());
  const exact = async (): Promise<Spectrum> => exactSpectrum(await cache.svd(base), await whole(), options);
  const method = settings.method === "auto" ? cheapest(base, update, await cache.has(base)) : settings.method;
  if (method === "rotated" && update) {
    return (await rotatedSpectrum(await cache.svd(base), update, options)) ?? exact();
  }
  if (method === "certified") {
    return (await certifiedSpectrum(base, update ?? toFloat64(await whole()), { ...options, cache })) ?? exact();
  }
  return exact(); // an update that fills its matrix has no factors to rotate
}

/**
 * The method that takes the least time, by rough seconds measured on two cores. What is only bounded must save half a second:
 * it says less of a small matrix.
 */
export function cheapest(
  { rows, cols }: Pick<Matrix, "rows" | "cols">,
  update: LowRank | undefined,
  cached: boolean,
): Spectrum["method"] {
  const small = Math.min(rows, cols);
  const decomposition = 1.2e-8 * small * small * Math.max(rows, cols);
  const base = cached ? 0 : decomposition;
  const square = 1.5e-11 * small * small * Math.max(rows, cols);
  const certified = 0.1 + 1.2e-4 * (rows + cols) + 3e-8 * rows * cols + square;
  const costs: (readonly [Spectrum["method"], number])[] = [
    ["exact", base + decomposition],
    ["certified", certified + 0.5],
    ...(update ? [["rotated", base + 0.05 + 1e-7 * rows * cols] as const] : []),
  ];
  return costs.reduce((best, next) => (next[1] < best[1] ? next : best))[0];
}

/** Relative gaps of singular values below this leave vectors undetermined but for a turn among them. */
const nearTie = 1e-3;

function describe(
  { name, module, rows, cols }: MatrixPair,
  spectrum: Spectrum,
  update: UpdateMeasures,
  { k, eps }: DiagnosisSettings,
): MatrixDiagnosis {
  const { method, sigma, sigmaBase, maxCos, bound, similarity } = spectrum;
  const largest = sigma[0] ?? 0;
  const count = Math.min(k, rows, cols, sigma.length);
  // A vector of a value that is nothing but rounding says nothing (one that was scaled to zero, for example).
  const intruders = Array.from({ length: count }, (_, j) => j).filter(
    (j) => (maxCos[j] ?? 1) < eps && (sigma[j] ?? 0) >= 1e-6 * largest,
  );
  const tied = (values: readonly number[], i: number): boolean =>
    Math.min(
      ...[values[i - 1], values[i + 1]].map((other) =>
        other === undefined ? Number.POSITIVE_INFINITY : Math.abs(other - (values[i] ?? 0)) / (values[i] || 1),
      ),
    ) < nearTie;
  const gaps = sigmaBase.slice(1).map((value, i) => (sigmaBase[i] ?? 0) - value);
  const gap = gaps.length > 0 ? Math.min(...gaps) : (sigmaBase[0] ?? 0);
  return {
    name,
    module,
    shape: [rows, cols],
    method,
    sigma: sigma.slice(0, count),
    sigmaBase: sigmaBase.slice(0, count),
    maxCos: maxCos.slice(0, count),
    bound: bound.slice(0, count),
    intruders,
    nearTies: intruders.filter((j) => tied(sigma, j)),
    gap,
    update: { ...update, toGap: gap > 0 ? update.spectral / gap : null },
    similarity,
  };
}

/** What a reader should know before trusting the counts. */
export function warningsOf(
  diagnoses: readonly MatrixDiagnosis[],
  { eps, side }: DiagnosisSettings,
): readonly DiagnosisWarning[] {
  const length = ({ shape: [rows, cols] }: MatrixDiagnosis): number => (side === "left" ? rows : cols);
  const small = diagnoses.filter((diagnosis) => eps <= chanceLevel(length(diagnosis)));
  const tied = diagnoses.filter(({ nearTies }) => nearTies.length > 0);
  return [
    ...(small.length > 0
      ? [
          {
            code: "chance-level" as const,
            matrices: small.map(({ name }) => name),
            level: Math.max(...small.map((diagnosis) => chanceLevel(length(diagnosis)))),
          },
        ]
      : []),
    ...(tied.length > 0
      ? [{ code: "near-ties" as const, matrices: tied.map(({ name }) => name), level: nearTie }]
      : []),
  ];
}
