import { bytesOf, input, graph as makeGraph, type Tensor } from "../graph/index.ts";
import {
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
  /** Itself plus left·right [size, r]·[r, size]. */
  plus(left: Matrix, right: Matrix): Promise<PlacedSquare>;
  /** All of it, and the size of rounding errors in its entries relative to the largest of the diagonal. */
  read(): Promise<{ readonly matrix: Matrix; readonly precision: number }>;
  /** Free it. */
  release(): Promise<void>;
}

/** Where large products are computed. */
export interface Products {
  /** Make a matrix known there. */
  place(matrix: Matrix): Promise<PlacedMatrix>;
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
  close: async () => {},
};

function localSquare(matrix: Matrix<Float64Array>): PlacedSquare {
  return {
    size: matrix.rows,
    apply: async (X) => matmul(matrix, X),
    plus: async (left, right) => localSquare(sum(matrix, matmul(left, right))),
    read: async () => ({ matrix, precision: 1e-14 }),
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
  const squareAt = (name: string, size: number, { product, plus }: Programs): PlacedSquare => ({
    size,
    apply: async (X) => {
      const found = await product.plain.run({ feeds: { operand: asTensor(X) }, reads: { matrix: name } });
      return { rows: size, cols: X.cols, data: found["product"]?.data as Float32Array }; // as the graph declares it
    },
    plus: async (left, right) => {
      const sum = `square ${++placed}`;
      await plus.run({
        feeds: { left: asTensor(left), right: asTensor(right) },
        reads: { matrix: name },
        writes: { sum },
      });
      return squareAt(sum, size, await (programs as Promise<Programs>)); // this square was made by them
    },
    read: async () => {
      const { data } = await share.download(name);
      return { matrix: { rows: size, cols: size, data: data as Float32Array }, precision: 6e-8 }; // likewise
    },
    release: () => share.discard([name]),
  });
  return {
    place: async (matrix) => {
      if (matrix.rows * matrix.cols < worthwhile) return localProducts.place(matrix);
      programs ??= compile(share);
      const all = await programs;
      const name = `matrix ${++placed}`;
      await share.upload(name, asTensor(matrix));
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
    close: () => share.close(),
  };
}

interface Programs {
  /** matrix·operand, and matrixᵀ·operand. */
  readonly product: { readonly plain: Program; readonly transposed: Program };
  /** matrixᵀ·matrix of a tall matrix, matrix·matrixᵀ of another. */
  readonly square: { readonly tall: Program; readonly wide: Program };
  /** matrix + left·right. */
  readonly plus: Program;
}

async function compile(device: Device): Promise<Programs> {
  const matrix = input("matrix", "float32", ["rows", "cols"]);
  const product = (transA: boolean): Promise<Program> => {
    const operand = input("operand", "float32", [transA ? "rows" : "cols", "count"]);
    return compileGraph(
      device,
      makeGraph({ name: "product", outputs: { product: gemm(matrix, operand, { transA }) } }),
    );
  };
  const square = (tall: boolean): Promise<Program> =>
    compileGraph(
      device,
      makeGraph({
        name: "square",
        outputs: { square: gemm(matrix, matrix, tall ? { transA: true } : { transB: true }) },
      }),
      { residentOutputs: ["square"] },
    );
  const factors = [input("left", "float32", ["rows", "rank"]), input("right", "float32", ["rank", "cols"])] as const;
  const plus = makeGraph({ name: "plus", outputs: { sum: add(matrix, gemm(...factors)) } });
  return {
    product: { plain: await product(false), transposed: await product(true) },
    square: { tall: await square(true), wide: await square(false) },
    plus: await compileGraph(device, plus, { residentOutputs: ["sum"] }),
  };
}

function asTensor({ rows, cols, data }: Matrix): Tensor<"float32"> {
  return { dtype: "float32", shape: [rows, cols], data: data instanceof Float32Array ? data : new Float32Array(data) };
}

/** Digests of what has been hashed: weights are large, and asked for by content more than once. */
const digests = new WeakMap<Floats, Promise<ArrayBuffer>>();

/**
 * SHA-256 of the sizes and values of matrices, in hexadecimal: the same content has the same hash, wherever it is. Values
 * must not change once they have been hashed.
 */
export async function hashMatrices(...matrices: readonly Matrix[]): Promise<string> {
  const parts = matrices.map(async ({ rows, cols, data }) => {
    const digest = digests.get(data) ?? crypto.subtle.digest("SHA-256", bytesOf(data) as Uint8Array<ArrayBuffer>);
    digests.set(data, digest);
    const head = new Uint8Array(new Uint32Array([rows, cols, data.BYTES_PER_ELEMENT]).buffer);
    return [...head, ...new Uint8Array(await digest)];
  });
  const digest = await crypto.subtle.digest("SHA-256", Uint8Array.from((await Promise.all(parts)).flat()));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
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
