import { assert } from "../errors.ts";
import {
  type Attributes,
  constant,
  type Dim,
  int,
  isConcrete,
  numberAttribute,
  type Shape,
  sameShape,
  sizeOf,
  type Value,
} from "../graph/index.ts";
import { cast, div, equal, mul } from "./elementwise.ts";
import { apply, defineOp, normalAxis, type Op, type Reference, required, type Sample } from "./op.ts";
import { eachIndex, int64s, reference, spread, stridesOf } from "./reference.ts";
import { expandLike, reshapeLike, Shape as ShapeOp, unsqueeze } from "./shape.ts";
import { sizesOf } from "./sizes.ts";

interface Reduction {
  readonly since: number;
  readonly start: number;
  readonly step: (sum: number, x: number) => number;
  readonly finish?: (sum: number, count: number) => number;
  /** The gradient, with dy and y already given back the reduced axes. */
  readonly grad: (dy: Value, x: Value, y: Value, axes: readonly number[]) => Value;
  readonly samples?: readonly Sample[];
}

const reduceSamples: readonly Sample[] = [
  { inputs: [spread([2, 3, 4]), int64s([-1])], attributes: { keepdims: int(1) }, constant: [1] },
  { inputs: [spread([2, 3, 4]), int64s([0, 2])], attributes: { keepdims: int(0) }, constant: [1] },
  { inputs: [spread([2, 3])], attributes: { keepdims: int(0) } },
];

/** A reduction over `axes` (int64 vector, all when absent): x [...] -> y, the axes kept as 1 when `keepdims` is 1. */
function reduction(name: string, { since, start, step, finish, grad, samples }: Reduction): Op {
  return defineOp({
    name,
    since,
    infer: (inputs, attributes) => {
      const x = required(inputs, 0, name);
      const axes = reducedAxes(x.shape, inputs[1] && sizesOf(inputs[1]), inputs[1] !== undefined, attributes, name);
      return [{ dtype: x.dtype, shape: reducedShape(x.shape, axes, keepsDims(attributes)) }];
    },
    rows: ({ inputs: [x, axes], attributes }) => {
      if (!x || !keepsDims(attributes)) return undefined;
      const known = reducedAxes(x.shape, axes && sizesOf(axes), axes !== undefined, attributes, name);
      return known.includes(0) ? undefined : [0];
    },
    evaluate: (inputs, attributes) => {
      const x = required(inputs, 0, name);
      const axes = reducedAxes(x.shape, inputs[1] && [...inputs[1].data], inputs[1] !== undefined, attributes, name);
      const kept = reducedShape(x.shape, axes, true) as number[]; // concrete in, concrete out
      const strides = stridesOf(kept);
      const data = new Float64Array(sizeOf(kept)).fill(start);
      eachIndex(x.shape, (flat, at) => {
        const offset = at.reduce((sum, v, i) => sum + (axes.includes(i) ? 0 : v * (strides[i] ?? 0)), 0);
        data[offset] = step(data[offset] ?? 0, x.data[flat] ?? 0);
      });
      const count = x.data.length / Math.max(data.length, 1);
      const shape = reducedShape(x.shape, axes, keepsDims(attributes)) as number[]; // as above
      return [{ dtype: x.dtype, shape, data: finish ? data.map((sum) => finish(sum, count)) : data }];
    },
    grad: ({ dy, x, inputs, outputs, attributes }) => {
      const axes = reducedAxes(x(0).shape, inputs[1] && sizesOf(inputs[1]), inputs[1] !== undefined, attributes, name);
      const keep = (value: Value): Value =>
        keepsDims(attributes) || value.shape.length === x(0).shape.length ? value : unsqueeze(value, axes);
      return [grad(keep(dy), x(0), keep(required(outputs, 0, name)), axes)];
    },
    cost: "memory",
    samples: samples ?? reduceSamples,
  });
}

function keepsDims(attributes: Attributes): boolean {
  return numberAttribute(attributes, "keepdims", 1) === 1;
}

