import { bytesOf, input, graph as makeGraph, type Tensor } from "../graph/index.ts";
import { emptyLike, type Floats, type LinearOperator, type Matrix, operatorOf, toFloat64 } from "../linalg/index.ts";
import { gemm } from "../ops/index.ts";
import type { Device } from "../runtime/device.ts";
import { shareOf } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";

/** A matrix whose products are computed somewhere. */
export interface PlacedMatrix extends LinearOperator {
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
  place: async (matrix) => ({ ...operatorOf(matrix), release: async () => {} }),
  close: async () => {},
};

/**
 * Products of large matrices on a device, in float32: a matrix is sent once and stays in a buffer. Small ones are
 * multiplied here.
 */
export function deviceProducts(device: Device): Products {
  const share = shareOf(device);
  let programs: Promise<{ plain: Program; transposed: Program }> | undefined;
  let placed = 0;
  return {
    place: async (matrix) => {
      if (matrix.rows * matrix.cols < worthwhile) return localProducts.place(matrix);
      programs ??= compile(share);
      const { plain, transposed } = await programs;
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
        apply: (X) => run(plain, X, matrix.rows),
        applyTransposed: (Y) => run(transposed, Y, matrix.cols),
        release: () => share.discard([name]),
      };
    },
    close: () => share.close(),
  };
}

async function compile(device: Device): Promise<{ plain: Program; transposed: Program }> {
  const program = (transA: boolean): Promise<Program> => {
    const matrix = input("matrix", "float32", ["rows", "cols"]);
    const operand = input("operand", "float32", [transA ? "rows" : "cols", "count"]);
    return compileGraph(
      device,
      makeGraph({ name: "product", outputs: { product: gemm(matrix, operand, { transA }) } }),
    );
  };
  return { plain: await program(false), transposed: await program(true) };
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
