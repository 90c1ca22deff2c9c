import { assert } from "../errors.ts";
import {
  type Attributes,
  addDims,
  constant,
  constantOf,
  type Dim,
  type DType,
  divDims,
  elementsOf,
  int,
  ints,
  intsAttribute,
  isConcrete,
  mulDims,
  numberAttribute,
  type ResultValue,
  type Shape as ShapeOf,
  sameShape,
  showShape,
  sizeOf,
  subDims,
  type Tensor,
  tensor,
  type Value,
} from "../graph/index.ts";
import { mul } from "./elementwise.ts";
import {
  apply,
  applyAll,
  defineOp,
  describe,
  elementwiseRows,
  normalAxis,
  type Op,
  type Reference,
  required,
} from "./op.ts";
import { broadcastAll, broadcastOffset, eachIndex, int64s, reference, spread, stridesOf } from "./reference.ts";
import { sizesOf } from "./sizes.ts";

/** The same value under another name. */
export const Identity: Op = defineOp({
  name: "Identity",
  view: true,
  since: 19,
  infer: (inputs) => [{ dtype: required(inputs, 0, "Identity").dtype, shape: required(inputs, 0, "Identity").shape }],
  evaluate: (inputs) => [required(inputs, 0, "Identity")],
  grad: ({ dy }) => [dy],
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => sizes(inputs[0]),
  samples: [{ inputs: [spread([2, 3])] }],
});

/** The same value, through which no gradient flows. Folding leaves it out: no file holds one. */
export const Detach: Op = defineOp({
  ...Identity,
  name: "Detach",
  domain: "scion",
  since: 1,
  rows: elementwiseRows,
  grad: "nondifferentiable",
  samples: [],
});

/**
 * y, whose gradient flows into `through` as well: for a value that already holds what `through` would add to it (a
 * weight that was changed where it lies). Both have one shape. Folding leaves it out, and `through` with it.
 */
export const Graft: Op = defineOp({
  ...Identity,
  name: "Graft",
  domain: "scion",
  since: 1,
  grad: ({ dy }) => [dy, dy],
  rows: elementwiseRows,
  samples: [],
});

/** The sizes of x as an int64 vector, from axis `start` to `end`. */
export const Shape: Op = defineOp({
  name: "Shape",
  since: 15,
  infer: (inputs, attributes) => [
    { dtype: "int64", shape: [shapeSlice(required(inputs, 0, "Shape").shape, attributes).length] },
  ],
  evaluate: (inputs, attributes) => {
    const sizes = shapeSlice(required(inputs, 0, "Shape").shape, attributes);
    return [int64s(sizes)];
  },
  grad: "nondifferentiable",
  cost: "memory",
  sizes: ({ inputs, attributes }) => shapeSlice(required(inputs, 0, "Shape").shape, attributes),
  samples: [
    { inputs: [spread([2, 3, 4])] },
    { inputs: [spread([2, 3, 4])], attributes: { start: int(-2), end: int(3) } },
  ],
});

function shapeSlice<D extends Dim>(shape: readonly D[], attributes: Attributes): readonly D[] {
  const end = attributes["end"] === undefined ? undefined : numberAttribute(attributes, "end", 0);
  return shape.slice(numberAttribute(attributes, "start", 0), end);
}

/** The same elements in another shape: x [...], shape int64 [rank] -> y. 0 keeps a size, −1 is worked out. */
export const Reshape: Op = defineOp({
  name: "Reshape",
  view: true,
  since: 21,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "Reshape");
    const requested = sizesOf(inputs[1]);
    const rank = inputs[1]?.shape[0];
    assert(requested !== undefined || typeof rank === "number", "Reshape needs a shape of known rank");
    if (requested === undefined) return [{ dtype: x.dtype, shape: unknownDims(rank as number) }]; // asserted above
    const keepZero = numberAttribute(attributes, "allowzero", 0) === 1;
    const shape = requested.map((dim, i) => (dim === 0 && !keepZero ? (x.shape[i] ?? 0) : dim));
    const open = shape.indexOf(-1);
    if (open >= 0) {
      // Sizes on both sides cancel first: sums such as past+seq cannot be divided out of a product.
      const given: Dim[] = [...x.shape];
      const rest = shape.filter((dim, i) => {
        const same = i === open ? -1 : given.indexOf(dim);
        if (same >= 0) given.splice(same, 1);
        return i !== open && same < 0;
      });
      const size = divDims(elementsOf(given), elementsOf(rest));
      assert(size !== undefined, () => `Reshape: ${showShape(x.shape)} does not fit ${showShape(shape)}`);
      shape[open] = size;
    }
    const [from, to] = [elementsOf(x.shape), elementsOf(shape)];
    assert(
      from === to || typeof from === "string" || typeof to === "string",
      () => `Reshape: ${showShape(x.shape)} does not fit ${showShape(shape)}`,
    );
    return [{ dtype: x.dtype, shape }];
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Reshape");
    const keepZero = numberAttribute(attributes, "allowzero", 0) === 1;
    const requested = required(inputs, 1, "Reshape").data;
    const shape = Array.from(requested, (dim, i) => (dim === 0 && !keepZero ? (x.shape[i] ?? 0) : dim));
    const known = sizeOf(shape.filter((dim) => dim !== -1));
    return [{ ...x, shape: shape.map((dim) => (dim === -1 ? x.data.length / known : dim)) }];
  },
  grad: ({ dy, x }) => [reshapeLike(dy, x(0))],
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => sizes(inputs[0]),
  samples: [
    { inputs: [spread([2, 6]), int64s([3, -1])], constant: [1] },
    { inputs: [spread([2, 6]), int64s([0, 2, 3])], constant: [1] },
  ],
});

