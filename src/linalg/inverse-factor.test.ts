import { expect, it } from "vitest";
import { invertUpper, upperFactor } from "./cholesky.ts";
import { invertedUpperFactor } from "./inverse-factor.ts";
import { type Multiply, matmul } from "./multiply.ts";
import { createRng } from "./rng.ts";

const multiply: Multiply = async (a, b, options) => matmul(a, b, options);

/** XᵀX/2n + I/100 of 2n random rows. */
function gramOf(n: number): Float64Array {
  const rng = createRng(n);
  const x = { rows: 2 * n, cols: n, data: Float64Array.from({ length: 2 * n * n }, () => rng.normal()) };
  const { data } = matmul(x, x, { transA: true });
  return data.map((value, i) => value / (2 * n) + (i % (n + 1) === 0 ? 0.01 : 0));
}

it.each([1, 63, 64, 65, 200, 700])("inverts the factor of %i columns as the plain recurrence does", async (n) => {
  const a = gramOf(n);
  const plain = invertUpper(upperFactor(a, n) ?? new Float64Array(), n);
  // Below the diagonal nothing is read.
  const own = a.map((value, i) => (i % n < Math.floor(i / n) ? Number.NaN : value));
  expect(await invertedUpperFactor(own, n, { multiply })).toBe(true);
  let furthest = 0;
  for (let i = 0; i < n; i++)
    for (let j = i; j < n; j++)
      furthest = Math.max(furthest, Math.abs((own[i * n + j] ?? Number.NaN) - (plain[i * n + j] ?? 0)));
  expect(furthest).toBeLessThan(1e-11);
});

it("tells a matrix that is not positive definite, wherever that shows", async () => {
  for (const at of [0, 100, 199]) {
    const a = gramOf(200);
    a[at * 201] = -1;
    expect(await invertedUpperFactor(a, 200, { multiply })).toBe(false);
  }
  // Two columns that are alike.
  const a = gramOf(200);
  for (let i = 0; i < 200; i++) a[i * 200 + 150] = a[i * 200 + 20] ?? 0;
  for (let i = 0; i < 200; i++) a[150 * 200 + i] = a[20 * 200 + i] ?? 0;
  expect(await invertedUpperFactor(a, 200, { multiply })).toBe(false);
  expect(await invertedUpperFactor(gramOf(200).fill(Number.NaN), 200, { multiply })).toBe(false);
});
