import { assert } from "../errors.ts";
import {
  type Attributes,
  constant,
  type Dim,
  int,
  isConcrete,
  isFloat,
  numberAttribute,
  sizeOf,
  stringAttribute,
  type Value,
} from "../graph/index.ts";
import { apply, applyAll, defineOp, normalAxis, type Op, type Reference, required } from "./op.ts";
import { eachIndex, int64s, reference, spread, stridesOf } from "./reference.ts";
import { expandLike, transpose, unsqueeze, zerosLike } from "./shape.ts";
import { sizesOf } from "./sizes.ts";

function wrap(index: number, size: number): number {
  return index < 0 ? index + size : index;
}

/** Rows of data along `axis`: data [..., n, ...], indices [i...] -> [..., i..., ...]. */
export const Gather: Op = defineOp({
  name: "Gather",
  since: 13,
  infer: (inputs, attributes) => {
    const [data, indices] = [required(inputs, 0, "Gather"), required(inputs, 1, "Gather")];
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), data.shape.length, "Gather");
    const shape: Dim[] = [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)];
    return [{ dtype: data.dtype, shape }];
  },
  evaluate: (inputs, attributes) => {
    const [data, indices] = [required(inputs, 0, "Gather"), required(inputs, 1, "Gather")];
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), data.shape.length, "Gather");
    const size = data.shape[axis] ?? 1;
    const outer = sizeOf(data.shape.slice(0, axis));
    const inner = sizeOf(data.shape.slice(axis + 1));
    const result = new Float64Array(outer * indices.data.length * inner);
    let to = 0;
    for (let o = 0; o < outer; o++) {
      for (const index of indices.data) {
        const from = (o * size + wrap(index, size)) * inner;
        result.set(data.data.subarray(from, from + inner), to);
        to += inner;
      }
    }
    const shape = [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)];
    return [{ dtype: data.dtype, shape, data: result }];
  },
  // Rows that were taken twice add up: a scatter with addition into zeros, along the first axis.
  grad: ({ dy, x, attributes }) => {
    const [data, indices] = [x(0), x(1)];
    const rank = data.shape.length;
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), rank, "Gather");
    const count = indices.shape.length;
    if (rank === 2 && axis === 1 && count === 1) {
      // Columns of a matrix: in place, without laying it out by columns first.
      const places = expandLike(unsqueeze(indices, [0]), dy);
      const reduction = { type: "string", value: "add" } as const;
      return [apply(ScatterElements, [zerosLike(data), places, dy], { axis: int(1), reduction })];
    }
    const lead = Array.from({ length: axis }, (_, i) => i);
    const middle = Array.from({ length: count }, (_, i) => axis + i);
    const rest = Array.from({ length: rank - axis - 1 }, (_, i) => axis + count + i);
    const rows = transpose(dy, [...middle, ...lead, ...rest]);
    const forward = [axis, ...Array.from({ length: rank }, (_, i) => i).filter((i) => i !== axis)];
    const zeros = zerosLike(data);
    const scattered = scatterNd(
      axis === 0 ? zeros : transpose(zeros, forward),
      unsqueeze(indices, [count]),
      rows,
      "add",
    );
    return [
      transpose(
        scattered,
        forward.map((_, i) => forward.indexOf(i)),
      ),
    ];
  },
  cost: "memory",
  // Columns of a matrix: row by row.
  rows: ({ inputs: [data, indices], attributes }) =>
    data?.shape.length === 2 && indices?.shape.length === 1 && numberAttribute(attributes, "axis", 0) === 1
      ? [0]
      : undefined,
  sizes: ({ inputs, attributes, sizesOf }) => {
    const data = sizesOf(inputs[0]);
    const indices = sizesOf(inputs[1]);
    if (!data || !indices || !isConcrete(indices) || numberAttribute(attributes, "axis", 0) !== 0) return undefined;
    return indices.map((index) => data[wrap(index, data.length)] ?? 0);
  },
  samples: [
    { inputs: [spread([5, 3]), int64s([4, 0, 4, -1])] },
    {
      inputs: [
        spread([2, 4, 3]),
        int64s(
          [
            [1, 0],
            [3, 1],
          ].flat(),
          [2, 2],
        ),
      ],
      attributes: { axis: int(1) },
    },
    { inputs: [spread([3, 2]), int64s([1], [])], attributes: { axis: int(-1) } },
    { inputs: [spread([3, 4]), int64s([2, 0, 2])], attributes: { axis: int(1) } },
  ],
});