let unknownCount = 0;
/** Fresh symbols for sizes that only the run will tell; never equal to any other size. */
function unknownDims(rank: number): Dim[] {
  return Array.from({ length: rank }, () => `unknown${unknownCount++}`);
}

/** Axes in another order: y.shape[i] = x.shape[perm[i]]; reversed when `perm` is absent. */
export const Transpose: Op = defineOp({
  name: "Transpose",
  since: 21,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "Transpose");
    const perm = permutation(x.shape.length, attributes);
    return [{ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis] ?? 1) }];
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Transpose");
    const perm = permutation(x.shape.length, attributes);
    const strides = stridesOf(x.shape);
    const shape = perm.map((axis) => x.shape[axis] ?? 1);
    return [gatherBy(x, shape, (at) => perm.reduce((sum, axis, i) => sum + (at[i] ?? 0) * (strides[axis] ?? 0), 0))];
  },
  grad: ({ dy, x, attributes }) => {
    const perm = permutation(x(0).shape.length, attributes);
    return [
      transpose(
        dy,
        perm.map((_, axis) => perm.indexOf(axis)),
      ),
    ];
  },
  cost: "memory",
  samples: [{ inputs: [spread([2, 3, 4])], attributes: { perm: ints([2, 0, 1]) } }, { inputs: [spread([2, 3])] }],
});

