import { describe, expect, it } from "vitest";
import {
  constant,
  graph,
  type InputValue,
  input,
  type ParameterValue,
  parameter,
  tensor,
  topologicalOrder,
  type Value,
  weight,
  withScope,
} from "../graph/index.ts";
import {
  add,
  concat,
  detach,
  equalSplit,
  gather,
  gemm,
  matmul,
  maxSplitParts,
  mul,
  reduceMean,
  reference,
  reshape,
  rotatedHalves,
  sigmoid,
  softmax,
  spread,
  sub,
  sumAll,
  toReference,
  transpose,
} from "../ops/index.ts";
import { broadcastLate } from "./broadcast-late.ts";
import { takeColumnsEarly } from "./columns-early.ts";
import { compose, expand } from "./compose.ts";
import { differentiate } from "./differentiate.ts";
import { evaluate } from "./evaluate.ts";
import { fold } from "./fold.ts";
import { gatherEarly } from "./gather-early.ts";
import { shareNodes } from "./share.ts";
import { stackProducts } from "./stack.ts";
import { sumProducts } from "./sum-products.ts";
import { readInPlace } from "./unpacked.ts";

/*
 * Passes that compute the same from fewer elements or with fewer operators.
 */
type Leaf = InputValue | ParameterValue;

function count(outputs: readonly Value[], op: string): number {
  return topologicalOrder(outputs).filter((node) => node.op === op).length;
}

function expectSame(before: readonly Value[], after: readonly Value[], leaves: readonly Leaf[]): void {
  const feeds = new Map(leaves.map(({ name, shape }, i) => [name, spread(shape.map(Number), -1, 1, 0.1 * i)]));
  const inputs = leaves.filter((leaf): leaf is InputValue => leaf.kind === "input");
  const run = (values: readonly Value[]): readonly Float64Array[] => {
    const outputs = new Map(values.map((value, i) => [`y${i}`, value]));
    return [...evaluate(graph({ name: "g", inputs, outputs }), feeds).values()].map(({ data }) => data);
  };
  const [wanted, found] = [run(before), run(after)];
  expect(found.map((data) => data.length)).toEqual(wanted.map((data) => data.length));
  wanted.forEach((data, i) => {
    data.forEach((value, j) => {
      expect(found[i]?.[j]).toBeCloseTo(value, 12);
    });
  });
}

describe("broadcastLate", () => {
  it("never spreads out the gradient of a mean", () => {
    const x = parameter("x", "float32", [3, 4]);
    const y = mul(x, reduceMean(mul(x, x), [-1]));
    const gradients = differentiate(sumAll(mul(y, y)), [x]);
    const narrow = broadcastLate(gradients);
    expect([count(gradients, "Expand"), count(narrow, "Expand")]).toEqual([2, 0]);
    expectSame(gradients, narrow, [x]);
  });
});

describe("compose and expand", () => {
  const x = parameter("x", "float32", [2, 3, 4, 6]);
  const [cos, sin] = [input("cos", "float32", [2, 1, 4, 2]), input("sin", "float32", [2, 1, 4, 2])];
  const gradientOf = (y: Value): Value => differentiate(sumAll(mul(y, y)), [x])[0] as Value;

  it.each([
    { op: "Swish", kernels: [], plain: mul(x, sigmoid(x)), left: 0 },
    { op: "Swish", kernels: [], plain: mul(sigmoid(x), x), left: 0 },
    { op: "RotaryEmbedding", kernels: ["RotaryEmbedding"], plain: rotatedHalves(x, cos, sin, 4), left: 2 },
    { op: "RotaryEmbedding", kernels: [], plain: rotatedHalves(x, cos, sin, 4), left: 0 },
  ])("know $op by its formula, and write it where there are kernels ($kernels)", ({ op, kernels, plain, left }) => {
    const [composed] = compose([plain]) as [Value];
    expect(count([composed], op)).toBe(1);
    const gradient = expand([composed, gradientOf(composed)], new Set(kernels));
    expect(count(gradient, op)).toBe(left);
    expectSame([plain, gradientOf(plain)], gradient, [x, cos, sin]);
  });

  it("leave alone what only looks alike", () => {
    const [first, second] = equalSplit(x, 2, 3) as [Value, Value];
    const turned = concat([sub(mul(first, 2), mul(second, 3)), add(mul(second, 2), mul(second, 3))], 3);
    for (const plain of [mul(x, sigmoid(mul(x, 2))), turned]) expect(compose([plain])).toEqual([plain]);
  });
});

