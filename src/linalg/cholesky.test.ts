import { expect, it } from "vitest";
import { invertUpper, upperFactor } from "./cholesky.ts";
import { createRng } from "./rng.ts";

it("factors A = R·Rᵀ with R upper triangular, and inverts R", () => {
  const n = 23;
  const rng = createRng(1);
  const x = Float64Array.from({ length: 40 * n }, () => rng.normal());
  const a = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      for (let s = 0; s < 40; s++) a[i * n + j] = (a[i * n + j] ?? 0) + (x[s * n + i] ?? 0) * (x[s * n + j] ?? 0);
    }
  }
  const r = upperFactor(a, n) ?? new Float64Array();
  const inverse = invertUpper(r, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let product = 0;
      let identity = 0;
      for (let k = 0; k < n; k++) {
        product += (r[i * n + k] ?? 0) * (r[j * n + k] ?? 0);
        identity += (r[i * n + k] ?? 0) * (inverse[k * n + j] ?? 0);
      }
      expect(product).toBeCloseTo(a[i * n + j] ?? 0, 8);
      expect(identity).toBeCloseTo(i === j ? 1 : 0, 8);
      if (j < i) expect([r[i * n + j], inverse[i * n + j]]).toEqual([0, 0]);
    }
  }
});

it("tells a matrix that is not positive definite", () => {
  expect(upperFactor(Float64Array.of(1, 1, 1, 1), 2)).toBeUndefined();
  expect(upperFactor(Float64Array.of(1, 2, 2, 1), 2)).toBeUndefined();
  expect(upperFactor(Float64Array.of(1, Number.NaN, Number.NaN, 1), 2)).toBeUndefined();
});