function permutation(rank: number, attributes: Attributes): readonly number[] {
  return intsAttribute(attributes, "perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
}

/** A tensor of `shape` whose element at coordinates `at` is x.data[offset(at)]. */
function gatherBy(x: Reference, shape: readonly number[], offset: (at: readonly number[]) => number): Reference {
  const data = new Float64Array(sizeOf(shape));
  eachIndex(shape, (flat, at) => {
    data[flat] = x.data[offset(at)] ?? 0;
  });
  return { dtype: x.dtype, shape, data };
}

/** Add axes of size 1 at the positions that `axes` (int64 vector) names in the result. */
export const Unsqueeze: Op = defineOp({
  name: "Unsqueeze",
  view: true,
  since: 21,
  infer: (inputs) => {
    const x = required(inputs, 0, "Unsqueeze");
    const axes = knownInts(inputs[1], "Unsqueeze axes");
    return [{ dtype: x.dtype, shape: insertOnes(x.shape, axes) }];
  },
  evaluate: (inputs) => {
    const x = required(inputs, 0, "Unsqueeze");
    return [{ ...x, shape: insertOnes(x.shape, [...required(inputs, 1, "Unsqueeze").data]) }];
  },
  grad: ({ dy, x }) => [reshapeLike(dy, x(0))],
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => sizes(inputs[0]),
  samples: [{ inputs: [spread([2, 3]), int64s([0, -1])], constant: [1] }],
});

function insertOnes<D extends Dim>(shape: readonly D[], axes: readonly number[]): (D | 1)[] {
  const rank = shape.length + axes.length;
  const added = new Set(axes.map((axis) => normalAxis(axis, rank, "Unsqueeze")));
  const rest = [...shape];
  return Array.from({ length: rank }, (_, i) => (added.has(i) ? 1 : (rest.shift() ?? 1)));
}

/** Drop axes of size 1: those that `axes` names, or all of them. */
export const Squeeze: Op = defineOp({
  name: "Squeeze",
  view: true,
  since: 21,
  infer: (inputs) => {
    const x = required(inputs, 0, "Squeeze");
    return [{ dtype: x.dtype, shape: dropOnes(x.shape, inputs[1] && knownInts(inputs[1], "Squeeze axes")) }];
  },
  evaluate: (inputs) => {
    const x = required(inputs, 0, "Squeeze");
    return [{ ...x, shape: dropOnes(x.shape, inputs[1] && [...inputs[1].data]) }];
  },
  grad: ({ dy, x }) => [reshapeLike(dy, x(0))],
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => sizes(inputs[0]),
  samples: [{ inputs: [spread([1, 3, 1]), int64s([0])], constant: [1] }, { inputs: [spread([1, 3, 1])] }],
});

function dropOnes<D extends Dim>(shape: readonly D[], axes: readonly number[] | undefined): D[] {
  const dropped = axes?.map((axis) => normalAxis(axis, shape.length, "Squeeze"));
  return shape.filter((dim, i) => (dropped ? !dropped.includes(i) : dim !== 1));
}

/** Broadcast x to a shape (int64 vector); sizes of 1 there keep x's own. */
export const Expand: Op = defineOp({
  name: "Expand",
  since: 13,
  infer: (inputs) => {
    const x = required(inputs, 0, "Expand");
    const target = sizesOf(inputs[1]);
    const rank = inputs[1]?.shape[0];
    assert(target !== undefined || typeof rank === "number", "Expand needs a shape of known rank");
    if (target === undefined) return [{ dtype: x.dtype, shape: unknownDims(rank as number) }]; // asserted above
    const shape = expandedShape(x.shape, target);
    return [{ dtype: x.dtype, shape }];
  },
  evaluate: (inputs) => {
    const x = required(inputs, 0, "Expand");
    const shape = broadcastAll([x.shape, [...required(inputs, 1, "Expand").data]]);
    const strides = stridesOf(x.shape);
    return [gatherBy(x, shape, (at) => broadcastOffset(x.shape, strides, at))];
  },
  grad: ({ dy }) => [dy],
  cost: "memory",
  samples: [
    { inputs: [spread([2, 1, 3]), int64s([4, 2, 5, 1])], constant: [1] },
    { inputs: [spread([]), int64s([2, 2])], constant: [1] },
  ],
});

function expandedShape(shape: ShapeOf, target: readonly Dim[]): Dim[] {
  const rank = Math.max(shape.length, target.length);
  return Array.from({ length: rank }, (_, i) => {
    const own = shape[shape.length - rank + i] ?? 1;
    const wanted = target[target.length - rank + i] ?? 1;
    return wanted === 1 ? own : wanted;
  });
}

/** Join tensors along `axis`. */
export const Concat: Op = defineOp({
  name: "Concat",
  since: 13,
  infer: (inputs, attributes) => {
    const parts = inputs.map((_, i) => required(inputs, i, "Concat"));
    const first = required(inputs, 0, "Concat");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), first.shape.length, "Concat");
    assert(
      parts.every((part) => part.shape.length === first.shape.length && part.dtype === first.dtype),
      () => `Concat cannot join ${describe(...parts)}`,
    );
    const total = parts.reduce<Dim>((sum, part) => addDims(sum, part.shape[axis] ?? 0), 0);
    return [{ dtype: first.dtype, shape: first.shape.map((dim, i) => (i === axis ? total : dim)) }];
  },
  evaluate: (inputs, attributes) => {
    const parts = inputs.map((_, i) => required(inputs, i, "Concat"));
    const first = required(inputs, 0, "Concat");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), first.shape.length, "Concat");
    const total = parts.reduce((sum, part) => sum + (part.shape[axis] ?? 0), 0);
    const shape = first.shape.map((dim, i) => (i === axis ? total : dim));
    const inner = sizeOf(shape.slice(axis + 1));
    const data = new Float64Array(sizeOf(shape));
    let start = 0;
    for (const part of parts) {
      const run = (part.shape[axis] ?? 0) * inner;
      for (let outer = 0; outer * run < part.data.length; outer++) {
        data.set(part.data.subarray(outer * run, (outer + 1) * run), outer * total * inner + start);
      }
      start += run;
    }
    return [{ dtype: first.dtype, shape, data }];
  },
  grad: ({ dy, inputs, attributes }) => {
    const parts = inputs.map((_, i) => required(inputs, i, "Concat"));
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), dy.shape.length, "Concat");
    return [
      ...split(
        dy,
        parts.map((part) => part.shape[axis] ?? 0),
        axis,
        parts,
      ),
    ];
  },
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => {
    const parts = inputs.map((value) => sizes(value));
    return parts.every((part) => part !== undefined) ? parts.flat() : undefined;
  },
  samples: [
    { inputs: [spread([2, 3]), spread([2, 1], -1, 1, 0.2)], attributes: { axis: int(1) } },
    { inputs: [spread([1, 3]), spread([2, 3], -1, 1, 0.2), spread([1, 3], -1, 1, 0.7)], attributes: { axis: int(-2) } },
  ],
});

