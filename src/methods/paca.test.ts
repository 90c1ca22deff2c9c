import { describe, expect, it } from "vitest";
import { graph, input, parameter, type Value } from "../graph/index.ts";
import { div, gemm, mul, type Reference, reference, sub, sumAll } from "../ops/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { differentiate, evaluate } from "../transforms/index.ts";
import type { Parameters } from "./method.ts";
import { type PacaConfig, paca } from "./paca.ts";
import { chooseMethod } from "./table.ts";

// One layer of 4 inputs and 3 outputs, with numbers that float64 arithmetic gave: L = ½·mean((y − T)²), columns 1 and 3.
const x = parameter("x", "float32", [2, 4]);
const target = parameter("T", "float32", [2, 3]);
const bias = parameter("bias", "float32", [3]);
const weight = parameter("W", "float32", [3, 4]);
const now = parameter("W now", "float32", [3, 4]);
const leaves = {
  delta: parameter("delta", "float32", [3, 2]),
  indices: parameter("indices", "int64", [2]),
};
const given: readonly (readonly [string, Reference])[] = [
  ["x", reference([2, 4], [1, 0, -1, 2, 2, 1, 0, -1])],
  ["T", reference([2, 3], [0, 1, 2, 1, -1, 0])],
  ["bias", reference([3], [0.5, -0.5, 0])],
  ["W", reference([3, 4], [1, 2, 3, 4, 0, -1, 1, 2, 2, 0, -2, 1])],
  ["indices", reference([2], [1, 3], "int64")],
];
const read: Parameters = (key) => leaves[key as keyof typeof leaves];
const site = { module: "m", weight, inFeatures: 4, outFeatures: 3, layout: "out,in" } as const;
const configOf = (alpha: number): PacaConfig =>
  chooseMethod("paca", { rank: 2, alpha }).config as unknown as PacaConfig; // complete

/** The layer with the delta's product beside the weight's, or computed with the weight as it is now. */
function layer(form: "beside" | "live", config: PacaConfig): { readonly y: Value; readonly loss: Value } {
  const plain = gemm(x, form === "live" ? now : weight, { transB: true, c: bias });
  const adapt = form === "live" ? (paca.live as NonNullable<typeof paca.live>).adapt : paca.adapt;
  const y = adapt({ site, x, y: plain, bias, dropout: (value) => value }, read, config);
  const error = sub(y, target);
  return { y, loss: div(sumAll(mul(error, error)), 12) };
}

type Numbers = ReadonlyMap<string, readonly number[]>;

function run(outputs: Readonly<Record<string, Value>>, feeds: Iterable<readonly [string, Reference]>): Numbers {
  const results = evaluate(graph({ outputs }), new Map([...given, ...feeds]));
  return new Map([...results].map(([name, { data }]) => [name, [...data]]));
}

/** The numbers are given to six decimals. */
function close(found: readonly number[] | undefined, expected: readonly number[]): void {
  expect(found).toHaveLength(expected.length);
  expected.forEach((value, i) => {
    expect(found?.[i]).toBeCloseTo(value, 5);
  });
}

/** Columns 1 and 3 of a matrix of 4. */
function columnsOf(matrix: readonly number[]): readonly number[] {
  return matrix.filter((_, i) => i % 2 === 1);
}

