import { expect, it } from "vitest";
import { graph, input, parameter } from "../graph/index.ts";
import { gemm, layerNorm, mul, reference, sumAll } from "../ops/index.ts";
import { clippedSums } from "./clipped-sums.ts";
import { evaluate } from "./evaluate.ts";
import { fold } from "./fold.ts";
import { perExample } from "./per-example.ts";

/** Two examples of one row each, a = (1, 0) and (0.6, 0.8), whose slopes behind W·a are (3, 4) and (0.3, −0.4). */
function clipped(clip: number, mask: readonly number[], longest: number): { sum: number[]; norms: number[] } {
  const a = input("a", "float32", ["batch", 2]);
  const e = input("e", "float32", ["batch", 2]);
  const w = parameter("w", "float32", [2, 2]);
  const loss = sumAll(mul(gemm(a, w, { transB: true }), e));
  const layout = { rows: "batch", examples: "batch", sources: [a, e] };
  const { gradients } = perExample([loss], [w], layout, { longest });
  const [of] = gradients;
  if (!of) throw new Error("one gradient");
  const [maskOf, clipOf] = [input("mask", "float32", ["batch", 1]), input("clip", "float32", [])];
  const { sums, norms } = clippedSums([{ of, shape: [2, 2] }], { mask: maskOf, clip: clipOf, layout });
  const [sum, lengths] = fold([...sums, norms]);
  if (!sum || !lengths) throw new Error("a sum and lengths");
  const feeds = new Map([
    ["a", reference([2, 2], [1, 0, 0.6, 0.8])],
    ["e", reference([2, 2], [3, 4, 0.3, -0.4])],
    ["w", reference([2, 2], [1, 2, 3, 4])],
    ["mask", reference([2, 1], mask)],
    ["clip", reference([], [clip])],
  ]);
  const results = evaluate(graph({ outputs: { sum, lengths } }), feeds);
  return { sum: [...(results.get("sum")?.data ?? [])], norms: [...(results.get("lengths")?.data ?? [])] };
}

it.each([64, 1])("clips an example's gradient as a whole and adds it up (longest %s)", (longest) => {
  const near = (values: readonly number[]): unknown => values.map((value) => expect.closeTo(value, 5));
  expect(clipped(2, [1, 1], longest)).toEqual({ sum: near([1.38, 0.24, 1.36, -0.32]), norms: near([5, 0.5]) });
  expect(clipped(2, [0, 1], longest).sum).toEqual(near([0.18, 0.24, -0.24, -0.32]));
  expect(clipped(2, [0, 0], longest).sum).toEqual([0, 0, 0, 0]);
  expect(clipped(Number.POSITIVE_INFINITY, [1, 1], longest).sum).toEqual(near([3.18, 0.24, 3.76, -0.32]));
});

it("names the module where rows of several examples have come together", () => {
  const a = input("a", "float32", ["batch", 4]);
  const together = gemm(a, a, { transA: true }); // [4, 4], of all examples
  const gain = parameter("gain", "float32", [4]);
  const loss = sumAll(layerNorm(together, gain, undefined, 1e-5));
  const layout = { rows: "batch", examples: "batch", sources: [a] };
  expect(() => perExample([loss], [gain], layout)).toThrow(/LayerNormalization reads rows of which nobody can say/);
});
