import { makeBasis } from "./basis.ts";
import { eigh } from "./eigh.ts";
import type { SymmetricOperator } from "./filtered.ts";
import { type Matrix, toFloat64, transposed, zeroMatrix } from "./matrix.ts";
import type { LinearOperator } from "./operator.ts";
import { dot, norm, scale } from "./vectors.ts";

/** What a few products with W·Wᵀ tell about how a vector lies among W's left singular vectors. */
export interface Weights {
  /** No left singular vector whose value's square is in the searched interval has a larger absolute cosine. */
  readonly bound: number;
  /** The largest absolute cosine with a singular vector that was found on the way; 0 when none was. */
  readonly found: number;
}

/** Where to search, and how far to go. */
export interface WeightOptions {
  /** Left singular vectors that are known [rows, K]; their part of each vector is set aside. */
  readonly known: Matrix;
  /** Squares of the singular values that are not set aside lie in [lowest, highest]. */
  readonly lowest: number;
  readonly highest: number;
  /** Stop as soon as every vector is bounded below this or found above it. */
  readonly decideAt: number;
  /** Products with W·Wᵀ, at most; most vectors are decided after some thirty. */
  readonly steps?: number;
  /**
   * The square of the smaller side, where it is at hand: W·Wᵀ; or WᵀW of a tall matrix, with the known right singular vectors
   * [cols, K].
   */
  readonly square?: SymmetricOperator;
  readonly knownRight?: Matrix;
  readonly onProduct?: () => void;
}

/**
 * Bound the absolute cosine of each column of X [rows, n] with every left singular vector that is not `known`.
 *
 * s steps of Lanczos from the vector v (unit length, times rho) give the polynomials p₀ … p₍ₛ₋₁₎ that are orthonormal for
 * its spectral measure; the measure's weight at any one x is at most 1 / Σ pᵢ(x)² (the Christoffel function; Akhiezer,
 * The Classical Moment Problem, §2.5). So no eigenvector has a cosine above rho·√(maxₓ 1 / Σ pᵢ(x)²).
 *
 * Of a tall matrix w = Wᵀv is searched in the same way with WᵀW, which is smaller: its component along the right vector of
 * the value σ is σ times the cosine of v with the left one, so no cosine is above |w|·√(maxₓ 1 / (x·Σ pᵢ(x)²)).
 */
export async function boundWeights(
  operator: LinearOperator,
  X: Matrix,
  options: WeightOptions,
): Promise<readonly Weights[]> {
  const { known, lowest, highest, decideAt, steps = 320, square, knownRight, onProduct } = options;
  const left = makeBasis(operator.rows, known.cols + 1);
  left.add(known);
  const rests = transposed(toFloat64(X)).data; // what X has besides the known vectors, as rows
  for (let pass = 0; pass < 2; pass++) left.removeFrom(rests, X.cols);
  const lengths = Array.from({ length: X.cols }, (_, j) => norm(rests, j * operator.rows, operator.rows));
  const across = square !== undefined && knownRight !== undefined && operator.rows > operator.cols;
  const aside = across ? makeBasis(operator.cols, knownRight.cols + 1) : left;
  if (across) aside.add(knownRight);
  const rows = across ? operator.cols : operator.rows;
  const rest: Matrix<Float64Array> = { rows: X.cols, cols: operator.rows, data: rests };
  const starts = across ? transposed(toFloat64(await operator.applyTransposed(transposed(rest)))).data : rests;
  const runs = lengths.map((length, j) => {
    const vector = starts.slice(j * rows, (j + 1) * rows);
    for (let pass = 0; across && pass < 2; pass++) aside.removeFrom(vector, 1);
    const rho = norm(vector, 0, rows);
    if (rho > 0) scale(vector, 0, 1 / rho, rows);
    const open = length >= decideAt && rho > 0;
    return {
      rho,
      length,
      basis: makeBasis(rows, steps + 1),
      vector,
      alpha: [] as number[],
      beta: [] as number[],
      open,
    };
  });
  const results: Weights[] = lengths.map((length) => ({ bound: length, found: 0 }));
  let look = 8; // steps after which bounds are computed, which takes longer than a step
  for (let step = 0; step < steps; step++) {
    const active = runs.filter(({ open }) => open);
    if (active.length === 0) break;
    const block = zeroMatrix(rows, active.length);
    for (const [j, run] of active.entries()) {
      run.basis.add({ rows, cols: 1, data: run.vector });
      for (let i = 0; i < rows; i++) block.data[i * active.length + j] = run.vector[i] ?? 0;
    }
    const looks = step + 1 >= look || step + 1 === steps;
    if (looks) look = Math.ceil(1.2 * look);
    const product = square ? await square.apply(block) : await operator.apply(await operator.applyTransposed(block));
    const image = transposed(product);
    onProduct?.();
    for (const [j, run] of active.entries()) {
      const next = new Float64Array(image.data.subarray(j * rows, (j + 1) * rows));
      run.alpha.push(dot(next, 0, run.vector, 0, rows));
      // Along everything before, twice: Lanczos forgets what it has found otherwise, and would find it again.
      for (let pass = 0; pass < 2; pass++) {
        aside.removeFrom(next, 1);
        run.basis.removeFrom(next, 1);
      }
      const length = norm(next, 0, rows);
      run.beta.push(length);
      const ended = length <= 1e-7 * highest; // the vector is a sum of so many singular vectors
      if (!ended) scale(next, 0, 1 / length, rows);
      run.vector = next;
      if (!ended && !looks) continue;
      const at = runs.indexOf(run);
      const found = foundWeight(run, { unit: highest, across, lowest });
      const bound = ended ? found : run.rho * Math.sqrt(largestWeight(run, { lowest, highest, across }));
      results[at] = { bound: Math.max(found, Math.min(run.length, bound)), found };
      run.open = !ended && found < decideAt && bound >= decideAt;
    }
  }
  return results;
}