/** Cut x along `axis` into parts of the sizes given (int64 vector), or `num_outputs` equal ones. */
export const Split: Op = defineOp({
  name: "Split",
  since: 18,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "Split");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), x.shape.length, "Split");
    const sizes = inputs[1] ? sizesOf(inputs[1]) : equalParts(x.shape[axis], attributes);
    assert(sizes !== undefined, "Split needs sizes that are known when the graph is built");
    return sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.map((dim, i) => (i === axis ? size : dim)) }));
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Split");
    const axis = normalAxis(numberAttribute(attributes, "axis", 0), x.shape.length, "Split");
    const sizes = inputs[1] ? [...inputs[1].data] : (equalParts(x.shape[axis], attributes) as number[]); // concrete here
    let start = 0;
    return sizes.map((size) => {
      const part = sliceReference(x, axis, start, 1, size);
      start += size;
      return part;
    });
  },
  grad: ({ dys, outputs, attributes }) => {
    const parts = outputs.map((output, i) => dys[i] ?? zerosLike(output));
    return [concat(parts, numberAttribute(attributes, "axis", 0))];
  },
  cost: "memory",
  samples: [
    { inputs: [spread([2, 6]), int64s([1, 5])], attributes: { axis: int(1) }, constant: [1] },
    { inputs: [spread([4, 3])], attributes: { axis: int(0), num_outputs: int(2) } },
  ],
});

function equalParts(size: Dim | undefined, attributes: Attributes): readonly Dim[] | undefined {
  const count = numberAttribute(attributes, "num_outputs", 0);
  if (size === undefined || count === 0) return undefined;
  if (typeof size === "string") {
    const part = divDims(size, count);
    return part === undefined ? undefined : Array.from({ length: count }, () => part);
  }
  const chunk = Math.ceil(size / count);
  return Array.from({ length: count }, (_, i) => Math.min(chunk, size - i * chunk));
}

function sliceReference(x: Reference, axis: number, start: number, step: number, length: number): Reference {
  const shape = x.shape.map((dim, i) => (i === axis ? length : dim));
  const strides = stridesOf(x.shape);
  return gatherBy(x, shape, (at) =>
    at.reduce((sum, index, i) => sum + (i === axis ? start + index * step : index) * (strides[i] ?? 0), 0),
  );
}

/**
 * Cut out starts..ends by steps along axes (each an int64 vector; axes and steps optional).
 * Negative positions count from the end; those outside are clamped.
 */
export const Slice: Op = defineOp({
  name: "Slice",
  since: 13,
  infer: (inputs) => {
    const x = required(inputs, 0, "Slice");
    const shape = [...x.shape];
    for (const { axis, start, end, step } of sliceRanges(
      inputs.slice(1).map((v) => v && sizesOf(v)),
      x.shape.length,
    )) {
      shape[axis] = slicedSize(x.shape[axis] ?? 1, start, end, step);
    }
    return [{ dtype: x.dtype, shape }];
  },
  evaluate: (inputs) => {
    let x = required(inputs, 0, "Slice");
    const bounds = inputs.slice(1).map((v) => v && [...v.data]);
    for (const range of sliceRanges(bounds, x.shape.length)) {
      const size = x.shape[range.axis] ?? 1;
      const { first, length } = clampRange(size, Number(range.start), Number(range.end), range.step);
      x = sliceReference(x, range.axis, first, range.step, length);
    }
    return [x];
  },
  grad: ({ dy, x, inputs }) => {
    const ranges = sliceRanges(
      inputs.slice(1).map((v) => v && sizesOf(v)),
      x(0).shape.length,
    );
    let result = dy;
    for (const { axis, start, end, step } of ranges) {
      const size = x(0).shape[axis] ?? 1;
      assert(step === 1, "the gradient of a strided Slice is not supported");
      result = padSlice(result, axis, size, start, end);
    }
    return [result];
  },
  cost: "memory",
  sizes: ({ inputs, sizesOf: sizes }) => {
    const source = sizes(inputs[0]);
    const [range] = source
      ? sliceRanges(
          inputs.slice(1).map((v) => v && sizes(v)),
          1,
        )
      : [];
    if (!source || !range || typeof range.start !== "number" || typeof range.end !== "number") return undefined;
    const { first, length } = clampRange(source.length, range.start, range.end, range.step);
    return Array.from({ length }, (_, i) => source[first + i * range.step] ?? 0);
  },
  samples: [
    { inputs: [spread([4, 5]), int64s([1]), int64s([3]), int64s([0]), int64s([1])], constant: [1, 2, 3, 4] },
    { inputs: [spread([4, 5]), int64s([-3, 0]), int64s([100, -1]), int64s([1, 0])], constant: [1, 2, 3] },
    { inputs: [spread([4, 5]), int64s([0, 2]), int64s([4, 5])], constant: [1, 2] },
  ],
});