/**
 * The K largest elements along `axis`, from the largest down, and where they stood; of equal ones the first comes
 * first. x [..., n, ...], K int64 [1] -> values and indices [..., k, ...].
 */
export const TopK: Op = defineOp({
  name: "TopK",
  since: 11,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "TopK");
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x.shape.length, "TopK");
    const [count] = sizesOf(inputs[1]) ?? [];
    assert(count !== undefined, "TopK needs to know how many elements to take");
    const shape = x.shape.map((dim, i) => (i === axis ? count : dim));
    return [
      { dtype: x.dtype, shape },
      { dtype: "int64", shape },
    ];
  },
  evaluate: (inputs, attributes) => {
    const [x, count] = [required(inputs, 0, "TopK"), required(inputs, 1, "TopK").data[0] ?? 0];
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x.shape.length, "TopK");
    const sign = numberAttribute(attributes, "largest", 1) === 1 ? 1 : -1;
    const shape = x.shape.map((dim, i) => (i === axis ? count : dim));
    const [from, to] = [stridesOf(x.shape), stridesOf(shape)];
    const [values, indices] = [new Float64Array(sizeOf(shape)), new Float64Array(sizeOf(shape))];
    eachIndex(
      shape.map((dim, i) => (i === axis ? 1 : dim)),
      (_flat, at) => {
        const [start, end] = [from, to].map((strides) => at.reduce((sum, v, i) => sum + v * (strides[i] ?? 0), 0));
        const read = (i: number): number => x.data[(start ?? 0) + i * (from[axis] ?? 1)] ?? 0;
        const order = Array.from({ length: x.shape[axis] ?? 1 }, (_, i) => i);
        order.sort((a, b) => sign * (read(b) - read(a)) || a - b);
        order.slice(0, count).forEach((place, i) => {
          const flat = (end ?? 0) + i * (to[axis] ?? 1);
          [values[flat], indices[flat]] = [read(place), place];
        });
      },
    );
    return [
      { dtype: x.dtype, shape, data: values },
      { dtype: "int64", shape, data: indices },
    ];
  },
  grad: ({ dy, x, outputs, attributes }) => [
    apply(ScatterElements, [zerosLike(x(0)), required(outputs, 1, "TopK"), dy], {
      axis: int(numberAttribute(attributes, "axis", -1)),
    }),
  ],
  cost: "memory",
  samples: [
    { inputs: [reference([2, 5], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]), int64s([3])], constant: [1] },
    { inputs: [spread([3, 2]), int64s([2])], constant: [1], attributes: { axis: int(0), largest: int(0) } },
  ],
});

/** y[i...] = data at the same place, except along `axis`, where it is indices[i...]. */
export const GatherElements: Op = defineOp({
  name: "GatherElements",
  since: 13,
  infer: (inputs) => [
    { dtype: required(inputs, 0, "GatherElements").dtype, shape: required(inputs, 1, "GatherElements").shape },
  ],
  evaluate: (inputs, attributes) => {
    const [data, indices] = [required(inputs, 0, "GatherElements"), required(inputs, 1, "GatherElements")];
    const offset = elementOffset(data, attributes, "GatherElements");
    const result = new Float64Array(indices.data.length);
    eachIndex(indices.shape, (flat, at) => {
      result[flat] = data.data[offset(at, indices.data[flat] ?? 0)] ?? 0;
    });
    return [{ dtype: data.dtype, shape: indices.shape, data: result }];
  },
  grad: ({ dy, x, attributes }) => [
    apply(ScatterElements, [zerosLike(x(0)), x(1), dy], { ...attributes, reduction: { type: "string", value: "add" } }),
  ],
  cost: "memory",
  samples: [
    { inputs: [spread([3, 4]), int64s([0, 2, 2, 1, 3, -1], [3, 2])], attributes: { axis: int(1) } },
    { inputs: [spread([3, 2]), int64s([0, 2], [1, 2])], attributes: { axis: int(0) } },
  ],
});

function elementOffset(
  data: Reference,
  attributes: Attributes,
  name: string,
): (at: readonly number[], index: number) => number {
  const axis = normalAxis(numberAttribute(attributes, "axis", 0), data.shape.length, name);
  const strides = stridesOf(data.shape);
  const size = data.shape[axis] ?? 1;
  return (at, index) => at.reduce((sum, v, i) => sum + (i === axis ? wrap(index, size) : v) * (strides[i] ?? 0), 0);
}

