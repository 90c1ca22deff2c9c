import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { packRows } from "./packing.ts";

describe("packRows", () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 24 });

  test("places every document once, within its row", () => {
    fc.assert(
      fc.property(lengths, fc.constantFrom(1, 4), fc.integer({ min: 8, max: 2048 }), (all, multiple, hiddenSize) => {
        const { rows, width } = packRows(all, { multiple, hiddenSize });
        expect(rows.flat().sort((a, b) => a - b)).toEqual(all.map((_, i) => i));
        for (const row of rows) expect(row.reduce((sum, i) => sum + (all[i] ?? 0), 0)).toBeLessThanOrEqual(width);
        expect(width % multiple).toBe(0);
      }),
    );
  });

  test("is never more than one document a row would take", () => {
    fc.assert(
      fc.property(lengths, (all) => {
        const { rows, width } = packRows(all, { multiple: 4, hiddenSize: 576 });
        expect(rows.length * width).toBeLessThanOrEqual(all.length * Math.ceil(Math.max(...all) / 4) * 4);
      }),
    );
  });

  test("leaves documents of one length alone, and fills rows of uneven ones", () => {
    expect(packRows([64, 64, 64], { multiple: 4, hiddenSize: 64 })).toEqual({ rows: [[0], [1], [2]], width: 64 });
    const uneven = [300, 250, 220, 180, 150, 140, 100, 90];
    const { rows, width } = packRows(uneven, { multiple: 4, hiddenSize: 576 });
    expect(rows.length * width).toBeLessThan(1.1 * uneven.reduce((a, b) => a + b));
  });

  test("prefers short rows where attention is dear, long ones where it is not", () => {
    const even = Array.from({ length: 8 }, (_, i) => 101 + i);
    expect(packRows(even, { multiple: 4, hiddenSize: 16 }).rows).toHaveLength(8);
    expect(packRows(even, { multiple: 4, hiddenSize: 8192 }).rows.length).toBeLessThan(8);
  });
});
