import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { calibrateNoise } from "./calibrate.ts";
import { rdpEpsilon } from "./rdp.ts";

const spent = (samplingRate: number, noiseMultiplier: number, steps: number, delta: number): number =>
  rdpEpsilon([{ samplingRate, noiseMultiplier, steps }], delta).epsilon;

describe("the noise that a budget takes", () => {
  it("is the specification's (§6.2), by Rényi differential privacy", () => {
    const at = (epsilon: number): number =>
      calibrateNoise({ epsilon, delta: 1e-5, samplingRate: 0.01, steps: 500, accountant: "rdp" });
    expect(Math.abs(at(6) - 0.62958)).toBeLessThan(1e-5);
    expect(Math.abs(at(3) - 0.79795)).toBeLessThan(1e-5);
  });

  it("keeps to the budget, and a little less noise would not", () => {
    const asked = fc.record({
      epsilon: fc.double({ min: 0.3, max: 50, noNaN: true }),
      samplingRate: fc.double({ min: 1e-3, max: 1, noNaN: true }),
      steps: fc.integer({ min: 1, max: 3000 }),
    });
    fc.assert(
      fc.property(asked, ({ epsilon, samplingRate, steps }) => {
        const noise = calibrateNoise({ epsilon, delta: 1e-5, samplingRate, steps, accountant: "rdp" });
        expect(spent(samplingRate, noise, steps, 1e-5)).toBeLessThanOrEqual(epsilon);
        expect(spent(samplingRate, noise * (1 - 3e-5), steps, 1e-5)).toBeGreaterThan(epsilon);
      }),
      { numRuns: 15 },
    );
  });

  it("refuses what no noise reaches, and what is no budget", () => {
    const budget = { epsilon: 1, delta: 1e-5, samplingRate: 0.1, steps: 100, accountant: "rdp" } as const;
    expect(() => calibrateNoise({ ...budget, epsilon: 1e-3 })).toThrow(
      expect.objectContaining({ code: "budget-too-small" }),
    );
    for (const epsilon of [0, -1, Number.NaN, Infinity]) {
      expect(() => calibrateNoise({ ...budget, epsilon })).toThrow(expect.objectContaining({ code: "bad-option" }));
    }
    expect(() => calibrateNoise({ ...budget, delta: 0, samplingRate: 0, steps: 0 })).toThrow(
      /delta[\s\S]*sampling rate[\s\S]*steps/,
    );
  });
});
