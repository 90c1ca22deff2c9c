import { assert } from "../errors.ts";
import {
  type Attributes,
  addDims,
  broadcastShapes,
  type ConstantValue,
  constant,
  type Dim,
  type DType,
  int,
  isFloat,
  mulDims,
  numberAttribute,
  stringAttribute,
  subDims,
  type Value,
} from "../graph/index.ts";
import { apply, defineOp, describe, elementwiseRows, type Op, required, type Sample } from "./op.ts";
import { reference, spread, zip } from "./reference.ts";

/** A value, or a number that becomes a scalar constant of the other operand's dtype. */
export type Operand = Value | number;

function operands(a: Operand, b: Operand): [Value, Value] {
  const dtype = typeof a !== "number" ? a.dtype : typeof b !== "number" ? b.dtype : "float32";
  const lift = (operand: Operand): Value | ConstantValue =>
    typeof operand === "number" ? constant(operand, dtype) : operand;
  return [lift(a), lift(b)];
}

interface Unary {
  readonly since: number;
  readonly evaluate: (x: number, attributes: Attributes) => number;
  readonly grad: ((dy: Value, x: Value, y: Value, attributes: Attributes) => Value) | "nondifferentiable";
  readonly samples?: readonly (readonly number[])[];
  readonly attributes?: readonly Attributes[];
  readonly cost?: Op["cost"];
  readonly precise?: NonNullable<Op["precise"]>;
  readonly dtype?: DType;
  readonly tolerance?: Sample["tolerance"];
}

/** An elementwise operator of one input: x [...] -> y [...]. */
function unary(name: string, options: Unary): Op {
  const { grad, evaluate } = options;
  const samples = options.samples ?? [[-2.3, -0.7, 0.4, 1.9]];
  return defineOp({
    name,
    since: options.since,
    infer: (inputs) => {
      const x = required(inputs, 0, name);
      return [{ dtype: x.dtype, shape: x.shape }];
    },
    evaluate: (inputs, attributes) => [zip((x) => evaluate(x, attributes), [required(inputs, 0, name)])],
    grad:
      grad === "nondifferentiable"
        ? grad
        : ({ dy, x, outputs, attributes }) => [grad(dy, x(0), required(outputs, 0, name), attributes)],
    cost: options.cost ?? "memory",
    ...(options.precise ? { precise: options.precise } : {}),
    rows: elementwiseRows,
    samples: (options.attributes ?? [{}]).flatMap((attributes) =>
      samples.map((values) => ({
        inputs: [reference([values.length], values, options.dtype ?? "float32")],
        attributes,
        ...(options.tolerance ? { tolerance: options.tolerance } : {}),
      })),
    ),
  });
}

interface Binary {
  readonly since: number;
  readonly evaluate: (a: number, b: number, dtype: DType, attributes: Attributes) => number;
  readonly grad:
    | ((dy: Value, a: Value, b: Value, y: Value) => readonly [Value | undefined, Value | undefined])
    | "nondifferentiable";
  readonly result?: DType;
  readonly samples?: readonly Sample[];
  /** The operation on sizes, when it is used to work out shapes. */
  readonly sizes?: (a: Dim, b: Dim) => Dim;
}

const binarySamples: readonly Sample[] = [
  { inputs: [spread([2, 3], 0.5, 2), spread([2, 3], 0.6, 1.9, 0.11)] },
  { inputs: [spread([2, 1, 3], 0.5, 2), spread([4, 1], 0.6, 1.9, 0.11)] },
  { inputs: [spread([3], 0.5, 2), spread([], 0.6, 1.9, 0.11)] },
];

