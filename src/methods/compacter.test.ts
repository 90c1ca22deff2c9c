import { describe, expect, it } from "vitest";
import { graph, parameter, type Value } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { mul, type Reference, sumAll } from "../ops/index.ts";
import { differentiate, evaluate } from "../transforms/index.ts";
import { type CompacterConfig, compacter, phmDense, phmLinear, xavierBound } from "./compacter.ts";
import { chooseMethod } from "./table.ts";

// Oracles of float64 arithmetic: the formulas written out by hand, as AdapterHub and the paper's code have them.
type Rows = readonly (readonly number[])[];

interface Given {
  readonly x: Rows;
  readonly A: readonly Rows[];
  readonly s: readonly Rows[];
  readonly t: readonly Rows[];
  readonly b: readonly number[];
}

const A: readonly Rows[] = [
  [
    [1, 2],
    [3, 4],
  ],
  [
    [0, -1],
    [1, 0.5],
  ],
];
const column = (values: readonly number[]): Rows => values.map((value) => [value]);

function build({ x, A: rule, s, t, b }: Given): { values: Record<string, Value>; feeds: Map<string, Reference> } {
  const values: Record<string, Value> = {};
  const feeds = new Map<string, Reference>();
  const put = (name: string, shape: readonly number[], data: readonly number[]): void => {
    values[name] = parameter(name, "float32", shape);
    feeds.set(name, { dtype: "float32", shape, data: Float64Array.from(data) });
  };
  const shapeOf = (stack: readonly Rows[]): readonly number[] => [
    stack.length,
    stack[0]?.length ?? 0,
    stack[0]?.[0]?.length ?? 0,
  ];
  put("x", [x.length, x[0]?.length ?? 0], x.flat());
  put("A", shapeOf(rule), rule.flat(2));
  put("s", shapeOf(s), s.flat(2));
  put("t", shapeOf(t), t.flat(2));
  put("b", [b.length], b);
  return { values, feeds };
}

function close(found: Iterable<number> | undefined, expected: readonly number[]): void {
  const values = [...(found ?? [])];
  expect(values).toHaveLength(expected.length);
  values.forEach((value, i) => {
    expect(value).toBeCloseTo(expected[i] ?? Number.NaN, 9);
  });
}

const project = ({ x, A: rule, s, t, b }: Record<string, Value>): Value =>
  phmLinear(x as Value, rule as Value, s as Value, t as Value, b as Value);

/** W, by projecting the identity. */
function matrixOf(given: Omit<Given, "x" | "b">, into: number, out: number): readonly number[] {
  const x = Array.from({ length: into }, (_, i) => Array.from({ length: into }, (_unused, j) => Number(i === j)));
  const { values, feeds } = build({ ...given, x, b: Array.from({ length: out }, () => 0) });
  return [...(evaluate(graph({ outputs: { y: project(values) } }), feeds).get("y")?.data ?? [])].map(Number);
}

const square = {
  A,
  s: [column([1, -2]), column([0.5, 3])],
  t: [[[2, 1]], [[-1, 4]]],
};

