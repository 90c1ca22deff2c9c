import { makeBasis } from "./basis.ts";
import { eigh } from "./eigh.ts";
import { besides, columnsOf, type Matrix, toFloat64, transposed, zeroMatrix } from "./matrix.ts";
import { matmul } from "./multiply.ts";
import type { Rng } from "./rng.ts";

/** A symmetric matrix without negative eigenvalues that is only known by its products. */
export interface SymmetricOperator {
  readonly size: number;
  /** G·X: X [size, n] -> [size, n]. */
  apply(X: Matrix): Promise<Matrix>;
  /** The operator plus left·right [size, r]·[r, size], where its products are computed elsewhere. */
  plus?(left: Matrix, right: Matrix): SymmetricOperator;
}

/** What a subspace holds of an operator's leading eigenvectors, the largest eigenvalue first. */
export interface Subspace {
  /** Orthonormal columns [size, count]. */
  readonly vectors: Matrix<Float64Array>;
  readonly values: Float64Array;
  /** ‖G·x − value·x‖ of each. */
  readonly residuals: Float64Array;
}

/** How far to go; see {@link filteredSubspace}. */
export interface FilterOptions {
  readonly rng: Rng;
  /** Columns to start from, any number of them; random ones unless given. */
  readonly start?: Matrix;
  /** Whether a vector is known well enough. */
  readonly settled: (subspace: Subspace, index: number) => boolean;
  /** Stop when as many, from the first on, are settled. */
  readonly enough: number;
  /** Rounds of a filter and a look. */
  readonly rounds?: number;
  readonly onProduct?: () => void;
}

/** Products with the operator in one round, at most. */
const longest = 24;
/** What the first vector that is filtered grows by in one round, at most: what is added by rounding grows as well. */
const steepest = 1e5;

/**
 * The leading eigenvectors in a subspace of `count` dimensions, by Chebyshev filters: a polynomial that is small where
 * eigenvalues are not wanted, between zero and the subspace's last one, and grows fast above. Zhou, Saad, Tiago and
 * Chelikowsky 2006, "Self-consistent-field calculations using Chebyshev-filtered subspace iteration". A flat spectrum
 * takes products with many columns at once, which are cheap, and no basis that grows. Settled vectors are taken out of the
 * operator. Ends when enough is settled, when `rounds` are done, or when rounding lets nothing get better.
 */
export async function filteredSubspace(
  operator: SymmetricOperator,
  count: number,
  options: FilterOptions,
): Promise<Subspace> {
  const { size } = operator;
  const { rng, settled, enough, rounds = 30, onProduct } = options;
  const apply = async (X: Matrix): Promise<Matrix> => {
    onProduct?.();
    return operator.apply(X);
  };
  const random = (cols: number): Matrix<Float64Array> => ({
    rows: size,
    cols,
    data: Float64Array.from({ length: size * cols }, () => rng.normal()),
  });
  let best = await lookAt(apply, [options.start ?? (await apply(random(count)))], random, count);
  let stalled = 0;
  // A start may lack a leading vector altogether: no result of it is taken before some random columns were filtered as well.
  let strangers = options.start ? 4 : 0;
  for (let round = 0; round < rounds; round++) {
    const known = firstThat((i) => !settled(best, i), enough);
    if (known >= enough && strangers === 0) break;
    const cut = best.values.at(-1) ?? 0;
    const ratio = (best.values[known] ?? 0) / cut;
    if (!(ratio < 1e12)) break; // beyond the known vectors there is nothing but rounding
    const steps = degreeFor(ratio);
    const kept = columnsOf(best.vectors, 0, known);
    const active = besides(columnsOf(best.vectors, known, best.vectors.cols), random(strangers));
    strangers = 0;
    const deflated = withoutKnown(operator, kept, best.values);
    const counted = async (X: Matrix): Promise<Matrix<Float64Array>> => {
      onProduct?.();
      return toFloat64(await deflated.apply(X));
    };
    const filtered = await filter(counted, active, cut, steps);
    const next = await lookAt(apply, [kept, filtered], random, count);
    // Progress is told by the worst of those that are wanted.
    stalled = worst(next, enough) < 0.7 * worst(best, enough) ? 0 : stalled + 1;
    best = next;
    if (stalled === 3) break;
  }
  return best;
}

