import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  createRng,
  type Floats,
  frobeniusNorm,
  identityMatrix,
  jacobiSvd,
  type Matrix,
  matmul,
  matrix,
  qr,
  svd,
  transposed,
  zeroMatrix,
} from "../linalg/index.ts";
import { aggregate, aggregationDefaults, type Change, runningMean, sharesOf } from "./aggregate.ts";
import type { Factors, Pieces } from "./factors.ts";
import { furthestFromOrthonormal, refactor, turnedBy } from "./refactor.ts";
import { refresh } from "./refresh.ts";
import {
  bytesOfTypes,
  checkDeclared,
  checkNorm,
  type LayerType,
  lengthOf,
  normBound,
  readPieces,
  typesOf,
  writePieces,
} from "./validate.ts";

const B = matrix([
  [1, 2],
  [0, 1],
  [-1, 0],
  [2, -1],
]);
const A = matrix([
  [1, 0, 1],
  [0, 2, 1],
]);

describe("the refactor of the specification's §6.1", () => {
  test("factors, singular values and M", () => {
    const found = refactor({ B, A });
    near([...found.S], [5.640625, 3.191136], 1e-6);
    near(found.A.data, [0.125841, 0.831251, 0.541467, 0.734656, -0.444872, 0.51222], 1e-6);
    near(found.B.data, [5.075244, 0.491829, 2.203968, -0.377524, -0.667308, -1.246876, -0.869352, 2.871276], 1e-6);
    near(found.M?.data ?? [], [0.125841, 0.415625, 0.734656, -0.222436], 1e-6);
    const projector = matmul(found.A, found.A, { transA: true });
    near(
      projector.data,
      [5, -2, 4, -2, 8, 2, 4, 2, 5].map((value) => value / 9),
      1e-14,
    );
    near(matmul(found.B, found.A).data, [1, 4, 3, 0, 2, 1, -1, 0, -1, 2, -2, 1], 1e-14);
  });

  test("the second round, from orthonormal factors", () => {
    const first = refactor({ B, A });
    const moved = { ...first.B, data: first.B.data.map((v, i) => v + ([0.1, 0, 0, 0.2, 0, 0, -0.1, 0.1][i] ?? 0)) };
    const found = refactor({ B: moved, A: first.A });
    near([...found.S], [5.746832, 3.264367], 1e-6);
    near(found.A.data, [0.129318, 0.829135, 0.543886, 0.734052, -0.448803, 0.509651], 1e-6);
    near(found.B.data, [5.177515, 0.46732, 2.203103, -0.187957, -0.673204, -1.243703, -0.955274, 2.975832], 1e-6);
  });

  test("rank one keeps the row space of A, and B = 0 is an orthonormal A", () => {
    const one = refactor({ B: matrix([[1, 2], [2, 4], [0, 0], [1, 2]]), A }); // biome-ignore format: a matrix
    near([...one.S], [12.489996, 0], 1e-6);
    expect(furthestFromOrthonormal(one.A)).toBeLessThan(1e-12);
    inSpanOf(one.A, A);
    expect([...transposed(one.B).data.subarray(4)]).toEqual([0, 0, 0, 0]);
    const none = refactor({ B: zeroMatrix(4, 2), A });
    expect([...none.B.data].every((value) => value === 0)).toBe(true);
    expect(furthestFromOrthonormal(none.A)).toBeLessThan(1e-14);
    inSpanOf(none.A, A);
  });

  test("a rank above the smaller side is refused, one that equals it gives a square orthogonal A", () => {
    expect(() => refactor({ B: zeroMatrix(2, 3), A: zeroMatrix(3, 5) })).toThrow(/rank/);
    const square = refactor({ B: drawn(5, 3, 1), A: drawn(3, 3, 2) });
    near(matmul(square.A, square.A, { transA: true }).data, identityMatrix(3).data, 1e-13);
  });

  test("rows of A that depend on each other: the product stays, and there is no M", () => {
    const twice = { B, A: matrix([[1, 0, 1], [2, 0, 2]]) }; // biome-ignore format: a matrix
    const found = refactor(twice);
    expect(found.M).toBeUndefined();
    near(matmul(found.B, found.A).data, matmul(twice.B, twice.A).data, 1e-14);
  });
});

