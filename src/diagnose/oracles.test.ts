import { describe, expect, it } from "vitest";
import {
  createRng,
  diagonalPlus,
  type Matrix,
  matmul,
  matrix,
  qr,
  svd,
  toFloat64,
  transposed,
} from "../linalg/index.ts";
import { memoryCache } from "./base-svd.ts";
import { examine } from "./diagnose.ts";
import type { LowRank, MatrixPair } from "./pairs.ts";
import { localProducts, sum } from "./products.ts";
import { chanceLevel, type DiagnosisSettings, diagnosisDefaults } from "./settings.ts";
import { certifiedSpectrum, exactSpectrum, rotatedSpectrum } from "./spectrum.ts";
import { effectiveRank, factorise, measureDense, measureFactors } from "./update.ts";

const diagonal = (...values: number[]): Matrix<Float64Array> =>
  matrix(values.map((value, i) => values.map((_, j) => (i === j ? value : 0))));

/** Cosines and singular values of a tuned matrix against its base, exactly. */
const cosines = (base: Matrix, tuned: Matrix, k = 10): ReturnType<typeof exactSpectrum> =>
  exactSpectrum(svd(base), tuned, { k });

const count = (base: Matrix, tuned: Matrix, eps: number, k = 10): number =>
  cosines(base, tuned, k).maxCos.filter((value) => value < eps).length;

const near = (found: ArrayLike<number>, expected: readonly number[], digits = 6): void => {
  expect(found.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(found[i]).toBeCloseTo(value, digits - 1);
};

// Specification §7.1: diag(8, …, 1) and a planted direction that is like none of its vectors.
const W0 = diagonal(8, 7, 6, 5, 4, 3, 2, 1);
const planted = (strength: number): LowRank => ({
  left: { rows: 8, cols: 1, data: new Float64Array(8).fill(strength / Math.sqrt(8)) },
  right: { rows: 1, cols: 8, data: Float64Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? 1 : -1) / Math.sqrt(8)) },
});
const tunedBy = ({ left, right }: LowRank, base: Matrix = W0): Matrix<Float64Array> => sum(base, matmul(left, right));

describe("a planted intruder, 8×8 (numpy)", () => {
  const tuned = tunedBy(planted(30));

  it("has numpy's singular values and cosines, on both sides", () => {
    near([tuned.data[0] ?? 0, tuned.data[9] ?? 0], [11.75, 3.25], 12);
    const { sigma, maxCos } = cosines(W0, tuned);
    near(sigma, [31.333812, 7.276096, 6.443597, 5.090635, 4.299172, 2.930413, 2.161326, 0.27314]);
    const expected = [0.448316, 0.842714, 0.914483, 0.720154, 0.835996, 0.709695, 0.763519, 0.7112];
    near(maxCos, expected);
    near(cosines(transposed(W0), transposed(tuned)).maxCos, expected);
  });

  it("counts by eps and k as numpy does", () => {
    for (const [eps, expected] of Object.entries({
      0.4: 0,
      0.45: 1,
      0.5: 1,
      0.7: 1,
      0.75: 4,
      0.8: 5,
      0.85: 7,
      0.9: 7,
      0.95: 8,
    }))
      expect([eps, count(W0, tuned, Number(eps))]).toEqual([eps, expected]);
    for (const eps of [0.45, 0.5, 0.9]) expect(count(W0, tuned, eps, 1)).toBe(1);
    expect([count(W0, tuned, 0.85, 2), count(W0, tuned, 0.75, 4)]).toEqual([2, 2]);
  });

  it.each([[1, 0.996422], [4, 0.914446], [8, 0.721208], [12, 0.60269], [20, 0.499248], [40, 0.423567]])(
    "strength %d: the first cosine is %d",
    (strength, expected) => {
      const { maxCos } = cosines(W0, tunedBy(planted(strength)));
      expect(maxCos[0]).toBeCloseTo(expected, 5);
      if (strength < 20) expect(maxCos.filter((value) => value < 0.5)).toEqual([]);
    },
  ); // biome-ignore format: a table

  it("has the effective ranks of numpy", async () => {
    expect(effectiveRank(svd(W0).S)).toBeCloseTo(6.936504, 6);
    expect(effectiveRank([3, 1])).toBeCloseTo(1.754765, 6);
    expect(effectiveRank([1, 1, 1, 1])).toBeCloseTo(4, 12);
    const measures = measureFactors(planted(30));
    expect(measures).toMatchObject({ rank: 1 });
    near([measures.spectral, measures.frobenius, measures.effectiveRank ?? 0], [30, 30, 1], 9);
    const dense = await measureDense(W0, localProducts);
    near([dense.spectral, dense.effectiveRank ?? 0], [8, 6.936504]);
  });

  it("is found by all three methods alike", async () => {
    const pair: MatrixPair = {
      name: "w",
      module: "w",
      rows: 8,
      cols: 8,
      part: undefined,
      base: async () => ({ ...W0, data: Float32Array.from(W0.data) }),
      tuned: async () => tuned,
      update: () => planted(30),
    };
    for (const method of ["exact", "rotated", "auto"] as const) {
      const settings: DiagnosisSettings = { ...diagnosisDefaults, method };
      const { diagnosis } = await examine(pair, settings, { products: localProducts, cache: memoryCache() });
      expect([method, diagnosis.intruders]).toEqual([method, [0]]);
      expect(diagnosis.update).toMatchObject({ rank: 1 });
      expect(diagnosis.gap).toBeCloseTo(1, 5);
      expect(diagnosis.update.toGap).toBeCloseTo(30, 4);
    }
  });
});

