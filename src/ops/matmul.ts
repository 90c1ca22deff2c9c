import { assert } from "../errors.ts";
import {
  type Attributes,
  broadcastShapes,
  type Dim,
  float,
  int,
  isConcrete,
  type Node,
  numberAttribute,
  sizeOf,
  type Value,
} from "../graph/index.ts";
import { apply, applyAll, defineOp, describe, type LinearSite, type Op, type Reference, required } from "./op.ts";
import { broadcastAll, broadcastOffset, eachIndex, spread, stridesOf } from "./reference.ts";
import { reshapeTo, scale, transposeLast } from "./shape.ts";

/** Product of the last two axes, the others broadcasting: a [..., m, k], b [..., k, n] -> y [..., m, n]. 1-D as in numpy. */
export const MatMul: Op = defineOp({
  name: "MatMul",
  since: 13,
  infer: (inputs) => {
    const a = required(inputs, 0, "MatMul");
    const b = required(inputs, 1, "MatMul");
    const left = a.shape.length === 1 ? [1, ...a.shape] : a.shape;
    const right = b.shape.length === 1 ? [...b.shape, 1] : b.shape;
    const batch = broadcastShapes(left.slice(0, -2), right.slice(0, -2));
    const [m, k, k2, n] = [left.at(-2), left.at(-1), right.at(-2), right.at(-1)];
    const fits = k === k2 || typeof k === "string" || typeof k2 === "string";
    assert(
      batch !== undefined && fits && a.dtype === b.dtype && m !== undefined && n !== undefined,
      () => `MatMul cannot multiply ${describe(a, b)}`,
    );
    const shape: Dim[] = [...batch];
    if (a.shape.length > 1) shape.push(m);
    if (b.shape.length > 1) shape.push(n);
    return [{ dtype: a.dtype, shape }];
  },
  evaluate: (inputs) => [product(required(inputs, 0, "MatMul"), required(inputs, 1, "MatMul"))],
  grad: ({ dy, x, needs }) => {
    const [a, b] = [x(0), x(1)];
    assert(a.shape.length > 1 && b.shape.length > 1, "the gradient of a MatMul with a vector is not supported");
    return [needs[0] ? matmul(dy, transposeLast(b)) : undefined, needs[1] ? weightGradient(a, b, dy) : undefined];
  },
  cost: "compute",
  contraction: ({ inputs: [a] }) => a?.shape.at(-1) ?? 1,
  linear: (node) => linearSite(node, "in,out"),
  samples: [
    { inputs: [spread([3, 4]), spread([4, 2], -1, 1, 0.2)] },
    { inputs: [spread([2, 3, 4]), spread([4, 2], -1, 1, 0.2)] },
    { inputs: [spread([2, 1, 3, 4]), spread([3, 4, 2], -1, 1, 0.2)] },
  ],
});

/** db = aᵀ·dy. A shared 2-D b sums over every leading axis in one product instead of a batch of them. */
function weightGradient(a: Value, b: Value, dy: Value): Value {
  if (b.shape.length !== 2 || a.shape.length === 2) {
    // Of attention's probabilities and what they mix, whichever is known to be small is transposed.
    const small = isSmallest(dy.shape.at(-1), a.shape.slice(-2)) && a.shape.length === b.shape.length;
    return small ? transposeLast(matmul(transposeLast(dy), a)) : matmul(transposeLast(a), dy);
  }
  const flatten = (value: Value): Value => reshapeTo(value, [-1, value.shape.at(-1) ?? 1], []);
  return gemm(flatten(a), flatten(dy), { transA: true });
}

/** Whether a matrix [n, k] has so few columns that its gradient is better written as [k, n] and turned. */
function isNarrow({ shape: [n, k] }: Value): boolean {
  return typeof n === "number" && typeof k === "number" && n >= 16 * k;
}

/** Whether a size is a number and the others are symbols, which stand for lengths of sequences. */
function isSmallest(size: Dim | undefined, others: readonly Dim[]): boolean {
  return typeof size === "number" && others.every((other) => typeof other === "string");
}

