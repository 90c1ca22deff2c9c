import { describe, expect, it } from "vitest";
import { bytesOf } from "../graph/index.ts";
import { contentHash } from "../io/content-hash.ts";
import { dequantise } from "../io/packed/index.ts";
import { createRng } from "../linalg/index.ts";
import { createBinaryCoder } from "./binary-code.ts";
import { createCodebook, fillCodebook, nearestIndex } from "./codebook.ts";
import { type Hessian, importance, type PreparedHessian, prepareHessian } from "./hessian.ts";
import { type ColumnQuantiser, type SweepOptions, sweep } from "./sweep.ts";
import { chooseScheme } from "./table.ts";

// A worked example; the expected numbers are those of a float64 reference of the same algorithms.
const weight = Float64Array.from(
  [
    [0, 0.64, 0.99, 0.86],
    [0.96, 0.86, 0.24, -0.53],
    [0.52, -0.35, -0.95, -0.83],
    [-0.69, -0.98, -0.37, 0.58],
    [-0.88, 0.02, 0.9, 0.8],
    [0.22, 0.99, 0.5, -0.63],
    [1, 0.32, -0.83, -0.76],
    [0.32, -0.88, -0.62, 0.67],
  ].flat(),
);
const inputs = [
  [1, 1.36, -0.59, -0.99],
  [0.62, -1.77, -0.94, 0.09],
  [-0.23, -2.96, 0.09, 1],
  [-0.9, -0.92, 0.98, 0.05],
  [-0.9, 2.13, 0.44, -0.99],
  [-0.21, 2.85, -0.75, -0.19],
];
const site = { name: "w", rows: 8, columns: 4, weight, hessian: hessianOf(inputs) };

function hessianOf(rows: readonly (readonly number[])[]): Hessian {
  const columns = rows[0]?.length ?? 0;
  const values = new Float64Array(columns * columns);
  for (const x of rows) {
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++)
        values[i * columns + j] = (values[i * columns + j] ?? 0) + (x[i] ?? 0) * (x[j] ?? 0);
    }
  }
  return { columns, values };
}

/** ‖X(W − Q)ᵀ‖². */
function outputError(
  original: ArrayLike<number>,
  quantised: ArrayLike<number>,
  x: readonly (readonly number[])[],
): number {
  const columns = x[0]?.length ?? 0;
  let sum = 0;
  for (const row of x) {
    for (let r = 0; r < original.length / columns; r++) {
      let y = 0;
      for (let k = 0; k < columns; k++) {
        y += ((original[r * columns + k] ?? 0) - (quantised[r * columns + k] ?? 0)) * (row[k] ?? 0);
      }
      sum += y * y;
    }
  }
  return sum;
}

/** Column-wise binary codes with scales of `terms` powers of two, floats when 0. */
function columnWise(bits: number, terms: number): ColumnQuantiser {
  const coder = createBinaryCoder({ bits, rounds: 50, terms, iterate: "last" });
  const book = createCodebook(bits);
  return {
    groupSize: 1,
    quantise: (k, state, quantised) => {
      fillCodebook(book, coder(state.column(k)).alpha);
      state.column(k).forEach((w, row) => {
        quantised[row] = book.values[nearestIndex(book, w)] ?? 0;
      });
    },
  };
}

/** A sweep, with what it quantised: column-major, in the order of the sweep. */
async function swept(
  of: Float32Array | Float64Array,
  rows: number,
  prepared: PreparedHessian,
  { groupSize, quantise }: ColumnQuantiser,
  options?: SweepOptions,
): Promise<{ readonly quantised: Float64Array; readonly error: number }> {
  const all = new Float64Array(of.length);
  const noting: ColumnQuantiser = {
    groupSize,
    quantise: (k, state, q) => {
      quantise(k, state, q);
      all.set(q, k * rows);
    },
  };
  const { error } = await sweep(of, rows, prepared, noting, options);
  return { quantised: all, error };
}

