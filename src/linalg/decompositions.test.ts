import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { golden, readGolden } from "../../tests/helpers/golden.ts";
import {
  eigh,
  type Floats,
  frobeniusNorm,
  type Matrix,
  matmul,
  matrix,
  qr,
  svd,
  toFloat64,
  transposed,
} from "./index.ts";

const numpy = await readGolden("linalg.safetensors");
const cases = [...new Set([...numpy.keys()].map((key) => key.split(".")[0] ?? ""))];

describe(`the decompositions of ${golden("linalg.safetensors").split("/").at(-1)}, by numpy`, () => {
  test.each(cases)("%s: singular values, and vectors but for signs and turns within a cluster", (name) => {
    const { U, S, Vt } = svd(read(`${name}.A`));
    expect(furthest(S, read(`${name}.S`).data)).toBeLessThan(1e-10);
    for (const cluster of clusters(S)) {
      // A projector on a cluster's vectors depends on no sign and no basis; vectors of values that are zero mean nothing.
      if ((S[cluster[0] ?? 0] ?? 0) < 1e-5) continue;
      expect(distance(projector(U, cluster), projector(read(`${name}.U`), cluster))).toBeLessThan(1e-10);
      expect(
        distance(projector(transposed(Vt), cluster), projector(transposed(read(`${name}.Vt`)), cluster)),
      ).toBeLessThan(1e-10);
    }
    expect(distance(matmul(scaled(U, S), Vt), read(`${name}.A`))).toBeLessThan(1e-12 * (1 + frobeniusNorm(U)));
  });

  test.each(cases.filter((name) => !["deficient", "clustered", "graded"].includes(name)))(
    "%s: Q and R, signs and all",
    (name) => {
      const { Q, R } = qr(read(`${name}.A`));
      expect(distance(Q, read(`${name}.Q`))).toBeLessThan(1e-10);
      expect(distance(R, read(`${name}.R`))).toBeLessThan(1e-10);
    },
  );

  test.each(cases)("%s: eigenvalues and eigenvectors", (name) => {
    const { values, vectors } = eigh(read(`${name}.symmetric`));
    expect(furthest(values, read(`${name}.values`).data)).toBeLessThan(1e-10);
    for (const cluster of clusters(values)) {
      const theirs = projector(read(`${name}.vectors`), cluster);
      expect(distance(projector(vectors, cluster), theirs)).toBeLessThan(1e-8); // gaps of 1e-3 lose five digits
    }
  });
});