/** An elementwise operator of two inputs that broadcast: a [...], b [...] -> y [...]. */
function binary(name: string, options: Binary): Op {
  const { grad, evaluate, result, sizes: combine } = options;
  return defineOp({
    name,
    since: options.since,
    infer: (inputs) => {
      const a = required(inputs, 0, name);
      const b = required(inputs, 1, name);
      const shape = broadcastShapes(a.shape, b.shape);
      assert(shape !== undefined && a.dtype === b.dtype, () => `${name} cannot combine ${describe(a, b)}`);
      return [{ dtype: result ?? a.dtype, shape }];
    },
    evaluate: (inputs, attributes) => {
      const a = required(inputs, 0, name);
      const b = required(inputs, 1, name);
      return [zip((x, y) => evaluate(x ?? 0, y ?? 0, a.dtype, attributes), [a, b], result ?? a.dtype)];
    },
    grad:
      grad === "nondifferentiable" ? grad : ({ dy, x, outputs }) => grad(dy, x(0), x(1), required(outputs, 0, name)),
    cost: "memory",
    rows: elementwiseRows,
    ...(combine
      ? {
          sizes: ({ inputs, sizesOf }) => {
            const [a, b] = [sizesOf(inputs[0]), sizesOf(inputs[1])];
            if (!a || !b || (a.length !== b.length && a.length !== 1 && b.length !== 1)) return undefined;
            const length = Math.max(a.length, b.length);
            return Array.from({ length }, (_, i) => combine(a[i % a.length] ?? 0, b[i % b.length] ?? 0));
          },
        }
      : {}),
    samples: options.samples ?? binarySamples,
  });
}

/** a + b. */
export const Add: Op = binary("Add", { since: 14, evaluate: (a, b) => a + b, grad: (dy) => [dy, dy], sizes: addDims });
/** a − b. */
export const Sub: Op = binary("Sub", {
  since: 14,
  evaluate: (a, b) => a - b,
  grad: (dy) => [dy, neg(dy)],
  sizes: subDims,
});
/** a · b. */
export const Mul: Op = binary("Mul", {
  since: 14,
  evaluate: (a, b) => a * b,
  grad: (dy, a, b) => (a === b ? [mul(mul(dy, 2), a), undefined] : [mul(dy, b), mul(dy, a)]),
  sizes: mulDims,
});
/** a / b; integers divide towards zero. db = −dy·y/b. */
export const Div: Op = binary("Div", {
  since: 14,
  evaluate: (a, b, dtype) => (isFloat(dtype) ? a / b : Math.trunc(a / b)),
  grad: (dy, _a, b, y) => [div(dy, b), neg(div(mul(dy, y), b))],
});
/** a to the power b. da = dy·b·a^(b−1); db = dy·y·ln a. */
export const Pow: Op = binary("Pow", {
  since: 15,
  evaluate: (a, b) => a ** b,
  grad: (dy, a, b, y) => [mul(dy, mul(b, pow(a, sub(b, 1)))), mul(dy, mul(y, log(a)))],
});
/** Remainder with the sign of the divisor (`fmod` 0) or of the dividend (`fmod` 1). */
export const Mod: Op = binary("Mod", {
  since: 13,
  evaluate: (a, b, _dtype, attributes) =>
    numberAttribute(attributes, "fmod", 0) === 1 ? a % b : a - b * Math.floor(a / b),
  grad: "nondifferentiable",
  samples: [{ inputs: [reference([4], [7, -7, 8, -3], "int64"), reference([4], [3, 3, -5, -2], "int64")] }],
});

/** Larger of a and b, broadcasting. A tie sends the gradient to the first. */
export const Max: Op = binary("Max", {
  since: 13,
  evaluate: (a, b) => Math.max(a, b),
  grad: (dy, a, b) => {
    const first = cast(greaterOrEqual(a, b), dy.dtype);
    return [mul(dy, first), mul(dy, sub(1, first))];
  },
});
/** Smaller of a and b, broadcasting. A tie sends the gradient to the first. */
export const Min: Op = binary("Min", {
  since: 13,
  evaluate: (a, b) => Math.min(a, b),
  grad: (dy, a, b) => {
    const first = cast(lessOrEqual(a, b), dy.dtype);
    return [mul(dy, first), mul(dy, sub(1, first))];
  },
});

const compareSamples: readonly Sample[] = [
  { inputs: [reference([4], [1, 2, 3, -1]), reference([4], [1, 3, 2, -1])] },
  { inputs: [reference([2, 2], [1, 2, 3, 4], "int64"), reference([1], [2], "int64")] },
];

function comparison(name: string, since: number, test: (a: number, b: number) => boolean): Op {
  return binary(name, {
    since,
    evaluate: (a, b) => Number(test(a, b)),
    grad: "nondifferentiable",
    result: "bool",
    samples: compareSamples,
  });
}