describe("shareNodes", () => {
  it("computes once what is computed alike, and tells attributes and signs of zero apart", () => {
    const x = parameter("x", "float32", [2, 3]);
    const twice = [add(sigmoid(x), 1), add(sigmoid(x), 1), mul(x, 0), mul(x, -0), softmax(x, 0), softmax(x, 1)];
    const shared = shareNodes(twice);
    expect(count(shared, "Sigmoid")).toBe(1);
    expect(shared[0]).toBe(shared[1]);
    expect(new Set(shared).size).toBe(5);
    expectSame(twice, shared, [x]);
  });
});

describe("sumProducts", () => {
  const [q, k] = [parameter("q", "float32", [2, 6, 4]), parameter("k", "float32", [2, 5, 4])];
  const [v, g] = [parameter("v", "float32", [2, 5, 3]), input("g", "float32", [2, 6, 3])];
  const mask = input("mask", "float32", [3, 5]);

  it("sums attention's gradient over a head's width, through views", () => {
    const scores = reshape(matmul(q, transpose(k, [0, 2, 1])), [4, 3, 5]);
    const probabilities = reshape(softmax(add(scores, mask)), [2, 6, 5]);
    const loss = sumAll(mul(matmul(probabilities, v), g));
    const gradients = [loss, ...differentiate(loss, [q, k, v])];
    const short = sumProducts(gradients);
    const widths = (values: readonly Value[]): readonly unknown[] =>
      topologicalOrder(values).flatMap(({ op, inputs }) =>
        op === "ReduceSum" && inputs[1]?.kind === "constant" ? [inputs[0]?.shape.at(-1)] : [],
      );
    expect([widths(gradients), widths(short)]).toEqual([[5], [3]]);
    expectSame(gradients, short, [q, k, v, g, mask]);
  });

  it("leaves sums of other products alone", () => {
    const other = mul(softmax(matmul(g, transpose(v, [0, 2, 1]))), matmul(q, transpose(k, [0, 2, 1])));
    const gradients = differentiate(sumAll(mul(softmax(other), other)), [q]);
    expect(count(sumProducts(gradients), "ReduceSum")).toBe(count(gradients, "ReduceSum"));
    expectSame(gradients, sumProducts(gradients), [q, k, v, g]);
  });
});

describe("gatherEarly", () => {
  const x = input("x", "float32", [6, 4]);
  const w = parameter("w", "float32", [4, 4]);
  const hidden = gemm(mul(x, reduceMean(mul(x, x), [-1])), w);
  const rows = constant([4, 1, 1], "int64");

  it("computes the rows that are gathered alone, and their gradients", () => {
    const whole = gather(add(x, gemm(hidden, w, { transB: true })), rows);
    const [few] = gatherEarly([whole]) as [Value];
    const sizes = topologicalOrder([few]).flatMap(({ op, outputs }) => (op === "Gemm" ? [outputs[0]?.shape[0]] : []));
    expect(sizes).toEqual([3, 3]);
    const [apart, together] = [whole, few].map((y) => [y, ...differentiate(sumAll(mul(y, y)), [w])]);
    expectSame(apart as readonly Value[], together as readonly Value[], [x, w]);
  });

  it("leaves what something else reads whole", () => {
    const outputs = [gather(hidden, rows), reduceMean(hidden, [0])];
    expect(gatherEarly(outputs)).toEqual(outputs);
    const mixed = [gather(softmax(hidden, 0), rows)];
    expect(gatherEarly(mixed)).toEqual(mixed);
  });
});

describe("stackProducts", () => {
  const x = input("x", "float32", [5, 6]);
  const narrow = (name: string, rows: number): ParameterValue => parameter(name, "float32", [rows, 6]);
  const [a, b, c] = [narrow("a", 2), narrow("b", 3), narrow("c", 2)];
  const product = (matrix: Value, from: Value = x): Value => gemm(from, matrix, { transB: true });

  it("makes one product of those that read the same input, and one of their gradients", () => {
    const outputs = [product(a), product(b), product(c, mul(x, 2))];
    const stacked = stackProducts(outputs);
    expect([count(outputs, "Gemm"), count(stacked, "Gemm")]).toEqual([3, 2]);
    expectSame(outputs, stacked, [x, a, b, c]);
    const losses = [outputs, stacked].map((values) =>
      sumAll(mul(values[0] as Value, sumAll(mul(values[1] as Value, values[1] as Value)))),
    );
    const [apart, together] = losses.map((loss) => differentiate(loss, [a, b])) as [readonly Value[], readonly Value[]];
    expectSame(apart, together, [x, a, b]);
  });

  it("leaves wide products and lone ones alone", () => {
    const wide = [narrow("wide", 300), narrow("wider", 400)].map((matrix) => product(matrix));
    expect(stackProducts(wide)).toEqual(wide);
    expect(stackProducts([product(a)])).toHaveLength(1);
    expect(count(stackProducts([product(a)]), "Split")).toBe(0);
  });
});

