import { bytesOf, input, graph as makeGraph, type Tensor } from "../graph/index.ts";
import {
  besides,
  emptyLike,
  type Floats,
  gram,
  type LinearOperator,
  type Matrix,
  matmul,
  operatorOf,
  type SymmetricOperator,
  toFloat64,
  transposed,
} from "../linalg/index.ts";
import { add, gemm } from "../ops/index.ts";
import type { Device } from "../runtime/device.ts";
import { shareOf } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";

/** A matrix whose products are computed somewhere. */
export interface PlacedMatrix extends LinearOperator {
  /** The square of its smaller side: W·Wᵀ [rows, rows], or WᵀW [cols, cols] where it is taller than it is wide. */
  square(): Promise<PlacedSquare>;
  /** Free it. */
  release(): Promise<void>;
}

/** The square of a matrix, whose products are computed where the matrix is. */
export interface PlacedSquare extends SymmetricOperator {
  /** Products with itself plus left·right [size, r]·[r, size], which is never made. */
  plus(left: Matrix, right: Matrix): SymmetricOperator;
  /** All of it. */
  read(): Promise<Matrix>;
  /** The size of rounding errors in its entries, relative to the largest of the diagonal. */
  readonly precision: number;
  /** Free it. */
  release(): Promise<void>;
}

/** Where large products are computed. */
export interface Products {
  /** Make a matrix known there; it must not change until it is released. */
  place(matrix: Matrix): Promise<PlacedMatrix>;
  /** Make a square known there that was computed before, from float32 entries; it must not change until it is released. */
  placeSquare(matrix: Matrix): Promise<PlacedSquare>;
  /** A·Bᵀ of two matrices at hand, in float32 at least: rows of both are as long. */
  productOfRows(a: Matrix<Float32Array>, b: Matrix<Float32Array>): Promise<Matrix>;
  /** Free what was compiled; the device stays open. */
  close(): Promise<void>;
}

/** Matrices of fewer entries are multiplied here: a call to a device would take longer. */
const worthwhile = 1 << 16;

/** Products in this thread, in float64. */
export const localProducts: Products = {
  place: async (matrix) => ({
    ...operatorOf(matrix),
    square: async () => {
      const wide = toFloat64(matrix);
      return localSquare(gram(matrix.rows > matrix.cols ? transposed(wide) : wide));
    },
    release: async () => {},
  }),
  placeSquare: async (matrix) => ({ ...localSquare(toFloat64(matrix)), precision: 6e-8 }),
  productOfRows: async (a, b) => matmul(toFloat64(a), b, { transB: true }),
  close: async () => {},
};

function localSquare(matrix: Matrix<Float64Array>): PlacedSquare {
  return {
    size: matrix.rows,
    apply: async (X) => matmul(matrix, X),
    plus: (left, right) => localSquare(sum(matrix, matmul(left, right))),
    read: async () => matrix,
    precision: 1e-14,
    release: async () => {},
  };
}

/**
 * Products of large matrices on a device, in float32: a matrix is sent once and stays in a buffer. Small ones are
 * multiplied here.
 */
export function deviceProducts(device: Device): Products {
  const share = shareOf(device);
  let programs: Promise<Programs> | undefined;
  let placed = 0;
  const plusAt = (name: string, plus: Program, left: Matrix, right: Matrix): SymmetricOperator => {
    const factors = { left: asTensor(left), right: asTensor(right) };
    return {
      size: left.rows,
      apply: async (X) => {
        const found = await plus.run({ feeds: { ...factors, operand: asTensor(X) }, reads: { matrix: name } });
        return { rows: left.rows, cols: X.cols, data: found["product"]?.data as Float32Array }; // as the graph declares it
      },
      plus: (more, across) =>
        plusAt(name, plus, besides(left, more), transposed(besides(transposed(right), transposed(across)))),
    };
  };
  const squareAt = (name: string, size: number, { product, plus }: Programs): PlacedSquare => ({
    size,
    apply: async (X) => {
      const found = await product.plain.run({ feeds: { operand: asTensor(X) }, reads: { matrix: name } });
      return { rows: size, cols: X.cols, data: found["product"]?.data as Float32Array }; // as the graph declares it
    },
    plus: (left, right) => plusAt(name, plus, left, right),
    read: async () => ({ rows: size, cols: size, data: (await share.download(name)).data as Float32Array }), // likewise
    precision: 6e-8,
    release: () => share.discard([name]),
  });
  return {
    place: async (matrix) => {
      if (matrix.rows * matrix.cols < worthwhile) return localProducts.place(matrix);
      programs ??= compile(share);
      const all = await programs;
      const name = `matrix ${++placed}`;
      await share.upload(name, asTensor(matrix), { lent: true });
      const run = async (program: Program, operand: Matrix, rows: number): Promise<Matrix> => {
        const { product } = await program.run({ feeds: { operand: asTensor(operand) }, reads: { matrix: name } });
        return { rows, cols: operand.cols, data: product?.data as Float32Array }; // as the graph declares it
      };
      return {
        rows: matrix.rows,
        cols: matrix.cols,
        precision: 6e-8,
        apply: (X) => run(all.product.plain, X, matrix.rows),
        applyTransposed: (Y) => run(all.product.transposed, Y, matrix.cols),
        square: async () => {
          const square = `square ${++placed}`;
          const tall = matrix.rows > matrix.cols;
          await (tall ? all.square.tall : all.square.wide).run({
            feeds: {},
            reads: { matrix: name },
            writes: { square },
          });
          return squareAt(square, Math.min(matrix.rows, matrix.cols), all);
        },
        release: () => share.discard([name]),
      };
    },
    placeSquare: async (matrix) => {
      if (matrix.data.length < worthwhile) return localProducts.placeSquare(matrix);
      programs ??= compile(share);
      const name = `square ${++placed}`;
      await share.upload(name, asTensor(matrix), { lent: true });
      return squareAt(name, matrix.rows, await programs);
    },
    productOfRows: async (a, b) => {
      if (a.data.length < worthwhile) return localProducts.productOfRows(a, b);
      programs ??= compile(share);
      const { product } = await (await programs).ofRows.run({ feeds: { matrix: asTensor(a), operand: asTensor(b) } });
      return { rows: a.rows, cols: b.rows, data: product?.data as Float32Array }; // likewise
    },
    close: () => share.close(),
  };
}