describe("what is no intruder (§7.2)", () => {
  it("is a matrix that is rescaled, reordered, negated, or left alone", () => {
    for (const tuned of [
      diagonal(8.4, 7.2, 5.7, 5.1, 4.1, 2.8, 2.1, 0.9),
      diagonal(1, 2, 3, 4, 5, 6, 7, 8),
      diagonal(-8, -7, -6, -5, -4, -3, -2, -1),
      W0,
    ]) {
      for (const value of cosines(W0, tuned).maxCos) expect(value).toBeCloseTo(1, 12);
    }
  });

  it("turns two vectors by 45°: half the way is no intruder at 0.5", () => {
    const c = Math.SQRT1_2;
    const turn = matrix(
      Array.from({ length: 8 }, (_, i) =>
        Array.from({ length: 8 }, (__, j) => (i < 2 && j < 2 ? (i === j ? c : i < j ? -c : c) : i === j ? 1 : 0)),
      ),
    );
    const tuned = matmul(turn, W0);
    near(cosines(W0, tuned).maxCos, [c, c, 1, 1, 1, 1, 1, 1]);
    expect([count(W0, tuned, 0.8), count(W0, tuned, 0.5)]).toEqual([2, 0]);
    for (const value of cosines(transposed(W0), transposed(tuned)).maxCos) expect(value).toBeCloseTo(1, 10);
  });
});

describe("a wide matrix (§7.3)", () => {
  const wide = matrix([4, 3, 2, 1].map((value, i) => Array.from({ length: 6 }, (_, j) => (i === j ? value : 0))));
  const update: LowRank = {
    left: { rows: 4, cols: 1, data: new Float64Array(4).fill(5) },
    right: { rows: 1, cols: 6, data: Float64Array.from([0, 0, 0, 0, 1, 0]) },
  };
  const left = [0.54357, 0.817509, 0.690013, 0.814591];
  const right = [0.209385, 0.894906, 0.805738, 0.747568];

  it("has different cosines on the left and on the right, which turning it over swaps", () => {
    const tuned = tunedBy(update, wide);
    const { sigma, maxCos } = cosines(wide, tuned);
    near(sigma, [10.384107, 3.654054, 2.56912, 1.489243]);
    near(maxCos, left);
    near(cosines(transposed(wide), transposed(tuned)).maxCos, right);
    expect([count(wide, tuned, 0.6), count(transposed(wide), transposed(tuned), 0.6)]).toEqual([1, 1]);
  });

  it("is the same rotated, wide and tall", async () => {
    const options = { k: 10, eps: 0.6, products: localProducts };
    near((await rotatedSpectrum(svd(wide), update, options))?.maxCos ?? [], left);
    const over = { left: transposed(update.right), right: transposed(update.left) };
    near((await rotatedSpectrum(svd(transposed(wide)), over, options))?.maxCos ?? [], right);
  });
});

/** Entries N(0, 1/cols), as §7.4 has them. */
function gaussian(rows: number, cols: number, seed: number): Matrix<Float64Array> {
  const rng = createRng(seed, "gaussian", rows, cols);
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, () => rng.normal() / Math.sqrt(cols)) };
}

function spike(n: number, strength: number, seed: number): LowRank {
  const left = qr(gaussian(n, 1, seed + 1000)).Q;
  const right = transposed(qr(gaussian(n, 1, seed + 2000)).Q);
  return { left: { ...left, data: left.data.map((value) => value * strength) }, right };
}

