import type { Value } from "../graph/index.ts";
import { add, div, min, mul, sqrt, sumSquares } from "../ops/index.ts";

/** √Σ‖g‖² over all gradients, a scalar. */
export function globalNorm(gradients: readonly Value[]): Value {
  return sqrt(gradients.map(sumSquares).reduce((sum, square) => add(sum, square)));
}

/** Scale gradients so that their global norm is at most `maxNorm`, as torch.nn.utils.clip_grad_norm_. */
export function clipByGlobalNorm(gradients: readonly Value[], norm: Value, maxNorm: number): readonly Value[] {
  const factor = min(div(maxNorm, add(norm, 1e-6)), 1);
  return gradients.map((gradient) => mul(gradient, factor));
}
