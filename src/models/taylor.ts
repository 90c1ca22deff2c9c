import { constant, type Value } from "../graph/index.ts";
import { concat, mul, slice } from "../ops/index.ts";

/**
 * A product of coordinates of a vector, each as often as it likes: the last coordinate times a smaller product whose own last
 * coordinate comes no later.
 */
interface Monomial {
  readonly last: number;
  /** How often each coordinate stands in it, where it does. */
  readonly powers: ReadonlyMap<number, number>;
}

/** The products of `size` of d coordinates, ordered by their last one: those up to a coordinate are the first ones. */
function monomials(d: number, size: number): readonly Monomial[] {
  if (size === 1) return Array.from({ length: d }, (_, last) => ({ last, powers: new Map([[last, 1]]) }));
  const smaller = monomials(d, size - 1);
  return Array.from({ length: d }, (_, last) =>
    smaller
      .filter((monomial) => monomial.last <= last)
      .map(({ powers }) => ({ last, powers: new Map(powers).set(last, (powers.get(last) ?? 0) + 1) })),
  ).flat();
}

/** The number of products of up to `degree` of d coordinates, the empty one included: binom(d + degree, degree). */
export function featureCount(d: number, degree: number): number {
  let count = 1;
  for (let i = 1; i <= degree; i++) count = (count * (d + i)) / i;
  return Math.round(count);
}

/** The number of products of exactly `size` coordinates. */
function monomialCount(d: number, size: number): number {
  return featureCount(d, size) - featureCount(d, size - 1);
}

/**
 * What a product of `size` coordinates of two vectors weighs in (q·k)^size/size!: 1/∏ powers!, as a column
 * [products of that size, 1].
 */
export function taylorWeights(d: number, size: number): Value {
  const factorial = (n: number): number => (n < 2 ? 1 : n * factorial(n - 1));
  const weights = monomials(d, size).map(
    ({ powers }) => 1 / [...powers.values()].reduce((product, power) => product * factorial(power), 1),
  );
  return constant(weights, "float32", [weights.length, 1]);
}

/**
 * Products of `size` coordinates from those of one fewer: x [..., d, tokens], smaller [..., products of size − 1, tokens] ->
 * [..., products of size, tokens]. Tokens stand last, so that a coordinate meets a first part of the smaller products and nothing
 * is picked one by one.
 */
export function nextProducts(smaller: Value, x: Value, d: number, size: number): Value {
  const axis = x.shape.length - 2;
  const parts = Array.from({ length: d }, (_, coordinate) => {
    const count = monomialCount(coordinate + 1, size - 1); // those of the coordinates up to this one
    return mul(slice(smaller, [0], [count], [axis]), slice(x, [coordinate], [coordinate + 1], [axis]));
  });
  return concat(parts, axis);
}