describe("a matrix of Kronecker products", () => {
  it("has A outside, never the other way round", () => {
    close(matrixOf(square, 4, 4), [2, 1, 4.5, 0, -4, -2, -5, -16, 5.5, 5, 7.75, 5, -15, 6, -17.5, -2]);
    const oblong = { A, s: [column([1, 2, -1]), column([0, 1, 1])], t: [[[1, -1]], [[2, 0.5]]] };
    close(
      matrixOf(oblong, 6, 4),
      [1, -1, 2, -2, 2, -2, 2, -4.5, -1, 1, -4, 1.5, 3, -3, 4, -4, 8, -5.5, 9, -7.75, -1, 3.5, -3, 4.25],
    );
    const ranked = {
      A,
      s: [
        [
          [1, 0],
          [0, 1],
        ],
        [
          [1, 1],
          [2, -1],
        ],
      ],
      t: [
        [
          [1, 2],
          [3, 4],
        ],
        [
          [0, 1],
          [1, 0],
        ],
      ],
    };
    close(matrixOf(ranked, 4, 4), [1, 2, 1, 3, 3, 4, 7, 6, 4, 7, 4.5, 8.5, 8, 14, 11.5, 17]);
  });

  it("has the gradients of the formulas", () => {
    const { values, feeds } = build({ ...square, x: [[1, 0.5, -1, 2]], b: [0.1, -0.2, 0.3, 0] });
    const g = parameter("g", "float32", [1, 4]);
    feeds.set("g", { dtype: "float32", shape: [1, 4], data: Float64Array.from([1, -1, 0.5, 2]) });
    const y = project(values);
    const wanted = ["A", "s", "t", "x", "b"].map((name) => values[name] as Value);
    const gradients = differentiate(sumAll(mul(y, g)), wanted as never);
    const named = Object.fromEntries(["A", "s", "t", "x", "b"].map((name, i) => [`d${name}`, gradients[i] as Value]));
    const found = evaluate(graph({ outputs: { y, ...named } }), feeds);
    close(found.get("y")?.data as Float64Array, [-35.4, 6.8, -40.45, -17]);
    close(found.get("dA")?.data as Float64Array, [0, 0, -5, -15, -10, 15, -27.5, 41.25]);
    close(found.get("ds")?.data as Float64Array, [-8, 33.5, -6.25, -6.25]);
    close(found.get("dt")?.data as Float64Array, [-25, -25, 5.875, -4]);
    close(found.get("dx")?.data as Float64Array, [3.25, -36.5, 14.375, -33.75]);
    close(found.get("db")?.data as Float64Array, [1, -1, 0.5, 2]);
  });

  it.each([
    [1, 1],
    [2, 2],
    [4, 1],
    [12, 2],
  ])("of %i terms and rank %i is the same whether it is made or not", (n, rank) => {
    const rng = createRng(1, n, rank);
    const draw = (rows: number, cols: number): Rows =>
      Array.from({ length: rows }, () => Array.from({ length: cols }, () => rng.normal()));
    const stack = (rows: number, cols: number): readonly Rows[] => Array.from({ length: n }, () => draw(rows, cols));
    const given = {
      x: draw(3, 2 * n),
      A: stack(n, n),
      s: stack(2, rank),
      t: stack(rank, 3),
      b: draw(1, 3 * n)[0] ?? [],
    };
    const { values, feeds } = build(given);
    const fast = given.s.map((s, i) =>
      s.map((row) => [0, 1, 2].map((q) => row.reduce((sum, value, r) => sum + value * (given.t[i]?.[r]?.[q] ?? 0), 0))),
    );
    const B = parameter("B", "float32", [n, 2, 3]);
    feeds.set("B", { dtype: "float32", shape: [n, 2, 3], data: Float64Array.from(fast.flat(2)) });
    const whole = phmDense(values["x"] as Value, values["A"] as Value, B, values["b"] as Value);
    const found = evaluate(graph({ outputs: { factored: project(values), whole } }), feeds);
    close(found.get("factored")?.data as Float64Array, [...((found.get("whole")?.data ?? []) as Float64Array)]);
  });
});

it.each([
  ["gelu_new", [1.0066364518, 0.5256721156, -1.0223718811, 1.9931444474]],
  ["gelu", [1.0066364728, 0.5256720853, -1.02237179, 1.9931444931]],
] as const)("a whole adapter with %s is the formula's", (activation, expected) => {
  const tensors: Readonly<Record<string, readonly [readonly number[], readonly number[]]>> = {
    rule: [
      [2, 2, 2],
      [0.1, 0.2, 0.3, -0.1, 0, 0.5, -0.2, 0.1],
    ],
    left_down: [
      [2, 2, 1],
      [0.5, -0.25, 1, 0.5],
    ],
    right_down: [
      [2, 1, 1],
      [1, -0.5],
    ],
    bias_down: [[2], [0.05, -0.05]],
    left_up: [
      [2, 1, 1],
      [1, 0.5],
    ],
    right_up: [
      [2, 1, 2],
      [0.2, -0.1, 0.4, 0.3],
    ],
    bias_up: [[4], [0.01, 0.02, -0.01, 0]],
  };
  const feeds = new Map<string, Reference>();
  const read = (name: string): Value => {
    const [shape, data] = tensors[name] as (typeof tensors)[string];
    feeds.set(name, { dtype: "float32", shape, data: Float64Array.from(data) });
    return parameter(name, "float32", shape);
  };
  const values = new Map(Object.keys(tensors).map((name) => [name, read(name)]));
  const y = parameter("y", "float32", [1, 4]);
  feeds.set("y", { dtype: "float32", shape: [1, 4], data: Float64Array.from([1, 0.5, -1, 2]) });
  const config = { ...chooseMethod("compacter").config, activation, terms: 2 } as unknown as CompacterConfig; // complete
  const site = { module: "m", weight: y, inFeatures: 4, outFeatures: 4, layout: "out,in" } as const;
  const attachment = { site, x: y, y, bias: undefined, dropout: (x: Value) => x };
  const out = compacter.adapt(attachment, (name) => values.get(name) as Value, config);
  close(evaluate(graph({ outputs: { out } }), feeds).get("out")?.data as Float64Array, expected);
});

