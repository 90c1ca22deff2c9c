import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { roundToPowers } from "../io/packed/index.ts";
import { type BinaryCode, type BinaryCodeOptions, createBinaryCoder } from "./binary-code.ts";

const a = Float64Array.of(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 2.0);
const b = Float64Array.of(2, 0.1, 0.2, -0.1, 0.3, -0.2, 0.15, -1.8);
const c = Float64Array.of(0.9, -0.4, 0.1, 0.35, -1.2, 0.6, -0.05, 0.75);

function code(weights: Float64Array, options: Partial<BinaryCodeOptions>): BinaryCode {
  return createBinaryCoder({ bits: 2, rounds: 50, terms: 0, ...options })(weights);
}

/** Signs of a plane as text. */
function plane({ codes }: BinaryCode, i: number): string {
  return [...codes].map((value) => ((value >> i) & 1 ? "+" : "-")).join("");
}

function expectAlpha({ alpha }: BinaryCode, expected: readonly number[]): void {
  expect(alpha.length).toBe(expected.length);
  expected.forEach((value, i) => {
    expect(alpha[i]).toBeCloseTo(value, 9);
  });
}

// The expected numbers are those of a float64 reference of the paper's Algorithm 1.
describe("binary codes", () => {
  it("start greedily and fall to a fixed point", () => {
    const start = code(a, { rounds: 0 });
    expectAlpha(start, [0.6, 0.375]);
    expect(code(a, { rounds: 1 }).error).toBeCloseTo(0.72, 9);
    expectAlpha(code(a, { rounds: 1 }), [0.85, 0.5]);
    const fixed = code(a, {});
    expectAlpha(fixed, [1.2, 0.8]);
    expect(fixed.error).toBeCloseTo(0.28, 9);
  });

  it("find scales out of order, and sort them", () => {
    const one = code(b, { rounds: 1 });
    expectAlpha(one, [1.0375, 0.8625]);
    expect(one.error).toBeCloseTo(0.04875, 9);
    expect([plane(one, 0), plane(one, 1)]).toEqual(["+++-+-+-", "+--+-+--"]);
    expect(code(b, {}).error).toBeCloseTo(0.04875, 9);
  });

  it.each([
    [3, [1.1875, 0.8125], 0.284375],
    [2, [1.25, 0.75], 0.35],
  ])("with %i powers of two in a scale", (terms, alpha, error) => {
    const found = code(a, { terms });
    expectAlpha(found, alpha);
    expect(found.error).toBeCloseTo(error, 9);
  });

  it("keep the best iterate where rounding makes errors rise", () => {
    expect(code(a, { terms: 1 }).error).toBeCloseTo(0.6, 9);
    const last = code(a, { terms: 1, iterate: "last" });
    expectAlpha(last, [1, 1]);
    expect(last.error).toBeCloseTo(1.4, 9);
  });

  it.each([
    [b, { terms: 3 }, [1.0390625, 0.859375], 0.048887],
    [b, { terms: 2 }, [1.03125, 0.875], 0.050938],
    [c, {}, [0.54375, 0.31875], 0.289375],
    [c, { terms: 3 }, [0.546875, 0.3203125], 0.289473],
    [c, { terms: 1 }, [0.5, 0.25], 0.3425],
    [c, { bits: 3 }, [0.54375, 0.31875, 0.16875], 0.061563],
    [c, { bits: 1 }, [0.54375], 1.102188],
  ] as const)("agree with the reference: case %#", (weights, options, alpha, error) => {
    const found = code(weights, options);
    expectAlpha(found, alpha);
    expect(Math.abs(found.error - error)).toBeLessThan(1e-6);
  });

  it("have these planes on orthogonal signs", () => {
    const found = code(c, { bits: 3 });
    expect([0, 1, 2].map((i) => plane(found, i))).toEqual(["+-++-+-+", "++---+++", "+--+--+-"]);
  });

  it("are exact and finite on degenerate groups", () => {
    expect(code(new Float64Array(8), {})).toMatchObject({ alpha: Float64Array.of(0, 0), error: 0 });
    const constant = code(new Float64Array(8).fill(0.5), {});
    expectAlpha(constant, [0.5, 0]);
    expect(constant.error).toBe(0);
    const uniform = code(Float64Array.of(-1.5, -0.5, 0.5, 1.5, -1.5, -0.5, 0.5, 1.5), {});
    expectAlpha(uniform, [1, 0.5]);
    expect(uniform.error).toBeCloseTo(0, 12);
    expect(code(Float64Array.of(0.7), { bits: 4, terms: 3 }).error).toBeLessThan(1e-3);
  });

  const vectors = fc
    .array(fc.integer({ min: -4000, max: 4000 }), { minLength: 1, maxLength: 24 })
    .map((values) => Float64Array.from(values, (value) => value / 1000));

  it("never get worse by a round while scales are floats", () => {
    fc.assert(
      fc.property(vectors, fc.integer({ min: 2, max: 4 }), (weights, bits) => {
        let before = Number.POSITIVE_INFINITY;
        for (let rounds = 1; rounds < 8; rounds++) {
          const { error } = code(weights, { bits, rounds, iterate: "last" });
          expect(error).toBeLessThanOrEqual(before * (1 + 1e-9) + 1e-12);
          before = error;
        }
      }),
      { numRuns: 60 },
    );
  });

  it("scale with powers of two, codes unchanged, and are what is stored", () => {
    fc.assert(
      fc.property(vectors, fc.integer({ min: 1, max: 3 }), fc.integer({ min: -6, max: 6 }), (weights, terms, power) => {
        const found = code(weights, { bits: 3, terms, rounds: 10 });
        // A plane that has nothing left but rounding noise may fall below 2⁻⁶³, where what can be stored ends.
        fc.pre(found.alpha.every((scale) => scale === 0 || Math.abs(scale) > 2 ** -50));
        const scaled = code(
          weights.map((w) => w * 2 ** power),
          { bits: 3, terms, rounds: 10 },
        );
        expect(scaled.alpha).toEqual(found.alpha.map((scale) => scale * 2 ** power));
        expect(scaled.codes).toEqual(found.codes);
        for (const scale of found.alpha) expect(roundToPowers(scale, terms)).toBe(scale);
      }),
      { numRuns: 100 },
    );
  });
});