/** The damped Hessian, in the order of the sweep. */
function dampedOf({ columns: n, values }: Hessian, { order, damping }: PreparedHessian): Float64Array {
  let mean = 0;
  for (let i = 0; i < n; i++) mean += (values[i * n + i] ?? 0) / n;
  return Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    return (values[(order[i] ?? 0) * n + (order[j] ?? 0)] ?? 0) + (i === j ? damping * mean : 0);
  });
}

/** Column-major in sweep order -> row-major in the model's order. */
function restored(quantised: Float64Array, order: Uint32Array, rows: number): Float64Array {
  const result = new Float64Array(quantised.length);
  order.forEach((column, k) => {
    for (let row = 0; row < rows; row++) result[row * order.length + column] = quantised[k * rows + row] ?? 0;
  });
  return result;
}

describe("the sweep on a worked example", async () => {
  const plain = await prepareHessian(site.hessian, { damping: 0.01, activationOrder: false });

  it("factors the inverse Hessian", () => {
    [0.959708, 0.174035, 0.769221, 0.402823].forEach((value, j) => {
      expect(plain.upper[j]).toBeCloseTo(value, 6);
    });
    [0.959708, 0.306923, 0.576527, 0.568174].forEach((value, j) => {
      expect(plain.upper[j * 4 + j]).toBeCloseTo(value, 6);
    });
  });

  it.each([
    [0, 2.709891, 1.40871],
    [3, 2.743125, 1.425297],
    [1, 4.167659, undefined],
  ])("column-wise with %i terms", async (terms, error, loss) => {
    const { quantised, error: total } = await swept(weight, 8, plain, columnWise(2, terms));
    const q = restored(quantised, plain.order, 8);
    expect(outputError(weight, q, inputs)).toBeCloseTo(error, 5);
    if (loss !== undefined) expect(total / 2).toBeCloseTo(loss, 5);
    if (terms !== 3) return;
    const column = [0.269531, 0.886719, 0.269531, -0.886719, -0.886719, 0.269531, 0.886719, 0.269531];
    column.forEach((value, row) => {
      expect(q[row * 4]).toBeCloseTo(value, 5);
    });
    [0.269531, 0.891113, 1.0625, 1.367188].forEach((value, k) => {
      expect(q[k]).toBeCloseTo(value, 5);
    });
  });

  it("follows the order of activations", async () => {
    const ordered = await prepareHessian(site.hessian, { damping: 0.01, activationOrder: true });
    expect([...ordered.order]).toEqual([1, 0, 3, 2]);
    const { quantised } = await swept(weight, 8, ordered, columnWise(2, 3));
    expect(outputError(weight, restored(quantised, ordered.order, 8), inputs)).toBeCloseTo(3.396955, 5);
  });

  // Scales of these are stored as float16, which the reference's are not.
  it.each([
    ["rtn", { groupSize: 0 }, 3.983884, 0.01],
    ["bcq", {}, 3.431117, 0.01],
    ["bcq", { compensate: true }, 2.848729, 0.01],
    ["gptq", { groupSize: 0, activationOrder: false }, 2.870006, 0.01],
    ["shiftadd", { rounds: 50, activationOrder: false }, 2.743125, 1e-5],
    ["shiftadd", { rounds: 50, activationOrder: true }, 3.396955, 1e-5],
  ] as const)("%s %o", async (name, options, error, tolerance) => {
    const { scheme, config } = chooseScheme(name, options);
    const { matrix } = await scheme.quantise(site, 2, config);
    expect(Math.abs(outputError(weight, dequantise(matrix), inputs) - error)).toBeLessThan(tolerance);
  });
});

