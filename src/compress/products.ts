import { graph, input, type Tensor } from "../graph/index.ts";
import { type Floats, type Matrix, type Multiply, matmul, matrixLike, toFloat64 } from "../linalg/index.ts";
import { gemm } from "../ops/index.ts";
import type { Device } from "../runtime/device.ts";
import { shareOf } from "../runtime/device-share.ts";
import { compileGraph, type Program } from "../runtime/program.ts";

/** Products of fewer multiplications are computed here: a call would take longer. */
const worthwhile = 2 ** 19;

/** Products on a device. */
export interface DeviceProducts {
  /** In float32 or float64, as the first operand is. */
  readonly multiply: Multiply;
  /** Free what was compiled; the device stays open. */
  close(): Promise<void>;
}

/**
 * Products of matrices on a device, which should be a CPU in this thread: operands are read where they are, with no copy on
 * the way, and a run blocks the thread. Small ones are computed here.
 */
export function deviceProducts(device: Device): DeviceProducts {
  const share = shareOf(device);
  const programs = new Map<string, Promise<Program>>();
  const programOf = (dtype: FloatType, transA: boolean, transB: boolean): Promise<Program> => {
    const key = `${dtype} ${transA} ${transB}`;
    const known = programs.get(key) ?? compile(share, dtype, transA, transB);
    programs.set(key, known);
    return known;
  };
  return {
    multiply: async <T extends Floats>(a: Matrix<T>, b: Matrix, options: Parameters<Multiply>[2] = {}) => {
      const { transA = false, transB = false } = options;
      const [rows, inner] = transA ? [a.cols, a.rows] : [a.rows, a.cols];
      const cols = transB ? b.rows : b.cols;
      if (rows * inner * cols < worthwhile) return matmul(a, b, options);
      const dtype = a.data instanceof Float32Array ? "float32" : "float64";
      const program = await programOf(dtype, transA, transB);
      const like: Matrix = b.data.constructor === a.data.constructor ? b : matrixLike(a.data, toFloat64(b));
      const { product } = await program.run({ feeds: { a: asTensor(a), b: asTensor(like) } });
      return { rows, cols, data: product?.data as T }; // the dtype of its operands
    },
    close: () => share.close(),
  };
}

type FloatType = "float32" | "float64";

function compile(device: Device, dtype: FloatType, transA: boolean, transB: boolean): Promise<Program> {
  const a = input("a", dtype, transA ? ["inner", "rows"] : ["rows", "inner"]);
  const b = input("b", dtype, transB ? ["cols", "inner"] : ["inner", "cols"]);
  return compileGraph(device, graph({ name: "product", outputs: { product: gemm(a, b, { transA, transB }) } }));
}

function asTensor({ rows, cols, data }: Matrix): Tensor<FloatType> {
  return { dtype: data instanceof Float32Array ? "float32" : "float64", shape: [rows, cols], data };
}