interface Recurrence {
  readonly rho: number;
  readonly alpha: readonly number[];
  readonly beta: readonly number[];
}

/** The largest weight of a settled Ritz vector, and 0 when none is. */
function foundWeight(
  { rho, alpha, beta }: Recurrence,
  { unit, across, lowest }: { readonly unit: number; readonly across: boolean; readonly lowest: number },
): number {
  const size = alpha.length;
  const T = zeroMatrix(size, size);
  for (let i = 0; i < size; i++) {
    T.data[i * size + i] = alpha[i] ?? 0;
    if (i + 1 < size) {
      T.data[i * size + i + 1] = beta[i] ?? 0;
      T.data[(i + 1) * size + i] = beta[i] ?? 0;
    }
  }
  const { values, vectors } = eigh(T);
  let largest = 0;
  for (let j = 0; j < size; j++) {
    const residual = (beta[size - 1] ?? 0) * Math.abs(vectors.data[(size - 1) * size + j] ?? 0);
    const value = values[j] ?? 0;
    if (residual > 1e-6 * unit || (across && value < lowest)) continue;
    largest = Math.max(largest, (rho * Math.abs(vectors.data[j] ?? 0)) / (across ? Math.sqrt(value) : 1));
  }
  return Math.min(1, largest);
}

/**
 * max over x in [lowest, highest] of 1 / Σ pᵢ(x)², or 1 / (x·Σ pᵢ(x)²), on a grid dense at both ends and then around its best
 * points.
 */
function largestWeight(
  { alpha, beta }: Recurrence,
  { lowest, highest, across }: { readonly lowest: number; readonly highest: number; readonly across: boolean },
): number {
  const weight = (x: number): number => {
    let [before, here, sum] = [0, 1, 1];
    for (let i = 0; i + 1 < alpha.length; i++) {
      const b = beta[i] ?? 0;
      const next = ((x - (alpha[i] ?? 0)) * here - (i === 0 ? 0 : (beta[i - 1] ?? 0)) * before) / b;
      [before, here] = [here, next];
      sum += next * next;
    }
    return 1 / (across ? x * sum : sum);
  };
  const points: number[] = [];
  const span = highest - lowest;
  const grid = 2000;
  for (let i = 0; i <= grid; i++) {
    points.push(lowest + (span * i) / grid);
    points.push(lowest + span * 10 ** (-9 * (1 - i / grid)));
  }
  points.push(lowest);
  points.sort((a, b) => a - b);
  const values = points.map(weight);
  let best = Math.max(...values);
  // Between the neighbours of each local best, by golden section: a peak between two points is not missed.
  for (let i = 0; i < points.length; i++) {
    const here = values[i] ?? 0;
    if (here < 0.5 * best || here < (values[i - 1] ?? 0) || here < (values[i + 1] ?? 0)) continue;
    let [left, right] = [points[i - 1] ?? lowest, points[i + 1] ?? highest];
    for (let round = 0; round < 30; round++) {
      const [a, b] = [right - 0.618 * (right - left), left + 0.618 * (right - left)];
      if (weight(a) > weight(b)) right = b;
      else left = a;
    }
    best = Math.max(best, weight((left + right) / 2));
  }
  return across ? best : Math.min(1, best);
}
