import { sizeOf, type Value } from "../graph/index.ts";
import { add, div, gemm, min, mul, reshape, sqrt, sumAll } from "../ops/index.ts";

/**
 * √Σ‖g‖² over all gradients, a scalar. As products: ONNX Runtime adds the elements of one ReduceSum in sequence, which
 * in float32 is off by a thousandth over a million of them, and those of a product in many partial sums.
 */
export function globalNorm(gradients: readonly Value[]): Value {
  const squares = gradients.map((gradient) => {
    const row = reshape(gradient, [1, sizeOf(gradient.shape.map(Number))]);
    return sumAll(gemm(row, row, { transB: true }));
  });
  return sqrt(squares.reduce((sum, square) => add(sum, square)));
}

/** Scale gradients so that their global norm is at most `maxNorm`, as torch.nn.utils.clip_grad_norm_. */
export function clipByGlobalNorm(gradients: readonly Value[], norm: Value, maxNorm: number): readonly Value[] {
  const factor = min(div(maxNorm, add(norm, 1e-6)), 1);
  return gradients.map((gradient) => mul(gradient, factor));
}
