import type { Fields } from "../fields.ts";
import type { DType, Value } from "../graph/index.ts";

/** A paper or a program, and the place in it that an update rule implements. */
export interface RuleSource {
  readonly title: string;
  readonly authors: string;
  readonly year: number;
  readonly arxiv: string;
  readonly at: string;
}

/** What one update reads. Parameters may come one by one or several end to end, as a vector. */
export interface UpdateInputs {
  readonly parameter: Value;
  /** Of the parameter's shape. */
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

/** A tensor that is kept from update to update; zero at first. */
export interface StateSpec {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** An update rule as a piece of graph. Adding one is adding such a record and one line in `optim/table.ts`. */
export interface Optimizer<Config extends object = object> {
  readonly name: string;
  readonly summary: string;
  readonly cite?: RuleSource;
  readonly fields: Fields<Config>;
  /** The option that acts on parameters that decay alone: it is refused where none does. */
  readonly decay?: keyof Config & string;
  /** What is kept for a parameter of a shape, by name. */
  readonly state: (shape: readonly number[], config: Config) => Readonly<Record<string, StateSpec>>;
  /** Scalars of one step, worked out in float64. `step` counts from 1. */
  readonly scalars: (step: number, learningRate: number, config: Config) => Readonly<Record<string, number>>;
  /** The next parameter, and the next of every tensor of its state. */
  readonly update: (
    inputs: UpdateInputs,
    config: Config,
  ) => { readonly parameter: Value; readonly state: Readonly<Record<string, Value>> };
}

/** Declare an update rule; its own config type stays inside it. */
export function defineOptimizer<Config extends object>(optimizer: Optimizer<Config>): Optimizer<Config> {
  return Object.freeze(optimizer);
}
