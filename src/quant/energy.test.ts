import { expect, it } from "vitest";
import { matrixEnergy } from "./energy.ts";

// Worked out by hand from the picojoules of You et al. 2024, Table 1: 8 rows of 16 columns.
const [rows, columns] = [8, 16];

it("of floats is a multiplication and an addition a weight, and 12.5 pJ a bit that is read", () => {
  // 128 · (1.1 + 0.4); 256 bytes of 8 bits.
  const { operations, traffic } = matrixEnergy({ rows, columns, bytes: 2 * rows * columns });
  expect(operations).toBeCloseTo(192, 9);
  expect(traffic).toBeCloseTo(25_600, 9);
});

it("of two planes with scales of three powers is tables, look-ups, shifts and additions", () => {
  // 2 planes · 16 / 4 = 8 tables of 16 sums: 128 · 0.4 = 51.2
  // 8 tables · 8 rows = 64 look-ups: 64 · (0.37 / 2 + 0.05) = 15.04
  // 32 scales · 3 terms · (0.057 + 0.4) = 43.872
  // 32 bytes of planes and 64 of scales.
  const packed = { bits: 2, scales: 2 * columns, terms: 3 };
  const { operations, traffic } = matrixEnergy({ rows, columns, bytes: 96, packed });
  expect(operations).toBeCloseTo(110.112, 9);
  expect(traffic).toBeCloseTo(9_600, 9);
});

it("of two planes with float scales multiplies once a scale", () => {
  const packed = { bits: 2, scales: 2 * rows, terms: 0 };
  // 51.2 + 15.04 + 16 · 1.1
  expect(matrixEnergy({ rows, columns, bytes: 64, packed }).operations).toBeCloseTo(83.84, 9);
});

it("of large matrices is mostly traffic, so that bits decide", () => {
  const size = 4096;
  const total = ({ operations, traffic }: ReturnType<typeof matrixEnergy>): number => operations + traffic;
  const half = total(matrixEnergy({ rows: size, columns: size, bytes: 2 * size * size }));
  const share = [2, 3, 4].map((bits) => {
    const packed = { bits, scales: bits * size, terms: 3 };
    return total(matrixEnergy({ rows: size, columns: size, bytes: (bits * size * size) / 8, packed })) / half;
  });
  share.forEach((part, i) => {
    expect(Math.abs(part - (i + 2) / 16)).toBeLessThan(0.005);
  });
});