function worst({ residuals }: Subspace, enough: number): number {
  return Math.max(...residuals.subarray(0, enough));
}

function firstThat(holds: (index: number) => boolean, upTo: number): number {
  let i = 0;
  while (i < upTo && !holds(i)) i += 1;
  return i;
}

/** How many products take a value that is `ratio` times the cut as far up as is allowed. */
function degreeFor(ratio: number): number {
  const growth = Math.acosh(Math.max(1 + 1e-12, 2 * ratio - 1));
  return Math.max(2, Math.min(longest, Math.floor(Math.log(2 * steepest) / growth)));
}

/** G − X·diag(values)·Xᵀ, where X are vectors that are known. */
function withoutKnown(
  operator: SymmetricOperator,
  known: Matrix<Float64Array>,
  values: Float64Array,
): Pick<SymmetricOperator, "apply"> {
  if (known.cols === 0) return operator;
  const turned = transposed(known);
  const away = { ...known, data: known.data.map((value, i) => -value * (values[i % known.cols] ?? 0)) };
  if (operator.plus) return operator.plus(away, turned);
  return {
    apply: async (X) => {
      const result = toFloat64(await operator.apply(X));
      const part = matmul(away, matmul(turned, X));
      for (let i = 0; i < part.data.length; i++) result.data[i] = (result.data[i] ?? 0) + (part.data[i] ?? 0);
      return result;
    },
  };
}

/** T_degree(2·G/cut − 1)·X, by the recurrence of Chebyshev's polynomials. */
async function filter(
  apply: (X: Matrix<Float64Array>) => Promise<Matrix<Float64Array>>,
  X: Matrix<Float64Array>,
  cut: number,
  degree: number,
): Promise<Matrix<Float64Array>> {
  let before = X;
  let here = await apply(X);
  for (let i = 0; i < here.data.length; i++) here.data[i] = (2 / cut) * (here.data[i] ?? 0) - (X.data[i] ?? 0);
  for (let step = 1; step < degree; step++) {
    const next = await apply(here);
    const [a, b, c] = [next.data, here.data, before.data];
    for (let i = 0; i < a.length; i++) a[i] = (4 / cut) * (a[i] ?? 0) - 2 * (b[i] ?? 0) - (c[i] ?? 0);
    [before, here] = [here, next];
  }
  return here;
}

/** The first `count` of Rayleigh–Ritz in what the blocks span; random vectors fill up what is missing or rounding left out. */
async function lookAt(
  apply: (X: Matrix) => Promise<Matrix>,
  blocks: readonly Matrix[],
  random: (cols: number) => Matrix<Float64Array>,
  count: number,
): Promise<Subspace> {
  const given = blocks.reduce((sum, { cols }) => sum + cols, 0);
  const basis = makeBasis(blocks[0]?.rows ?? 0, Math.max(count, given));
  for (const block of blocks) basis.add(block);
  if (basis.count < count) basis.add(random(count - basis.count));
  const Q = basis.columns();
  const GQ = toFloat64(await apply(Q));
  const H = matmul(transposed(Q), GQ);
  const n = H.rows;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) {
      const middle = ((H.data[i * n + j] ?? 0) + (H.data[j * n + i] ?? 0)) / 2; // products in float32 are not symmetric
      H.data[i * n + j] = middle;
      H.data[j * n + i] = middle;
    }
  }
  const { values: rising, vectors } = eigh(H);
  const P = zeroMatrix(n, count);
  for (let i = 0; i < n; i++)
    for (let j = 0; j < count; j++) P.data[i * count + j] = vectors.data[i * n + n - 1 - j] ?? 0;
  const values = Float64Array.from(rising).reverse().subarray(0, count);
  const [X, GX] = [matmul(Q, P), matmul(GQ, P)];
  const residuals = new Float64Array(count);
  for (let i = 0; i < X.data.length; i++) {
    const j = i % count;
    residuals[j] = (residuals[j] ?? 0) + ((GX.data[i] ?? 0) - (values[j] ?? 0) * (X.data[i] ?? 0)) ** 2;
  }
  return { vectors: X, values, residuals: residuals.map(Math.sqrt) };
}
