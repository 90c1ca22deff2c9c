import { norm, scale } from "./vectors.ts";

/** H = I − tau·v·vᵀ maps the vector it was made from to (beta, 0, 0, …). */
export interface Reflector {
  readonly tau: number;
  readonly beta: number;
}

/**
 * Turn the stretch x of an array into the v, with v₀ = 1, of the reflector that maps x to (beta, 0, …). beta has the
 * opposite sign of x₀, as in LAPACK's `larfg`, so signs of Q and R are numpy's. A stretch that is zero beyond its
 * first value, or as good as zero in a matrix scaled to unit size, gets tau = 0: nothing is reflected.
 */
export function reflectorOf(x: Float64Array, from: number, length: number): Reflector {
  const first = x[from] ?? 0;
  const rest = norm(x, from + 1, length - 1);
  x[from] = 1;
  if (rest < 1e-290) {
    x.fill(0, from + 1, from + length); // 1 over a length this small may overflow
    return { tau: 0, beta: first };
  }
  const beta = -Math.sign(first || 1) * Math.hypot(first, rest);
  scale(x, from + 1, 1 / (first - beta), length - 1);
  return { tau: (beta - first) / beta, beta };
}
