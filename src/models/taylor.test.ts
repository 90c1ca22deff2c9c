import { describe, expect, it } from "vitest";
import { graph, input } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { concat, matmul, mul, transposeLast } from "../ops/index.ts";
import { evaluate } from "../transforms/index.ts";
import { featureCount, nextProducts, taylorWeights } from "./taylor.ts";
import { outputBound, taylorError, taylorRange } from "./taylor-error.ts";

describe("products of coordinates", () => {
  it.each([
    [8, [9, 45, 165, 495]],
    [16, [17, 153, 969, 4845]],
    [32, [33, 561, 6545, 58905]],
    [64, [65, 2145, 47905, 814385]],
  ])("are as many as the paper's: %i coordinates", (d, counts) => {
    expect([1, 2, 3, 4].map((degree) => featureCount(d, degree))).toEqual(counts);
  });

  it.each([
    [2, 2],
    [3, 3],
    [5, 4],
  ])("weigh so that products of all are (q·k)^size/size!: %i coordinates, size %i", (d, size) => {
    const [q, k] = [input("q", "float32", [d, 7]), input("k", "float32", [d, 7])];
    let [ofQ, ofK] = [q, k] as Parameters<typeof nextProducts>[0][];
    for (let t = 2; t <= size; t++) {
      ofQ = nextProducts(ofQ as typeof q, q, d, t);
      ofK = nextProducts(ofK as typeof k, k, d, t);
    }
    const powers = matmul(transposeLast(mul(ofQ as typeof q, taylorWeights(d, size))), ofK as typeof k);
    const plain = matmul(transposeLast(q), k);
    const rng = createRng(1, "products");
    const some = () => ({
      dtype: "float32" as const,
      shape: [d, 7],
      data: Float64Array.from({ length: 7 * d }, () => rng.normal()),
    });
    const made = graph({ inputs: [q, k], outputs: { powers, plain, count: concat([ofQ as typeof q], 0) } });
    const found = evaluate(
      made,
      new Map([
        ["q", some()],
        ["k", some()],
      ]),
    );
    expect(found.get("count")?.shape[0]).toBe(featureCount(d, size) - featureCount(d, size - 1));
    const factorial = [1, 1, 2, 6, 24][size] as number; // up to four
    found.get("plain")?.data.forEach((score, i) => {
      expect(found.get("powers")?.data[i]).toBeCloseTo(score ** size / factorial, 5);
    });
  });
});

describe("the error of a Taylor polynomial", () => {
  it("is the paper's in its example", () => {
    expect(taylorError(2, -0.2, 0.3)).toBeCloseTo(3.5995e-3, 7);
    expect(outputBound(taylorError(2, -0.2, 0.3)) * 2).toBeCloseTo(7.225e-3, 6);
    expect(taylorError(2, -1.6, 2.4)).toBeCloseTo(2.368, 3);
    expect(outputBound(taylorError(2, -1.6, 2.4))).toBe(Number.POSITIVE_INFINITY);
  });

  it.each([
    [1, [0.63, 0.39, 0.23, 0.135, 0.044]],
    [2, [0.95, 0.71, 0.5, 0.36, 0.17]],
    [3, [1.27, 1.01, 0.79, 0.62, 0.37]],
    [4, [1.57, 1.32, 1.08, 0.89, 0.59]],
    [6, [2.16, 1.91, 1.66, 1.46, 1.1]],
    [8, [2.75, 2.5, 2.24, 2.03, 1.63]],
  ])("allows scores as large as the table says: degree %i", (degree, ranges) => {
    const errors = [0.3, 0.1, 0.03, 0.01, 0.001];
    errors.forEach((error, i) => {
      expect(taylorRange(degree, error)).toBeCloseTo(ranges[i] ?? Number.NaN, 1.7);
    });
  });

  it("is largest at an end of the interval", () => {
    for (const degree of [1, 2, 3, 4]) {
      const whole = taylorError(degree, -2, 3);
      for (let s = -2; s <= 3; s += 0.01)
        expect(taylorError(degree, Math.min(s, 0), Math.max(s, 0))).toBeLessThanOrEqual(whole + 1e-12);
    }
  });
});
