import { describe, expect, it } from "vitest";
import { graph, input, mulDims } from "../graph/index.ts";
import { gemm, matmul, mul, reshape } from "../ops/index.ts";
import { nodeCost, runSeconds } from "./cost.ts";

describe("nodeCost", () => {
  it("counts two operations a multiplication, and what is read and written", () => {
    const [a, b] = [input("a", "float32", ["n", 8]), input("b", "float32", [16, 8])];
    const product = graph({ name: "g", inputs: [a, b], outputs: { y: gemm(a, b, { transB: true }) } });
    const [node] = product.nodes;
    expect(node && nodeCost(node, { n: 4 })).toEqual({
      productFlops: 2 * 4 * 16 * 8,
      movedBytes: 4 * (4 * 8 + 16 * 8 + 4 * 16),
    });
  });

  it("counts batches of products, and contractions over a symbolic length", () => {
    const [a, b] = [input("a", "float32", [2, 3, 5, "n"]), input("b", "float32", [2, 3, "n", 7])];
    const products = graph({ name: "g", inputs: [a, b], outputs: { y: matmul(a, b) } });
    const [node] = products.nodes;
    expect(node && nodeCost(node, { n: 11 }).productFlops).toBe(2 * 2 * 3 * 5 * 11 * 7);
  });
});

it("a run takes its arithmetic, what it moves and its calls; a view takes nothing", () => {
  const x = input("x", "float32", ["n", 8]);
  const y = reshape(
    mul(x, x),
    [mulDims("n", 8)].map(() => -1),
  );
  const machine = { flopsPerSecond: 1e9, bytesPerSecond: 1000, secondsPerOperator: 1 };
  expect(runSeconds(graph({ name: "g", inputs: [x], outputs: { y } }), { n: 2 }, machine)).toBeCloseTo(
    1 + (2 * 2 * 8 * 4) / 1000,
  );
});