/** a = b, as bool. */
export const Equal: Op = comparison("Equal", 19, (a, b) => a === b);
/** a < b, as bool. */
export const Less: Op = comparison("Less", 13, (a, b) => a < b);
/** a ≤ b, as bool. */
export const LessOrEqual: Op = comparison("LessOrEqual", 16, (a, b) => a <= b);
/** a > b, as bool. */
export const Greater: Op = comparison("Greater", 13, (a, b) => a > b);
/** a ≥ b, as bool. */
export const GreaterOrEqual: Op = comparison("GreaterOrEqual", 16, (a, b) => a >= b);

const logicSamples: readonly Sample[] = [
  { inputs: [reference([4], [0, 0, 1, 1], "bool"), reference([4], [0, 1, 0, 1], "bool")] },
];
/** Logical and. */
export const And: Op = binary("And", {
  since: 7,
  evaluate: (a, b) => Number(a !== 0 && b !== 0),
  grad: "nondifferentiable",
  result: "bool",
  samples: logicSamples,
});
/** Logical or. */
export const Or: Op = binary("Or", {
  since: 7,
  evaluate: (a, b) => Number(a !== 0 || b !== 0),
  grad: "nondifferentiable",
  result: "bool",
  samples: logicSamples,
});
/** Logical not. */
export const Not: Op = unary("Not", {
  since: 1,
  evaluate: (x) => Number(x === 0),
  grad: "nondifferentiable",
  samples: [[0, 1]],
  dtype: "bool",
});

/** −x. */
export const Neg: Op = unary("Neg", { since: 13, evaluate: (x) => -x, grad: (dy) => neg(dy) });
/** |x|. */
export const Abs: Op = unary("Abs", { since: 13, evaluate: Math.abs, grad: (dy, x) => mul(dy, sign(x)) });
/** −1, 0 or 1. */
export const Sign: Op = unary("Sign", { since: 13, evaluate: Math.sign, grad: "nondifferentiable" });
/** Round down. */
export const Floor: Op = unary("Floor", { since: 13, evaluate: Math.floor, grad: "nondifferentiable" });
/** Round up. */
export const Ceil: Op = unary("Ceil", { since: 13, evaluate: Math.ceil, grad: "nondifferentiable" });
/** eˣ. */
export const Exp: Op = unary("Exp", {
  since: 13,
  evaluate: Math.exp,
  grad: (dy, _x, y) => mul(dy, y),
  cost: "compute",
});
/** Natural logarithm. */
export const Log: Op = unary("Log", {
  since: 13,
  evaluate: Math.log,
  grad: (dy, x) => div(dy, x),
  samples: [[0.2, 0.9, 3.4]],
  cost: "compute",
});
/** Square root. dx = dy / 2y. */
export const Sqrt: Op = unary("Sqrt", {
  since: 13,
  evaluate: Math.sqrt,
  grad: (dy, _x, y) => div(mul(dy, 0.5), y),
  samples: [[0.2, 0.9, 3.4]],
});
/** 1 / x. dx = −dy·y². */
export const Reciprocal: Op = unary("Reciprocal", {
  since: 13,
  evaluate: (x) => 1 / x,
  grad: (dy, _x, y) => neg(mul(dy, mul(y, y))),
});
/** Sine. */
export const Sin: Op = unary("Sin", {
  since: 7,
  evaluate: Math.sin,
  grad: (dy, x) => mul(dy, cos(x)),
  cost: "compute",
  precise: (x) => circular(x, 1),
});
/** Cosine. */
export const Cos: Op = unary("Cos", {
  since: 7,
  evaluate: Math.cos,
  grad: (dy, x) => neg(mul(dy, sin(x))),
  cost: "compute",
  precise: (x) => circular(x, 0),
});
/** Hyperbolic tangent. dx = (1 − y²)·dy. */
export const Tanh: Op = unary("Tanh", {
  since: 13,
  evaluate: Math.tanh,
  grad: (dy, _x, y) => mul(dy, sub(1, mul(y, y))),
  cost: "compute",
});
/** 1 / (1 + e⁻ˣ). dx = y·(1 − y)·dy. */
export const Sigmoid: Op = unary("Sigmoid", {
  since: 13,
  evaluate: (x) => 1 / (1 + Math.exp(-x)),
  grad: (dy, _x, y) => mul(dy, mul(y, sub(1, y))),
  cost: "compute",
});
/** max(x, 0). The gradient at 0 is 0. */
export const Relu: Op = unary("Relu", {
  since: 14,
  evaluate: (x) => Math.max(x, 0),
  grad: (dy, x) => mul(dy, cast(greater(x, 0), dy.dtype)),
});
/** Gauss error function. dx = 2/√π · e^(−x²) · dy. */
export const Erf: Op = unary("Erf", {
  since: 13,
  evaluate: erfOf,
  grad: (dy, x) => mul(dy, mul(2 / Math.sqrt(Math.PI), exp(neg(mul(x, x))))),
  cost: "compute",
});
/**
 * Gaussian error linear unit, exact (`approximate` "none") or by tanh. Hendrycks & Gimpel 2016.
 * Exact: dx = dy·(Φ(x) + x·φ(x)). tanh: y = x/2·(1 + t), t = tanh(√(2/π)·(x + 0.044715·x³)).
 */