describe("the sweep", () => {
  const rows = 12;
  const columns = 150;
  const rng = createRng(5);
  const w = Float64Array.from({ length: rows * columns }, () => rng.normal());
  const mixing = Float64Array.from({ length: columns * 20 }, () => rng.normal());
  const x = Array.from({ length: 300 }, () => {
    const z = Array.from({ length: 20 }, () => rng.normal());
    return Array.from({ length: columns }, (_, j) =>
      z.reduce((sum, value, i) => sum + value * (mixing[j * 20 + i] ?? 0), 0.3 * rng.normal()),
    );
  });
  const hessian = hessianOf(x);

  it.each([false, true])("has Σe² = trace((W − Q)·H·(W − Q)ᵀ), activation order %s", async (activationOrder) => {
    const prepared = await prepareHessian(hessian, { damping: 0.01, activationOrder });
    const { quantised, error } = await swept(w, rows, prepared, columnWise(2, 3));
    const damped = dampedOf(hessian, prepared);
    let trace = 0;
    for (let row = 0; row < rows; row++) {
      const d = Array.from(
        prepared.order,
        (column, k) => (w[row * columns + column] ?? 0) - (quantised[k * rows + row] ?? 0),
      );
      for (let i = 0; i < columns; i++) {
        for (let j = 0; j < columns; j++) trace += (d[i] ?? 0) * (damped[i * columns + j] ?? 0) * (d[j] ?? 0);
      }
    }
    expect(error / trace).toBeCloseTo(1, 8);
  });

  it("is the same whatever its blocks", async () => {
    const prepared = await prepareHessian(hessian, { damping: 0.01, activationOrder: true });
    const whole = await swept(w, rows, prepared, columnWise(2, 3), { blockSize: 1000 });
    for (const blockSize of [1, 16, 40, 128])
      expect(await swept(w, rows, prepared, columnWise(2, 3), { blockSize })).toEqual(whole);
  });

  it("compensates nothing when inputs are uncorrelated, and loses nothing with many planes", async () => {
    const identity = {
      columns,
      values: Float64Array.from({ length: columns ** 2 }, (_, i) => (i % (columns + 1) === 0 ? 2 : 0)),
    };
    const prepared = await prepareHessian(identity, { damping: 0.01, activationOrder: false });
    const { quantised } = await swept(w, rows, prepared, columnWise(2, 3));
    const coder = createBinaryCoder({ bits: 2, rounds: 50, terms: 3, iterate: "last" });
    const book = createCodebook(2);
    for (let k = 0; k < columns; k++) {
      const column = Float64Array.from({ length: rows }, (_, row) => w[row * columns + k] ?? 0);
      fillCodebook(book, coder(column).alpha);
      column.forEach((value, row) => {
        expect(quantised[k * rows + row]).toBe(book.values[nearestIndex(book, value)]);
      });
    }
    const { scheme, config } = chooseScheme("shiftadd", {});
    const errors: number[] = [];
    for (const bits of [1, 2, 3, 4, 6, 8]) {
      const { matrix } = await scheme.quantise(
        { name: "w", rows, columns, weight: w, hessian: identity },
        bits,
        config,
      );
      errors.push(outputError(w, dequantise(matrix), x));
    }
    expect(errors).toEqual(errors.toSorted((a, b) => b - a));
    expect((errors.at(-1) ?? 1) / outputError(w, new Float64Array(w.length), x)).toBeLessThan(1e-3);
  });

  it("quantises groups of rows and of columns as it would each by itself", async () => {
    const part = (from: number, count: number, columnsFrom = 0, columnCount = columns): Float64Array =>
      Float64Array.from({ length: count * columnCount }, (_, i) => {
        const [row, column] = [from + Math.floor(i / columnCount), columnsFrom + (i % columnCount)];
        return w[row * columns + column] ?? 0;
      });
    const quantised = async (
      name: string,
      options: object,
      of: Float64Array,
      rowCount: number,
      h = hessian,
    ): Promise<Float32Array> => {
      const { scheme, config } = chooseScheme(name, options as never); // its own options
      const site = { name: "w", rows: rowCount, columns: h.columns, weight: of, hessian: h };
      return dequantise((await scheme.quantise(site, 2, config)).matrix);
    };
    // Rows are moved by none but their own errors, so those that share scales could stand alone.
    const byRows = await quantised("shiftadd", { rowGroup: 4 }, w, rows);
    for (const from of [0, 4, 8]) {
      const alone = await quantised("shiftadd", {}, part(from, 4), 4);
      expect(byRows.slice(from * columns, (from + 4) * columns)).toEqual(alone);
    }
    expect(byRows).not.toEqual(await quantised("shiftadd", {}, w, rows));
    // Without compensation a group of columns stands alone too.
    const flat = (count: number): Hessian => ({
      columns: count,
      values: Float64Array.from({ length: count ** 2 }, (_, i) => Number(i % (count + 1) === 0)),
    });
    for (const name of ["rtn", "bcq"]) {
      const whole = await quantised(name, { groupSize: 50 }, w, rows);
      for (const from of [0, 50, 100]) {
        const alone = await quantised(name, { groupSize: 0 }, part(0, rows, from, 50), rows, flat(50));
        for (let row = 0; row < rows; row++) {
          const own = whole.slice(row * columns + from, row * columns + from + 50);
          expect(own, name).toEqual(alone.slice(row * 50, (row + 1) * 50));
        }
      }
    }
    // Where inputs are uncorrelated there is nothing to compensate: GPTQ is rounding to the nearest, group by group.
    const plain = { groupSize: 50, activationOrder: false };
    expect(await quantised("gptq", plain, w, rows, flat(columns))).toEqual(
      await quantised("rtn", { groupSize: 50 }, w, rows),
    );
  });

  it("adds its share of the mean diagonal to the Hessian", async () => {
    const prepared = await prepareHessian(hessian, { damping: 0.05, activationOrder: false });
    const damped = dampedOf(hessian, prepared);
    // U·H·Uᵀ of the damped H is the identity.
    const { upper } = prepared;
    for (const [i, j] of [
      [0, 0],
      [7, 7],
      [149, 149],
      [3, 100],
    ] as const) {
      let sum = 0;
      for (let a = i; a < columns; a++)
        for (let b = j; b < columns; b++)
          sum += (upper[i * columns + a] ?? 0) * (damped[a * columns + b] ?? 0) * (upper[j * columns + b] ?? 0);
      expect(sum).toBeCloseTo(i === j ? 1 : 0, 9);
    }
  });

  it("mends Hessians of too few tokens, constant inputs and dead inputs, and says so", async () => {
    const few = hessianOf(x.slice(0, 3).map((row) => row.map((value, j) => (j === 7 ? 0 : value))));
    const prepared = await prepareHessian(few, { damping: 0.01, activationOrder: true });
    expect([...prepared.dead].map((dead, j) => (dead ? j : -1)).filter((j) => j >= 0)).toEqual([7]);
    expect(prepared.upper.every(Number.isFinite)).toBe(true);
    const indefinite = { columns: 2, values: Float64Array.of(1, 5, 5, 1) };
    expect(await prepareHessian(indefinite, { damping: 0.01, activationOrder: false })).toMatchObject({
      diagonalOnly: true,
    });
    const nearly = { columns: 2, values: Float64Array.of(1, 1.05, 1.05, 1) };
    expect((await prepareHessian(nearly, { damping: 0.01, activationOrder: false })).damping).toBeCloseTo(0.1, 9);
    await expect(
      prepareHessian({ columns: 1, values: Float64Array.of(Number.NaN) }, { damping: 0.01, activationOrder: false }),
    ).rejects.toThrow("NaN");
    for (const name of ["rtn", "gptq", "bcq", "shiftadd"]) {
      const { scheme, config } = chooseScheme(name, {});
      const { matrix } = await scheme.quantise({ name: "w", rows, columns, weight: w, hessian: few }, 3, config);
      const q = dequantise(matrix);
      expect(q.every(Number.isFinite)).toBe(true);
      for (let row = 0; row < rows; row++)
        expect(Math.abs(q[row * columns + 7] ?? 1)).toBeLessThan(name === "bcq" ? 1 : 1e-6);
    }
  });

  it("ranks matrices with larger errors as more important", async () => {
    const prepared = await prepareHessian(hessian, { damping: 0.01, activationOrder: true });
    const small = w.map((value) => value / 4);
    expect(importance(w, rows, prepared)).toBeGreaterThan(importance(small, rows, prepared));
  });
});