it("fast matrices start within Xavier's bounds", () => {
  expect(xavierBound(192, 1)).toBeCloseTo(0.2493514905, 9);
  expect(xavierBound(1, 6)).toBeCloseTo(1.3093073414, 9);
});

it("a fresh down-projection of hidden size 768 is about 2e-5 wide, not zero", () => {
  const { method, config } = chooseMethod("compacter", {});
  const weight = parameter("w", "float32", [768, 768]);
  const site = { module: "m", weight, inFeatures: 768, outFeatures: 768, layout: "out,in" } as const;
  const specs = method.parameters(site, config);
  const drawn = (name: string, seed: number): ArrayLike<number> => {
    const { shape, initial } = specs[name] as NonNullable<(typeof specs)[string]>;
    const size = shape.reduce((a, b) => a * b, 1);
    return (initial as (rng: unknown, size: number) => Float32Array)(createRng(seed, name), size); // all are drawn
  };
  const seeds = Array.from({ length: 40 }, (_, seed) => seed);
  const squares = seeds.map((seed) => {
    const [rule, left, right] = [drawn("rule", seed), drawn("left_down", seed), drawn("right_down", seed)];
    let sum = 0;
    for (let ab = 0; ab < 16; ab++) {
      for (let p = 0; p < 192; p++) {
        for (let q = 0; q < 6; q++) {
          const terms = [0, 1, 2, 3].map(
            (i) => (rule[16 * i + ab] ?? 0) * (left[192 * i + p] ?? 0) * (right[6 * i + q] ?? 0),
          );
          sum += terms.reduce((a, b) => a + b, 0) ** 2;
        }
      }
    }
    return sum / (768 * 24);
  });
  const deviation = Math.sqrt(squares.reduce((a, b) => a + b, 0) / seeds.length);
  // √4·1e-4·(0.24935/√3)·(1.30931/√3); few numbers are drawn.
  expect(deviation / 2.177e-5).toBeGreaterThan(0.85);
  expect(deviation / 2.177e-5).toBeLessThan(1.15);
});

/** Trained values beside layers·positions sublayers of a model [hidden], norms apart. */
function countOf(method: string, options: Record<string, number>, hidden: number, sublayers: number): number {
  const choice = chooseMethod(method, { ...options });
  const weight = parameter("w", "float32", [hidden, hidden]);
  const site = { module: "m", weight, inFeatures: hidden, outFeatures: hidden, layout: "out,in" } as const;
  const specs = Object.values(choice.method.parameters(site, choice.config));
  const size = ({ shape }: { shape: readonly number[] }): number => shape.reduce((a, b) => a * b, 1);
  return specs.reduce((sum, spec) => sum + (spec.shared ? 1 : sublayers) * size(spec), 0);
}

describe("parameters of T5-base", () => {
  const norms = 47_616;
  const whole = 222_882_048;
  it.each([
    ["bottleneck", {}, 48, 1_807_488, 0.8323],
    ["bottleneck", {}, 24, 903_744, 0.4268],
    ["bottleneck", {}, 28, 1_054_368, 0.4944],
    ["phm", { terms: 12 }, 48, 351_360, 0.179],
    ["compacter", { terms: 4 }, 48, 114_112, 0.0726],
    ["compacter", { terms: 12 }, 48, 115_776, 0.0733],
    ["compacter++", { terms: 4 }, 24, 57_088, 0.047],
    ["compacter++", { terms: 12 }, 24, 58_752, 0.0477],
  ])("%s %j behind %i sublayers: %i, with norms %s per cent", (method, options, sublayers, adapters, percent) => {
    const found = countOf(method, options, 768, sublayers);
    expect(found).toBe(adapters);
    expect((100 * (found + norms)) / whole).toBeCloseTo(percent, 4);
  });

  it("and of an adapter of rank one, 2·(k + d) weights and k + d biases each", () => {
    const lowRank = countOf("compacter", { terms: 1 }, 768, 48) - 1;
    expect(lowRank).toBe(114_048);
    expect((100 * (lowRank + norms)) / whole).toBeCloseTo(0.0725, 4);
  });
});