describe("decompositions of anything", () => {
  const matrices = fc
    .tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), fc.boolean())
    .chain(([rows, cols, single]) =>
      fc
        .array(
          fc.oneof(fc.double({ min: -1e3, max: 1e3, noNaN: true }), fc.constant(0), fc.integer({ min: -2, max: 2 })),
          {
            minLength: rows * cols,
            maxLength: rows * cols,
          },
        )
        .map(
          (values): Matrix => ({ rows, cols, data: single ? Float32Array.from(values) : Float64Array.from(values) }),
        ),
    );
  // Roundings of float64 grow with the size; a float32 result adds its own.
  const tolerance = ({ data }: Matrix): number => (data instanceof Float32Array ? 3e-6 : 1e-13);

  test("U and V are orthonormal, values descend, and the product is the matrix", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const { U, S, Vt } = svd(a);
        expect(U.data.constructor).toBe(a.data.constructor);
        expect([...S].every((value, i) => value >= 0 && value <= (S[i - 1] ?? Number.POSITIVE_INFINITY))).toBe(true);
        expect(fromIdentity(matmul(toFloat64(U), U, { transA: true }))).toBeLessThan(tolerance(a) * 10);
        expect(fromIdentity(matmul(toFloat64(Vt), Vt, { transB: true }))).toBeLessThan(tolerance(a) * 10);
        expect(distance(matmul(scaled(toFloat64(U), S), Vt), a)).toBeLessThan(
          tolerance(a) * (10 + 10 * frobeniusNorm(a)),
        );
      }),
      { numRuns: 300 },
    );
  });

  test("Q is orthonormal, R is a triangle, and Q·R is the matrix", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const { Q, R } = qr(a);
        expect(fromIdentity(matmul(toFloat64(Q), Q, { transA: true }))).toBeLessThan(tolerance(a) * 10);
        expect(R.data.every((value, i) => value === 0 || Math.floor(i / R.cols) <= i % R.cols)).toBe(true);
        expect(distance(matmul(toFloat64(Q), R), a)).toBeLessThan(tolerance(a) * (10 + 10 * frobeniusNorm(a)));
      }),
      { numRuns: 300 },
    );
  });

  test("eigenvalues of AᵀA are the squares of A's singular values", () => {
    fc.assert(
      fc.property(matrices, (a) => {
        const wide = toFloat64(a);
        const { values, vectors } = eigh(matmul(wide, wide, { transA: true }));
        const squares = [...svd(wide).S].map((value) => value * value).concat(Array(a.cols).fill(0));
        const scale = 1 + (squares[0] ?? 0);
        expect(furthest(Float64Array.from(values).reverse(), squares.slice(0, a.cols))).toBeLessThan(1e-12 * scale);
        expect(fromIdentity(matmul(vectors, vectors, { transA: true }))).toBeLessThan(1e-12);
      }),
      { numRuns: 300 },
    );
  });

  test("extremes neither overflow nor underflow", () => {
    for (const unit of [1e-200, 1e150, 1]) {
      const { S } = svd(matrix([[3 * unit, 0], [4 * unit, 0], [0, 1 * unit]])); // biome-ignore format: a matrix
      expect(S[0]).toBeCloseTo(5 * unit, 10);
      expect((S[1] ?? 0) / unit).toBeCloseTo(1, 12);
    }
    expect([...svd(matrix([[0, 0], [0, 0]])).S]).toEqual([0, 0]); // biome-ignore format: a matrix
  });

  test("refuses what has no decomposition", () => {
    expect(() => svd(matrix([[1, Number.NaN]]))).toThrow(RangeError);
    expect(() => eigh(matrix([[1, 2]]))).toThrow("square");
    expect(() => eigh(matrix([[Number.POSITIVE_INFINITY]]))).toThrow(RangeError);
    expect(() => matmul(matrix([[1, 2]]), matrix([[1, 2]]))).toThrow("no product");
  });
});

function read(name: string): Matrix<Float64Array> {
  const tensor = numpy.get(name);
  if (!(tensor?.data instanceof Float64Array)) throw new Error(`no ${name} in the golden file`);
  return { rows: tensor.shape[0] ?? 0, cols: tensor.shape[1] ?? 1, data: tensor.data };
}

/** Places of values that are equal to six digits. */
function clusters(values: Floats): number[][] {
  const found: number[][] = [];
  for (const [i, value] of values.entries()) {
    const near = Math.abs(value - (values[i - 1] ?? Number.POSITIVE_INFINITY)) <= 1e-6;
    if (near) found.at(-1)?.push(i);
    else found.push([i]);
  }
  return found;
}

function projector({ rows, cols, data }: Matrix, columns: readonly number[]): Matrix {
  const chosen = Float64Array.from({ length: rows * columns.length }, (_, i) => {
    const [row, k] = [Math.floor(i / columns.length), columns[i % columns.length] ?? 0];
    return data[row * cols + k] ?? 0;
  });
  const vectors = { rows, cols: columns.length, data: chosen };
  return matmul(vectors, vectors, { transB: true });
}

function scaled<T extends Floats>({ rows, cols, data }: Matrix<T>, S: Floats): Matrix {
  return { rows, cols, data: Float64Array.from(data, (value, i) => value * (S[i % cols] ?? 0)) };
}

function furthest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] ?? Number.NaN))), 0);
}

function distance(a: Matrix, b: Matrix): number {
  expect([a.rows, a.cols]).toEqual([b.rows, b.cols]);
  return furthest(a.data, b.data);
}

function fromIdentity({ cols, data }: Matrix): number {
  return Array.from(data).reduce((worst, value, i) => {
    const one = Math.floor(i / cols) === i % cols ? 1 : 0;
    return Math.max(worst, Math.abs(value - one));
  }, 0);
}
