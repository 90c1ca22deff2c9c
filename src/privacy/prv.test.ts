import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { erfc } from "./erfc.ts";
import { prvEpsilon } from "./prv.ts";
import { rdpEpsilon } from "./rdp.ts";
import type { Spend } from "./spend.ts";

interface Mechanism {
  readonly q: number;
  readonly sigma: number;
  readonly steps: number;
}
const golden = JSON.parse(
  readFileSync(new URL("../../tests/fixtures/privacy-accountant.json", import.meta.url), "utf8"),
) as {
  rows: (Mechanism & { delta: number; prv_upper: number })[];
  mixed: { history: Mechanism[]; delta: number; prv_upper: number }[];
};
const spend = ({ q, sigma, steps }: Mechanism): Spend => ({ samplingRate: q, noiseMultiplier: sigma, steps });
const tail = (z: number): number => erfc(z / Math.SQRT2) / 2;

/** Where a falling function crosses a target. */
function crossing(valueAt: (x: number) => number, target: number): number {
  let [low, high] = [0, 200];
  while (high - low > 1e-12) {
    const middle = (low + high) / 2;
    if (valueAt(middle) > target) low = middle;
    else high = middle;
  }
  return high;
}

/** Epsilon of one step, from the two distributions themselves: the worse of removing and adding an example. */
function exactOfOneStep(q: number, sigma: number, delta: number): number {
  const xAt = (t: number): number => sigma ** 2 * Math.log(Math.max(0, (Math.exp(t) + q - 1) / q)) + 0.5;
  const removal = (epsilon: number): number => {
    const x = xAt(epsilon);
    return (1 - q) * tail(x / sigma) + q * tail((x - 1) / sigma) - Math.exp(epsilon) * tail(x / sigma);
  };
  const addition = (epsilon: number): number => {
    const x = xAt(-epsilon);
    return tail(-x / sigma) - Math.exp(epsilon) * ((1 - q) * tail(-x / sigma) + q * tail((1 - x) / sigma));
  };
  return Math.max(crossing(removal, delta), crossing(addition, delta));
}

/**
 * Bounds of epsilon from losses that are rounded up, or down, to a coarse mesh and convolved by the plain sum: sure, and loose.
 */
function sureBounds({ q, sigma, steps }: Mechanism, delta: number, width: number): { lower: number; upper: number } {
  const below = (t: number): number => {
    const power = (Math.exp(t) + q - 1) / q;
    if (power <= 0) return 0;
    const x = sigma ** 2 * Math.log(power) + 0.5;
    return (1 - q) * tail(-x / sigma) + q * tail((1 - x) / sigma);
  };
  const half = Math.ceil(6 / width);
  const cells = Array.from({ length: 2 * half }, (_, i) => below((i - half + 1) * width) - below((i - half) * width));
  let sum = [1];
  for (let step = 0; step < steps; step++) {
    const next = new Array<number>(sum.length + cells.length - 1).fill(0);
    for (const [i, a] of sum.entries()) for (const [j, b] of cells.entries()) next[i + j] = (next[i + j] ?? 0) + a * b;
    sum = next;
  }
  const beyond = steps * (1 - below(half * width) + below(-half * width));
  const epsilonAt = (up: boolean): number => {
    const shift = (up ? steps : 0) - half * steps;
    const deltaAt = (epsilon: number): number =>
      (up ? beyond : 0) +
      sum.reduce((total, p, i) => total + p * Math.max(0, 1 - Math.exp(epsilon - (i + shift) * width)), 0);
    let [low, high] = [0, 20];
    for (let i = 0; i < 40; i++) {
      const middle = (low + high) / 2;
      if (deltaAt(middle) > delta) low = middle;
      else high = middle;
    }
    return up ? high : low;
  };
  return { lower: epsilonAt(false), upper: epsilonAt(true) };
}

