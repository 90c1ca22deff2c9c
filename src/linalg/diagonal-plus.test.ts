import { describe, expect, it } from "vitest";
import {
  createRng,
  leadingOfUpdatedDiagonal,
  type Matrix,
  matmul,
  svd,
  transposed,
  type UpdatedDiagonal,
} from "./index.ts";

function gaussian(rows: number, cols: number, seed: number, scale = 1): Matrix<Float64Array> {
  const rng = createRng(seed, "gaussian");
  return {
    rows,
    cols,
    data: Float64Array.from({ length: rows * cols }, () => (scale * rng.normal()) / Math.sqrt(rows)),
  };
}

/** The matrix itself. */
function whole({ values, B, A }: UpdatedDiagonal): Matrix<Float64Array> {
  const sum = matmul(B, A);
  for (const [i, value] of values.entries()) sum.data[i * A.cols + i] = (sum.data[i * A.cols + i] ?? 0) + value;
  return sum;
}

const power = (size: number): Float64Array => Float64Array.from({ length: size }, (_, i) => 8 / (1 + i) ** 0.4);
/** Equally close everywhere, as the edge of a random matrix is dense. */
const dense = (size: number): Float64Array => Float64Array.from({ length: size }, (_, i) => 2 - (2 * i) / size);

describe("the leading singular triplets of an updated diagonal", () => {
  it.each([
    ["a decaying spectrum", { values: power(150), B: gaussian(150, 4, 1, 3), A: gaussian(4, 150, 2) }],
    ["a dense spectrum", { values: dense(150), B: gaussian(150, 4, 3, 2), A: gaussian(4, 150, 4) }],
    ["rows beyond the diagonal", { values: power(90), B: gaussian(98, 8, 5, 4), A: gaussian(8, 90, 6) }],
    ["columns beyond the diagonal", { values: power(90), B: gaussian(90, 8, 7, 4), A: gaussian(8, 98, 8) }],
    [
      "an update of very uneven factors",
      { values: power(90), B: gaussian(90, 3, 9, 1e5), A: gaussian(3, 90, 10, 3e-5) },
    ],
    [
      "a spike a thousand times the rest",
      { values: power(90), B: gaussian(90, 1, 9, 1e3), A: gaussian(1, 90, 10, 80) },
    ],
    ["a hardly noticeable update", { values: power(90), B: gaussian(90, 2, 9, 1e-5), A: gaussian(2, 90, 10, 1e-5) }],
    ["equal values", { values: new Float64Array(90).fill(3), B: gaussian(90, 2, 9, 1), A: gaussian(2, 90, 10, 1) }],
    ["no diagonal to speak of", { values: new Float64Array(90), B: gaussian(90, 3, 9), A: gaussian(3, 90, 10) }],
    ["a factor of zeros", { values: power(90), B: gaussian(90, 2, 9, 0), A: gaussian(2, 90, 10) }],
    ["the other factor of zeros", { values: power(90), B: gaussian(90, 2, 9), A: gaussian(2, 90, 10, 0) }],
    ["no update", { values: power(90), B: gaussian(90, 0, 9), A: gaussian(0, 90, 10) }],
    ["nothing", { values: new Float64Array(90), B: gaussian(90, 1, 1, 0), A: gaussian(1, 90, 1, 0) }],
  ])("%s", async (_name, core: UpdatedDiagonal) => {
    const found = await leadingOfUpdatedDiagonal(core, 10, { rng: createRng(1) });
    const { S, U } = svd(whole(core));
    expect(found.converged).toBe(10);
    const largest = S[0] ?? 0;
    // Values are roots of squares: those far below the largest lose half of their digits.
    for (let j = 0; j < 10; j++)
      expect(Math.abs((found.S[j] ?? 0) - (S[j] ?? 0))).toBeLessThanOrEqual(
        1e-12 * largest + 3e-8 * largest * Number((S[j] ?? 0) < 1e-6 * largest),
      );
    const apart = (j: number): number => Math.min((S[j - 1] ?? Infinity) - (S[j] ?? 0), (S[j] ?? 0) - (S[j + 1] ?? 0));
    for (let j = 0; j < 10; j++) {
      if (apart(j) <= 1e-6 * largest) continue; // vectors of equal values are any of a space
      const cosine = matmul(transposed(found.U), U).data[j * U.cols + j] ?? 0;
      expect(Math.abs(cosine)).toBeCloseTo(1, 9);
    }
    expect(
      matmul(found.U, found.U, { transA: true }).data.every((v, i) => Math.abs(v - Number(i % 11 === 0)) < 1e-9),
    ).toBe(true);
  });

  it("finds each of a value that occurs several times", async () => {
    const values = Float64Array.from([...new Float64Array(7).fill(5), ...power(120).map((value) => value / 2)]);
    const core = { values, B: gaussian(127, 1, 1, 1e-9), A: gaussian(1, 127, 2) };
    const found = await leadingOfUpdatedDiagonal(core, 10, { rng: createRng(2) });
    expect(found.converged).toBe(10);
    for (let j = 0; j < 7; j++) expect(found.S[j]).toBeCloseTo(5, 8);
    expect(found.S[7]).toBeCloseTo(4, 8);
  });
});