interface Range1 {
  readonly axis: number;
  readonly start: Dim;
  readonly end: Dim;
  readonly step: number;
}

function sliceRanges(bounds: readonly (readonly Dim[] | undefined)[], rank: number): Range1[] {
  const [starts, ends, axes, steps] = bounds;
  assert(
    starts !== undefined && ends !== undefined,
    "Slice needs starts and ends that are known when the graph is built",
  );
  return starts.map((start, i) => ({
    axis: normalAxis(Number(axes?.[i] ?? i), rank, "Slice"),
    start,
    end: ends[i] ?? 0,
    step: Number(steps?.[i] ?? 1),
  }));
}

function clampRange(size: number, start: number, end: number, step: number): { first: number; length: number } {
  const low = step > 0 ? 0 : -1;
  const high = step > 0 ? size : size - 1;
  const clamp = (position: number): number => Math.min(Math.max(position < 0 ? position + size : position, low), high);
  const first = clamp(start);
  // An end below −size for a negative step means "past the first element", which adding size once leaves negative.
  const last = step < 0 && end < -size ? -1 : clamp(end);
  return { first, length: Math.max(0, Math.ceil((last - first) / step)) };
}

const farAway = 2 ** 31 - 1;

function slicedSize(size: Dim, start: Dim, end: Dim, step: number): Dim {
  if (typeof size === "number" && typeof start === "number" && typeof end === "number") {
    return clampRange(size, start, end, step).length;
  }
  assert(step === 1, "a strided Slice of a symbolic size is not supported");
  // Symbolic sizes are taken to be inside the tensor: nothing is clamped but "to the end".
  const position = (at: Dim): Dim =>
    typeof at !== "number" ? at : at >= farAway ? size : at < 0 ? addDims(size, at) : at;
  return subDims(position(end), position(start));
}

/** Undo a slice of step 1: zeros around dy so that the axis has `size` again. */
function padSlice(dy: Value, axis: number, size: Dim, start: Dim, end: Dim): Value {
  let before: Dim = start;
  if (typeof start === "number" && typeof size === "number" && typeof end === "number") {
    before = clampRange(size, start, end, 1).first;
  } else if (typeof start === "number" && start < 0) before = addDims(size, start);
  const after = subDims(subDims(size, before), dy.shape[axis] ?? 0);
  assert(
    typeof before === "number" && typeof after === "number",
    "the gradient of a Slice needs a slice whose distance to both ends is known when the graph is built",
  );
  const rank = dy.shape.length;
  const pads = new Array<number>(2 * rank).fill(0);
  pads[axis] = before;
  pads[rank + axis] = after;
  return apply(Pad, [dy, constant(pads, "int64")]);
}

/** Surround x with a constant: pads int64 [2·rank] (before each axis, then after), value scalar (0 by default). */
export const Pad: Op = defineOp({
  name: "Pad",
  since: 21,
  infer: (inputs) => {
    const x = required(inputs, 0, "Pad");
    const pads = knownInts(inputs[1], "Pad sizes");
    const rank = x.shape.length;
    return [{ dtype: x.dtype, shape: x.shape.map((dim, i) => addDims(dim, (pads[i] ?? 0) + (pads[rank + i] ?? 0))) }];
  },
  evaluate: (inputs) => {
    const x = required(inputs, 0, "Pad");
    const pads = [...required(inputs, 1, "Pad").data];
    const rank = x.shape.length;
    const shape = x.shape.map((dim, i) => dim + (pads[i] ?? 0) + (pads[rank + i] ?? 0));
    const strides = stridesOf(shape);
    const data = new Float64Array(sizeOf(shape)).fill(inputs[2]?.data[0] ?? 0);
    eachIndex(x.shape, (flat, at) => {
      data[at.reduce((sum, index, i) => sum + (index + (pads[i] ?? 0)) * (strides[i] ?? 0), 0)] = x.data[flat] ?? 0;
    });
    return [{ dtype: x.dtype, shape, data }];
  },
  grad: ({ dy, x, inputs }) => {
    const pads = knownInts(inputs[1], "Pad sizes");
    const rank = x(0).shape.length;
    const axes = Array.from({ length: rank }, (_, i) => i).filter((i) => pads[i] !== 0 || pads[rank + i] !== 0);
    if (axes.length === 0) return [dy];
    const starts = axes.map((i) => pads[i] ?? 0);
    const ends = axes.map((i) => (pads[rank + i] === 0 ? farAway : -(pads[rank + i] ?? 0)));
    return [slice(dy, starts, ends, axes)];
  },
  cost: "memory",
  samples: [{ inputs: [spread([2, 3]), int64s([0, 1, 2, 0])], constant: [1] }],
});

