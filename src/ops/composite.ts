import { assert } from "../errors.ts";
import { type Attributes, float, int, type Node, numberAttribute, type Value } from "../graph/index.ts";
import { add, mul, neg, sigmoid, sub } from "./elementwise.ts";
import { apply, defineOp, describe, elementwiseRows, type Op, type Reference, required } from "./op.ts";
import { spread } from "./reference.ts";
import { concat, split, squeeze, unsqueeze } from "./shape.ts";

/*
 * Operators that are formulas of others: they have a gradient in closed form, and the runtimes that have a kernel for
 * one run it in one pass. `composite` says how to find the formula in a graph and how to write it down.
 */

/** y = x·σ(alpha·x) (SiLU for alpha 1). dx = dy·(σ + alpha·y·(1 − σ)). Elfwing et al. 2017 (arXiv 1702.03118), eq. (4). */
export const Swish: Op = defineOp({
  name: "Swish",
  since: 24,
  infer: (inputs) => [{ dtype: required(inputs, 0, "Swish").dtype, shape: required(inputs, 0, "Swish").shape }],
  evaluate: (inputs, attributes) => {
    const x = required(inputs, 0, "Swish");
    const alpha = numberAttribute(attributes, "alpha", 1);
    return [{ ...x, data: x.data.map((v) => v / (1 + Math.exp(-alpha * v))) }];
  },
  grad: ({ dy, x, outputs, attributes }) => {
    const alpha = numberAttribute(attributes, "alpha", 1);
    const gate = gateOf(x(0), alpha);
    return [mul(dy, add(gate, mul(required(outputs, 0, "Swish"), by(sub(1, gate), alpha))))];
  },
  cost: "memory",
  rows: elementwiseRows,
  composite: {
    found: {
      root: "Mul",
      recognise: ({ inputs: [a, b] }) => {
        const [x, gate] = b && isGateOf(b, a) ? [a, b] : [b, a];
        return x && gate && isGateOf(gate, x) ? { inputs: [x], attributes: {} } : undefined;
      },
    },
    expand: ([x], attributes) => [mul(x as Value, gateOf(x as Value, numberAttribute(attributes, "alpha", 1)))], // it has one
  },
  samples: [{ inputs: [spread([2, 3, 4])] }, { inputs: [spread([5])], attributes: { alpha: float(1.5) } }],
});

function gateOf(x: Value, alpha: number): Value {
  return sigmoid(by(x, alpha));
}

function by(x: Value, factor: number): Value {
  return factor === 1 ? x : mul(x, factor);
}

function isGateOf(gate: Value, x: Value | undefined): boolean {
  return gate.kind === "result" && gate.node.op === "Sigmoid" && gate.node.inputs[0] === x;
}

interface Rotation {
  readonly interleaved: boolean;
  /** Elements of a head that are rotated. */
  readonly rotated: number;
  readonly heads: number;
}

/**
 * Rotary positions: pairs of a head's elements turned by the angle of their position, (x₁·cos − x₂·sin, x₂·cos + x₁·sin).
 * Pairs are (i, i + r/2), or (2i, 2i + 1) when `interleaved`, of the first r elements. x [batch, heads, seq, d] or
 * [batch, seq, heads·d]; cos and sin [batch, seq, r/2], or [positions, r/2] read at int64 [batch, seq].
 * dx turns dy back: the same with −sin. Su et al. 2021 (arXiv 2104.09864), eq. (34).
 */
export const RotaryEmbedding: Op = defineOp({
  name: "RotaryEmbedding",
  since: 23,
  infer: (inputs, attributes) => {
    const [x, cos] = [required(inputs, 0, "RotaryEmbedding"), required(inputs, 1, "RotaryEmbedding")];
    const { heads } = rotationOf(x.shape, cos.shape, attributes);
    assert(
      (x.shape.length === 4 || (x.shape.length === 3 && heads > 0)) && x.dtype === cos.dtype,
      () => `RotaryEmbedding cannot rotate ${describe(x, cos)}`,
    );
    return [{ dtype: x.dtype, shape: x.shape }];
  },
  evaluate: (inputs, attributes) => {
    const [x, cos, sin] = [0, 1, 2].map((i) => required(inputs, i, "RotaryEmbedding")) as [
      Reference,
      Reference,
      Reference,
    ];
    return [turned(x, cos, sin, inputs[3], attributes)];
  },
  grad: ({ dy, x, inputs, needs, attributes }) => {
    assert(!needs[1] && !needs[2], "no gradient flows to the tables of rotary positions");
    return [apply(RotaryEmbedding, [dy, x(1), neg(x(2)), ...inputs.slice(3)], attributes)];
  },
  cost: "memory",
  composite: {
    found: { root: "Concat", recognise: recogniseRotation },
    expand: ([x, cos, sin, positions], attributes) => {
      if (!x || !cos || !sin || positions || x.shape.length !== 4) return undefined;
      const { interleaved, rotated } = rotationOf(x.shape, cos.shape, attributes);
      return interleaved ? undefined : [rotatedHalves(x, unsqueeze(cos, [1]), unsqueeze(sin, [1]), rotated)];
    },
  },
  samples: [
    { inputs: [spread([2, 3, 2, 4]), spread([2, 2, 2], -1, 1, 0.3), spread([2, 2, 2], -1, 1, 0.7)], constant: [1, 2] },
    {
      inputs: [spread([1, 2, 3, 6]), spread([1, 3, 2], -1, 1, 0.3), spread([1, 3, 2], -1, 1, 0.7)],
      attributes: { rotary_embedding_dim: int(4) },
      constant: [1, 2],
    },
    {
      inputs: [
        spread([1, 2, 8]),
        spread([5, 2], -1, 1, 0.3),
        spread([5, 2], -1, 1, 0.7),
        { dtype: "int64", shape: [1, 2], data: Float64Array.of(3, 1) },
      ],
      attributes: { num_heads: int(2), interleaved: int(1) },
      constant: [1, 2, 3],
    },
  ],
});