/** Loss before each update, and the columns after it. */
function train(
  form: "beside" | "live",
  { alpha, steps, rate, optimizer }: { alpha: number; steps: number; rate: number; optimizer: [string, object] },
): { readonly losses: readonly number[]; readonly columns: readonly (readonly number[])[] } {
  const config = configOf(alpha);
  const { loss } = layer(form, config);
  const [gradient] = differentiate(loss, [leaves.delta]) as [Value];
  const rule = chooseOptimizer(optimizer[0], optimizer[1] as never); // its own options
  const names = Object.keys(rule.optimizer.state([3, 2], rule.config));
  const next = rule.optimizer.update(
    {
      ...{ parameter: leaves.delta, gradient, decays: true, rate: 1 },
      state: (name) => parameter(`#${name}`, "float32", [3, 2]),
      scalar: (name) => input(name, "float32", []),
    },
    rule.config,
  );
  const merged = paca.merge(weight, read, config, { module: "m", weight });
  let state = new Map(["delta", ...names.map((name) => `#${name}`)].map((name) => [name, reference([3, 2], 0)]));
  const losses: number[] = [];
  const columns: (readonly number[])[] = [];
  for (let step = 1; step <= steps + 1; step++) {
    const scalars = Object.entries(rule.optimizer.scalars(step, rate, rule.config));
    const whole = run({ merged }, state).get("merged") ?? [];
    if (step > 1) columns.push(columnsOf(whole));
    const found = run(
      {
        loss,
        "next delta": next.parameter,
        ...Object.fromEntries(Object.entries(next.state).map(([k, v]) => [`next #${k}`, v])),
      },
      [...state, ["W now", reference([3, 4], whole)], ...scalars.map(([k, v]) => [k, reference([], [v])] as const)],
    );
    losses.push(found.get("loss")?.[0] ?? Number.NaN);
    state = new Map([...state.keys()].map((name) => [name, reference([3, 2], found.get(`next ${name}`) ?? [])]));
  }
  return { losses, columns };
}

describe.each(["beside", "live"] as const)("one layer, with the trained columns %s", (form) => {
  it("starts as the base model, and has the columns of the whole weight's gradient", () => {
    const { y, loss } = layer(form, configOf(2));
    const [dx, dDelta] = differentiate(loss, [x, leaves.delta]) as [Value, Value];
    const plain = gemm(x, weight, { transB: true, c: bias });
    const error = sub(plain, target);
    const [dW] = differentiate(div(sumAll(mul(error, error)), 12), [weight]) as [Value];
    const found = run({ y, loss, dx: mul(dx, 6), dDelta: mul(dDelta, 6), dW: mul(dW, 6) }, [
      ["delta", reference([3, 2], 0)],
      ["W now", (given[3] as (typeof given)[number])[1]],
    ]);
    close(found.get("y"), [6.5, 2.5, 6, 0.5, -3.5, 3]);
    close(found.get("loss"), [6 + 1 / 3]);
    close(found.get("dx"), [14.5, 11.5, 13, 33, 5.5, 1.5, -10, -4]);
    close(found.get("dDelta"), [-0.5, 13.5, -2.5, 5.5, 3, 5]);
    close(found.get("dW"), [5.5, -0.5, -6.5, 13.5, -3.5, -2.5, -1.5, 5.5, 10, 3, -4, 5]);
  });

  it("moves by SGD with the square of the scale", () => {
    const by = (alpha: number): ReturnType<typeof train> =>
      train(form, { alpha, steps: 1, rate: 0.6, optimizer: ["sgd", { momentum: 0 }] });
    close(by(2).columns[0], [2.05, 2.65, -0.75, 1.45, -0.3, 0.5]);
    close(by(2).losses, [6 + 1 / 3, 3.1283333333]);
    close(by(4).columns[0], [2.2, -1.4, 0, -0.2, -1.2, -1]);
  });

  it("moves by Adam with the scale", () => {
    const by = (alpha: number, weightDecay = 0): ReturnType<typeof train> =>
      train(form, { alpha, steps: 3, rate: 0.1, optimizer: ["adamw", { weightDecay }] });
    const { losses, columns } = by(4);
    close(columns[0], [2.2, 3.8, -0.8, 1.8, -0.2, 0.8]);
    close(columns[1], [2.360608, 3.6007, -0.601655, 1.60275, -0.4, 0.601655]);
    close(columns[2], [2.41313, 3.402633, -0.406601, 1.411429, -0.599996, 0.406604]);
    close(losses, [6.333333, 5.4, 4.602293, 3.926873]);
    const unscaled = by(2);
    close(unscaled.columns[2], [2.27987, 3.700537, -0.701155, 1.701804, -0.3, 0.701155]);
    expect(unscaled.losses[3]).toBeCloseTo(4.986293, 5);
    // Decay pulls the delta, which is zero before the first update, and never the pretrained columns.
    close(by(4, 0.1).columns[0], [2.2, 3.8, -0.8, 1.8, -0.2, 0.8]);
  });
});
