import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { rdpEpsilon, rdpOfStep } from "./rdp.ts";
import type { Spend } from "./spend.ts";

const golden = JSON.parse(
  readFileSync(new URL("../../tests/fixtures/privacy-accountant.json", import.meta.url), "utf8"),
) as {
  rows: { q: number; sigma: number; steps: number; delta: number; rdp: number; order: number }[];
  mixed: { history: { q: number; sigma: number; steps: number }[]; delta: number; rdp: number; order: number }[];
};
const spend = ({ q, sigma, steps }: { q: number; sigma: number; steps: number }): Spend => ({
  samplingRate: q,
  noiseMultiplier: sigma,
  steps,
});

describe("what DP-SGD costs by Rényi differential privacy", () => {
  it("is what Opacus says, epsilon and order", () => {
    expect(golden.rows.length).toBeGreaterThan(50);
    for (const row of golden.rows) {
      const { epsilon, order } = rdpEpsilon([spend(row)], row.delta);
      expect(Math.abs(epsilon - row.rdp), JSON.stringify(row)).toBeLessThan(1e-6);
      expect(order).toBeCloseTo(row.order, 9);
    }
  });

  it("is what Opacus says of steps that differ, in any order and cut in any way", () => {
    for (const { history, delta, rdp, order } of golden.mixed) {
      const spends = history.map(spend);
      const found = rdpEpsilon(spends, delta);
      expect(Math.abs(found.epsilon - rdp)).toBeLessThan(1e-6);
      expect(found.order).toBeCloseTo(order, 9);
      expect(rdpEpsilon([...spends].reverse(), delta).epsilon).toBeCloseTo(found.epsilon, 12);
      const cut = spends.flatMap((one) => [
        { ...one, steps: 1 },
        { ...one, steps: one.steps - 1 },
      ]);
      expect(rdpEpsilon(cut, delta).epsilon).toBeCloseTo(found.epsilon, 12);
    }
  });

  it("is the table of the specification (§6.2)", () => {
    const table = [
      [0.01, 1.1, 1000, 1.7117701, 9.6],
      [0.05, 1.0, 100, 4.0383362, 4.6],
      [0.1, 2.0, 500, 6.0343224, 4.4],
      [0.032, 0.9, 300, 5.1410378, 4.1],
      [1, 5.0, 10, 2.8136532, 7.9],
    ] as const;
    for (const [q, sigma, steps, epsilon, order] of table) {
      const found = rdpEpsilon([spend({ q, sigma, steps })], 1e-5);
      expect(Math.abs(found.epsilon - epsilon)).toBeLessThan(1e-6);
      expect(found.order).toBeCloseTo(order, 9);
    }
    const step = { samplingRate: 0.01, noiseMultiplier: 1.1 };
    const orders = [
      [2, 1.28510082e-4],
      [8, 5.84070336e-4],
      [32, 8.46941643],
      [1.5, 9.55452856e-5],
      [9.6, 7.46054432e-4],
    ] as const;
    for (const [order, value] of orders) expect(Math.abs(rdpOfStep(step, order) / value - 1)).toBeLessThan(1e-8);
    expect(rdpOfStep(step, 2)).toBeCloseTo(Math.log(1 + 0.01 ** 2 * (Math.exp(1 / 1.1 ** 2) - 1)), 15);
  });

  it("grows with steps, rate and delta's smallness, and falls with noise", () => {
    const mechanism = fc.record({
      q: fc.double({ min: 1e-4, max: 0.9, noNaN: true }),
      sigma: fc.double({ min: 0.4, max: 20, noNaN: true }),
      steps: fc.integer({ min: 1, max: 5000 }),
      more: fc.double({ min: 1.01, max: 3, noNaN: true }),
    });
    fc.assert(
      fc.property(mechanism, ({ q, sigma, steps, more }) => {
        const of = (change: Partial<{ q: number; sigma: number; steps: number }>, delta = 1e-5): number =>
          rdpEpsilon([spend({ q, sigma, steps, ...change })], delta).epsilon;
        const least = of({}) - 1e-9;
        expect(of({ q: Math.min(1, q * more) })).toBeGreaterThanOrEqual(least);
        expect(of({ sigma: sigma / more })).toBeGreaterThanOrEqual(least);
        expect(of({ steps: Math.ceil(steps * more) })).toBeGreaterThanOrEqual(least);
        expect(of({}, 1e-5 / more)).toBeGreaterThanOrEqual(least);
        const both = rdpEpsilon([spend({ q, sigma, steps }), spend({ q: q / more, sigma, steps: 3 })], 1e-5);
        expect(both.epsilon).toBeGreaterThanOrEqual(least);
      }),
      { numRuns: 40 },
    );
  });

  it("is nothing for no step, infinite without noise, and stays finite for tiny and huge numbers", () => {
    expect(rdpEpsilon([], 1e-5).epsilon).toBe(0);
    expect(rdpEpsilon([{ samplingRate: 0.1, noiseMultiplier: 0, steps: 0 }], 1e-5).epsilon).toBe(0);
    expect(rdpEpsilon([{ samplingRate: 0.1, noiseMultiplier: 0, steps: 1 }], 1e-5).epsilon).toBe(Infinity);
    for (const q of [1e-12, 1e-3, 0.5, 1 - 1e-12, 1]) {
      for (const sigma of [1e-3, 0.3, 1, 1e6]) {
        const { epsilon } = rdpEpsilon([spend({ q, sigma, steps: 10 })], 1e-5);
        expect(epsilon, `${q} ${sigma}`).toBeGreaterThan(0);
        expect(epsilon, `${q} ${sigma}`).toBeLessThan(Infinity);
      }
    }
  });

  it("refuses numbers that are no mechanism, all at once", () => {
    const wrong = [{ samplingRate: 2, noiseMultiplier: -1, steps: 1.5 }];
    expect(() => rdpEpsilon(wrong, Number.NaN)).toThrow(
      expect.objectContaining({
        code: "bad-option",
        message: expect.stringMatching(/sampling rate[\s\S]*noise multiplier[\s\S]*steps[\s\S]*delta/),
      }),
    );
    for (const samplingRate of [0, -0.1, Number.NaN]) {
      expect(() => rdpEpsilon([{ samplingRate, noiseMultiplier: 1, steps: 1 }], 1e-5)).toThrow(/sampling rate/);
    }
    for (const delta of [0, 1, -1, Infinity]) expect(() => rdpEpsilon([], delta)).toThrow(/delta/);
  });
});
