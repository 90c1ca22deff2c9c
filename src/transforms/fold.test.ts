import { describe, expect, it } from "vitest";
import { constant, graph, input, int, type Value } from "../graph/index.ts";
import { add, apply, concat, Gather, mul, Reshape, reference, Shape } from "../ops/index.ts";
import { evaluate } from "./evaluate.ts";
import { fold } from "./fold.ts";

const x = input("x", "float32", ["batch", 4]);

function folded(value: Value): Value {
  return fold([value])[0] as Value; // as many as were given
}

describe("folding", () => {
  it("computes what depends on constants alone, once, and keeps the rest", () => {
    const scale = mul(add(constant([1, 2, 3, 4]), constant(0.5)), constant(2));
    const y = folded(mul(x, scale));
    const made = graph({ inputs: [x], outputs: { y } });
    expect(made.nodes.map(({ op }) => op)).toEqual(["Mul"]);
    const data = [1, 1, 1, 1];
    expect([...(evaluate(made, new Map([["x", reference([1, 4], data)]])).get("y")?.data ?? [])]).toEqual([3, 5, 7, 9]);
  });

  it("knows sizes that are numbers, and leaves symbolic ones to the run", () => {
    const sizes = apply(Shape, [x]);
    const four = apply(Gather, [sizes, constant([1], "int64")], { axis: int(0) });
    expect(folded(four)).toMatchObject({ kind: "constant", dtype: "int64", shape: [1] });
    const batch = apply(Gather, [sizes, constant([0], "int64")], { axis: int(0) });
    expect(folded(batch).kind).toBe("result");
    const y = folded(apply(Reshape, [x, concat([batch, four], 0)]));
    expect(y.shape).toEqual(["batch", 4]);
  });

  it("does not swell the model with large results", () => {
    const large = constant(Array.from({ length: 5000 }, () => 1));
    expect(folded(add(large, large)).kind).toBe("result");
  });

  it("changes nothing where nothing is constant", () => {
    const y = add(x, x);
    expect(folded(y)).toBe(y);
  });
});