export const Gelu: Op = unary("Gelu", {
  since: 20,
  evaluate: (x, attributes) =>
    stringAttribute(attributes, "approximate", "none") === "tanh"
      ? 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
      : 0.5 * x * (1 + erfOf(x / Math.SQRT2)),
  grad: (dy, x, _y, attributes) => {
    if (stringAttribute(attributes, "approximate", "none") === "tanh") {
      const c = Math.sqrt(2 / Math.PI);
      const square = mul(x, x);
      const t = tanh(mul(c, mul(x, add(1, mul(0.044715, square)))));
      const slope = mul(c, add(1, mul(3 * 0.044715, square)));
      return mul(dy, mul(0.5, add(add(1, t), mul(mul(x, sub(1, mul(t, t))), slope))));
    }
    const density = mul(1 / Math.sqrt(2 * Math.PI), exp(mul(-0.5, mul(x, x))));
    return mul(dy, add(mul(0.5, add(1, erf(mul(x, Math.SQRT1_2)))), mul(x, density)));
  },
  attributes: [{ approximate: { type: "string", value: "none" } }, { approximate: { type: "string", value: "tanh" } }],
  cost: "compute",
  tolerance: { relative: 2e-5, reason: "ONNX Runtime's erf is a float32 polynomial" },
});

const castTargets: Readonly<Partial<Record<DType, number>>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
};
const castNames = new Map(Object.entries(castTargets).map(([name, code]) => [code, name as DType])); // keys of the table above

/** Convert to the dtype that `to` numbers (ONNX TensorProto.DataType). A float cast passes the gradient through. */
export const Cast: Op = defineOp({
  name: "Cast",
  since: 19,
  infer: (inputs, attributes) => {
    const code = numberAttribute(attributes, "to", 0);
    const dtype = castNames.get(code);
    assert(dtype !== undefined, `Cast to data type ${code} is not supported`);
    return [{ dtype, shape: required(inputs, 0, "Cast").shape }];
  },
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Cast");
    const dtype = castNames.get(numberAttribute(attributes, "to", 0)) ?? x.dtype;
    const convert = dtype === "bool" ? (v: number) => Number(v !== 0) : isFloat(dtype) ? (v: number) => v : Math.trunc;
    return [{ dtype, shape: x.shape, data: x.data.map(convert) }];
  },
  grad: ({ dy, x }) => [isFloat(x(0).dtype) ? cast(dy, x(0).dtype) : undefined],
  cost: "memory",
  sizes: ({ inputs, sizesOf }) => sizesOf(inputs[0]),
  samples: [
    { inputs: [reference([3], [-1.7, 0, 2.4])], attributes: { to: int(7) } },
    { inputs: [reference([3], [-1, 0, 2], "int64")], attributes: { to: int(1) } },
    { inputs: [reference([3], [-1.5, 0, 2])], attributes: { to: int(9) } },
    { inputs: [reference([3], [-1.5, 0.25, 2])], attributes: { to: int(1) } },
  ],
});