describe("laws of the refactor (§6.4, E2)", () => {
  const sizes = fc
    .tuple(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 20 }), fc.integer({ min: 0, max: 1e6 }))
    .chain(([m, n, seed]) => fc.tuple(fc.integer({ min: 1, max: Math.min(m, n) }), fc.constant({ m, n, seed })));

  test("product, lengths and orthogonality; M takes A there; a second call changes nothing", () => {
    fc.assert(
      fc.property(sizes, fc.integer({ min: 0, max: 3 }), ([r, { m, n, seed }], zeros) => {
        const given = { B: drawn(m, r, seed), A: drawn(r, n, seed + 1) };
        for (let i = 0; i < zeros * m; i++) given.B.data[(i * 7) % given.B.data.length] = 0;
        const product = matmul(given.B, given.A);
        const found = refactor(given);
        const size = 1 + frobeniusNorm(product);
        near(matmul(found.B, found.A).data, product.data, 1e-12 * size);
        expect(furthestFromOrthonormal(found.A)).toBeLessThan(1e-12);
        expect(Math.abs(frobeniusNorm(found.B) - frobeniusNorm(product))).toBeLessThan(1e-12 * size);
        const gram = matmul(found.B, found.B, { transA: true });
        near(gram.data, diagonal([...found.S].map((s) => s * s)).data, 1e-12 * size * size);
        if (found.M) near(turnedBy(found.M, given.A).data, found.A.data, 1e-8);
        const again = refactor(found);
        near(again.B.data, found.B.data, 1e-9 * size);
        if (apart(found.S)) {
          near(again.A.data, found.A.data, 1e-9);
          near(again.M?.data ?? [], identityMatrix(r).data, 1e-9);
        }
      }),
      { numRuns: 200, examples: [[[4, { m: 5, n: 20, seed: 424373 }], 3]] }, // columns of rounding errors, which never settle,
    );
  });

  test("thin and dense agree, in float64 and in float32", () => {
    const [m, n, r] = [96, 64, 8];
    const given = { B: drawn(m, r, 5), A: drawn(r, n, 6) };
    const product = matmul(given.B, given.A);
    const dense = svd(product);
    const thin = refactor(given);
    near([...thin.S], [...dense.S.subarray(0, r)], 1e-12 * (dense.S[0] ?? 1));
    const single = refactor({ B: in32(given.B), A: in32(given.A) });
    expect(single.A.data).toBeInstanceOf(Float32Array);
    expect(furthestFromOrthonormal(single.A)).toBeLessThan(1e-6);
    near(matmul(single.B, single.A).data, product.data, 1e-5 * frobeniusNorm(product));
  });

  test("equal singular values, and values far apart, settle", () => {
    // One in ten thousand never met a test that is stricter than its sums are exact.
    jacobiSvd(noise(16, 16, 1, createRng(6312, "settle")));
    for (let seed = 0; seed < 300; seed++) {
      const [size, rng] = [2 + (seed % 17), createRng(seed, "settle")];
      const left = qr(drawn(size, size, seed)).Q;
      const right = qr(drawn(size, size, seed + 1000)).Q;
      // Values that are equal in groups, spread over many powers of ten, or nearly equal.
      const values = Array.from(
        { length: size },
        (_, i) => [1, 10 ** -(i % 3), 10 ** (-i % 15), 1 + 1e-15 * rng.normal()][seed % 4] ?? 1,
      );
      const product = matmul(matmul(left, diagonal(values)), right);
      const { scaledU, S, Vt } = jacobiSvd(product);
      near(matmul(scaledU, Vt).data, product.data, 1e-12);
      near(
        [...S],
        values.sort((a, b) => b - a),
        1e-12,
      );
      // A triangle of a QR, as the refactor has it, more than once.
      const again = refactor(refactor({ B: product, A: identityMatrix(size) }));
      expect(furthestFromOrthonormal(again.A)).toBeLessThan(1e-12);
    }
  });

  test("NaN is refused", () => {
    expect(() => refactor({ B: matrix([[Number.NaN]]), A: matrix([[1]]) })).toThrow(/NaN/);
  });
});

