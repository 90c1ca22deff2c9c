import { makeBasis } from "./basis.ts";
import type { Matrix } from "./matrix.ts";
import type { LinearOperator } from "./operator.ts";
import { type LeadingTriplets, rayleighRitz } from "./ritz.ts";
import type { Rng } from "./rng.ts";

/** How far to go; see {@link leadingTriplets}. */
export interface LeadingOptions {
  /** Draws the start. */
  readonly rng: Rng;
  /** Stop when as many are settled, from the first on; all that are wanted unless given. */
  readonly enough?: number;
  /** Vectors that are multiplied at a time; a quarter of what is wanted, and at least 8, unless given. */
  readonly block?: number;
  /** Products with W·Wᵀ before each look. */
  readonly iterations?: number;
  /** Looks at what the basis holds. */
  readonly looks?: number;
  /** Called after each pair of products. */
  readonly onProduct?: () => void;
}

/**
 * The first `count` singular triplets by block Krylov iteration on W·Wᵀ with full reorthogonalisation and
 * Rayleigh–Ritz, from a random start until they are settled. Musco and Musco 2015 (arXiv 1504.05477), algorithm 2. The
 * basis is never thrown away, so a block may be narrow: what a product costs hardly depends on its width, and what a
 * basis costs goes with the square of its vectors. A value that occurs more often than the block is wide is found as
 * rounding lets it in. Values below 1e-8 of the largest are roundings, and so are their vectors.
 */
export async function leadingTriplets(
  operator: LinearOperator,
  count: number,
  options: LeadingOptions,
): Promise<LeadingTriplets> {
  const { rows, cols } = operator;
  const { rng, iterations = 16, looks = 5, onProduct } = options;
  const wanted = Math.min(count, rows, cols);
  const enough = Math.min(wanted, options.enough ?? wanted);
  const width = Math.min(rows, options.block ?? Math.max(8, Math.ceil(wanted / 4)));
  const random = (): Matrix<Float64Array> => ({
    rows,
    cols: width,
    data: Float64Array.from({ length: rows * width }, () => rng.normal()),
  });
  const capacity = Math.min(rows, Math.max(width * (iterations * looks + 1), wanted + 2 * width));
  const basis = makeBasis(rows, capacity);
  const images: Matrix[] = []; // Wᵀ of each block of the basis
  let block: Matrix = random();
  let best: LeadingTriplets | undefined;
  for (let look = 1; best === undefined || (look <= looks && basis.count < capacity); look++) {
    const until = Math.min(capacity, Math.max(width * (iterations * look + 1), wanted + 2 * width));
    while (basis.count < until) {
      const first = basis.add(block);
      // Where the basis is invariant, something new is in none of its directions.
      if (basis.count === first) block = random();
      else {
        images.push(await operator.applyTransposed(basis.columns(first)));
        block = await operator.apply(images.at(-1) as Matrix); // just put there
        onProduct?.();
      }
    }
    best = await rayleighRitz(operator, basis, images, wanted);
    if (best.converged >= enough) break;
  }
  return best;
}
