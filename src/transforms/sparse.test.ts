import { describe, expect, it } from "vitest";
import { graph, input, parameter, sizeOf, topologicalOrder, weight } from "../graph/index.ts";
import { gatherElements, logSoftmax, matmul, sumAll } from "../ops/index.ts";
import { differentiate } from "./differentiate.ts";
import { useSparsity } from "./sparse.ts";
import { readInPlace } from "./unpacked.ts";

const sizesOf = (op: string, values: Parameters<typeof topologicalOrder>[0]): readonly number[] =>
  topologicalOrder(values).flatMap((node) => (node.op === op ? [sizeOf(node.inputs[0]?.shape.map(Number) ?? [])] : []));

describe("useSparsity", () => {
  it("adds the few gradients of a log-likelihood in place, and sums them without their zeros", () => {
    const logits = matmul(input("x", "float32", [32, 4]), parameter("w", "float32", [4, 50]));
    const loss = sumAll(gatherElements(logSoftmax(logits), input("labels", "int64", [32, 1]), 1));
    const [dense] = differentiate(loss, [logits]);
    const [sparse] = useSparsity([dense as never]);
    const graphOf = (value: unknown) => graph({ outputs: { value: value as never } }).nodes.map(({ op }) => op);
    expect(graphOf(dense)).toContain("ConstantOfShape");
    expect(graphOf(sparse)).not.toContain("ConstantOfShape");
    expect(sizesOf("ReduceSum", [dense as never])).toEqual([32 * 50]);
    expect(sizesOf("ReduceSum", [sparse as never])).toEqual([32]);
  });
});

describe("readInPlace", () => {
  const source = {
    dtype: "float32",
    shape: [4, 8],
    sizeBytes: 128,
    read: () => Promise.reject(new Error("not read")),
  } as const;
  const products = (count: number) => {
    const w = weight("w", source);
    return Array.from({ length: count }, (_, i) => matmul(input(`x${i}`, "float32", [2, 4]), w));
  };

  it("gives a weight of many products a view, and leaves one that is read once in each direction", () => {
    expect(topologicalOrder(readInPlace(products(2))).map(({ op }) => op)).not.toContain("Reshape");
    const nodes = topologicalOrder(readInPlace(products(3)));
    expect(nodes.filter(({ op }) => op === "Reshape")).toHaveLength(1);
    expect(nodes.filter(({ inputs }) => inputs[1]?.kind === "weight")).toEqual([]);
  });
});