function product(a: Reference, b: Reference): Reference {
  const left = a.shape.length === 1 ? [1, ...a.shape] : a.shape;
  const right = b.shape.length === 1 ? [...b.shape, 1] : b.shape;
  const batch = broadcastAll([left.slice(0, -2), right.slice(0, -2)]);
  const [m, k, n] = [left.at(-2) ?? 1, left.at(-1) ?? 1, right.at(-1) ?? 1];
  const data = new Float64Array(sizeOf(batch) * m * n);
  const [leftBatch, rightBatch] = [left.slice(0, -2), right.slice(0, -2)];
  const [leftStrides, rightStrides] = [stridesOf(leftBatch), stridesOf(rightBatch)];
  eachIndex(batch, (flat, at) => {
    const p = broadcastOffset(leftBatch, leftStrides, at) * m * k;
    const q = broadcastOffset(rightBatch, rightStrides, at) * k * n;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let l = 0; l < k; l++) sum += (a.data[p + i * k + l] ?? 0) * (b.data[q + l * n + j] ?? 0);
        data[(flat * m + i) * n + j] = sum;
      }
    }
  });
  const shape = [...batch];
  if (a.shape.length > 1) shape.push(m);
  if (b.shape.length > 1) shape.push(n);
  return { dtype: a.dtype, shape, data };
}

interface GemmAttributes {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
  readonly beta: number;
}

function gemmAttributes(attributes: Attributes): GemmAttributes {
  return {
    transA: numberAttribute(attributes, "transA", 0) === 1,
    transB: numberAttribute(attributes, "transB", 0) === 1,
    alpha: numberAttribute(attributes, "alpha", 1),
    beta: numberAttribute(attributes, "beta", 1),
  };
}

/** y = alpha·A'·B' + beta·C with A' [m, k], B' [k, n] (each stored transposed when its flag is 1), C broadcast to [m, n]. */
export const Gemm: Op = defineOp({
  name: "Gemm",
  since: 13,
  infer: (inputs, attributes) => {
    const [a, b, c] = [required(inputs, 0, "Gemm"), required(inputs, 1, "Gemm"), inputs[2]];
    const { transA, transB } = gemmAttributes(attributes);
    const [m, k] = transA ? [a.shape[1], a.shape[0]] : a.shape;
    const [k2, n] = transB ? [b.shape[1], b.shape[0]] : b.shape;
    const fits = k === k2 || typeof k === "string" || typeof k2 === "string";
    assert(
      a.shape.length === 2 && b.shape.length === 2 && fits && m !== undefined && n !== undefined,
      () => `Gemm cannot multiply ${describe(a, b)} (transA ${transA}, transB ${transB})`,
    );
    assert(
      !c || broadcastShapes([m, n], c.shape)?.length === 2,
      () => `Gemm cannot add ${describe(c)} to [${m}, ${n}]`,
    );
    return [{ dtype: a.dtype, shape: [m, n] }];
  },
  evaluate: (inputs, attributes) => {
    const { transA, transB, alpha, beta } = gemmAttributes(attributes);
    const [a, b, c] = [required(inputs, 0, "Gemm"), required(inputs, 1, "Gemm"), inputs[2]];
    const y = product(transA ? flip(a) : a, transB ? flip(b) : b);
    const strides = stridesOf(c?.shape ?? []);
    eachIndex(y.shape, (flat, at) => {
      const added = c ? beta * (c.data[broadcastOffset(c.shape, strides, at)] ?? 0) : 0;
      y.data[flat] = alpha * (y.data[flat] ?? 0) + added;
    });
    return [y];
  },
  // With A' = op(A) and B' = op(B): dA' = alpha·dy·B'ᵀ, dB' = alpha·A'ᵀ·dy, dC = beta·dy. No operand is ever transposed.
  grad: ({ dy, x, inputs, needs, attributes }) => {
    const { transA, transB, alpha, beta } = gemmAttributes(attributes);
    const [a, b] = [x(0), x(1)];
    const da = transA
      ? () => gemm(b, dy, { transA: transB, transB: true, alpha })
      : () => gemm(dy, b, { transB: !transB, alpha });
    const upright = (): Value => gemm(a, dy, { transA: !transA, alpha });
    const db = transB
      ? () => (isNarrow(b) ? transposeLast(upright()) : gemm(dy, a, { transA: true, transB: transA, alpha }))
      : upright;
    return [
      needs[0] ? da() : undefined,
      needs[1] ? db() : undefined,
      inputs[2] && needs[2] ? scale(dy, beta) : undefined,
    ];
  },
  cost: "compute",
  rows: ({ inputs: [, , c], attributes }) => {
    if (gemmAttributes(attributes).transA) return undefined;
    return c?.shape.length === 2 && c.shape[0] !== 1 ? [0, 2] : [0];
  },
  contraction: ({ inputs: [a], attributes }) => a?.shape[gemmAttributes(attributes).transA ? 0 : 1] ?? 1,
  linear: (node) => {
    const { transA, transB, alpha } = gemmAttributes(node.attributes);
    return transA || alpha !== 1 ? undefined : linearSite(node, transB ? "out,in" : "in,out");
  },
  samples: [
    { inputs: [spread([3, 4]), spread([4, 2], -1, 1, 0.2), spread([2])] },
    { inputs: [spread([3, 4]), spread([2, 4], -1, 1, 0.2)], attributes: { transB: int(1), alpha: float(0.5) } },
    { inputs: [spread([3, 1]), spread([16, 1], -1, 1, 0.2)], attributes: { transB: int(1), alpha: float(0.5) } },
    {
      inputs: [spread([4, 3]), spread([4, 2], -1, 1, 0.2), spread([3, 1])],
      attributes: { transA: int(1), beta: float(2) },
    },
    {
      inputs: [spread([4, 3]), spread([2, 4], -1, 1, 0.2), spread([])],
      attributes: { transA: int(1), transB: int(1) },
    },
  ],
});

