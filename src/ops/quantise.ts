import { assert } from "../errors.ts";
import { type Attributes, type DType, int, numberAttribute, type Shape, type Value } from "../graph/index.ts";
import { apply, defineOp, describe, normalAxis, type Op, required } from "./op.ts";
import { eachIndex, reference, spread, stridesOf } from "./reference.ts";

/**
 * y = scale·(x − zero) for whole numbers x. A scale (and a zero point, 0 unless given) stands for all of x, for each slice
 * along `axis` [n], or for each block of `block_size` elements along it: scales [..., ⌈n / block_size⌉, ...].
 */
export const DequantizeLinear: Op = defineOp({
  name: "DequantizeLinear",
  since: 21,
  infer: (inputs, attributes) => {
    const [x, scales] = [required(inputs, 0, "DequantizeLinear"), required(inputs, 1, "DequantizeLinear")];
    const zeros = inputs[2];
    const fits = scaleShape(x.shape, scales.shape, attributes);
    assert(
      fits && (!zeros || zeros.shape.join() === scales.shape.join()),
      () => `DequantizeLinear cannot scale ${describe(x, scales, zeros)}`,
    );
    return [{ dtype: scales.dtype, shape: x.shape }];
  },
  evaluate: (inputs, attributes) => {
    const [x, scales] = [required(inputs, 0, "DequantizeLinear"), required(inputs, 1, "DequantizeLinear")];
    const zeros = inputs[2];
    const axis = axisOf(x.shape, attributes);
    const block = numberAttribute(attributes, "block_size", 0);
    const strides = stridesOf(scales.shape);
    const data = new Float64Array(x.data.length);
    eachIndex(x.shape, (flat, at) => {
      let place = 0;
      if (block > 0)
        place = at.reduce((sum, v, i) => sum + (i === axis ? Math.floor(v / block) : v) * (strides[i] ?? 0), 0);
      else if (scales.data.length > 1) place = at[axis] ?? 0;
      data[flat] = ((x.data[flat] ?? 0) - (zeros?.data[place] ?? 0)) * (scales.data[place] ?? 0);
    });
    return [{ dtype: scales.dtype, shape: x.shape, data }];
  },
  grad: "nondifferentiable", // what is read is frozen
  cost: "memory",
  samples: [
    {
      inputs: [reference([2, 4], [1, -2, 3, 127, -128, 0, 5, 7], "int8"), spread([2, 2], 0.1, 1)],
      attributes: { axis: int(1), block_size: int(2) },
    },
    {
      inputs: [reference([3, 2], [1, -2, 3, 4, 5, -6], "int8"), spread([2, 2], 0.1, 1)],
      attributes: { axis: int(0), block_size: int(2) },
    },
    {
      inputs: [
        reference([2, 3], [1, -2, 3, 4, 5, -6], "int8"),
        spread([3], 0.1, 1),
        reference([3], [1, 0, -3], "int8"),
      ],
    },
    { inputs: [reference([3], [7, 0, -9], "int8"), spread([], 0.5, 0.5), reference([], [2], "int8")] },
  ],
});

/** Whether a scale stands for the whole of x, for each slice along the axis, or for each block of it. */
function scaleShape(x: Shape, scales: Shape, attributes: Attributes): boolean {
  if (scales.length === 0) return true;
  const axis = axisOf(x, attributes);
  const block = numberAttribute(attributes, "block_size", 0);
  const expected = x.map((dim, i) => (i === axis && block > 0 ? Math.ceil(Number(dim) / block) : dim));
  return block > 0
    ? expected.join() === scales.join()
    : scales.length === 1 && (scales[0] === 1 || scales[0] === x[axis]);
}

/** The axis that scales go along; the last where x has no second. */
function axisOf(x: Shape, attributes: Attributes): number {
  const axis = numberAttribute(attributes, "axis", 1);
  return x.length < 2 ? 0 : normalAxis(axis, x.length, "DequantizeLinear");
}

/** Dtypes of whole numbers that weights are held in. */
export type CodeType = Extract<DType, "int8" | "int4">;

/** Codes [rows, columns] times a scale for each block of a row: scales [rows, ⌈columns / block⌉] -> float32. */
export function dequantise(codes: Value, scales: Value, block: number): Value {
  return apply(DequantizeLinear, [codes, scales], { axis: int(1), block_size: int(block) });
}
