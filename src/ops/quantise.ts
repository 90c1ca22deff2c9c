import { assert } from "../errors.ts";
import { type DType, int, numberAttribute, type Value } from "../graph/index.ts";
import { apply, defineOp, normalAxis, type Op, required } from "./op.ts";
import { eachIndex, reference, spread, stridesOf } from "./reference.ts";

/**
 * y = scale·x for whole numbers x [..., n, ...] of few bits, with a scale for each block of `block_size` elements along
 * `axis`: scales [..., ⌈n / block_size⌉, ...]. Without zero points, which are zero.
 */
export const DequantizeLinear: Op = defineOp({
  name: "DequantizeLinear",
  since: 21,
  infer: (inputs, attributes) => {
    const [x, scales] = [required(inputs, 0, "DequantizeLinear"), required(inputs, 1, "DequantizeLinear")];
    const axis = normalAxis(numberAttribute(attributes, "axis", 1), x.shape.length, "DequantizeLinear");
    const block = numberAttribute(attributes, "block_size", 0);
    assert(block > 0 && inputs[2] === undefined, "only blocks without zero points are supported");
    const blocks = x.shape.map((dim, i) => (i === axis ? Math.ceil(Number(dim) / block) : dim));
    assert(blocks.join() === scales.shape.join(), "DequantizeLinear has a scale for each block");
    return [{ dtype: scales.dtype, shape: x.shape }];
  },
  evaluate: (inputs, attributes) => {
    const [x, scales] = [required(inputs, 0, "DequantizeLinear"), required(inputs, 1, "DequantizeLinear")];
    const axis = normalAxis(numberAttribute(attributes, "axis", 1), x.shape.length, "DequantizeLinear");
    const block = numberAttribute(attributes, "block_size", 0);
    const strides = stridesOf(scales.shape);
    const data = new Float64Array(x.data.length);
    eachIndex(x.shape, (flat, at) => {
      const place = at.reduce((sum, v, i) => sum + (i === axis ? Math.floor(v / block) : v) * (strides[i] ?? 0), 0);
      data[flat] = (x.data[flat] ?? 0) * (scales.data[place] ?? 0);
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
  ],
});

/** Dtypes of whole numbers that weights are held in. */
export type CodeType = Extract<DType, "int8" | "int4">;

/** Codes [rows, columns] times a scale for each block of a row: scales [rows, ⌈columns / block⌉] -> float32. */
export function dequantise(codes: Value, scales: Value, block: number): Value {
  return apply(DequantizeLinear, [codes, scales], { axis: int(1), block_size: int(block) });
}