/** A tensor of the sizes given (int64 vector) filled with the one element of `value` (float32 0 by default). */
export const ConstantOfShape: Op = defineOp({
  name: "ConstantOfShape",
  since: 21,
  infer: (inputs, attributes) => {
    const sizes = sizesOf(inputs[0]);
    const rank = inputs[0]?.shape[0];
    assert(sizes !== undefined || typeof rank === "number", "ConstantOfShape needs sizes of known rank");
    return [{ dtype: fillOf(attributes).dtype, shape: sizes ?? unknownDims(rank as number) }]; // asserted above
  },
  evaluate: (inputs, attributes) => {
    const fill = fillOf(attributes);
    const shape = [...required(inputs, 0, "ConstantOfShape").data];
    return [reference(shape, Number(fill.data[0] ?? 0), fill.dtype)];
  },
  grad: "nondifferentiable",
  cost: "memory",
  sizes: ({ inputs, attributes, sizesOf: sizes }) => {
    const [length] = sizes(inputs[0]) ?? [];
    const fill = Number(fillOf(attributes).data[0] ?? 0);
    return typeof length === "number" ? new Array<Dim>(length).fill(fill) : undefined;
  },
  samples: [
    { inputs: [int64s([2, 3])], constant: [0] },
    {
      inputs: [int64s([2])],
      constant: [0],
      attributes: { value: { type: "tensor", value: tensor("int64", [1], [7]) } },
    },
  ],
});

function fillOf(attributes: Attributes): Tensor {
  const value = attributes["value"];
  return value?.type === "tensor" ? value.value : tensor("float32", [1], [0]);
}

/** start, start + delta, … below limit (three scalars). */
export const Range: Op = defineOp({
  name: "Range",
  since: 11,
  infer: (inputs) => {
    const start = required(inputs, 0, "Range");
    const [from, to, by] = inputs.map((value) => sizesOf(value)?.[0]);
    let length: Dim | undefined;
    if (typeof from === "number" && typeof to === "number" && typeof by === "number") {
      length = Math.max(0, Math.ceil((to - from) / by));
    } else if (from !== undefined && to !== undefined && by === 1) length = subDims(to, from);
    return [{ dtype: start.dtype, shape: length === undefined ? unknownDims(1) : [length] }];
  },
  evaluate: (inputs) => {
    const [start, limit, delta] = [0, 1, 2].map((i) => required(inputs, i, "Range").data[0] ?? 0) as [
      number,
      number,
      number,
    ];
    const length = Math.max(0, Math.ceil((limit - start) / delta));
    const data = Float64Array.from({ length }, (_, i) => start + i * delta);
    return [{ dtype: required(inputs, 0, "Range").dtype, shape: [length], data }];
  },
  grad: "nondifferentiable",
  cost: "memory",
  samples: [{ inputs: [int64s([1], []), int64s([9], []), int64s([3], [])], constant: [0, 1, 2] }],
});

/** Repeat x along each axis (int64 vector of counts). */
export const Tile: Op = defineOp({
  name: "Tile",
  since: 13,
  infer: (inputs) => {
    const x = required(inputs, 0, "Tile");
    const repeats = sizesOf(inputs[1]);
    assert(repeats !== undefined, "Tile needs repeats that are known when the graph is built");
    return [{ dtype: x.dtype, shape: x.shape.map((dim, i) => mulDims(dim, repeats[i] ?? 1)) }];
  },
  evaluate: (inputs) => {
    const x = required(inputs, 0, "Tile");
    const repeats = required(inputs, 1, "Tile").data;
    const strides = stridesOf(x.shape);
    const shape = x.shape.map((dim, i) => dim * (repeats[i] ?? 1));
    return [gatherBy(x, shape, (at) => at.reduce((sum, v, i) => sum + (v % (x.shape[i] ?? 1)) * (strides[i] ?? 0), 0))];
  },
  grad: "unsupported",
  cost: "memory",
  samples: [{ inputs: [spread([2, 3]), int64s([2, 1])], constant: [1] }],
});