describe("planted spikes on Gaussian matrices, n = 128, ten seeds (I1, §7.4)", () => {
  const bases = Array.from({ length: 10 }, (_, seed) => gaussian(128, 128, seed));
  const decomposed = bases.map((base) => svd(base));
  const rotated = async (
    strength: number,
    seed: number,
  ): Promise<NonNullable<Awaited<ReturnType<typeof rotatedSpectrum>>>> => {
    const base = decomposed[seed];
    const found =
      base && (await rotatedSpectrum(base, spike(128, strength, seed), { k: 10, eps: 0.5, products: localProducts }));
    if (!found) throw new Error("it does not settle");
    return found;
  };

  it("of half the bulk's strength leave nothing", async () => {
    for (let seed = 0; seed < 10; seed++) {
      for (const strength of [0.2, 0.5]) {
        expect((await rotated(strength, seed)).maxCos.filter((value) => value < 0.5)).toEqual([]);
      }
    }
  });

  it("of two, three and five times it leave exactly one, where random matrix theory has it", async () => {
    const sigmas: number[] = [];
    const along: number[] = [];
    for (let seed = 0; seed < 10; seed++) {
      expect((await rotated(2, seed)).maxCos.filter((value) => value < 0.5).length).toBe(1);
      const three = await rotated(3, seed);
      expect(three.maxCos.flatMap((value, j) => (value < 0.5 ? [j] : []))).toEqual([0]);
      sigmas.push(three.sigma[0] ?? 0);
      const u = spike(128, 1, seed).left;
      along.push(Math.abs(matmul(u, three.vectors().U, { transA: true }).data[0] ?? 0));
      const five = await rotated(5, seed);
      expect(five.maxCos.filter((value) => value < 0.5).length).toBe(1);
      expect(five.sigma[0]).toBeCloseTo(5.2, 0);
    }
    const mean = (values: readonly number[]): number =>
      values.reduce((total, value) => total + value, 0) / values.length;
    expect(mean(sigmas)).toBeCloseTo(3 + 1 / 3, 1); // t + 1/t
    expect(mean(along)).toBeCloseTo(Math.sqrt(1 - 1 / 9), 1.5); // √(1 − 1/t²)
  });
});

describe("the three methods", () => {
  // Decaying spectra, as trained weights have them; Gaussian ones have no leading vectors to speak of.
  const trained = (rows: number, cols: number, seed: number): Matrix<Float32Array> => {
    const q = Math.min(rows, cols);
    const left = qr(gaussian(rows, q, seed)).Q;
    const right = qr(gaussian(cols, q, seed + 1)).Q;
    const values = Float64Array.from({ length: q }, (_, i) => 6 * (1 + i) ** -0.5);
    const scaled = { ...left, data: left.data.map((value, i) => value * (values[i % q] ?? 0)) };
    return { rows, cols, data: Float32Array.from(matmul(scaled, right, { transB: true }).data) };
  };

  it.each([
    [160, 160, 4],
    [160, 160, 8],
    [240, 120, 16],
    [120, 240, 8],
  ])("find the same intruders in [%d, %d] with a random update of rank %d", async (rows, cols, rank) => {
    const base = trained(rows, cols, rank);
    const rng = createRng(rank, "update", rows);
    const strengths = Array.from({ length: rank }, (_, i) => (i % 2 === 0 ? 5 : 0.2) * (1 + rng.uniform()));
    const left = qr(gaussian(rows, rank, 11)).Q;
    const update: LowRank = {
      left: { ...left, data: left.data.map((value, i) => value * (strengths[i % rank] ?? 0)) },
      right: transposed(qr(gaussian(cols, rank, 12)).Q),
    };
    const options = { k: 10, eps: 0.5, products: localProducts };
    const exact = exactSpectrum(svd(toFloat64(base)), tunedBy(update, base), options);
    const single = svd(base); // float32, as the cache holds it
    const rotated = await rotatedSpectrum(single, update, options);
    const certified = await certifiedSpectrum(base, update, options);
    const dense = await certifiedSpectrum(base, tunedBy(update, base), options);
    const intruders = (values: readonly number[] = []): number[] =>
      values.flatMap((value, j) => (value < 0.5 ? [j] : []));
    expect(intruders(exact.maxCos).length).toBeGreaterThan(0);
    expect(intruders(rotated?.maxCos)).toEqual(intruders(exact.maxCos));
    for (const found of [certified, dense]) {
      expect(intruders(found?.bound)).toEqual(intruders(exact.maxCos));
      for (const [j, value] of exact.maxCos.entries()) {
        const [low, high] = [found?.maxCos[j] ?? 0, found?.bound[j] ?? 0];
        expect(low).toBeLessThan(value + 1e-5);
        expect(high).toBeGreaterThan(value - 1e-5);
        if (low === high) expect(low).toBeCloseTo(value, 5);
      }
    }
    for (const [j, value] of exact.maxCos.entries()) expect(rotated?.maxCos[j]).toBeCloseTo(value, 5);
    for (const [j, value] of exact.sigma.entries()) expect(certified?.sigma[j]).toBeCloseTo(value, 5);
    // Each gives the vectors themselves, up to a sign.
    const tuned = tunedBy(update, base);
    for (const found of [exact, rotated, certified]) {
      const { U, Vt } = found?.vectors() ?? { U: tuned, Vt: tuned };
      const values = matmul(matmul(U, tuned, { transA: true }), Vt, { transB: true });
      for (const [j, value] of exact.sigma.entries()) expect(values.data[j * values.cols + j]).toBeCloseTo(value, 4);
    }
  });

  it("find the factors of an update that has few directions, whatever rounding left in merged weights", async () => {
    const base = trained(160, 128, 1);
    const update = { left: gaussian(160, 5, 2), right: gaussian(5, 128, 3) };
    const merged = Float32Array.from(tunedBy(update, base).data);
    const change = { rows: 160, cols: 128, data: Float64Array.from(merged, (value, i) => value - (base.data[i] ?? 0)) };
    const found = await factorise(change, localProducts, { size: 2, most: 32 });
    expect(found?.left.cols).toBe(5);
    const back = found && matmul(found.left, found.right);
    for (let i = 0; i < 160 * 128; i += 97) expect(back?.data[i]).toBeCloseTo(change.data[i] ?? 0, 5);
    expect(await factorise(gaussian(160, 128, 9), localProducts, { size: 2, most: 32 })).toBeUndefined();
    const none = await factorise({ ...change, data: new Float64Array(160 * 128) }, localProducts, {
      size: 2,
      most: 32,
    });
    expect(none?.left.cols).toBe(0);
  });
});