function reducedAxes(
  shape: Shape,
  axes: readonly Dim[] | undefined,
  given: boolean,
  attributes: Attributes,
  name: string,
): readonly number[] {
  assert(
    !given || (axes !== undefined && isConcrete(axes)),
    `${name} needs axes that are known when the graph is built`,
  );
  const all = Array.from(shape, (_, i) => i);
  if (!given || !axes || axes.length === 0)
    return numberAttribute(attributes, "noop_with_empty_axes", 0) === 1 ? [] : all;
  return axes.map((axis) => normalAxis(Number(axis), shape.length, name));
}

function reducedShape(shape: Shape, axes: readonly number[], keep: boolean): Dim[] {
  return shape.map((dim, i): Dim => (axes.includes(i) ? 1 : dim)).filter((_, i) => keep || !axes.includes(i));
}

/** Number of reduced elements, as a divisor of dy's dtype. */
function meanOver(dy: Value, x: Value, axes: readonly number[]): Value {
  const sizes = axes.map((axis) => x.shape[axis] ?? 1);
  if (isConcrete(sizes)) return mul(dy, 1 / sizeOf(sizes));
  const count = sizes.reduce<Value>(
    (product, size, i) =>
      mul(
        product,
        typeof size === "number"
          ? size
          : cast(apply(ShapeOp, [x], { start: int(axes[i] ?? 0), end: int((axes[i] ?? 0) + 1) }), dy.dtype),
      ),
    constant(1, dy.dtype),
  );
  return div(dy, count);
}

/** Sum. dx = dy. */
export const ReduceSum: Op = reduction("ReduceSum", {
  since: 13,
  start: 0,
  step: (sum, x) => sum + x,
  grad: (dy, x) => expandLike(dy, x),
});
/** Mean. dx = dy / count. */
export const ReduceMean: Op = reduction("ReduceMean", {
  since: 18,
  start: 0,
  step: (sum, x) => sum + x,
  finish: (sum, count) => sum / count,
  grad: (dy, x, _y, axes) => expandLike(meanOver(dy, x, axes), x),
});
/** Largest element; ties share the gradient equally. */
export const ReduceMax: Op = reduction("ReduceMax", {
  since: 18,
  start: Number.NEGATIVE_INFINITY,
  step: (best, x) => Math.max(best, x),
  grad: sharedAmongEqual,
});
/** Smallest element; ties share the gradient equally. */
export const ReduceMin: Op = reduction("ReduceMin", {
  since: 18,
  start: Number.POSITIVE_INFINITY,
  step: (best, x) => Math.min(best, x),
  grad: sharedAmongEqual,
});
/** Sum of squares. dx = 2·x·dy. */
export const ReduceSumSquare: Op = reduction("ReduceSumSquare", {
  since: 18,
  start: 0,
  step: (sum, x) => sum + x * x,
  grad: (dy, x) => mul(mul(dy, 2), x),
});

function sharedAmongEqual(dy: Value, x: Value, y: Value, axes: readonly number[]): Value {
  const chosen = cast(equal(x, y), dy.dtype);
  return mul(chosen, div(dy, reduceSum(chosen, axes)));
}

/** Position of the largest element along `axis`, as int64; the first of equals unless `select_last_index` is 1. */
export const ArgMax: Op = defineOp({
  name: "ArgMax",
  since: 13,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "ArgMax");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), x.shape.length, "ArgMax");
    return [{ dtype: "int64", shape: reducedShape(x.shape, [axis], keepsDims(attributes)) }];
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "ArgMax");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), x.shape.length, "ArgMax");
    const kept = reducedShape(x.shape, [axis], true) as number[]; // concrete in, concrete out
    const strides = stridesOf(kept);
    const best = new Float64Array(sizeOf(kept)).fill(Number.NEGATIVE_INFINITY);
    const data = new Float64Array(best.length);
    const last = numberAttribute(attributes, "select_last_index", 0) === 1;
    eachIndex(x.shape, (flat, at) => {
      const offset = at.reduce((sum, v, i) => sum + (i === axis ? 0 : v * (strides[i] ?? 0)), 0);
      const value = x.data[flat] ?? 0;
      if (value > (best[offset] ?? 0) || (last && value === best[offset])) {
        best[offset] = value;
        data[offset] = at[axis] ?? 0;
      }
    });
    const shape = reducedShape(x.shape, [axis], keepsDims(attributes)) as number[]; // as above
    return [{ dtype: "int64", shape, data } satisfies Reference];
  },
  grad: "nondifferentiable",
  cost: "memory",
  samples: [{ inputs: [reference([2, 3], [1, 5, 2, 7, 3, 4])], attributes: { axis: int(1), keepdims: int(0) } }],
});