describe("what DP-SGD costs by the distribution of the privacy loss", () => {
  it("is what Opacus says: never more than 0.011 from its upper end", () => {
    const large = golden.rows.filter((row) => row.prv_upper >= 20);
    const rows = [...golden.rows.filter((row) => row.prv_upper < 20), ...large.slice(0, 2)]; // a mesh of millions each
    expect(rows.length).toBeGreaterThan(50);
    for (const row of rows) {
      const { epsilon, lower, estimate } = prvEpsilon([spend(row)], row.delta);
      expect(Math.abs(epsilon - row.prv_upper), JSON.stringify(row)).toBeLessThan(0.011);
      // Where the mesh is as fine as Opacus's it is the same to six digits.
      if (row.prv_upper < 100) expect(Math.abs(epsilon - row.prv_upper), JSON.stringify(row)).toBeLessThan(2e-5);
      expect(estimate).toBeGreaterThanOrEqual(lower);
      expect(epsilon).toBeGreaterThan(estimate);
    }
  });

  it("is what Opacus says of steps that differ, in any order and cut in any way", () => {
    for (const { history, delta, prv_upper } of golden.mixed) {
      const spends = history.map(spend);
      const { epsilon } = prvEpsilon(spends, delta);
      expect(Math.abs(epsilon - prv_upper)).toBeLessThan(2e-5);
      expect(prvEpsilon([...spends].reverse(), delta).epsilon).toBeCloseTo(epsilon, 8);
      const cut = spends.flatMap((one) => [
        { ...one, steps: 1 },
        { ...one, steps: one.steps - 1 },
      ]);
      expect(prvEpsilon(cut, delta).epsilon).toBeCloseTo(epsilon, 8);
    }
  });

  it("is the table of the specification (§6.2)", () => {
    const table = [
      [0.01, 1.1, 1000, 1.525],
      [0.05, 1.0, 100, 3.512],
      [0.1, 2.0, 500, 5.566],
      [0.032, 0.9, 300, 4.529],
    ] as const;
    for (const [q, sigma, steps, upper] of table) {
      expect(Math.abs(prvEpsilon([spend({ q, sigma, steps })], 1e-5).epsilon - upper)).toBeLessThan(6e-4);
    }
  });

  it("holds the truth between its ends, where the truth is a formula: whole batches", () => {
    for (const steps of [1, 17, 1000, 10_000]) {
      for (const mu of [0.3, 1, 3]) {
        const truth = crossing(
          (epsilon) => tail(epsilon / mu - mu / 2) - Math.exp(epsilon) * tail(epsilon / mu + mu / 2),
          1e-5,
        );
        const found = prvEpsilon([{ samplingRate: 1, noiseMultiplier: Math.sqrt(steps) / mu, steps }], 1e-5);
        expect(found.lower).toBeLessThan(truth);
        expect(found.epsilon).toBeGreaterThan(truth);
        expect(Math.abs(found.estimate - truth)).toBeLessThan(5e-5);
        expect(found.epsilon - truth).toBeLessThan(0.011);
      }
    }
  });

  it("holds the truth between its ends for one step, removed or added", () => {
    const one = fc.record({
      q: fc.double({ min: 1e-4, max: 0.999, noNaN: true }),
      sigma: fc.double({ min: 0.3, max: 10, noNaN: true }),
      delta: fc.double({ min: 1e-7, max: 1e-2, noNaN: true }),
    });
    fc.assert(
      fc.property(one, ({ q, sigma, delta }) => {
        const truth = exactOfOneStep(q, sigma, delta);
        const found = prvEpsilon([spend({ q, sigma, steps: 1 })], delta);
        expect(found.lower).toBeLessThanOrEqual(truth);
        expect(found.epsilon).toBeGreaterThanOrEqual(truth);
        expect(found.epsilon - truth).toBeLessThan(0.0205);
      }),
      { numRuns: 40 },
    );
  });

  it("holds the truth between its ends for several steps, by sums that are rounded up and down", () => {
    for (const mechanism of [
      { q: 0.1, sigma: 1, steps: 6 },
      { q: 0.4, sigma: 2, steps: 5 },
      { q: 0.02, sigma: 0.7, steps: 6 },
    ]) {
      const sure = sureBounds(mechanism, 1e-4, 0.01);
      const found = prvEpsilon([spend(mechanism)], 1e-4);
      expect(found.epsilon).toBeGreaterThanOrEqual(sure.lower);
      expect(found.lower).toBeLessThanOrEqual(sure.upper);
      expect(sure.upper - sure.lower).toBeLessThan(0.1);
      expect(found.estimate).toBeGreaterThan(sure.lower);
      expect(found.estimate).toBeLessThan(sure.upper);
    }
  });

  it("grows with steps, rate and delta's smallness, falls with noise, and is at most what Rényi's way says", () => {
    const mechanism = fc.record({
      q: fc.double({ min: 1e-3, max: 0.2, noNaN: true }),
      sigma: fc.double({ min: 0.8, max: 8, noNaN: true }),
      steps: fc.integer({ min: 1, max: 100 }),
      more: fc.double({ min: 1.01, max: 2, noNaN: true }),
    });
    fc.assert(
      fc.property(mechanism, ({ q, sigma, steps, more }) => {
        const of = (change: Partial<Mechanism>, delta = 1e-5): number =>
          prvEpsilon([spend({ q, sigma, steps, ...change })], delta).epsilon;
        // What is said is the upper end of an interval, which the mesh moves by some 1e-4: the truth is above the lower end.
        const { lower: least, epsilon } = prvEpsilon([spend({ q, sigma, steps })], 1e-5);
        expect(of({ q: q * more })).toBeGreaterThanOrEqual(least);
        expect(of({ sigma: sigma / more })).toBeGreaterThanOrEqual(least);
        expect(of({ steps: Math.ceil(steps * more) })).toBeGreaterThanOrEqual(least);
        expect(of({}, 1e-5 / more)).toBeGreaterThanOrEqual(least);
        expect(
          prvEpsilon([spend({ q, sigma, steps }), spend({ q: q / more, sigma, steps: 3 })], 1e-5).epsilon,
        ).toBeGreaterThanOrEqual(least);
        expect(epsilon).toBeLessThan(rdpEpsilon([spend({ q, sigma, steps })], 1e-5).epsilon + 0.0102);
      }),
      { numRuns: 10, examples: [[{ q: 0.001, sigma: 2.3886879800188674, steps: 2, more: 1.01 }]] },
    );
  });

  it("is nothing for no step, infinite without noise, and an upper end where the mesh is too coarse", () => {
    expect(prvEpsilon([], 1e-5)).toEqual({ epsilon: 0, lower: 0, estimate: 0 });
    expect(prvEpsilon([{ samplingRate: 0.1, noiseMultiplier: 0, steps: 1 }], 1e-5).epsilon).toBe(Infinity);
    const loud = prvEpsilon([spend({ q: 0.5, sigma: 0.25, steps: 30 })], 1e-5);
    expect(loud.epsilon).toBeGreaterThan(loud.lower);
    expect(loud.lower).toBeLessThan(rdpEpsilon([spend({ q: 0.5, sigma: 0.25, steps: 30 })], 1e-5).epsilon);
    const quiet = prvEpsilon([spend({ q: 1e-4, sigma: 50, steps: 10 })], 1e-5);
    expect(quiet.epsilon).toBeLessThan(0.0101);
  });

  it("refuses numbers that are no mechanism, and a delta that rounding hides", () => {
    expect(() => prvEpsilon([{ samplingRate: 2, noiseMultiplier: -1, steps: 1.5 }], 2)).toThrow(
      expect.objectContaining({
        code: "bad-option",
        message: expect.stringMatching(/sampling rate[\s\S]*noise multiplier[\s\S]*steps[\s\S]*delta/),
      }),
    );
    expect(() => prvEpsilon([spend({ q: 0.01, sigma: 1, steps: 1000 })], 1e-12)).toThrow(
      expect.objectContaining({ code: "delta-too-small" }),
    );
  });
});
