import { describe, expect, it } from "vitest";
import {
  boundWeights,
  columnsOf,
  createRng,
  isPositiveDefinite,
  isPositiveDefiniteByPanels,
  leadingTriplets,
  lowRankPlus,
  type Matrix,
  matmul,
  matrix,
  operatorOf,
  svd,
  transposed,
} from "./index.ts";

function gaussian(rows: number, cols: number, seed: number): Matrix<Float64Array> {
  const rng = createRng(seed, "gaussian");
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, () => rng.normal() / Math.sqrt(cols)) };
}

const shapes: readonly (readonly [number, number])[] = [[150, 150], [200, 90], [90, 200], [12, 5], [3, 30], [1, 1]]; // biome-ignore format: a list

describe("leading singular triplets", () => {
  it.each(shapes)("of [%d, %d] are those of the whole decomposition", async (rows, cols) => {
    const a = gaussian(rows, cols, 3);
    const { S } = svd(a);
    const found = await leadingTriplets(operatorOf(a), 10, { rng: createRng(1) });
    const count = Math.min(10, rows, cols);
    expect([found.converged, found.U.cols, found.Vt.rows, found.S.length]).toEqual([count, count, count, count]);
    for (let j = 0; j < count; j++) {
      expect(found.S[j]).toBeCloseTo(S[j] ?? 0, 10);
      expect(found.residuals[j]).toBeLessThan(1e-6);
    }
    const values = matmul(matmul(found.U, a, { transA: true }), found.Vt, { transB: true });
    for (let j = 0; j < count; j++) expect(values.data[j * count + j]).toBeCloseTo(S[j] ?? 0, 8);
  });

  it("of a matrix with few directions, and of none, end early", async () => {
    const flat = matmul(gaussian(60, 2, 1), gaussian(2, 60, 2));
    const found = await leadingTriplets(operatorOf(flat), 5, { rng: createRng(1) });
    for (const [j, value] of svd(flat).S.subarray(0, 5).entries()) expect(found.S[j] ?? 0).toBeCloseTo(value, 6); // roundings of squares
    const none = await leadingTriplets(operatorOf({ rows: 9, cols: 9, data: new Float64Array(81) }), 2, {
      rng: createRng(1),
    });
    expect([...none.S].every((value) => value === 0)).toBe(true);
  });

  it("of a matrix and an update that is kept in factors", async () => {
    const [a, B, A] = [gaussian(80, 70, 1), gaussian(80, 3, 2), gaussian(3, 70, 3)];
    const sum = matmul(B, A);
    for (let i = 0; i < sum.data.length; i++) sum.data[i] = (sum.data[i] ?? 0) + (a.data[i] ?? 0);
    const found = await leadingTriplets(lowRankPlus(operatorOf(a), B, A), 6, { rng: createRng(1) });
    for (const [j, value] of svd(sum).S.subarray(0, 6).entries()) expect(found.S[j]).toBeCloseTo(value, 9);
  });
});

describe("bounds on cosines", () => {
  it.each([[150, 150], [150, 220], [220, 150]])("hold for every singular vector of [%d, %d]", async (rows, cols) => {
    const a = gaussian(rows, cols, 5);
    const { U, S, Vt } = svd(a);
    const X = gaussian(rows, 4, 6);
    for (let j = 0; j < 4; j++) {
      const length = Math.hypot(...columnsOf(X, j, j + 1).data);
      for (let i = 0; i < rows; i++) X.data[i * 4 + j] = (X.data[i * 4 + j] ?? 0) / length;
    }
    const cosines = matmul(U, X, { transA: true });
    const known = columnsOf(U, 0, 12);
    const lowest = rows > cols ? (S.at(-1) ?? 0) ** 2 : 0;
    const highest = (S[11] ?? 0) ** 2;
    const knownRight = transposed({ rows: 12, cols, data: Vt.data.subarray(0, 12 * cols) });
    const square = operatorOf(rows > cols ? matmul(a, a, { transA: true }) : matmul(a, a, { transB: true }));
    const bySquare = { knownRight, square: { size: Math.min(rows, cols), apply: square.apply } };
    for (const [steps, how] of [4, 16, 48].flatMap((n) => [[n, {}], [n, bySquare]] as const)) {
      const found = await boundWeights(operatorOf(a), X, { known, lowest, highest, decideAt: 0.3, steps, ...how });
      for (const [j, { bound }] of found.entries()) {
        const largest = Math.max(...Array.from({ length: U.cols - 12 }, (_, i) => Math.abs(cosines.data[(i + 12) * 4 + j] ?? 0)));
        expect(bound).toBeGreaterThanOrEqual(largest);
        if (steps === 48) expect(bound).toBeLessThan(0.55);
      }
    }
  }); // biome-ignore format: a table

  it.each([80, 120])("find a vector of the matrix itself, [%d, 80]", async (rows) => {
    const a = gaussian(rows, 80, 5);
    const { U, S, Vt } = svd(a);
    const square = operatorOf(matmul(a, a, { transA: true }));
    const [found] = await boundWeights(operatorOf(a), columnsOf(U, 40, 41), {
      known: columnsOf(U, 0, 4),
      lowest: rows > 80 ? 0.99 * (S.at(-1) ?? 0) ** 2 : 0,
      highest: (S[3] ?? 0) ** 2,
      decideAt: 0.5,
      ...(rows > 80
        ? {
            square: { size: 80, apply: square.apply },
            knownRight: transposed({ rows: 4, cols: 80, data: Vt.data.slice(0, 320) }),
          }
        : {}),
    });
    expect(found?.bound).toBeCloseTo(1, 4);
    expect(found?.found).toBeCloseTo(1, 4);
  });
});

describe("Cholesky", () => {
  it("tells whether every eigenvalue is above a shift", () => {
    const positive = matrix([[2, 1], [1, 2]]); // biome-ignore format: a matrix
    expect([0, 0.99, 1.01, 3].map((shift) => isPositiveDefinite(positive, shift))).toEqual([true, true, false, false]);
    expect(isPositiveDefinite(matrix([[1, 2], [2, 1]]))).toBe(false); // biome-ignore format: a matrix
  });

  it.each([30, 64, 150])("does so by panels, with products elsewhere, of size %d", async (n) => {
    const a = gaussian(n, 2 * n, 3);
    const square = matmul(a, a, { transB: true });
    const smallest = (svd(a).S.at(-1) ?? 0) ** 2;
    const rows = async (x: Matrix<Float32Array>, y: Matrix<Float32Array>): Promise<Matrix> =>
      matmul(x, y, { transB: true });
    for (const share of [0.5, 0.99, 1.01, 2]) {
      expect(await isPositiveDefiniteByPanels(square, share * smallest, rows)).toBe(share < 1);
    }
  });
});
