import { constant, sizeOf, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  ConstantOfShape,
  cast,
  div,
  Expand,
  equal,
  gather,
  gatherElements,
  gemm,
  matmul,
  min,
  mul,
  ReduceSumSquare,
  reduceSum,
  reshape,
  reshapeTo,
  scale,
  scatterNd,
  sizeVector,
  sqrt,
  squeeze,
  transpose,
  transposeLast,
  unsqueeze,
} from "../ops/index.ts";
import { type ExampleLayout, exampleNumbers } from "./example-rows.ts";
import type { ExampleGradients, Factors } from "./per-example.ts";

/** What keeps a norm of zero from dividing; Opacus has the same. */
const tiny = 1e-6;

/** Sums of clipped gradients, and how long the gradients were. */
export interface ClippedSums {
  /** One for each trained tensor, of its shape. */
  readonly sums: readonly Value[];
  /** Length of every example's gradient, over all trained tensors: float32 [examples, 1]. */
  readonly norms: Value;
}

/**
 * Σ mask·min(1, C / (‖g‖ + 1e-6))·g over examples, where ‖g‖ is one length over all that is trained (Abadi et al. 2016,
 * arXiv 1607.00133, algorithm 1). `mask` float32 [examples, 1] is 1, or 0 for a row that is no example; `clip` C is a scalar.
 */
export function clippedSums(
  gradients: readonly { readonly of: ExampleGradients; readonly shape: readonly number[] }[],
  { mask, clip, layout }: { readonly mask: Value; readonly clip: Value; readonly layout: ExampleLayout },
): ClippedSums {
  const flat = gradients.map(({ of, shape }) =>
    "each" in of ? reshapeTo(of.each, [layout.examples, sizeOf(shape)], [of.each, ...layout.sources]) : undefined,
  );
  const squares = gradients.map(({ of }, i) => {
    const own = flat[i];
    if (own) return apply(ReduceSumSquare, [own, constant([1], "int64")]);
    return squareOfFactors("factors" in of ? of.factors : [], layout);
  });
  const norms = sqrt(squares.reduce((sum, square) => add(sum, square)));
  const factor = mul(min(div(clip, add(norms, tiny)), 1), mask);
  const turned = transpose(factor, [1, 0]);
  const sums = gradients.map(({ of, shape }, i) => {
    const own = flat[i];
    if (own) return reshape(matmul(turned, own), shape);
    const parts = "factors" in of ? of.factors.map((factors) => weightedSum(factors, factor, shape)) : [];
    return parts.reduce((sum, part) => add(sum, part));
  });
  return { sums, norms };
}

/** The squared length of Σ scale·leftᵀ·right for every example, of products of rows with rows alone: [examples, 1]. */
function squareOfFactors(all: readonly Factors[], layout: ExampleLayout): Value {
  const terms = all.flatMap((a, i) =>
    all.slice(i).map((b, j) => scale(innerProduct(a, b, layout), (j === 0 ? 1 : 2) * a.scale * b.scale)),
  );
  return terms.reduce((sum, term) => add(sum, term));
}

/** Σ (left_t·left_u)(right_t·right_u) over an example's rows t of one and u of the other: [examples, 1]. */
function innerProduct(a: Factors, b: Factors, layout: ExampleLayout): Value {
  if (!a.owners && !b.owners) {
    const products = mul(leftProducts(a, b), matmul(a.right, transposeLast(b.right)));
    return squeeze(reduceSum(products, [1, 2]), [2]);
  }
  const [own, other] = [inRows(a, layout), inRows(b, layout)];
  const same = cast(equal(unsqueeze(own.owners, [1]), unsqueeze(other.owners, [0])), "float32");
  const right = gemm(own.right, other.right, { transB: true });
  const sums = reduceSum(mul(mul(leftProducts(own, other), right), same), [1]); // [rows, 1]
  const whose = cast(equal(unsqueeze(exampleNumbers(layout), [1]), unsqueeze(own.owners, [0])), "float32");
  return matmul(whose, sums);
}

/** The products of the left sides' rows: [examples, rows, rows] or [rows, rows]. */
function leftProducts({ left: a }: Pick<Factors, "left">, { left: b }: Pick<Factors, "left">): Value {
  if ("values" in a && "values" in b) return matmul(a.values, transposeLast(b.values));
  if ("ids" in a && "ids" in b) {
    const last = a.ids.shape.length;
    return cast(equal(unsqueeze(a.ids, [last]), unsqueeze(b.ids, [last - 1])), "float32");
  }
  if ("ids" in a && "values" in b) return columnsAt(b.values, a.ids);
  return transposeLast(leftProducts({ left: b }, { left: a }));
}

/** One-hot rows times rows: ids [..., n], values [..., t, width] -> [..., n, t]. */
function columnsAt(values: Value, ids: Value): Value {
  if (ids.shape.length === 1) return transposeLast(gather(values, ids, 1));
  const sizes = [...values.shape.slice(0, 2), ids.shape[1] ?? 1];
  const places = apply(Expand, [unsqueeze(ids, [1]), sizeVector(sizes, [values, ids])]);
  return transposeLast(gatherElements(values, places, 2));
}

/** Factors by example as factors of rows, each with its example. */
function inRows(factors: Factors, { examples, sources }: ExampleLayout): Factors & { readonly owners: Value } {
  const { left, right, owners } = factors;
  if (owners) return { ...factors, owners };
  const numbers = unsqueeze(exampleNumbers({ rows: examples, examples, sources }), [1]);
  const spread = apply(Expand, [numbers, sizeVector(right.shape.slice(0, 2), [right])]);
  return {
    ...factors,
    left: "ids" in left ? { ids: reshape(left.ids, [-1]) } : { values: rowsOf(left.values) },
    right: rowsOf(right),
    owners: reshape(spread, [-1]),
  };
}

/** [examples, n, width] -> [rows, width]; rows as they are. */
function rowsOf(value: Value): Value {
  return value.shape.length === 2 ? value : reshape(value, [-1, value.shape[2] ?? 1]);
}

/** Σ factor·scale·leftᵀ·right over all rows: the shape of the matrix. */
function weightedSum(factors: Factors, factor: Value, shape: readonly number[]): Value {
  const { left, right, owners, scale: alpha } = factors;
  const own = owners ? gather(factor, owners) : unsqueeze(factor, [2]); // one number a row, or an example
  const weighted = (value: Value): Value => rowsOf(mul(value, own));
  if ("ids" in left) {
    const zeros = apply(ConstantOfShape, [constant(shape, "int64")]);
    return scatterNd(zeros, reshape(left.ids, [-1, 1]), weighted(right), "add");
  }
  const { values } = left;
  return Number(values.shape.at(-1)) <= Number(right.shape.at(-1))
    ? gemm(weighted(values), rowsOf(right), { transA: true, alpha })
    : gemm(rowsOf(values), weighted(right), { transA: true, alpha });
}
