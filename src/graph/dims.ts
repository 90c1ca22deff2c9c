/**
 * Sizes along an axis: a number, or an expression over symbols such as `"batch"` or `"2*past+seq"`.
 * Expressions are integer polynomials kept in one canonical spelling, so equal sizes compare equal with `===`.
 */
export type Dim = number | string;

/** A shape whose sizes may be symbolic; `[]` is a scalar. */
export type Shape = readonly Dim[];

type Polynomial = ReadonlyMap<string, number>; // monomial ("a*b", symbols sorted; "" is 1) -> coefficient

function polynomial(dim: Dim): Polynomial {
  if (typeof dim === "number") return new Map(dim === 0 ? [] : [["", dim]]);
  const terms = new Map<string, number>();
  for (const [, sign, term] of dim.matchAll(/([+-]?)([^+-]+)/g)) {
    let coefficient = sign === "-" ? -1 : 1;
    const symbols: string[] = [];
    for (const factor of (term ?? "").split("*")) {
      if (/^\d+$/.test(factor)) coefficient *= Number(factor);
      else symbols.push(factor);
    }
    const monomial = symbols.sort().join("*");
    terms.set(monomial, (terms.get(monomial) ?? 0) + coefficient);
  }
  return terms;
}

function spell(terms: Polynomial): Dim {
  const kept = [...terms].filter(([, coefficient]) => coefficient !== 0);
  if (kept.every(([monomial]) => monomial === "")) return kept[0]?.[1] ?? 0;
  kept.sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1));
  return kept
    .map(([monomial, coefficient], i) => {
      const sign = coefficient < 0 ? "-" : i > 0 ? "+" : "";
      const size = Math.abs(coefficient);
      return `${sign}${monomial === "" ? size : size === 1 ? monomial : `${size}*${monomial}`}`;
    })
    .join("");
}

/** a + b. */
export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a + b;
  const sum = new Map(polynomial(a));
  for (const [monomial, coefficient] of polynomial(b)) sum.set(monomial, (sum.get(monomial) ?? 0) + coefficient);
  return spell(sum);
}

/** a · b. */
export function mulDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a * b;
  const product = new Map<string, number>();
  for (const [left, x] of polynomial(a)) {
    for (const [right, y] of polynomial(b)) {
      const monomial = [left, right]
        .filter((symbols) => symbols !== "")
        .flatMap((symbols) => symbols.split("*"))
        .sort()
        .join("*");
      product.set(monomial, (product.get(monomial) ?? 0) + x * y);
    }
  }
  return spell(product);
}

/** a − b. */
export function subDims(a: Dim, b: Dim): Dim {
  return addDims(a, mulDims(-1, b));
}

/** a / b where b is a single term that divides a exactly; undefined otherwise. */
export function divDims(a: Dim, b: Dim): Dim | undefined {
  if (typeof a === "number" && typeof b === "number") return b !== 0 && a % b === 0 ? a / b : undefined;
  const divisor = [...polynomial(b)];
  const only = divisor[0];
  if (divisor.length !== 1 || only === undefined) return undefined;
  const [symbols, scale] = only;
  const quotient = new Map<string, number>();
  for (const [monomial, coefficient] of polynomial(a)) {
    if (coefficient % scale !== 0) return undefined;
    const rest = monomial === "" ? [] : monomial.split("*");
    for (const symbol of symbols === "" ? [] : symbols.split("*")) {
      const at = rest.indexOf(symbol);
      if (at < 0) return undefined;
      rest.splice(at, 1);
    }
    quotient.set(rest.join("*"), coefficient / scale);
  }
  return spell(quotient);
}

/** Whether a size is well formed: a whole number ≥ 0, or an expression in its one canonical spelling. */
export function isCanonicalDim(dim: Dim): boolean {
  if (typeof dim === "number") return Number.isSafeInteger(dim) && dim >= 0;
  return /^-?\w+([*+-]\w+)*$/.test(dim) && addDims(dim, 0) === dim;
}

/** Number of elements of a shape, as a size. */
export function elementsOf(shape: Shape): Dim {
  return shape.reduce<Dim>(mulDims, 1);
}

/** The value of a size once its symbols are known; undefined while one is missing. */
export function resolveDim(dim: Dim, symbols: Readonly<Record<string, number>>): number | undefined {
  if (typeof dim === "number") return dim;
  let total = 0;
  for (const [monomial, coefficient] of polynomial(dim)) {
    let term = coefficient;
    for (const symbol of monomial === "" ? [] : monomial.split("*")) {
      const value = symbols[symbol];
      if (value === undefined) return undefined;
      term *= value;
    }
    total += term;
  }
  return total;
}

/** Whether every size of the shape is a number. */
export function isConcrete(shape: Shape): shape is readonly number[] {
  return shape.every((dim) => typeof dim === "number");
}

/** Whether two shapes are the same, size by size. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/**
 * The shape both broadcast to (ONNX multidirectional broadcasting); undefined when they do not.
 * A symbol against a number greater than 1 takes the number: the runtime checks that they agree.
 */
export function broadcastShapes(a: Shape, b: Shape): Shape | undefined {
  const rank = Math.max(a.length, b.length);
  const result: Dim[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x === y || y === 1) result.push(x);
    else if (x === 1) result.push(y);
    else if (typeof x === "string" && typeof y === "number") result.push(y);
    else if (typeof y === "string" && typeof x === "number") result.push(x);
    else return undefined;
  }
  return result;
}

/** A shape as people read it: `[batch, seq, 64]`. */
export function showShape(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}