describe("the refresh (ours)", () => {
  test("what is kept and what is folded add up to the product; new rows are at right angles; B has zeros there", () => {
    const given = refactor({ B: drawn(12, 4, 1), A: drawn(4, 9, 2) });
    for (const keep of [0, 1, 3]) {
      const found = refresh(given, keep, createRng(3, "refresh", 1, "q"));
      const sum = matmul(found.B, found.A).data.map(
        (v, i) => v + (matmul(found.folded.B, found.folded.A).data[i] ?? 0),
      );
      near(sum, matmul(given.B, given.A).data, 1e-12);
      expect(furthestFromOrthonormal(found.A)).toBeLessThan(1e-12);
      near(found.A.data.subarray(0, keep * 9), given.A.data.subarray(0, keep * 9), 0);
      expect(found.B.data.filter((value, i) => i % 4 >= keep && value !== 0)).toHaveLength(0);
      expect(refresh(given, keep, createRng(3, "refresh", 1, "q")).A.data).toEqual(found.A.data);
    }
  });
});

describe("noise energy (E3): the formulas of §1.8.7 within 3 %, over 2,000 draws", () => {
  test.each([
    ["Kaiming", false],
    ["orthonormal", true],
  ])("%s A", (_name, orthonormal) => {
    const [m, n, r, t] = [12, 10, 3, 0.1];
    const kaiming = drawnUniform(r, n, 1 / Math.sqrt(n));
    const start = { B: drawn(m, r, 9), A: kaiming };
    const fixed = orthonormal ? refactor({ B: start.B, A: kaiming }) : start;
    const rng = createRng(4, "energy");
    const draws = 2000;
    let both = 0;
    let alone = 0;
    for (let k = 0; k < draws; k++) {
      const dB = noise(m, r, t, rng);
      const dA = noise(r, n, t, rng);
      alone += frobeniusNorm(matmul(dB, fixed.A)) ** 2;
      const moved = matmul(sum(fixed.B, dB), sum(fixed.A, dA));
      both += frobeniusNorm(sum(moved, matmul(fixed.B, fixed.A), -1)) ** 2;
    }
    const squares = [frobeniusNorm(fixed.A) ** 2, frobeniusNorm(fixed.B) ** 2] as const;
    const expectAlone = t * t * m * squares[0];
    const expectBoth = t * t * (m * squares[0] + n * squares[1]) + t ** 4 * m * n * r;
    if (orthonormal) expect(squares[0]).toBeCloseTo(r, 10);
    expect(Math.abs(alone / draws / expectAlone - 1)).toBeLessThan(0.03);
    expect(Math.abs(both / draws / expectBoth - 1)).toBeLessThan(0.03);
  });
});