/** condition ? a : b, all broadcasting. */
export const Where: Op = defineOp({
  name: "Where",
  rows: elementwiseRows,
  since: 16,
  infer: (inputs) => {
    const [condition, a, b] = [
      required(inputs, 0, "Where"),
      required(inputs, 1, "Where"),
      required(inputs, 2, "Where"),
    ];
    const branches = broadcastShapes(a.shape, b.shape);
    const shape = branches && broadcastShapes(condition.shape, branches);
    assert(shape !== undefined && a.dtype === b.dtype, () => `Where cannot combine ${describe(condition, a, b)}`);
    return [{ dtype: a.dtype, shape }];
  },
  evaluate: (inputs) => {
    const [condition, a, b] = [
      required(inputs, 0, "Where"),
      required(inputs, 1, "Where"),
      required(inputs, 2, "Where"),
    ];
    return [zip((c, x, y) => (c !== 0 ? (x ?? 0) : (y ?? 0)), [condition, a, b], a.dtype)];
  },
  grad: ({ dy, x }) => {
    const zero = constant(0, dy.dtype);
    return [undefined, where(x(0), dy, zero), where(x(0), zero, dy)];
  },
  cost: "memory",
  samples: [
    { inputs: [reference([3], [1, 0, 1], "bool"), spread([2, 3]), spread([3], -1, 1, 0.2)] },
    { inputs: [reference([2, 1], [1, 0], "bool"), spread([2, 3]), spread([], -1, 1, 0.2)] },
  ],
});

/** Limit to [min, max]; the gradient flows where x is inside. */
export const Clip: Op = defineOp({
  name: "Clip",
  since: 13,
  infer: (inputs) => [{ dtype: required(inputs, 0, "Clip").dtype, shape: required(inputs, 0, "Clip").shape }],
  evaluate: (inputs) => {
    const low = inputs[1]?.data[0] ?? Number.NEGATIVE_INFINITY;
    const high = inputs[2]?.data[0] ?? Number.POSITIVE_INFINITY;
    return [zip((x) => Math.min(Math.max(x, low), high), [required(inputs, 0, "Clip")])];
  },
  grad: ({ dy, x, outputs }) => [mul(dy, cast(equal(x(0), required(outputs, 0, "Clip")), dy.dtype))],
  cost: "memory",
  samples: [
    { inputs: [reference([4], [-3, -0.2, 0.4, 5]), reference([], -1), reference([], 1)], constant: [1, 2] },
    { inputs: [reference([4], [-3, -0.2, 0.4, 5]), undefined, reference([], 1)], constant: [2] },
  ],
});

/**
 * The error function to double precision: a Maclaurin series below 2.5, a continued fraction for erfc above.
 */
function erfOf(x: number): number {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  if (size < 2.5) {
    let term = size;
    let sum = size;
    for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-size * size) / n;
      sum += term / (2 * n + 1);
      if (n > 200) break;
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 120; n > 0; n--) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-size * size) / (Math.sqrt(Math.PI) * (size + fraction)));
}

