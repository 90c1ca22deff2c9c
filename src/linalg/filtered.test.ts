import { describe, expect, it } from "vitest";
import {
  columnsOf,
  createRng,
  type Floats,
  filteredSubspace,
  gram,
  type LinearOperator,
  leadingBySquare,
  type Matrix,
  matmul,
  operatorOf,
  qr,
  type SymmetricOperator,
  svd,
  transposed,
} from "./index.ts";

function gaussian(rows: number, cols: number, seed: number): Matrix<Float64Array> {
  const rng = createRng(seed, "gaussian");
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, () => rng.normal() / Math.sqrt(cols)) };
}

/** A matrix with these singular values. */
function madeOf(rows: number, cols: number, value: (i: number) => number): Matrix<Float64Array> {
  const q = Math.min(rows, cols);
  const left = qr(gaussian(rows, q, 1)).Q;
  const scaled = { ...left, data: left.data.map((entry, i) => entry * value(i % q)) };
  return matmul(scaled, qr(gaussian(cols, q, 2)).Q, { transB: true });
}

const rounded = (matrix: Matrix): Matrix<Float32Array> => ({ ...matrix, data: Float32Array.from(matrix.data) });

/** The square of a matrix' smaller side, its entries and products rounded to float32 as a device gives them. */
function squareOf(a: Matrix<Float64Array>, single = false): SymmetricOperator & { products: number } {
  const square = gram(a.rows > a.cols ? transposed(a) : a);
  const kept: Matrix = single ? rounded(square) : square;
  const counted = {
    size: square.rows,
    products: 0,
    apply: async (X: Matrix): Promise<Matrix> => {
      counted.products += 1;
      return single ? rounded(matmul<Floats>(kept, rounded(X))) : matmul<Floats>(kept, X);
    },
  };
  return counted;
}

function singleOperator(a: Matrix): LinearOperator {
  const exact = operatorOf(rounded(a));
  return {
    ...exact,
    precision: 6e-8,
    apply: async (X) => rounded(await exact.apply(rounded(X))),
    applyTransposed: async (Y) => rounded(await exact.applyTransposed(rounded(Y))),
  };
}

const spectra = {
  "a flat spectrum": (i: number) => 2 - i / 300,
  "a decaying spectrum": (i: number) => 6 / (1 + i) ** 0.5,
  "one value a thousand times the others": (i: number) => (i === 0 ? 1000 : 1 / (1 + i) ** 0.3),
  "values that occur several times": (i: number) => 5 - Math.floor(i / 6) * 0.2,
  "few directions": (i: number) => (i < 12 ? 3 - i / 6 : 0),
};

describe("leading singular triplets by filters on the square", () => {
  it.each(
    Object.entries(spectra).flatMap(
      ([name, value]) =>
      ([[160, 160], [260, 150], [150, 260]] as const).map(([rows, cols]) => ({ name, value, rows, cols })), // biome-ignore format: a list
    ),
  )("of $name, [$rows, $cols], are those of the whole decomposition", async ({ name, value, rows, cols }) => {
    const a = madeOf(rows, cols, (i) => Math.max(0, value(i)));
    const { S } = svd(a);
    const exact = await leadingBySquare(operatorOf(a), squareOf(a), 10, { rng: createRng(1) });
    const single = await leadingBySquare(singleOperator(a), squareOf(a, true), 10, { rng: createRng(1) });
    expect([exact.converged, exact.U.rows, exact.U.cols, exact.Vt.rows, exact.Vt.cols]).toEqual([
      10,
      rows,
      10,
      10,
      cols,
    ]);
    expect(name === "values that occur several times" || single.converged === 10).toBe(true);
    for (const [found, digits] of [
      [exact, 7],
      [single, 4],
    ] as const) {
      // biome-ignore format: a list
      const values = matmul(matmul(found.U, a, { transA: true }), found.Vt, { transB: true });
      for (let j = 0; j < 10; j++) {
        expect(Math.abs((found.S[j] ?? 0) - (S[j] ?? 0)) / (S[0] ?? 1)).toBeLessThan(10 ** -digits);
        expect(Math.abs((values.data[j * 10 + j] ?? 0) - (S[j] ?? 0)) / (S[0] ?? 1)).toBeLessThan(10 ** -digits);
      }
    }
  });

  it("take hardly more products where the matrix is larger, and are the same every time", async () => {
    const counts = await Promise.all(
      [160, 320].map(async (size) => {
        const square = squareOf(gaussian(size, size, 4), true);
        const settled = ({ residuals, values }: { residuals: Float64Array; values: Float64Array }, i: number) =>
          (residuals[i] ?? 1) <= 1e-6 * (values[0] ?? 1);
        await filteredSubspace(square, 30, { rng: createRng(1), enough: 10, settled });
        return square.products;
      }),
    );
    expect(counts[0]).toBeGreaterThan(5);
    expect(counts[1]).toBeLessThan(2 * (counts[0] ?? 0));
    expect(counts[1]).toBeLessThan(160);
    const a = gaussian(160, 160, 4);
    const [first, again] = [
      await leadingBySquare(operatorOf(a), squareOf(a), 8, { rng: createRng(1) }),
      await leadingBySquare(operatorOf(a), squareOf(a), 8, { rng: createRng(1) }),
    ];
    expect([...again.S]).toEqual([...first.S]);
  });

  it("are found from a start that has nothing of them", async () => {
    const a = madeOf(160, 160, (i) => (i < 3 ? 9 - i : 4 / (1 + i) ** 0.2));
    const { U, S } = svd(a);
    const start = columnsOf(U, 3, 35); // orthogonal to the first three
    for (const single of [false, true]) {
      const operator = single ? singleOperator(a) : operatorOf(a);
      const found = await leadingBySquare(operator, squareOf(a, single), 8, { rng: createRng(1), start });
      expect(found.converged).toBe(8);
      for (let j = 0; j < 8; j++) expect(found.S[j]).toBeCloseTo(S[j] ?? 0, 4);
    }
    const near = squareOf(a);
    await leadingBySquare(operatorOf(a), near, 8, { rng: createRng(1), start: columnsOf(U, 0, 32) });
    const far = squareOf(a);
    await leadingBySquare(operatorOf(a), far, 8, { rng: createRng(1) });
    expect(near.products).toBeLessThan(far.products); // what is known need not be found
  });
});
