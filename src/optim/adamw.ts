import { type Fields, real } from "../fields.ts";
import type { Value } from "../graph/index.ts";
import { add, div, mul, sqrt, sub } from "../ops/index.ts";
import { defineOptimizer, type Optimizer, type UpdateInputs } from "./optimizer.ts";

/** Options of AdamW. */
export interface AdamWConfig {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** With the defaults of torch.optim.AdamW, but for weight decay, which Hugging Face's Trainer sets to 0. */
export const adamwFields: Fields<AdamWConfig> = {
  beta1: real(0.9, "share of the mean of gradients that an update keeps", { min: 0, below: 1 }),
  beta2: real(0.999, "share of the mean of their squares that an update keeps", { min: 0, below: 1 }),
  epsilon: real(1e-8, "added to the root of that mean", { min: 0 }),
  weightDecay: real(0, "decay of matrices", { min: 0 }),
};

/** The scalars of a step of {@link adamwUpdate}. */
export function adamwScalars(
  step: number,
  learningRate: number,
  { beta1, beta2, weightDecay }: AdamWConfig,
): Readonly<Record<"keep" | "step_size" | "root_correction", number>> {
  return {
    keep: 1 - learningRate * weightDecay,
    step_size: learningRate / (1 - beta1 ** step),
    root_correction: Math.sqrt(1 - beta2 ** step),
  };
}

/** The next parameter and the next means, from the means m and v before; see {@link adamw}. */
export function adamwUpdate(
  { parameter, gradient, scalar, decays, rate }: Omit<UpdateInputs, "state">,
  before: { readonly m: Value; readonly v: Value },
  { beta1, beta2, epsilon, weightDecay }: AdamWConfig,
): { readonly parameter: Value; readonly m: Value; readonly v: Value } {
  const times = (value: Value): Value => (rate === 1 ? value : mul(value, rate));
  const keep = rate === 1 ? scalar("keep") : add(times(sub(scalar("keep"), 1)), 1);
  const decayed = decays && weightDecay > 0 ? mul(parameter, keep) : parameter;
  const m = add(before.m, mul(sub(gradient, before.m), 1 - beta1));
  const v = add(mul(before.v, beta2), mul(mul(gradient, gradient), 1 - beta2));
  const denominator = add(div(sqrt(v), scalar("root_correction")), epsilon);
  return { parameter: sub(decayed, mul(times(scalar("step_size")), div(m, denominator))), m, v };
}

/**
 * Adam with decoupled weight decay. Loshchilov & Hutter 2019, algorithm 2, in the order of operations of
 * torch.optim.AdamW: p ← p·(1 − lr·λ); m ← m + (1 − β₁)(g − m); v ← β₂v + (1 − β₂)g²;
 * p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε).
 */
export const adamw: Optimizer<AdamWConfig> = defineOptimizer<AdamWConfig>({
  name: "adamw",
  summary: "Adam with decoupled weight decay",
  cite: {
    title: "Decoupled Weight Decay Regularization",
    authors: "Loshchilov, Hutter",
    year: 2019,
    arxiv: "1711.05101",
    at: "algorithm 2",
  },
  fields: adamwFields,
  decay: "weightDecay",
  state: (shape) => ({ m: { dtype: "float32", shape }, v: { dtype: "float32", shape } }),
  scalars: adamwScalars,
  update: (inputs, config) => {
    const { parameter, m, v } = adamwUpdate(inputs, { m: inputs.state("m"), v: inputs.state("v") }, config);
    return { parameter, state: { m, v } };
  },
});
