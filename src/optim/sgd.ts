import { flag, real } from "../fields.ts";
import type { Value } from "../graph/index.ts";
import { add, mul, sub } from "../ops/index.ts";
import { defineOptimizer, type Optimizer } from "./optimizer.ts";

/** Options of stochastic gradient descent. */
export interface SgdConfig {
  readonly momentum: number;
  readonly nesterov: boolean;
  readonly weightDecay: number;
}

/**
 * Stochastic gradient descent, as torch.optim.SGD without dampening: g ← g + λp; b ← μb + g; p ← p − lr·b, or
 * p ← p − lr·(g + μb) with Nesterov's momentum (Sutskever et al. 2013, §2, in torch's form). Without momentum nothing is
 * kept from one update to the next.
 */
export const sgd: Optimizer<SgdConfig> = defineOptimizer<SgdConfig>({
  name: "sgd",
  summary: "stochastic gradient descent with momentum",
  fields: {
    momentum: real(0.9, "share of the last step that an update keeps", { min: 0, below: 1 }),
    nesterov: {
      ...flag(false, "look ahead along the momentum"),
      idle: ({ momentum }) => (momentum === 0 ? "momentum is 0" : undefined),
    },
    weightDecay: real(0, "decay of matrices", { min: 0 }),
  },
  decay: "weightDecay",
  state: (shape, { momentum }) => (momentum > 0 ? { momentum: { dtype: "float32", shape } } : {}),
  scalars: (_step, learningRate) => ({ learning_rate: learningRate }),
  update: ({ parameter, gradient, state, scalar, decays, rate }, { momentum, nesterov, weightDecay }) => {
    const pull = decays && weightDecay > 0 ? add(gradient, mul(parameter, weightDecay)) : gradient;
    const kept = momentum > 0 ? add(mul(state("momentum"), momentum), pull) : undefined;
    const direction: Value = kept === undefined ? pull : nesterov ? add(pull, mul(kept, momentum)) : kept;
    const length = rate === 1 ? scalar("learning_rate") : mul(scalar("learning_rate"), rate);
    return {
      parameter: sub(parameter, mul(direction, length)),
      state: kept === undefined ? {} : { momentum: kept },
    };
  },
});
