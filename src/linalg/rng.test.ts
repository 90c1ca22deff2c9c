import { describe, expect, test } from "vitest";
import { createRng, splitMix64, xoshiro128 } from "./rng.ts";

const take = (count: number, next: () => number): number[] => Array.from({ length: count }, next);

describe("rng", () => {
  test("xoshiro128** gives the reference implementation's numbers", () => {
    expect(take(10, xoshiro128([1, 2, 3, 4]).uint32)).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });

  test("SplitMix64 gives the reference implementation's numbers", () => {
    expect(splitMix64(1234567n)).toBe(6457827717110365317n);
    expect(splitMix64(1234567n + 0x9e3779b97f4a7c15n)).toBe(3203168211198807973n);
  });

  test("a seeded stream never changes", () => {
    const rng = createRng(42, "order", 3);
    expect(take(4, rng.uint32)).toEqual([2708788378, 431882866, 1795858804, 893709472]);
    expect(take(3, rng.uniform)).toEqual([0.7503004717185315, 0.8277062488107468, 0.36880020122305435]);
    expect(take(3, rng.normal)).toEqual([0.5931913636255767, 0.3548225368712679, -0.5313808127335614]);
    expect(take(6, () => rng.integer(10))).toEqual([2, 2, 7, 3, 8, 1]);
    expect(rng.shuffle([0, 1, 2, 3, 4, 5, 6, 7])).toEqual([5, 2, 0, 3, 4, 6, 7, 1]);
  });

  test("seeds and names make different streams, and a number is not its spelling", () => {
    const firsts = [
      createRng(1),
      createRng(-1),
      createRng(2),
      createRng(1, 0),
      createRng(1, 1),
      createRng(1, "1"),
      createRng(1, ""),
      createRng(1, "a", "b"),
      createRng(1, "ab"),
      createRng(1, "b", "a"),
    ].map((rng) => rng.uint32());
    expect(new Set(firsts).size).toBe(firsts.length);
    expect(createRng(1, "a", 5).uint32()).toBe(createRng(1, "a", 5).uint32());
  });

  test("refuses seeds and bounds that would be rounded", () => {
    expect(() => createRng(0.5)).toThrow(RangeError);
    expect(() => createRng(1, Number.NaN)).toThrow(RangeError);
    for (const bound of [0, -1, 1.5, 2 ** 32 + 1]) expect(() => createRng(1).integer(bound)).toThrow(RangeError);
    expect(createRng(1).integer(2 ** 32)).toBe(createRng(1).uint32());
  });

  test("moments are those of the distributions", () => {
    const rng = createRng(9);
    const uniforms = take(20_000, rng.uniform);
    const normals = take(20_000, rng.normal);
    const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    // Four standard errors of each mean.
    expect(Math.abs(mean(uniforms) - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / 20_000));
    expect(Math.abs(mean(normals))).toBeLessThan(4 / Math.sqrt(20_000));
    expect(Math.abs(mean(normals.map((x) => x ** 2)) - 1)).toBeLessThan(4 * Math.sqrt(2 / 20_000));
    expect(Math.abs(mean(normals.map((x) => x ** 4)) - 3)).toBeLessThan(4 * Math.sqrt(96 / 20_000));
    expect(Math.min(...uniforms)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...uniforms)).toBeLessThan(1);
  });

  test("every order of three items comes up equally often", () => {
    const rng = createRng(4);
    const counts = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const order = rng.shuffle(["a", "b", "c"]).join("");
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(4 * Math.sqrt(6000 / 6));
  });
});