function flip(x: Reference): Reference {
  const [rows, columns] = [x.shape[0] ?? 1, x.shape[1] ?? 1];
  const data = new Float64Array(x.data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) data[j * rows + i] = x.data[i * columns + j] ?? 0;
  return { dtype: x.dtype, shape: [columns, rows], data };
}

function linearSite(node: Node, layout: LinearSite["layout"]): LinearSite | undefined {
  const [x, weight, bias] = node.inputs;
  if (x === undefined || weight?.kind !== "weight" || weight.shape.length !== 2 || !isConcrete(weight.shape))
    return undefined;
  const [rows, columns] = [weight.shape[0] ?? 0, weight.shape[1] ?? 0];
  const [outFeatures, inFeatures] = layout === "out,in" ? [rows, columns] : [columns, rows];
  return { x, weight, bias, layout, inFeatures, outFeatures };
}

/** A linear map's node that reads its weight [out, in], reading it as [in, out]. */
export function turned({ attributes }: Node, inputs: readonly (Value | undefined)[]): readonly Value[] {
  return applyAll(Gemm, inputs, { ...attributes, transB: int(0) });
}

/** a [..., m, k] · b [..., k, n]. */
export function matmul(a: Value, b: Value): Value {
  return apply(MatMul, [a, b]);
}

/** alpha·a'·b' + c for 2-D operands. */
export function gemm(
  a: Value,
  b: Value,
  options: { transA?: boolean; transB?: boolean; alpha?: number; c?: Value } = {},
): Value {
  const { transA = false, transB = false, alpha = 1, c } = options;
  return apply(Gemm, c ? [a, b, c] : [a, b], {
    ...(transA ? { transA: int(1) } : {}),
    ...(transB ? { transB: int(1) } : {}),
    ...(alpha !== 1 ? { alpha: float(alpha) } : {}),
  });
}

/** A linear layer as in torch: x [tokens, in], weight [out, in], bias [out] -> [tokens, out]. */
export function linear(x: Value, weight: Value, bias?: Value): Value {
  return gemm(x, weight, { transB: true, ...(bias ? { c: bias } : {}) });
}