/** Running sum along an axis (a scalar), optionally exclusive or in reverse. */
export const CumSum: Op = defineOp({
  name: "CumSum",
  since: 14,
  infer: (inputs) => [{ dtype: required(inputs, 0, "CumSum").dtype, shape: required(inputs, 0, "CumSum").shape }],
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "CumSum");
    const axis = normalAxis(required(inputs, 1, "CumSum").data[0] ?? 0, x.shape.length, "CumSum");
    const stride = stridesOf(x.shape)[axis] ?? 1;
    const length = x.shape[axis] ?? 1;
    const exclusive = numberAttribute(attributes, "exclusive", 0) === 1;
    const reverse = numberAttribute(attributes, "reverse", 0) === 1;
    const data = new Float64Array(x.data.length);
    eachIndex(x.shape, (flat, at) => {
      if (at[axis] !== 0) return;
      let sum = 0;
      for (let k = 0; k < length; k++) {
        const i = flat + (reverse ? length - 1 - k : k) * stride;
        if (exclusive) data[i] = sum;
        sum += x.data[i] ?? 0;
        if (!exclusive) data[i] = sum;
      }
    });
    return [{ ...x, data }];
  },
  grad: ({ dy, inputs, attributes }) => {
    const reverse = 1 - numberAttribute(attributes, "reverse", 0);
    return [apply(CumSum, [dy, inputs[1]], { ...attributes, reverse: int(reverse) })];
  },
  cost: "memory",
  samples: [
    { inputs: [spread([2, 3]), int64s([1], [])], constant: [1] },
    { inputs: [spread([2, 3]), int64s([0], [])], attributes: { exclusive: int(1), reverse: int(1) }, constant: [1] },
  ],
});

function reduceWith(op: Op, x: Value, axes: readonly number[], keep: boolean): Value {
  return apply(op, [x, constant(axes, "int64")], { keepdims: int(keep ? 1 : 0) });
}

/** Sum over axes, kept as size 1 unless `keep` is false. */
export function reduceSum(x: Value, axes: readonly number[], { keep = true }: { keep?: boolean } = {}): Value {
  return axes.length === 0 ? x : reduceWith(ReduceSum, x, axes, keep);
}

/** Mean over axes, kept as size 1 unless `keep` is false. */
export function reduceMean(x: Value, axes: readonly number[], { keep = true }: { keep?: boolean } = {}): Value {
  return axes.length === 0 ? x : reduceWith(ReduceMean, x, axes, keep);
}

/** Largest over axes, kept as size 1 unless `keep` is false. */
export function reduceMax(x: Value, axes: readonly number[], { keep = true }: { keep?: boolean } = {}): Value {
  return axes.length === 0 ? x : reduceWith(ReduceMax, x, axes, keep);
}

/** Sum of all elements, a scalar. */
export function sumAll(x: Value): Value {
  return apply(ReduceSum, [x], { keepdims: int(0) });
}

/** Sum of the squares of all elements, a scalar. */
export function sumSquares(x: Value): Value {
  return apply(ReduceSumSquare, [x], { keepdims: int(0) });
}

/** Undo broadcasting: sum x over the axes along which a tensor of `like`'s shape was repeated to make it. */
export function reduceLike(x: Value, like: Value): Value {
  if (sameShape(x.shape, like.shape)) return x;
  const lead = x.shape.length - like.shape.length;
  assert(lead >= 0, "a gradient has fewer axes than its value");
  const repeated = Array.from(x.shape, (_, i) => i).filter(
    (i) => i < lead || (like.shape[i - lead] === 1 && x.shape[i] !== 1),
  );
  const summed = reduceSum(x, repeated);
  return lead === 0 ? summed : reshapeLike(summed, like);
}