type Reducer = (old: number, update: number) => number;
const reducers: Readonly<Record<string, Reducer>> = {
  none: (_old, update) => update,
  add: (old, update) => old + update,
  mul: (old, update) => old * update,
  min: (old, update) => Math.min(old, update),
  max: (old, update) => Math.max(old, update),
};

function reducerOf(attributes: Attributes, name: string): Reducer {
  const kind = stringAttribute(attributes, "reduction", "none");
  const reducer = reducers[kind];
  assert(reducer !== undefined, `${name}: reduction "${kind}" is unknown`);
  return reducer;
}

/** A copy of data with updates put (or added, …) where indices point along `axis`. */
export const ScatterElements: Op = defineOp({
  name: "ScatterElements",
  since: 18,
  infer: (inputs) => [
    { dtype: required(inputs, 0, "ScatterElements").dtype, shape: required(inputs, 0, "ScatterElements").shape },
  ],
  evaluate: (inputs, attributes) => {
    const [data, indices, updates] = [0, 1, 2].map((i) => required(inputs, i, "ScatterElements")) as [
      Reference,
      Reference,
      Reference,
    ];
    const reduce = reducerOf(attributes, "ScatterElements");
    const offset = elementOffset(data, attributes, "ScatterElements");
    const result = Float64Array.from(data.data);
    eachIndex(indices.shape, (flat, at) => {
      const to = offset(at, indices.data[flat] ?? 0);
      result[to] = reduce(result[to] ?? 0, updates.data[flat] ?? 0);
    });
    return [{ ...data, data: result }];
  },
  grad: ({ dy, x, attributes }) => {
    const kind = stringAttribute(attributes, "reduction", "none");
    assert(
      kind === "add" || kind === "none",
      `the gradient of ScatterElements with reduction "${kind}" is not supported`,
    );
    const taken = apply(GatherElements, [dy, x(1)], { axis: int(numberAttribute(attributes, "axis", 0)) });
    const kept =
      kind === "add"
        ? dy
        : apply(ScatterElements, [dy, x(1), zerosLike(x(2))], { axis: int(numberAttribute(attributes, "axis", 0)) });
    return [kept, undefined, taken];
  },
  cost: "memory",
  samples: [
    {
      inputs: [spread([3, 4]), int64s([0, 2, 2, 2], [2, 2]), spread([2, 2], -1, 1, 0.2)],
      attributes: { axis: int(1), reduction: { type: "string", value: "add" } },
    },
    { inputs: [spread([3, 2]), int64s([1, 2], [1, 2]), spread([1, 2], -1, 1, 0.2)], attributes: { axis: int(0) } },
  ],
});

/** data[indices[i..., :]] for index tuples in the last axis: indices [i..., k] -> [i..., data.shape[k:]...]. */
export const GatherND: Op = defineOp({
  name: "GatherND",
  since: 13,
  infer: (inputs, attributes) => {
    const [data, indices] = [required(inputs, 0, "GatherND"), required(inputs, 1, "GatherND")];
    const depth = indices.shape.at(-1);
    const batch = numberAttribute(attributes, "batch_dims", 0);
    assert(typeof depth === "number", "GatherND needs index tuples of known length");
    const shape: Dim[] = [...indices.shape.slice(0, -1), ...data.shape.slice(batch + depth)];
    return [{ dtype: data.dtype, shape }];
  },
  evaluate: (inputs, attributes) => {
    const [data, indices] = [required(inputs, 0, "GatherND"), required(inputs, 1, "GatherND")];
    const batch = numberAttribute(attributes, "batch_dims", 0);
    const depth = indices.shape.at(-1) ?? 0;
    const strides = stridesOf(data.shape);
    const inner = sizeOf(data.shape.slice(batch + depth));
    const tuples = indices.data.length / Math.max(depth, 1);
    const perBatch = tuples / Math.max(sizeOf(indices.shape.slice(0, batch)), 1);
    const batchSize = sizeOf(data.shape.slice(batch));
    const result = new Float64Array(tuples * inner);
    for (let t = 0; t < tuples; t++) {
      let from = Math.floor(t / perBatch) * (batch > 0 ? batchSize : 0);
      for (let j = 0; j < depth; j++) {
        from += wrap(indices.data[t * depth + j] ?? 0, data.shape[batch + j] ?? 1) * (strides[batch + j] ?? 0);
      }
      result.set(data.data.subarray(from, from + inner), t * inner);
    }
    const shape = [...indices.shape.slice(0, -1), ...data.shape.slice(batch + depth)];
    return [{ dtype: data.dtype, shape, data: result }];
  },
  grad: ({ dy, x, attributes }) => {
    assert(
      numberAttribute(attributes, "batch_dims", 0) === 0,
      "the gradient of GatherND with batch_dims is not supported",
    );
    return [scatterNd(zerosLike(x(0)), x(1), dy, "add")];
  },
  cost: "memory",
  samples: [
    { inputs: [spread([3, 4, 2]), int64s([0, 1, 2, 3, 2, 3], [3, 2])] },
    { inputs: [spread([3, 4]), int64s([2, 0, 2], [3, 1])] },
  ],
});