describe("properties (§7.5)", () => {
  const base = gaussian(24, 24, 4);
  const tuned = tunedBy({ left: gaussian(24, 3, 5), right: gaussian(3, 24, 6) }, base);

  it("do not change with the coordinates, a common factor or signs", () => {
    const { maxCos } = cosines(base, tuned);
    const [Q1, Q2] = [qr(gaussian(24, 24, 7)).Q, qr(gaussian(24, 24, 8)).Q];
    const turn = (w: Matrix<Float64Array>): Matrix<Float64Array> => matmul(matmul(Q1, w), Q2);
    near(cosines(turn(base), turn(tuned)).maxCos, maxCos, 9);
    const times = (w: Matrix<Float64Array>, by: number): Matrix<Float64Array> => ({
      ...w,
      data: w.data.map((v) => v * by),
    });
    near(cosines(times(base, 7), times(tuned, 7)).maxCos, maxCos, 9);
    near(cosines(times(base, -1), tuned).maxCos, maxCos, 9);
  });

  it("count more with a larger eps or k, and the squares of all cosines add up to one", () => {
    const counts = [0.1, 0.3, 0.5, 0.7, 0.9, 1].map((eps) => count(base, tuned, eps, 24));
    expect(counts).toEqual([...counts].sort((a, b) => a - b));
    const byK = [1, 2, 5, 10, 24].map((k) => count(base, tuned, 0.5, k));
    expect(byK).toEqual([...byK].sort((a, b) => a - b));
    const { similarity } = cosines(base, tuned, 24);
    for (let j = 0; j < 24; j++)
      expect(similarity.reduce((total, row) => total + (row[j] ?? 0) ** 2, 0)).toBeCloseTo(1, 10);
  });

  it("keep every cosine of a square base above 1/√n, and know what chance reaches", () => {
    for (const value of cosines(base, tuned, 24).maxCos) expect(value).toBeGreaterThanOrEqual(1 / Math.sqrt(24));
    near([64, 128, 256, 768, 1024, 4096].map(chanceLevel), [0.36, 0.275, 0.208, 0.132, 0.116, 0.064], 3);
  });

  it("work on an operator as on the matrix it stands for", async () => {
    const operator = diagonalPlus(Float64Array.from([3, 2, 1]), gaussian(5, 2, 1), gaussian(2, 4, 2));
    const identity = matrix([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]); // biome-ignore format: a matrix
    const whole = toFloat64(await operator.apply(identity));
    const expected = matmul(gaussian(5, 2, 1), gaussian(2, 4, 2));
    for (const i of [0, 1, 2]) expected.data[i * 4 + i] = (expected.data[i * 4 + i] ?? 0) + 3 - i;
    near(whole.data, [...expected.data], 12);
    const five = matrix(Array.from({ length: 5 }, (_, i) => Array.from({ length: 5 }, (__, j) => (i === j ? 1 : 0))));
    near((await operator.applyTransposed(five)).data, [...transposed(expected).data], 12);
  });
});
