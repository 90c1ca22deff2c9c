import type { Value } from "../graph/index.ts";
import { add, div, mul, sqrt, sub } from "../ops/index.ts";
import type { Optimizer } from "./optimizer.ts";

/** Options of AdamW. */
export interface AdamWConfig {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** The defaults of torch.optim.AdamW, but for weight decay, which Hugging Face's Trainer sets to 0. */
export const adamwDefaults: AdamWConfig = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 };

/**
 * Adam with decoupled weight decay. Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2, in the order of
 * operations of torch.optim.AdamW: p ← p·(1 − lr·λ); m ← m + (1 − β₁)(g − m); v ← β₂v + (1 − β₂)g²;
 * p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε).
 */
export const adamw: Optimizer<AdamWConfig> = {
  name: "adamw",
  state: ["m", "v"],
  scalars: (step, learningRate, { beta1, beta2, weightDecay }) => ({
    keep: 1 - learningRate * weightDecay,
    step_size: learningRate / (1 - beta1 ** step),
    root_correction: Math.sqrt(1 - beta2 ** step),
  }),
  update: ({ parameter, gradient, state, scalar, decays, rate }, { beta1, beta2, epsilon, weightDecay }) => {
    const times = (value: Value): Value => (rate === 1 ? value : mul(value, rate));
    const keep = rate === 1 ? scalar("keep") : add(times(sub(scalar("keep"), 1)), 1);
    const decayed = decays && weightDecay > 0 ? mul(parameter, keep) : parameter;
    const m = add(state("m"), mul(sub(gradient, state("m")), 1 - beta1));
    const v = add(mul(state("v"), beta2), mul(mul(gradient, gradient), 1 - beta2));
    const denominator = add(div(sqrt(v), scalar("root_correction")), epsilon);
    return { parameter: sub(decayed, mul(times(scalar("step_size")), div(m, denominator))), state: { m, v } };
  },
};