describe("aggregation", () => {
  const change = (client: string, examples: number, ...data: number[]): Change<Float64Array> => ({
    client,
    examples,
    delta: new Map([["B/q", { shape: [1, data.length], data: Float64Array.from(data) }]]),
  });
  const values = (pieces: Pieces<Float64Array>): readonly number[] => [...(pieces.get("B/q")?.data ?? [])];

  test("§6.1: 300 and 100 examples", () => {
    expect(values(aggregate([change("a", 300, 1, 2), change("b", 100, 3, -2)]))).toEqual([1.5, 1]);
  });

  test("one client is its own; the order does not matter, to the last bit; it is linear", () => {
    expect(values(aggregate([change("a", 7, 0.1, 0.2)]))).toEqual([0.1, 0.2]);
    const all = [change("c", 3, 0.1, 1e-9), change("a", 5, 0.7, 3), change("b", 2, 1 / 3, -5)];
    for (const rule of ["mean", "median", "trimmed-mean"] as const) {
      const options = { ...aggregationDefaults, rule };
      expect(values(aggregate(all.toReversed(), options))).toEqual(values(aggregate(all, options)));
      const doubled = all.map(({ client, examples, delta }) =>
        change(client, examples, ...values(delta).map((v) => 2 * v)),
      );
      expect(values(aggregate(doubled, options))).toEqual(values(aggregate(all, options)).map((v) => 2 * v));
    }
  });

  test("a mean that is added up as changes come has the same bits, whoever is first", () => {
    const rng = createRng(5, "running");
    const all = ["d", "a", "c", "b"].map((name, i) =>
      change(name, i + 1, rng.normal(), 1e9 * rng.normal(), rng.normal()),
    );
    for (const options of [aggregationDefaults, { ...aggregationDefaults, maxWeight: 0.3 }]) {
      for (let draw = 0; draw < 10; draw++) {
        const mean = runningMean<Float64Array>(all, options);
        const order = rng.shuffle([...all]);
        for (const each of order.slice(0, 3)) mean.add(each);
        expect(mean.result()).toBeUndefined();
        mean.add(order[3] as Change<Float64Array>);
        expect(values(mean.result() as Pieces<Float64Array>)).toEqual(values(aggregate(all, options)));
      }
      const mean = runningMean<Float64Array>(all, options);
      expect([
        mean.isOf(all.toReversed()),
        mean.isOf(all.slice(1)),
        mean.isOf([...all.slice(1), change("d", 9)]),
      ]).toEqual([...[true, false, false]]);
    }
  });

  test("medians and trimmed means do not follow one that lies", () => {
    const all = [1, 2, 3, 4, 1e9].map((value, i) => change(`c${i}`, 1, value));
    expect(values(aggregate(all, { ...aggregationDefaults, rule: "median" }))).toEqual([3]);
    expect(values(aggregate(all, { ...aggregationDefaults, rule: "trimmed-mean", trim: 0.2 }))).toEqual([3]);
    expect(values(aggregate(all.slice(0, 4), { ...aggregationDefaults, rule: "median" }))).toEqual([2.5]);
    expect(values(aggregate(all, { ...aggregationDefaults, rule: "trimmed-mean", trim: 0 }))[0]).toBeGreaterThan(1e8);
  });

  test("no share is above the cap, unless so few take part that all have the same", () => {
    expect(sharesOf([900, 50, 50], 0.5)).toEqual([0.5, 0.25, 0.25]);
    expect(sharesOf([900, 100], 0.3)).toEqual([0.5, 0.5]);
    expect(sharesOf([1, 1, 2])).toEqual([0.25, 0.25, 0.5]);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 10_000 }), { minLength: 1, maxLength: 12 }),
        fc.double({ min: 0.05, max: 1, noNaN: true }),
        (counts, most) => {
          const shares = sharesOf(counts, most);
          expect(shares.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
          expect(Math.max(...shares)).toBeLessThanOrEqual(Math.max(most, 1 / counts.length) * (1 + 1e-9));
        },
      ),
    );
    expect(() => sharesOf([1, 0])).toThrow(/examples/);
    expect(() => sharesOf([1, Number.NaN])).toThrow(/examples/);
  });

  test("one client twice is refused", () => {
    expect(() => aggregate([change("a", 1, 1), change("a", 1, 1)])).toThrow(/twice/);
  });
});

