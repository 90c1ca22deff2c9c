import { makeBasis } from "./basis.ts";
import { filteredSubspace, type Subspace, type SymmetricOperator } from "./filtered.ts";
import { type LeadingOptions, leadingTriplets } from "./krylov.ts";
import { type Matrix, transposed } from "./matrix.ts";
import type { LinearOperator } from "./operator.ts";
import { type LeadingTriplets, rayleighRitz } from "./ritz.ts";

/** The operator of the transposed matrix. */
function onItsSide({ rows, cols, apply, applyTransposed, precision }: LinearOperator): LinearOperator {
  return { rows: cols, cols: rows, apply: applyTransposed, applyTransposed: apply, precision };
}

/**
 * The first `count` singular triplets, with the help of the square of the smaller side: W·Wᵀ of a matrix that is not taller
 * than it is wide, WᵀW of a tall one. Filters on the square find the subspace; products with W itself judge it, by the same
 * measure as {@link leadingTriplets}, and improve it where squaring lost what is wanted (values far below the largest one).
 * What that does not settle, and what is too small for it, is left to block Krylov iteration. `start` has columns on the
 * smaller side that are near what is looked for.
 */
export async function leadingBySquare(
  operator: LinearOperator,
  square: SymmetricOperator,
  count: number,
  options: Pick<LeadingOptions, "rng" | "enough" | "onProduct"> & { readonly start?: Matrix },
): Promise<LeadingTriplets> {
  const tall = operator.rows > operator.cols;
  const upright = tall ? onItsSide(operator) : operator;
  const { rows, precision } = upright;
  const wanted = Math.min(count, rows);
  const enough = Math.min(wanted, options.enough ?? wanted);
  const width = wanted + Math.max(16, Math.ceil(wanted / 4));
  if (rows < 4 * width) return leadingTriplets(operator, count, options);
  const settled = ({ values, residuals }: Subspace, i: number): boolean => {
    const sigma = (j: number): number => Math.sqrt(Math.max(0, values[j] ?? Number.POSITIVE_INFINITY));
    const gap = Math.min(i === 0 ? Number.POSITIVE_INFINITY : sigma(i - 1) - sigma(i), sigma(i) - sigma(i + 1));
    const allowed = Math.max(1e-6 * gap, 32 * precision * sigma(0));
    return (residuals[i] ?? 0) <= 0.5 * allowed * sigma(i);
  };
  const { rng, onProduct } = options;
  const how = { rng, settled, enough, ...(onProduct ? { onProduct } : {}) };
  const from = options.start ? { start: options.start } : {};
  let start = (await filteredSubspace(square, width, { ...how, ...from })).vectors;
  const itself: SymmetricOperator = {
    size: rows,
    apply: async (X) => upright.apply(await upright.applyTransposed(X)),
  };
  for (let round = 0; ; round++) {
    const basis = makeBasis(rows, width);
    basis.add(start);
    const found = await rayleighRitz(upright, basis, [await upright.applyTransposed(basis.columns())], wanted);
    if (found.converged >= enough) return tall ? turned(found) : found;
    if (round === 2) return leadingTriplets(operator, count, options);
    start = (await filteredSubspace(itself, width, { ...how, start, rounds: 4 })).vectors;
  }
}

function turned({ U, S, Vt, ...rest }: LeadingTriplets): LeadingTriplets {
  return { ...rest, U: transposed(Vt), S, Vt: transposed(U) };
}
