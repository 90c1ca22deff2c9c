import type { Value } from "../graph/index.ts";
import { add, div, min, mul, reduceSum, sqrt, sumAll } from "../ops/index.ts";

/**
 * √Σ‖g‖² over all gradients, a scalar. Rows are summed first: ONNX Runtime adds the elements of one sum in sequence,
 * which in float32 is off by a thousandth over a million of them.
 */
export function globalNorm(gradients: readonly Value[]): Value {
  const squares = gradients.map((gradient) => sumAll(reduceSum(mul(gradient, gradient), [-1])));
  return sqrt(squares.reduce((sum, square) => add(sum, square)));
}

/** Scale gradients so that their global norm is at most `maxNorm`, as torch.nn.utils.clip_grad_norm_. */
export function clipByGlobalNorm(gradients: readonly Value[], norm: Value, maxNorm: number): readonly Value[] {
  const factor = min(div(maxNorm, add(norm, 1e-6)), 1);
  return gradients.map((gradient) => mul(gradient, factor));
}