describe("takeColumnsEarly", () => {
  const x = parameter("x", "float32", [3, 4]);
  const matrix = parameter("W", "float32", [4, 2]);
  const given = new Map([
    ["x", spread([3, 4])],
    ["W", spread([4, 2], -1, 1, 0.1)],
    ["first", reference([2], [0, 3], "int64")],
    ["second", reference([1], [2], "int64")],
  ]);
  /** A module's product, and the columns of its input that the places say. */
  const module = (scope: string, of: Value): readonly Value[] =>
    withScope(scope, () => [matmul(of, matrix), gather(of, parameter(scope, "int64", [scope === "first" ? 2 : 1]), 1)]);
  const run = (outputs: readonly Value[]): readonly Float64Array[] => {
    const named = Object.fromEntries(outputs.map((value, i) => [`y${i}`, value]));
    return [...evaluate(graph({ outputs: named }), given).values()].map(({ data }) => data);
  };

  it("picks once for all modules that read an input, before the first of them computes", () => {
    const before = [...module("first", x), ...module("second", x)];
    const after = takeColumnsEarly(before);
    expect(run(after)).toEqual(run(before));
    expect([count(after, "GatherElements"), count(after, "Reshape"), count(after, "MatMul")]).toEqual([1, 1, 2]);
    for (const product of [after[0], after[2]]) expect(count([product as Value], "GatherElements")).toBe(1);
  });

  it("leaves what other modules make of the input alone, and what is gathered by rows", () => {
    const [picked, other] = [module("first", x), withScope("other", () => matmul(x, matrix))];
    const rows = gather(x, parameter("second", "int64", [1]), 0);
    const after = takeColumnsEarly([...picked, other, rows]);
    expect(run(after)).toEqual(run([...picked, other, rows]));
    expect(after.slice(2)).toEqual([other, rows]);
  });
});

describe("readInPlace", () => {
  const x = input("x", "float32", [5, 6]);
  const values = tensor(
    "float32",
    [6, 6],
    Array.from({ length: 36 }, (_, i) => Math.sin(i)),
  );
  const w = weight("w", { dtype: "float32", shape: [6, 6], sizeBytes: 144, read: async () => values });
  const times = (count: number): Value => Array.from({ length: count }).reduce<Value>((y) => gemm(y, w), x);

  it("reads a weight of more products than two through a view, and leaves others alone", () => {
    expect(count(readInPlace([times(2)]), "Reshape")).toBe(0);
    const [y] = readInPlace([times(3)]) as [Value];
    expect(count([y], "Reshape")).toBe(1);
    const run = (value: Value): Float64Array | undefined => {
      const feeds = new Map([
        ["x", spread([5, 6])],
        ["w", toReference(values)],
      ]);
      return evaluate(graph({ name: "g", inputs: [x], outputs: { y: value } }), feeds).get("y")?.data;
    };
    expect(run(y)).toEqual(run(times(3)));
  });
});

describe("detach", () => {
  it("lets no gradient through, and leaves no node behind", () => {
    const x = parameter("x", "float32", [3]);
    const loss = sumAll(mul(x, detach(mul(x, x))));
    const plain = sumAll(mul(x, mul(x, x)));
    expectSame(fold(differentiate(loss, [x])), fold([mul(x, x)]), [x]);
    expect(count(fold([loss]), "Detach")).toBe(0);
    expectSame(fold([loss]), [plain], [x]);
  });
});

it("splits have no more parts than every device can bind", () => {
  const x = input("x", "float32", [48]);
  const parts = equalSplit(x, 16, 0);
  const nodes = topologicalOrder(parts).filter(({ op }) => op === "Split");
  expect([parts.length, Math.max(...nodes.map(({ outputs }) => outputs.length)) <= maxSplitParts]).toEqual([16, true]);
  expectSame([concat(parts, 0)], [mul(x, 1)], [x]);
});