/** A copy of data with updates put (or added, …) at index tuples: indices [i..., k], updates [i..., data.shape[k:]...]. */
export const ScatterND: Op = defineOp({
  name: "ScatterND",
  since: 18,
  infer: (inputs) => [{ dtype: required(inputs, 0, "ScatterND").dtype, shape: required(inputs, 0, "ScatterND").shape }],
  evaluate: (inputs, attributes) => {
    const [data, indices, updates] = [0, 1, 2].map((i) => required(inputs, i, "ScatterND")) as [
      Reference,
      Reference,
      Reference,
    ];
    const reduce = reducerOf(attributes, "ScatterND");
    const depth = indices.shape.at(-1) ?? 0;
    const strides = stridesOf(data.shape);
    const inner = sizeOf(data.shape.slice(depth));
    const result = Float64Array.from(data.data);
    for (let t = 0; t * depth < indices.data.length; t++) {
      let to = 0;
      for (let j = 0; j < depth; j++)
        to += wrap(indices.data[t * depth + j] ?? 0, data.shape[j] ?? 1) * (strides[j] ?? 0);
      for (let k = 0; k < inner; k++) result[to + k] = reduce(result[to + k] ?? 0, updates.data[t * inner + k] ?? 0);
    }
    return [{ ...data, data: result }];
  },
  grad: ({ dy, x, attributes }) => {
    const kind = stringAttribute(attributes, "reduction", "none");
    assert(kind === "add" || kind === "none", `the gradient of ScatterND with reduction "${kind}" is not supported`);
    const kept = kind === "add" ? dy : scatterNd(dy, x(1), zerosLike(x(2)), "none");
    return [kept, undefined, apply(GatherND, [dy, x(1)])];
  },
  cost: "memory",
  samples: [
    {
      inputs: [spread([4, 3]), int64s([1, 3, 1], [3, 1]), spread([3, 3], -1, 1, 0.2)],
      attributes: { reduction: { type: "string", value: "add" } },
    },
    { inputs: [spread([4, 3]), int64s([1, 3], [2, 1]), spread([2, 3], -1, 1, 0.2)] },
  ],
});

/** Rows of data along an axis. */
export function gather(data: Value, indices: Value, axis = 0): Value {
  return apply(Gather, [data, indices], axis === 0 ? {} : { axis: int(axis) });
}

/** One element along an axis for every index. */
export function gatherElements(data: Value, indices: Value, axis: number): Value {
  return apply(GatherElements, [data, indices], { axis: int(axis) });
}

/** A copy of data with updates put, or added, at index tuples. */
export function scatterNd(data: Value, indices: Value, updates: Value, reduction: "none" | "add"): Value {
  assert(reduction === "none" || isFloat(data.dtype), "an adding ScatterND is for floats");
  return apply(
    ScatterND,
    [data, indices, updates],
    reduction === "none" ? {} : { reduction: { type: "string", value: reduction } },
  );
}

/** Where the `count` largest elements along an axis stand, from the largest down: int64 [..., count, ...]. */
export function topIndices(x: Value, count: number, axis = -1): Value {
  const [, indices] = applyAll(TopK, [x, constant([count], "int64")], { axis: int(axis) });
  assert(indices !== undefined, "TopK has two outputs");
  return indices;
}

/** data with the elements at `indices` along an axis replaced by updates, or added to; both have one shape. */
export function scatterElements(
  data: Value,
  indices: Value,
  updates: Value,
  axis: number,
  reduction: "none" | "add" = "none",
): Value {
  const how: Attributes = reduction === "none" ? {} : { reduction: { type: "string", value: reduction } };
  return apply(ScatterElements, [data, indices, updates], { axis: int(axis), ...how });
}