describe("schemes on layers with outlying and correlated inputs", () => {
  const size = 256;
  const tokens = 4096;

  /** Low-rank inputs with four loud channels; heavy-tailed weights with uneven columns and rows. */
  function layer(seed: number) {
    const rng = createRng(seed, "layer");
    const mixing = Float64Array.from({ length: size * 64 }, () => rng.normal());
    const inputsOf = (count: number): readonly (readonly number[])[] =>
      Array.from({ length: count }, () => {
        const z = Float64Array.from({ length: 64 }, () => rng.normal());
        return Array.from({ length: size }, (_, j) => {
          let value = 2 * rng.normal();
          for (let i = 0; i < 64; i++) value += (z[i] ?? 0) * (mixing[j * 64 + i] ?? 0);
          return j < 4 ? 8 * value : value;
        });
      });
    const [columnScale, rowScale] = [0.4, 0.3].map((spread) =>
      Array.from({ length: size }, () => Math.exp(spread * rng.normal())),
    );
    const student = (): number => {
      const chi = Array.from({ length: 5 }, () => rng.normal() ** 2).reduce((a, b) => a + b, 0);
      return rng.normal() / Math.sqrt(chi / 5);
    };
    const weight = Float64Array.from(
      { length: size * size },
      (_, i) => 0.02 * student() * (columnScale?.[i % size] ?? 1) * (rowScale?.[Math.floor(i / size)] ?? 1),
    );
    const hessian = hessianOf(inputsOf(tokens));
    return {
      site: { name: "w", rows: size, columns: size, weight, hessian },
      heldOut: hessianOf(inputsOf(tokens / 4)),
    };
  }

  /** ‖X(W − Q)ᵀ‖² from XᵀX. */
  function errorBy({ columns, values }: Hessian, original: ArrayLike<number>, quantised: ArrayLike<number>): number {
    let sum = 0;
    const difference = new Float64Array(columns);
    for (let row = 0; row < original.length / columns; row++) {
      for (let j = 0; j < columns; j++)
        difference[j] = (original[row * columns + j] ?? 0) - (quantised[row * columns + j] ?? 0);
      for (let j = 0; j < columns; j++) {
        let dot = 0;
        for (let k = 0; k < columns; k++) dot += (values[j * columns + k] ?? 0) * (difference[k] ?? 0);
        sum += dot * (difference[j] ?? 0);
      }
    }
    return sum;
  }

  const layers = [1, 2, 3, 4, 5].map(layer);

  /** Relative output error on inputs that the scheme has not seen: the median over five layers. */
  async function error(name: string, bits: number, options = {}): Promise<number> {
    const { scheme, config } = chooseScheme(name, options);
    const errors: number[] = [];
    for (const { site: own, heldOut } of layers) {
      const { matrix } = await scheme.quantise(own, bits, config);
      const zero = errorBy(heldOut, own.weight, new Float64Array(size * size));
      errors.push(errorBy(heldOut, own.weight, dequantise(matrix)) / zero);
    }
    return errors.sort((a, b) => a - b)[2] ?? Number.NaN;
  }

  it.each([2, 3])("have the errors of the paper's order at %i bits", async (bits) => {
    const rtn = await error("rtn", bits, { groupSize: 0 });
    const gptq = await error("gptq", bits, { groupSize: 0 });
    const bcqRow = await error("bcq", bits);
    const compensated = await error("bcq", bits, { compensate: true });
    const one = await error("shiftadd", bits, { terms: 1 });
    const two = await error("shiftadd", bits, { terms: 2 });
    const three = await error("shiftadd", bits, { terms: 3 });
    const blocks = await error("shiftadd", bits, { blockWise: true });
    const rising = [three, blocks, gptq, bcqRow, rtn];
    expect(rising).toEqual(rising.toSorted((a, b) => a - b));
    for (const worse of [compensated, two, one]) expect(worse).toBeGreaterThan(three);
    expect(one).toBeGreaterThan(two);
    expect(one < gptq).toBe(bits === 2); // a single power of two is too coarse for more planes
    // In proportion to three terms, column-wise; the expected medians are of another draw of such layers.
    const expected = bits === 2 ? [9.2, 2.9, 4.0, 1.29, 1.04, 1.37, 1.12] : [8.0, 2.1, 3.9, 1.15, 1.15, 2.18, 1.15];
    [rtn, gptq, bcqRow, compensated, two, one, blocks].forEach((found, i) => {
      expect(found / three / (expected[i] ?? 0)).toBeGreaterThan(1 / 2);
      expect(found / three / (expected[i] ?? 0)).toBeLessThan(2);
    });
  });
});