/** Keep the upper (`upper` 1) or lower triangle of the last two axes, from diagonal k (a scalar); zeros elsewhere. */
export const Trilu: Op = defineOp({
  name: "Trilu",
  since: 14,
  infer: (inputs) => [{ dtype: required(inputs, 0, "Trilu").dtype, shape: required(inputs, 0, "Trilu").shape }],
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Trilu");
    const k = inputs[1]?.data[0] ?? 0;
    const upper = numberAttribute(attributes, "upper", 1) === 1;
    const data = Float64Array.from(x.data);
    eachIndex(x.shape, (flat, at) => {
      const distance = (at.at(-1) ?? 0) - (at.at(-2) ?? 0);
      if (upper ? distance < k : distance > k) data[flat] = 0;
    });
    return [{ ...x, data }];
  },
  grad: ({ dy, inputs, attributes }) => [apply(Trilu, [dy, inputs[1]], attributes)],
  cost: "memory",
  samples: [
    { inputs: [spread([2, 3, 3])] },
    { inputs: [spread([3, 4]), int64s([1], [])], attributes: { upper: int(0) }, constant: [1] },
  ],
});

/** Two axes: those before `axis` together, the rest together. */
export const Flatten: Op = defineOp({
  name: "Flatten",
  view: true,
  since: 21,
  infer: (inputs, attributes) => {
    const x = required(inputs, 0, "Flatten");
    const axis = flattenAxis(x.shape.length, attributes);
    return [{ dtype: x.dtype, shape: [elementsOf(x.shape.slice(0, axis)), elementsOf(x.shape.slice(axis))] }];
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Flatten");
    const axis = flattenAxis(x.shape.length, attributes);
    return [{ ...x, shape: [sizeOf(x.shape.slice(0, axis)), sizeOf(x.shape.slice(axis))] }];
  },
  grad: ({ dy, x }) => [reshapeLike(dy, x(0))],
  cost: "memory",
  samples: [{ inputs: [spread([2, 3, 2])], attributes: { axis: int(2) } }],
});

function flattenAxis(rank: number, attributes: Attributes): number {
  const axis = numberAttribute(attributes, "axis", 1);
  return axis < 0 ? axis + rank : axis;
}

function knownInts(value: Value | undefined, what: string): readonly number[] {
  const sizes = sizesOf(value);
  assert(sizes !== undefined && isConcrete(sizes), `${what} must be known when the graph is built`);
  return sizes;
}

/** The sizes of x as an int64 vector: a constant when they are known, otherwise read at run time. */
export function shapeOf(x: Value): Value {
  return isConcrete(x.shape) ? constant(x.shape, "int64") : apply(Shape, [x]);
}

/** Reshape to known sizes (at most one of them symbolic or −1). */
export function reshape(x: Value, shape: ShapeOf): Value {
  return reshapeTo(x, shape, []);
}

/**
 * Reshape to sizes that may be symbolic. A size that stays on its axis is kept (0), one more is worked out (−1), and
 * the rest are read at run time from x or from `sources`: values whose shapes hold those sizes as single axes.
 */
export function reshapeTo(x: Value, shape: ShapeOf, sources: readonly Value[]): Value {
  if (sameShape(x.shape, shape)) return x;
  let open = shape.includes(-1);
  const sizes = shape.map((dim, i): Dim => {
    if (typeof dim === "number") return dim;
    if (x.shape[i] === dim) return 0;
    if (open) return dim;
    open = true;
    return -1;
  });
  const y = apply(Reshape, [x, sizeVector(sizes, [x, ...sources])]);
  return y;
}

/** An int64 vector of the sizes given, the symbolic ones read from values whose shapes hold them. */
export function sizeVector(shape: ShapeOf, sources: readonly Value[]): Value {
  if (isConcrete(shape)) return constant(shape, "int64");
  const parts: Value[] = [];
  let literal: number[] = [];
  const flush = (): void => {
    if (literal.length > 0) parts.push(constant(literal, "int64"));
    literal = [];
  };
  for (const dim of shape) {
    if (typeof dim === "number") {
      literal.push(dim);
      continue;
    }
    flush();
    const source = sources.find(({ shape: sizes }: { shape: ShapeOf }) => sizes.includes(dim));
    assert(source !== undefined, () => `no source has an axis of size ${dim}`);
    const axis = (source.shape satisfies ShapeOf as ShapeOf).indexOf(dim);
    parts.push(apply(Shape, [source], { start: int(axis), end: int(axis + 1) }));
  }
  flush();
  const [only] = parts;
  return parts.length === 1 && only ? only : concat(parts, 0);
}

/** Reshape to the shape of another value. */
export function reshapeLike(x: Value, like: Value): Value {
  return reshapeTo(x, like.shape, [like]);
}

