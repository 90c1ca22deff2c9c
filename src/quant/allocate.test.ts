import { expect, it } from "vitest";
import { createRng } from "../linalg/index.ts";
import { type AllocationItem, allocate, allocateByRule } from "./allocate.ts";

const item = (name: string, size: number, costs: readonly number[]): AllocationItem => ({ name, size, costs });
const layers = (sizes: readonly number[]): AllocationItem[] => [
  item("L1", sizes[0] ?? 1, [9, 4, 1.5]),
  item("L2", sizes[1] ?? 1, [3, 1.2, 0.5]),
  item("L3", sizes[2] ?? 1, [8, 3, 1]),
  item("L4", sizes[3] ?? 1, [2, 0.9, 0.4]),
];
const choices = [2, 3, 4];

it.each([
  [[1, 1, 1, 1], 2.25, [2, 2, 3, 2], 17],
  [[1, 1, 4, 4], 2.25, [4, 2, 2, 2], 14.5],
  [[1, 1, 1, 1], 2.5, [3, 2, 3, 2], 12],
  [[1, 1, 4, 4], 2.5, [3, 2, 3, 2], 12],
  [[1, 1, 1, 1], 3, [4, 2, 4, 2], 7.5],
  [[1, 1, 4, 4], 3, [4, 4, 3, 2], 7],
])("sizes %o at %d bits", (sizes, average, bits, cost) => {
  const found = allocate(layers(sizes), choices, average);
  expect(found.bits).toEqual(bits);
  expect(found.cost).toBeCloseTo(cost, 9);
  expect(found.averageBits).toBeLessThanOrEqual(average + 1e-9);
  expect(found.exact).toBe(true);
});

it("is never worse than any random allocation of the same budget", () => {
  const rng = createRng(2);
  const items = Array.from({ length: 9 }, (_, i) => {
    const first = rng.uniform() * 10;
    return item(`m${i}`, 64 * (1 + rng.integer(4)), [first, first * rng.uniform(), first * rng.uniform() * 0.3]);
  });
  const total = items.reduce((sum, { size }) => sum + size, 0);
  const best = allocate(items, choices, 2.6);
  for (let i = 0; i < 3000; i++) {
    const picks = items.map(() => rng.integer(3));
    if (picks.reduce((sum, pick, j) => sum + (pick + 2) * (items[j]?.size ?? 0), 0) > 2.6 * total) continue;
    const cost = picks.reduce((sum, pick, j) => sum + (items[j]?.costs[pick] ?? 0), 0);
    expect(best.cost).toBeLessThanOrEqual(cost + 1e-9);
  }
});

it("refuses a budget below the fewest planes", () => {
  expect(() => allocate(layers([1, 1, 1, 1]), choices, 1.9)).toThrow("fewest");
});

it("keeps within the budget where sizes are large and have no common measure", () => {
  const items = Array.from({ length: 200 }, (_, i) => item(`m${i}`, 1_000_003 + 7919 * i, [3, 2, 1]));
  const found = allocate(items, choices, 2.5);
  expect(found.averageBits).toBeLessThanOrEqual(2.5);
  expect(found.averageBits).toBeGreaterThan(2.45);
  expect(found.exact).toBe(false);
});

it("gives one plane more to the fifth that matters most", () => {
  const items = Array.from({ length: 10 }, (_, i) => ({ ...item(`m${i}`, 100, [2, 1, 0]), importance: (i * 7) % 10 }));
  const { bits, averageBits } = allocateByRule(items, choices, 2.2);
  expect(averageBits).toBeCloseTo(2.2, 9);
  const more = items.filter((_, i) => bits[i] === 3).map(({ importance }) => importance);
  expect(more.toSorted()).toEqual([8, 9]);
});