/** a + b; a number becomes a scalar of the other's dtype. */
export function add(a: Operand, b: Operand): Value {
  return apply(Add, operands(a, b));
}
/** a − b. */
export function sub(a: Operand, b: Operand): Value {
  return apply(Sub, operands(a, b));
}
/** a · b. */
export function mul(a: Operand, b: Operand): Value {
  return apply(Mul, operands(a, b));
}
/** a / b. */
export function div(a: Operand, b: Operand): Value {
  return apply(Div, operands(a, b));
}
/** a to the power b. */
export function pow(a: Operand, b: Operand): Value {
  return apply(Pow, operands(a, b));
}
/** Larger of a and b. */
export function max(a: Operand, b: Operand): Value {
  return apply(Max, operands(a, b));
}
/** Smaller of a and b. */
export function min(a: Operand, b: Operand): Value {
  return apply(Min, operands(a, b));
}
/** a = b. */
export function equal(a: Operand, b: Operand): Value {
  return apply(Equal, operands(a, b));
}
/** a < b. */
export function less(a: Operand, b: Operand): Value {
  return apply(Less, operands(a, b));
}
/** a ≤ b. */
export function lessOrEqual(a: Operand, b: Operand): Value {
  return apply(LessOrEqual, operands(a, b));
}
/** a > b. */
export function greater(a: Operand, b: Operand): Value {
  return apply(Greater, operands(a, b));
}
/** a ≥ b. */
export function greaterOrEqual(a: Operand, b: Operand): Value {
  return apply(GreaterOrEqual, operands(a, b));
}
/** Logical and. */
export function and(a: Value, b: Value): Value {
  return apply(And, [a, b]);
}
/** Logical or. */
export function or(a: Value, b: Value): Value {
  return apply(Or, [a, b]);
}
/** Logical not. */
export function not(x: Value): Value {
  return apply(Not, [x]);
}
/** −x. */
export function neg(x: Value): Value {
  return apply(Neg, [x]);
}
/** |x|. */
export function abs(x: Value): Value {
  return apply(Abs, [x]);
}
/** −1, 0 or 1. */
export function sign(x: Value): Value {
  return apply(Sign, [x]);
}
/** Round down. */
export function floor(x: Value): Value {
  return apply(Floor, [x]);
}
/** eˣ. */
export function exp(x: Value): Value {
  return apply(Exp, [x]);
}
/** Natural logarithm. */
export function log(x: Value): Value {
  return apply(Log, [x]);
}
/** Square root. */
export function sqrt(x: Value): Value {
  return apply(Sqrt, [x]);
}
/** 1 / x. */
export function reciprocal(x: Value): Value {
  return apply(Reciprocal, [x]);
}
/** Sine. */
export function sin(x: Value): Value {
  return apply(Sin, [x]);
}
/** Cosine. */
export function cos(x: Value): Value {
  return apply(Cos, [x]);
}
/** Hyperbolic tangent. */
export function tanh(x: Value): Value {
  return apply(Tanh, [x]);
}
/** Logistic sigmoid. */
export function sigmoid(x: Value): Value {
  return apply(Sigmoid, [x]);
}
/** max(x, 0). */
export function relu(x: Value): Value {
  return apply(Relu, [x]);
}
/** Error function. */
export function erf(x: Value): Value {
  return apply(Erf, [x]);
}
/** Gaussian error linear unit. */
export function gelu(x: Value, approximate: "none" | "tanh" = "none"): Value {
  return apply(Gelu, [x], { approximate: { type: "string", value: approximate } });
}
/** Convert to `dtype`; the value itself when it has that dtype already. */
export function cast(x: Value, dtype: DType): Value {
  return x.dtype === dtype ? x : apply(Cast, [x], { to: int(castTargets[dtype] ?? 0) });
}
/** condition ? a : b. */
export function where(condition: Value, a: Operand, b: Operand): Value {
  return apply(Where, [condition, ...operands(a, b)]);
}

/** π as numbers of eight bits, and what is left: multiples up to 2¹⁶ of all but the last are exact in float32. */
const halfTurn: readonly number[] = [3, 2, 1].reduce<readonly number[]>(
  (parts) => {
    const rest = parts.at(-1) ?? 0;
    const unit = 2 ** (Math.floor(Math.log2(rest)) - 7);
    const part = unit * Math.floor(rest / unit);
    return [...parts.slice(0, -1), part, rest - part];
  },
  [Math.PI],
);

/**
 * Sine (`lowest` 1) or cosine (0) from sums and products alone: x − kπ, cut down exactly (Cody and Waite 1980, ch. 8), in the
 * Taylor series up to degree 13 or 12. To 2·10⁻⁷ for |x| up to 2¹⁷.
 */
function circular(x: Value, lowest: 0 | 1): Value {
  const k = floor(add(mul(x, 1 / Math.PI), 0.5));
  const r = halfTurn.reduce((rest, part) => sub(rest, mul(k, part)), x);
  const square = mul(r, r);
  let [sum, coefficient]: [Operand, number] = [0, 1];
  const coefficients = Array.from({ length: 7 }, (_, i) => {
    if (i > 0) coefficient /= -(2 * i + lowest) * (2 * i + lowest - 1);
    return coefficient;
  });
  for (const next of coefficients.toReversed()) sum = sum === 0 ? next : add(mul(square, sum), next);
  const odd = sub(k, mul(floor(mul(k, 0.5)), 2));
  const series = lowest === 1 ? mul(r, sum) : (sum as Value); // more than one coefficient
  return mul(sub(1, mul(odd, 2)), series);
}