describe("an upload is checked before it is read", () => {
  const pieces: Pieces = new Map([
    ["B/q", { shape: [2, 3], data: Float32Array.from([1, 2, 3, 4, 5, 6]) }],
    ["W/head", { shape: [2], data: Float32Array.from([7, 8]) }],
  ]);
  const types = typesOf(pieces);
  const bytes = writePieces(pieces);
  const without = (i: number, change: Partial<LayerType>): readonly LayerType[] =>
    types.map((type, at) => (at === i ? { ...type, ...change } : type));

  test("what is right is read back", () => {
    checkDeclared([...types].reverse(), types, "a");
    expect(bytesOfTypes(types)).toBe(32);
    expect([...readPieces(bytes, types, "a")]).toEqual([...pieces]);
  });

  test.each<[string, unknown, RegExp]>([
    ["nothing", undefined, /does not say/],
    ["a missing name", types.slice(1), /B\/q is missing/],
    ["an unknown name", [...types, { ...types[0], name: "B/k" }], /"B\/k" is no tensor/],
    ["a name twice", [...types, types[0]], /twice/],
    ["float64", without(0, { dtype: "float64" as "float32" }), /dtype of B\/q is "float64"/],
    ["a transposed shape", without(0, { shape: [3, 2] }), /shape of B\/q is \[3,2\]/],
    ["another length", without(0, { bytes: 2 ** 40 }), /bytes of B\/q/],
    ["no object", [1, null, "x"], /is no tensor/],
    ["a million tensors", Array.from({ length: 1000 }, () => types[0]), /1000 tensors/],
  ])("%s", (_name, declared, problem) => {
    expect(() => checkDeclared(declared, types, "client a")).toThrow(problem);
  });

  test("bytes too many or too few, NaN and infinity", () => {
    expect(() => readPieces(bytes.subarray(4), types, "a")).toThrow(/28 bytes, not 32/);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const poisoned = writePieces(new Map([...pieces, ["W/head", { shape: [2], data: Float32Array.from([1, bad]) }]]));
      expect(() => readPieces(poisoned, types, "a")).toThrow(/W\/head has/);
    }
  });

  test("the bound of §5: honest is taken, three times as long is not", () => {
    const noise = { multiplier: 0.8, expectedBatch: 16, parameters: 100 };
    const bound = normBound({ learningRate: 0.1, steps: 10, clip: 2, noise });
    expect(bound).toBeCloseTo(0.1 * 10 * 2 * (2 + (0.8 * (10 + 5)) / 16), 12);
    expect(normBound({ learningRate: 0.1, steps: 10, clip: 2 })).toBeCloseTo(2, 12);
    const long = (length: number): Pieces => new Map([["B/q", { shape: [1, 1], data: Float32Array.from([length]) }]]);
    checkNorm(long(bound), bound, "a");
    expect(() => checkNorm(long(3.01 * bound), bound, "a")).toThrow(/honest training/);
    expect(lengthOf(pieces)).toBeCloseTo(Math.sqrt(204), 10);
  });
});

function near(found: ArrayLike<number>, wanted: ArrayLike<number>, within: number): void {
  expect(found.length).toBe(wanted.length);
  for (let i = 0; i < wanted.length; i++) {
    expect(Math.abs((found[i] ?? Number.NaN) - (wanted[i] ?? 0)), `at ${i}`).toBeLessThanOrEqual(within);
  }
}

function drawn(rows: number, cols: number, seed: number): Matrix<Float64Array> {
  return noise(rows, cols, 1, createRng(seed, "test"));
}

function drawnUniform(rows: number, cols: number, bound: number): Matrix<Float64Array> {
  const rng = createRng(8, "kaiming");
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, () => bound * (2 * rng.uniform() - 1)) };
}

function noise(rows: number, cols: number, size: number, rng: { normal(): number }): Matrix<Float64Array> {
  return { rows, cols, data: Float64Array.from({ length: rows * cols }, () => size * rng.normal()) };
}

function sum(a: Matrix<Float64Array>, b: Matrix<Floats>, factor = 1): Matrix<Float64Array> {
  return { ...a, data: a.data.map((value, i) => value + factor * (b.data[i] ?? 0)) };
}

function diagonal(values: readonly number[]): Matrix<Float64Array> {
  const result = zeroMatrix(values.length, values.length);
  for (const [i, value] of values.entries()) result.data[i * (values.length + 1)] = value;
  return result;
}

function apart(S: Float64Array): boolean {
  return S.every((s, i) => i === 0 || (S[i - 1] ?? 0) - s > 1e-3 * (S[0] ?? 1)) && (S.at(-1) ?? 0) > 1e-6 * (S[0] ?? 1);
}

function in32({ rows, cols, data }: Matrix): Matrix<Float32Array> {
  return { rows, cols, data: Float32Array.from(data) };
}

/** Every row of `rows` lies in the row space of `of`. */
function inSpanOf(rows: Matrix, of: Factors<Float64Array>["A"]): void {
  const basis = refactor({ B: zeroMatrix(of.rows + of.cols, of.rows), A: of }).A;
  const projected = matmul(matmul(rows as Matrix<Float64Array>, basis, { transB: true }), basis);
  near(projected.data, rows.data, 1e-12);
}