describe("packed bytes", () => {
  const [rows, columns, tokens] = [72, 200, 500];
  const rng = createRng(17);
  const w = Float32Array.from({ length: rows * columns }, () => 0.02 * rng.normal());
  const mix = Float64Array.from({ length: columns }, () => Math.exp(rng.normal()));
  const x = Array.from({ length: tokens }, () => {
    const shared = rng.normal();
    return Array.from(mix, (scale, j) => (j === 5 ? 0 : scale * (rng.normal() + shared)));
  });
  const hessian = hessianOf(x);

  // What the plain loops of the first version made, column by column from the left.
  it.each([
    ["gptq", {}, 2, "68be17f92464cad7bdb19246b7e4a921"],
    ["gptq", {}, 4, "d2a2c6eb8799cda5515e7f6fcaf061dd"],
    ["gptq", { groupSize: 0 }, 2, "7b96cd291e693617942e4822257dbd38"],
    ["gptq", { groupSize: 0 }, 4, "7a3a70ef984fdb1c2fc4d93b424f3214"],
    ["gptq", { groupSize: 150, activationOrder: false }, 2, "bc01ac683e2f369166126a72418abf28"],
    ["gptq", { groupSize: 150, activationOrder: false }, 4, "84875342865a2d74c4a74cd39071ef07"],
    ["shiftadd", {}, 2, "bca27085945f8a8cdadd44f101bc4195"],
    ["shiftadd", {}, 4, "d648a91971b2f8776bc962ec2c0d1491"],
    ["shiftadd", { blockWise: true }, 2, "f34a21d0c4b2700c3577d0f82382f29a"],
    ["shiftadd", { blockWise: true }, 4, "018ac5cf5ee0c92380f2c2950f0526ec"],
    ["shiftadd", { rowGroup: 16, terms: 2 }, 2, "d4ca22786d217baa4f167b7bcdc3d517"],
    ["shiftadd", { rowGroup: 16, terms: 2 }, 4, "4304fdc54c263cc6e80f8bd79bada5b4"],
    ["bcq", { compensate: true }, 2, "ed11ce1151d04fa973faf650ba48e818"],
    ["bcq", { compensate: true }, 4, "61f8bf20c7ec20331cb247a901a6cba7"],
    ["rtn", {}, 2, "c12c1e5db17a65901310d2eb3abb3cdf"],
    ["rtn", {}, 4, "20f98fb09a513fc644f611aa0fb87887"],
  ] as const)("of %s %o at %i bits stay what they were", async (name, options, bits, hash) => {
    const { scheme, config } = chooseScheme(name, options);
    const site = { name: "w", rows, columns, weight: w, hessian };
    const { matrix } = await scheme.quantise(site, bits, config);
    const arrays = [matrix.planes, matrix.scales, matrix.zeros, matrix.order].flatMap((a) => (a ? [bytesOf(a)] : []));
    expect(contentHash(...arrays)).toBe(hash);
  });
});
