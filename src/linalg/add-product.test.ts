import { describe, expect, it } from "vitest";
import { addProduct } from "./add-product.ts";
import { createRng } from "./rng.ts";

describe("addProduct", () => {
  it.each([
    [1, 5, 0],
    [1, 3, 1],
    [2, 7, 4],
    [5, 6, 7],
    [4, 9, 8],
    [3, 1, 13],
  ])("%d rows of %d columns, rank %d: adds what a plain loop adds", (count, columns, rank) => {
    const rng = createRng(0, "add", String(rank));
    const draw = (length: number): Float32Array => Float32Array.from({ length }, () => rng.normal());
    const [rows, b, a] = [draw(count * columns), draw(count * rank), Float64Array.from(draw(rank * columns))];
    const expected = Float64Array.from(rows, (value, at) => {
      const [row, column] = [Math.floor(at / columns), at % columns];
      let sum = value;
      for (let k = 0; k < rank; k++) sum += (b[row * rank + k] ?? 0) * (a[k * columns + column] ?? 0);
      return sum;
    });
    addProduct(rows, b, a, rank);
    rows.forEach((value, at) => {
      expect(value).toBeCloseTo(expected[at] ?? 0, 5); // rounded to float32 after every four ranks
    });
  });
});
