import { describe, expect, it } from "vitest";
import { tensor } from "../graph/index.ts";
import { frobeniusNorm, type Matrix, matmul, matrix, svd } from "../linalg/index.ts";
import { type Adapter, chooseMethod } from "../methods/index.ts";
import { memoryCache } from "./base-svd.ts";
import { examine } from "./diagnose.ts";
import { correctionOf, joined, mendedAdapter, resolveMending, truncated } from "./mend.ts";
import type { LowRank, MatrixPair } from "./pairs.ts";
import { difference, localProducts, sum } from "./products.ts";
import { diagnosisDefaults } from "./settings.ts";

// Specification §7.1: diag(8, …, 1) + 30·u·vᵀ with u = 1/√8 and v of alternating signs.
const base = matrix(Array.from({ length: 8 }, (_, i) => Array.from({ length: 8 }, (__, j) => (i === j ? 8 - i : 0))));
const update: LowRank = {
  left: { rows: 8, cols: 1, data: new Float64Array(8).fill(30 / Math.sqrt(8)) },
  right: { rows: 1, cols: 8, data: Float64Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? 1 : -1) / Math.sqrt(8)) },
};
const tuned = sum(base, matmul(update.left, update.right));
const pair: MatrixPair = {
  name: "w",
  module: "w",
  rows: 8,
  cols: 8,
  part: undefined,
  base: async () => ({ ...base, data: Float32Array.from(base.data) }),
  tuned: async () => tuned,
  update: () => update,
};
const tools = { products: localProducts, cache: memoryCache() };
const numpy = [31.333812, 7.276096, 6.443597, 5.090635, 4.299172, 2.930413, 2.161326, 0.27314];

async function scaledTo(lambda: number, side: "left" | "right" = "left"): Promise<Matrix<Float64Array>> {
  const examined = await examine(pair, { ...diagnosisDefaults, side }, tools);
  expect(examined.diagnosis.intruders).toEqual([0]);
  const correction = correctionOf(pair, examined, [0], { lambda, side, outFeatures: 8 });
  return correction ? sum(tuned, matmul(correction.left, correction.right)) : tuned;
}

describe("scaling the intruder of an 8×8 matrix (numpy)", () => {
  it.each([[0.75, 23.500359, 22.453908], [0.5, 15.666906, 15.201379], [0.3, 9.400144, 10.048273], [1.5, 47.000718, 45.385262]])(
    "by %d leaves every other value as it was",
    async (lambda, first, distance) => {
      for (const side of ["left", "right"] as const) {
        const mended = await scaledTo(lambda, side);
        const { S } = svd(mended);
        const expected = [first, ...numpy.slice(1)].sort((a, b) => b - a);
        for (const [j, value] of expected.entries()) expect(S[j]).toBeCloseTo(value, 4);
        expect(frobeniusNorm(difference(mended, base))).toBeCloseTo(distance, 4);
      }
    },
  ); // biome-ignore format: a table

  it("by nothing is the matrix itself, bit for bit", async () => {
    expect(await scaledTo(1)).toBe(tuned);
  });

  it("to zero puts it last, where it counts no more", async () => {
    const mended = await scaledTo(0);
    expect(frobeniusNorm(difference(mended, base))).toBeCloseTo(7.284762, 5);
    const { S } = svd(mended);
    for (const [j, value] of [...numpy.slice(1), 0].entries()) expect(S[j]).toBeCloseTo(value, 5);
    const { update: _update, ...rest } = pair;
    const { diagnosis } = await examine({ ...rest, tuned: async () => mended }, diagnosisDefaults, tools);
    expect(diagnosis.intruders).toEqual([]);
  });

  it("is exact as a product of one more column, and 1.27 % off when cut back to one", async () => {
    const examined = await examine(pair, diagnosisDefaults, tools);
    const correction = correctionOf(pair, examined, [0], { lambda: 0.75, side: "left", outFeatures: 8 });
    if (!correction) throw new Error("there is something to mend");
    const exact = joined(update, correction);
    const values = svd(matmul(exact.left, exact.right)).S;
    expect(values[0]).toBeCloseTo(22.452092, 5);
    expect(values[1]).toBeCloseTo(0.285545, 5);
    const written = sum(base, matmul(exact.left, exact.right));
    expect(frobeniusNorm(difference(written, await scaledTo(0.75)))).toBeLessThan(1e-13);
    const same = truncated(exact, 1);
    expect(same.error).toBeCloseTo(0.012717, 6);
    expect(truncated(exact, 2).error).toBeLessThan(1e-14);
    const [all, cut] = [exact, same].map(({ left, right }) => matmul(left, right));
    if (all && cut) expect(frobeniusNorm(difference(cut, all)) / frobeniusNorm(all)).toBeCloseTo(same.error, 8);
  });

  it("touches the rows of its own part of a fused matrix alone", async () => {
    const part: MatrixPair = { ...pair, part: [[0, 2], [10, 16]], module: "qkv" }; // biome-ignore format: ranges
    const examined = await examine(part, diagnosisDefaults, tools);
    const correction = correctionOf(part, examined, [0], { lambda: 0.5, side: "left", outFeatures: 16 });
    const touched = Array.from({ length: 16 }, (_, row) => correction?.left.data[row] !== 0);
    expect(touched).toEqual(Array.from({ length: 16 }, (_, row) => row < 2 || row >= 10));
  });

  it("refuses a lambda that is no factor", () => {
    expect(() => resolveMending({ lambda: -1 })).toThrow("lambda is -1");
    expect(() => resolveMending({ lambda: Number.NaN })).toThrow("lambda is NaN");
    expect(() => resolveMending({ mode: "some" as "all" })).toThrow("top or all");
  });
});

describe("a mended adapter", () => {
  // "." and "+" are characters like any other in the name of a method.
  it.each(["lora", "compacter++", "a(b", "x.y"])("keeps what was trained beside %s, not its factors", async (name) => {
    const { method, ...choice } = chooseMethod("lora", { rank: 1, alpha: 1 });
    const value = tensor("float32", [1], 1);
    const names = ["head.weight", "head.bias", `layers.0.${name}_extra.weight`];
    const adapter: Adapter = {
      choice: { ...choice, method: { ...method, name }, inPlace: { modules: ["head"] } as never }, // not looked into
      targets: ["w"],
      parameters: new Map([...names, `w.${name}_A`, `w.${name}_left_factor`].map((parameter) => [parameter, value])),
    };
    const mended = await mendedAdapter([pair], [], { products: localProducts, rank: "exact", adapter });
    expect([...mended.adapter.parameters.keys()]).toEqual(["w.lora_A", "w.lora_B", ...names]);
  });
});
