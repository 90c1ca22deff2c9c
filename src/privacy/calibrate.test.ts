import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { calibrateNoise } from "./calibrate.ts";
import { prvEpsilon } from "./prv.ts";
import { rdpEpsilon } from "./rdp.ts";

const golden = JSON.parse(
  readFileSync(new URL("../../tests/fixtures/privacy-accountant.json", import.meta.url), "utf8"),
) as {
  calibrated: { epsilon: number; delta: number; q: number; steps: number; rdp_sigma: number; prv_sigma: number }[];
};
const spent = (samplingRate: number, noiseMultiplier: number, steps: number, delta: number): number =>
  rdpEpsilon([{ samplingRate, noiseMultiplier, steps }], delta).epsilon;

describe("the noise that a budget takes", () => {
  it("is the specification's (§6.2), by Rényi differential privacy", () => {
    const at = (epsilon: number): number =>
      calibrateNoise({ epsilon, delta: 1e-5, samplingRate: 0.01, steps: 500, accountant: "rdp" });
    expect(Math.abs(at(6) - 0.62958)).toBeLessThan(1e-5);
    expect(Math.abs(at(3) - 0.79795)).toBeLessThan(1e-5);
  });

  it("is Opacus's, by the distribution of the privacy loss, and a little less where Opacus stops searching", () => {
    const table = [
      [6, 0.01, 500, 0.59387],
      [3, 0.01, 1000, 0.81543],
      [3, 0.05, 500, 1.77246],
      [6, 1 / 512, 500, 0.44128],
      [3, 1 / 512, 500, 0.54199],
    ] as const; // §6.2; Opacus stops within 0.01 of epsilon
    for (const [epsilon, samplingRate, steps, opacus] of table) {
      const noise = calibrateNoise({ epsilon, delta: 1e-5, samplingRate, steps, accountant: "prv" });
      const spends = (noiseMultiplier: number) => [{ samplingRate, noiseMultiplier, steps }];
      expect(noise).toBeLessThanOrEqual(opacus + 1e-5);
      expect(noise).toBeGreaterThan(0.997 * opacus);
      expect(prvEpsilon(spends(noise), 1e-5).epsilon).toBeLessThanOrEqual(epsilon);
      expect(prvEpsilon(spends(noise * (1 - 3e-5)), 1e-5).epsilon).toBeGreaterThan(epsilon);
    }
    for (const { epsilon, delta, q, steps, rdp_sigma, prv_sigma } of golden.calibrated.slice(2)) {
      for (const [accountant, opacus] of [
        ["rdp", rdp_sigma],
        ["prv", prv_sigma],
      ] as const) {
        const noise = calibrateNoise({ epsilon, delta, samplingRate: q, steps, accountant });
        expect(noise).toBeLessThanOrEqual(opacus + 1e-5);
        expect(noise).toBeGreaterThan(0.99 * opacus);
      }
    }
  });

  it("falls with epsilon, and grows with the rate and the steps", () => {
    for (const accountant of ["rdp", "prv"] as const) {
      const at = (change: object): number =>
        calibrateNoise({ epsilon: 4, delta: 1e-5, samplingRate: 0.02, steps: 100, accountant, ...change });
      expect(at({ epsilon: 5 })).toBeLessThan(at({}));
      expect(at({ samplingRate: 0.03 })).toBeGreaterThan(at({}));
      expect(at({ steps: 150 })).toBeGreaterThan(at({}));
      expect(at({ delta: 1e-6 })).toBeGreaterThan(at({}));
    }
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
