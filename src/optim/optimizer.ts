import type { Value } from "../graph/index.ts";

/** What one update reads; every value has the parameter's shape. */
export interface UpdateInputs {
  readonly parameter: Value;
  readonly gradient: Value;
  /** The optimiser's own tensors for this parameter, by name. */
  readonly state: (name: string) => Value;
  /** Scalars fed with the step, by name. */
  readonly scalar: (name: string) => Value;
  /** Whether weight decay applies to it. */
  readonly decays: boolean;
  /** Its learning rate as a multiple of the step's. */
  readonly rate: number;
}

/** An update rule as a piece of graph. */
export interface Optimizer<Config extends object = object> {
  readonly name: string;
  /** Tensors kept for each parameter, each of its shape and zero at first. */
  readonly state: readonly string[];
  /** Scalars of one step, worked out in float64. `step` counts from 1. */
  readonly scalars: (step: number, learningRate: number, config: Config) => Readonly<Record<string, number>>;
  readonly update: (
    inputs: UpdateInputs,
    config: Config,
  ) => { readonly parameter: Value; readonly state: Readonly<Record<string, Value>> };
}