function rotationOf(
  x: readonly (number | string)[],
  cos: readonly (number | string)[],
  attributes: Attributes,
): Rotation {
  const asked = numberAttribute(attributes, "rotary_embedding_dim", 0);
  return {
    interleaved: numberAttribute(attributes, "interleaved", 0) === 1,
    rotated: asked > 0 ? asked : 2 * Number(cos.at(-1)),
    heads: x.length === 4 ? Number(x[1]) : numberAttribute(attributes, "num_heads", 0),
  };
}

function turned(
  x: Reference,
  cos: Reference,
  sin: Reference,
  positions: Reference | undefined,
  attributes: Attributes,
): Reference {
  const { interleaved, rotated, heads } = rotationOf(x.shape, cos.shape, attributes);
  const half = rotated / 2;
  const inFront = x.shape.length === 4; // heads before places
  const seq = (inFront ? x.shape[2] : x.shape[1]) ?? 1;
  const width = inFront ? (x.shape[3] ?? 1) : (x.shape[2] ?? 1) / heads;
  const data = x.data.slice();
  for (let row = 0; row < x.data.length / width; row++) {
    const place = inFront
      ? Math.floor(row / (heads * seq)) * seq + (row % seq) // rows are [batch, heads, seq]
      : Math.floor(row / heads); // rows are [batch, seq, heads]
    const table = (positions ? (positions.data[place] ?? 0) : place) * half;
    for (let i = 0; i < half; i++) {
      const first = row * width + (interleaved ? 2 * i : i);
      const second = interleaved ? first + 1 : first + half;
      const [a, b] = [x.data[first] ?? 0, x.data[second] ?? 0];
      const [c, s] = [cos.data[table + i] ?? 0, sin.data[table + i] ?? 0];
      data[first] = a * c - b * s;
      data[second] = b * c + a * s;
    }
  }
  return { ...x, data };
}

/**
 * Rotary positions in operators of every runtime: x [batch, heads, seq, d] turned in its first `rotated` elements by
 * tables [batch, 1, seq, rotated/2].
 */
export function rotatedHalves(x: Value, cos: Value, sin: Value, rotated: number): Value {
  const rest = Number(x.shape[3]) - rotated;
  const half = rotated / 2;
  const [first, second, ...kept] = split(x, rest > 0 ? [half, half, rest] : [half, half], 3) as [
    Value,
    Value,
    ...Value[],
  ];
  return concat([sub(mul(first, cos), mul(second, sin)), add(mul(second, cos), mul(first, sin)), ...kept], 3);
}

/** The arguments of the rotation that a concatenation ends, if it ends one as {@link rotatedHalves} writes it. */
function recogniseRotation({
  inputs: [left, right, rest],
}: Node): { inputs: readonly Value[]; attributes: Attributes } | undefined {
  const [a, b] = [operandsOf(left, "Sub"), operandsOf(right, "Add")];
  const [firstCos, secondSin] = [operandsOf(a?.[0], "Mul"), operandsOf(a?.[1], "Mul")];
  const [secondCos, firstSin] = [operandsOf(b?.[0], "Mul"), operandsOf(b?.[1], "Mul")];
  const [first, cos] = firstCos ?? [];
  const [second, sin] = secondSin ?? [];
  if (first?.kind !== "result" || first.node.op !== "Split" || !second || !cos || !sin) return undefined;
  const [x] = first.node.inputs;
  const parts = first.node.outputs;
  const halves =
    parts[0] === first && parts[1] === second && parts[2] === rest && first.shape.at(-1) === second.shape.at(-1);
  const crossed = secondCos?.[0] === second && secondCos[1] === cos && firstSin?.[0] === first && firstSin[1] === sin;
  const tables = cos.shape.length === 4 && cos.shape[1] === 1 && sin.shape.join() === cos.shape.join();
  if (!halves || !crossed || !tables || x?.shape.length !== 4) return undefined;
  const rotated = 2 * Number(first.shape[3]);
  return {
    inputs: [x, squeeze(cos, [1]), squeeze(sin, [1])],
    attributes: rest ? { rotary_embedding_dim: int(rotated) } : {},
  };
}

function operandsOf(value: Value | undefined, op: string): readonly (Value | undefined)[] | undefined {
  return value?.kind === "result" && value.node.op === op ? value.node.inputs : undefined;
}