interface Programs {
  /** matrix·operand, and matrixᵀ·operand. */
  readonly product: { readonly plain: Program; readonly transposed: Program };
  /** matrixᵀ·matrix of a tall matrix, matrix·matrixᵀ of another. */
  readonly square: { readonly tall: Program; readonly wide: Program };
  /** matrix·operand + left·(right·operand). */
  readonly plus: Program;
  /** matrix·operandᵀ. */
  readonly ofRows: Program;
}

async function compile(device: Device): Promise<Programs> {
  const tuning = { spinning: false };
  const matrix = input("matrix", "float32", ["rows", "cols"]);
  const product = (transA: boolean): Promise<Program> => {
    const operand = input("operand", "float32", [transA ? "rows" : "cols", "count"]);
    return compileGraph(
      device,
      makeGraph({ name: "product", outputs: { product: gemm(matrix, operand, { transA }) } }),
      { tuning },
    );
  };
  const square = (tall: boolean): Promise<Program> =>
    compileGraph(
      device,
      makeGraph({
        name: "square",
        outputs: { square: gemm(matrix, matrix, tall ? { transA: true } : { transB: true }) },
      }),
      { residentOutputs: ["square"], tuning },
    );
  const [left, right] = [input("left", "float32", ["rows", "rank"]), input("right", "float32", ["rank", "cols"])];
  const operand = input("operand", "float32", ["cols", "count"]);
  const sum = add(gemm(matrix, operand), gemm(left, gemm(right, operand)));
  const rows = input("operand", "float32", ["count", "cols"]);
  const ofRows = makeGraph({ name: "rows", outputs: { product: gemm(matrix, rows, { transB: true }) } });
  return {
    product: { plain: await product(false), transposed: await product(true) },
    square: { tall: await square(true), wide: await square(false) },
    plus: await compileGraph(device, makeGraph({ name: "plus", outputs: { product: sum } }), { tuning }),
    ofRows: await compileGraph(device, ofRows, { tuning }),
  };
}

function asTensor({ rows, cols, data }: Matrix): Tensor<"float32"> {
  return { dtype: "float32", shape: [rows, cols], data: data instanceof Float32Array ? data : new Float32Array(data) };
}

/** Digests of what has been hashed: weights are large, and asked for by content more than once. */
const digests = new WeakMap<Floats, Promise<ArrayBuffer>>();

/**
 * SHA-256 of the sizes and values of matrices, in hexadecimal: the same content has the same hash, wherever it is. Values
 * must not change once they have been hashed. A matrix' own digest is that of the digests of its pieces, which are computed
 * side by side and without a copy of the whole.
 */
export async function hashMatrices(...matrices: readonly Matrix[]): Promise<string> {
  const parts = matrices.map(async ({ rows, cols, data }) => {
    const digest = digests.get(data) ?? digestInPieces(bytesOf(data) as Uint8Array<ArrayBuffer>);
    digests.set(data, digest);
    const head = new Uint8Array(new Uint32Array([rows, cols, data.BYTES_PER_ELEMENT]).buffer);
    return [...head, ...new Uint8Array(await digest)];
  });
  const digest = await crypto.subtle.digest("SHA-256", Uint8Array.from((await Promise.all(parts)).flat()));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Bytes that are hashed together, and pieces that are at a time: each is copied, into memory that the one before had. */
const [pieceBytes, together] = [2 ** 19, 4];

async function digestInPieces(bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  const count = Math.ceil(bytes.length / pieceBytes);
  const all = new Uint8Array(32 * count);
  const digestOf = async (i: number): Promise<void> => {
    const piece = bytes.subarray(i * pieceBytes, (i + 1) * pieceBytes);
    all.set(new Uint8Array(await crypto.subtle.digest("SHA-256", piece)), 32 * i);
  };
  for (let first = 0; first < count; first += together) {
    const these = Array.from({ length: Math.min(together, count - first) }, (_, i) => digestOf(first + i));
    await Promise.all(these);
  }
  return crypto.subtle.digest("SHA-256", all);
}

/** A + B in float64. */
export function sum(a: Matrix, b: Matrix): Matrix<Float64Array> {
  const result = toFloat64(a);
  for (let i = 0; i < result.data.length; i++) result.data[i] = (result.data[i] ?? 0) + (b.data[i] ?? 0);
  return result;
}

/** A − B in float64. */
export function difference(a: Matrix, b: Matrix): Matrix<Float64Array> {
  const result = toFloat64(a);
  for (let i = 0; i < result.data.length; i++) result.data[i] = (result.data[i] ?? 0) - (b.data[i] ?? 0);
  return result;
}

/** Some rows of a matrix, one range after the other. */
export function pickRows<T extends Floats>(
  { cols, data }: Matrix<T>,
  ranges: readonly (readonly [number, number])[],
): Matrix<T> {
  const rows = ranges.reduce((total, [from, to]) => total + to - from, 0);
  const result = emptyLike(data, rows * cols);
  let at = 0;
  for (const [from, to] of ranges) {
    result.set(data.subarray(from * cols, to * cols), at);
    at += (to - from) * cols;
  }
  return { rows, cols, data: result };
}