/** Reorder axes; of a value whose axes have been reordered just before, both at once. */
export function transpose(x: Value, perm: readonly number[]): Value {
  const [source] = x.kind === "result" && x.node.op === "Transpose" ? x.node.inputs : [];
  const before = x.kind === "result" && source ? intsAttribute(x.node.attributes, "perm") : undefined;
  if (source && before) {
    return transpose(
      source,
      perm.map((axis) => before[axis] as number), // one axis each
    );
  }
  return perm.every((axis, i) => axis === i) ? x : apply(Transpose, [x], { perm: ints(perm) });
}

/** Swap the last two axes. */
export function transposeLast(x: Value): Value {
  const rank = x.shape.length;
  const perm = Array.from({ length: rank }, (_, i) => i);
  perm.splice(rank - 2, 2, rank - 1, rank - 2);
  return transpose(x, perm);
}

/**
 * How many parts one split may have on every device: WebGPU promises eight buffers to a shader
 * (`maxStorageBuffersPerShaderStage`), these and the whole.
 */
export const maxSplitParts = 7;

/** Cut x into `count` equal parts along an axis, whose size is a multiple of it; many parts by cutting halves. */
export function equalSplit(x: Value, count: number, axis: number): readonly Value[] {
  if (count > maxSplitParts && count % 2 === 0) {
    return equalSplit(x, 2, axis).flatMap((half) => equalSplit(half, count / 2, axis));
  }
  return applyAll(Split, [x], { axis: int(axis), num_outputs: int(count) });
}

/** x as a constant of the gradient (`detach()` in torch). */
export function detach(x: Value): Value {
  return apply(Detach, [x]);
}

/** y, with its gradient flowing into `through` as well; see {@link Graft}. */
export function graft(y: Value, through: Value): Value {
  return apply(Graft, [y, through]);
}

/** Add axes of size 1. */
export function unsqueeze(x: Value, axes: readonly number[]): Value {
  return apply(Unsqueeze, [x, constant(axes, "int64")]);
}

/** Drop axes of size 1. */
export function squeeze(x: Value, axes: readonly number[]): Value {
  return apply(Squeeze, [x, constant(axes, "int64")]);
}

/** Broadcast x to the shape of another value. */
export function expandLike(x: Value, like: Value): Value {
  return sameShape(x.shape, like.shape) ? x : apply(Expand, [x, shapeOf(like)]);
}

/** Join along an axis. */
export function concat(parts: readonly Value[], axis: number): Value {
  const [only] = parts;
  return parts.length === 1 && only ? only : apply(Concat, parts, { axis: int(axis) });
}

/** Cut along an axis into parts of the sizes given; symbolic sizes are read from `sources`. */
export function split(
  x: Value,
  sizes: readonly Dim[],
  axis: number,
  sources: readonly Value[] = [],
): readonly ResultValue[] {
  const equal = sizes.every((size) => size === sizes[0]) && typeof sizes[0] === "string";
  // Parts known to be equal need no sizes to be read while it runs.
  if (equal) return applyAll(Split, [x], { axis: int(axis), num_outputs: int(sizes.length) });
  return applyAll(Split, [x, sizeVector(sizes, sources)], { axis: int(axis) });
}

/** Cut out starts..ends along axes (step 1); an end of 2³¹−1 means to the end. */
export function slice(x: Value, starts: readonly number[], ends: readonly number[], axes: readonly number[]): Value {
  return apply(Slice, [x, constant(starts, "int64"), constant(ends, "int64"), constant(axes, "int64")]);
}

/** Zeros of the shape and dtype of another value. */
export function zerosLike(x: Value): Value {
  if (isConcrete(x.shape) && sizeOf(x.shape) <= 64) return constantOf(tensor(x.dtype, x.shape, 0));
  return apply(ConstantOfShape, [shapeOf(x)], { value: { type: "tensor", value: tensor(x.dtype, [1], [0]) } });
}

/** x times a scalar given as a number; x itself for 1. */
export function scale(x: Value, factor: number): Value {
  return factor === 1 ? x : mul(x, factor);
}

export type { DType };

/** The size of an axis as an int64 scalar. */
export function lengthOf(x: Value, axis: number): Value {
  return squeeze(slice(shapeOf(x), [axis], [axis + 1], [0]), [0]);
}

/** 0, 1, … along an axis of x: int64 [n]. */
export function places(x: Value, axis: number): Value {
  return range(constant(0, "int64"), lengthOf(x, axis));
}

/** start, start + 1, … below limit: int64 scalars -> int64 [n]. */
export function range(start: Value, limit: Value): Value {
  return apply(Range, [start, limit, constant(1, "int64")]);
}
