import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { input, parameter, topologicalOrder } from "../graph/index.ts";
import { matmul, mul, opOf, sigmoid, sumAll } from "../ops/index.ts";
import { differentiate } from "./differentiate.ts";
import { minimumCut } from "./minimum-cut.ts";
import { recompute } from "./recompute.ts";

describe("recompute", () => {
  const x = input("x", "float32", [4, 8]);
  const w = parameter("w", "float32", [8, 8]);
  const gate = matmul(x, w);
  const activated = mul(gate, sigmoid(gate)); // SiLU
  const loss = sumAll(mul(activated, activated));
  const gradients = differentiate(loss, [w]);
  const bytes = (): number => 128;

  it("keeps the product and repeats what follows from it", () => {
    const every = recompute(loss, gradients, { bytes, repeatable: () => false });
    const one = recompute(loss, gradients, { bytes, repeatable: (node) => node.op !== "MatMul" });
    expect([every.repeated.length, one.savedBytes]).toEqual([0, 128]);
    expect(every.savedBytes).toBeGreaterThan(128);
    const ops = topologicalOrder(one.repeated).filter(({ scope }) => scope.endsWith("/grad"));
    expect(ops.map(({ op }) => op).sort()).toEqual(["Mul", "Sigmoid"]);
  });

  it("does not repeat what it may not", () => {
    const { repeated } = recompute(loss, gradients, { bytes, repeatable: (node) => opOf(node).cost === "memory" });
    expect(repeated.every((value) => value.kind === "result" && value.node.op === "Mul")).toBe(true);
  });
});

describe("minimumCut", () => {
  it("has the capacity of the best of all cuts", () => {
    const edge = fc.record({
      from: fc.integer({ min: 0, max: 5 }),
      to: fc.integer({ min: 0, max: 5 }),
      capacity: fc.integer({ min: 0, max: 9 }),
    });
    fc.assert(
      fc.property(fc.array(edge, { maxLength: 18 }), (edges) => {
        const across = (side: (vertex: number) => boolean): number =>
          edges.reduce((sum, { from, to, capacity }) => sum + (side(to) && !side(from) ? capacity : 0), 0);
        const side = minimumCut(6, edges, 0, 1);
        expect([side.has(0), side.has(1)]).toEqual([false, true]);
        const all = Array.from({ length: 16 }, (_, bits) =>
          across((v) => v === 1 || (v > 1 && ((bits >> (v - 2)) & 1) === 1)),
        );
        expect(across((vertex) => side.has(vertex))).toBe(Math.min(...all));
      }),
    );
  });
});
