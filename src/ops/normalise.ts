import { float, int, numberAttribute, sizeOf, type Value } from "../graph/index.ts";
import { add, div, exp, mul, neg, sqrt, sub } from "./elementwise.ts";
import { apply, defineOp, normalAxis, type Op, required } from "./op.ts";
import { reduceMean, reduceSum } from "./reduce.ts";
import { spread } from "./reference.ts";

function alongAxis(
  x: { readonly shape: readonly number[]; readonly data: Float64Array },
  axis: number,
  f: (lane: Float64Array) => Float64Array,
): Float64Array {
  const length = x.shape[axis] ?? 1;
  const inner = sizeOf(x.shape.slice(axis + 1));
  const result = new Float64Array(x.data.length);
  for (let start = 0; start < x.data.length; start++) {
    if (Math.floor(start / inner) % length !== 0) continue;
    const lane = f(Float64Array.from({ length }, (_, i) => x.data[start + i * inner] ?? 0));
    lane.forEach((value, i) => {
      result[start + i * inner] = value;
    });
  }
  return result;
}

function logSumExp(lane: Float64Array): number {
  const top = lane.reduce((best, v) => Math.max(best, v), Number.NEGATIVE_INFINITY);
  return top + Math.log(lane.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

/** e^x / Σe^x along `axis`. dx = y·(dy − Σ dy·y). */
export const Softmax: Op = defineOp({
  name: "Softmax",
  since: 13,
  infer: (inputs) => [{ dtype: required(inputs, 0, "Softmax").dtype, shape: required(inputs, 0, "Softmax").shape }],
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Softmax");
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x.shape.length, "Softmax");
    return [{ ...x, data: alongAxis(x, axis, (lane) => lane.map((v) => Math.exp(v - logSumExp(lane)))) }];
  },
  grad: ({ dy, x, outputs, attributes }) => {
    const y = required(outputs, 0, "Softmax");
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x(0).shape.length, "Softmax");
    return [mul(y, sub(dy, reduceSum(mul(dy, y), [axis])))];
  },
  cost: "compute",
  samples: [{ inputs: [spread([2, 5])] }, { inputs: [spread([2, 3, 4])], attributes: { axis: int(1) } }],
});

/** x − log Σe^x along `axis`. dx = dy − e^y·Σ dy, as a sum so that a sparse dy can be added in place. */
export const LogSoftmax: Op = defineOp({
  name: "LogSoftmax",
  since: 13,
  infer: (inputs) => [
    { dtype: required(inputs, 0, "LogSoftmax").dtype, shape: required(inputs, 0, "LogSoftmax").shape },
  ],
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "LogSoftmax");
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x.shape.length, "LogSoftmax");
    return [{ ...x, data: alongAxis(x, axis, (lane) => lane.map((v) => v - logSumExp(lane))) }];
  },
  grad: ({ dy, x, outputs, attributes }) => {
    const y = required(outputs, 0, "LogSoftmax");
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x(0).shape.length, "LogSoftmax");
    return [add(dy, mul(exp(y), neg(reduceSum(dy, [axis]))))];
  },
  cost: "compute",
  samples: [{ inputs: [spread([2, 5])] }, { inputs: [spread([2, 3, 4])], attributes: { axis: int(1) } }],
});

/**
 * (x − mean) / √(variance + epsilon) · scale + bias over the axes from `axis` on. Ba et al. 2016, eq. (4).
 * x [..., d], scale [d], bias [d]. With x̂ the normalised x: dx = (g − mean g − x̂·mean(g·x̂)) / σ, g = dy·scale.
 */
export const LayerNormalization: Op = defineOp({
  name: "LayerNormalization",
  since: 17,
  infer: (inputs) => {
    const x = required(inputs, 0, "LayerNormalization");
    return [{ dtype: x.dtype, shape: x.shape }];
  },
  evaluate: (inputs, attributes) => {
    const [x, scale, bias] = [
      required(inputs, 0, "LayerNormalization"),
      required(inputs, 1, "LayerNormalization"),
      inputs[2],
    ];
    const axis = normalAxis(numberAttribute(attributes, "axis", -1), x.shape.length, "LayerNormalization");
    const epsilon = numberAttribute(attributes, "epsilon", 1e-5);
    const length = sizeOf(x.shape.slice(axis));
    const data = new Float64Array(x.data.length);
    for (let start = 0; start < data.length; start += length) {
      const lane = x.data.subarray(start, start + length);
      const mean = lane.reduce((sum, v) => sum + v, 0) / length;
      const variance = lane.reduce((sum, v) => sum + (v - mean) ** 2, 0) / length;
      lane.forEach((v, i) => {
        const normal = (v - mean) / Math.sqrt(variance + epsilon);
        data[start + i] =
          normal * (scale.data[i % scale.data.length] ?? 1) + (bias ? (bias.data[i % bias.data.length] ?? 0) : 0);
      });
    }
    return [{ ...x, data }];
  },
  grad: ({ dy, x, inputs, attributes }) => {
    const rank = x(0).shape.length;
    const first = normalAxis(numberAttribute(attributes, "axis", -1), rank, "LayerNormalization");
    const axes = Array.from({ length: rank - first }, (_, i) => first + i);
    const centred = sub(x(0), reduceMean(x(0), axes));
    const deviation = sqrt(add(reduceMean(mul(centred, centred), axes), numberAttribute(attributes, "epsilon", 1e-5)));
    const normal = div(centred, deviation);
    const g = mul(dy, x(1));
    const inner = sub(sub(g, reduceMean(g, axes)), mul(normal, reduceMean(mul(g, normal), axes)));
    return [div(inner, deviation), mul(dy, normal), inputs[2] ? dy : undefined];
  },
  rows: ({ inputs: [x], attributes }) =>
    normalAxis(numberAttribute(attributes, "axis", -1), x?.shape.length ?? 1, "LayerNormalization") > 0
      ? [0]
      : undefined,
  cost: "compute",
  samples: [
    {
      inputs: [spread([3, 4]), spread([4], 0.5, 1.5, 0.2), spread([4], -1, 1, 0.7)],
      attributes: { epsilon: float(1e-5) },
    },
    { inputs: [spread([2, 3, 4]), spread([4], 0.5, 1.5, 0.2)] },
  ],
});

/** Softmax along an axis. */
export function softmax(x: Value, axis = -1): Value {
  return apply(Softmax, [x], { axis: int(axis) });
}

/** Logarithm of the softmax along an axis. */
export function logSoftmax(x: Value, axis = -1): Value {
  return apply(LogSoftmax, [x], { axis: int(axis) });
}

/** Layer normalisation over the last axis. */
export function layerNorm(x: Value, scale: Value, bias: Value | undefined, epsilon: number): Value {
  return apply(LayerNormalization, bias ? [x, scale, bias] : [x, scale], { axis: int(-1), epsilon: float(epsilon) });
}
