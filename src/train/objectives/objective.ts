import type { Fields } from "../../fields.ts";
import type { InputValue, Value } from "../../graph/index.ts";
import type { Citation } from "../../methods/index.ts";
import type { OpenGraph, PretrainedModel } from "../../models/index.ts";
import type { ExampleLayout } from "../../transforms/index.ts";
import type { Batch, ExampleKind, LayoutOptions, TokenizedExample } from "../data/index.ts";

/** What the model computes of a batch, by name: as it is being tuned, and as it was pretrained. */
export interface Computed {
  readonly tuned: Readonly<Record<string, Value>>;
  /** The same outputs with the adapter off and dropout off; what an objective does not read is not computed. */
  readonly pretrained: Readonly<Record<string, Value>>;
}

/** A loss, still open. */
export interface Loss {
  /** What it reads besides the inputs of `forward`. */
  readonly inputs: readonly InputValue[];
  /**
   * A scalar: summed over the batch and divided by the input `normaliser`, so that the batches of an update add up to
   * its mean.
   */
  readonly loss: Value;
  /** Further scalars to report, summed and divided in the same way. */
  readonly measures: Readonly<Record<string, Value>>;
}

/** The sizes of the axes of rows and of examples; see `ExampleLayout`. */
export type ExampleAxes = Pick<ExampleLayout, "rows" | "examples" | "pairs">;

/** A row an example. */
export const oneRowEach: ExampleAxes = { rows: "batch", examples: "batch" };

/**
 * What training minimises: how a batch is laid out, what the model computes of it, and the loss. Adding one is adding
 * such a record and one line in `objectives/table.ts`.
 */
export interface Objective<Config extends object = object> {
  readonly name: string;
  readonly summary: string;
  readonly cite?: Citation;
  readonly fields: Fields<Config>;
  /** What its examples are; data whose rows become others is refused. */
  readonly learnsFrom: ExampleKind;
  /** Learning rates as a multiple of the method's own, where they are others; 1 unless given. */
  readonly rateFactor?: number;
  /** Whether the loss is a negative log-likelihood a token, so that e^loss is a perplexity. */
  readonly perplexity?: true;
  /** What `targets` of a batch counts, in the plural: the loss is a mean over these. */
  readonly meanOver: string;
  /** How examples lie in the rows of a batch where each is alone, for gradients by example; or why there are none. */
  readonly examples: ExampleAxes | { readonly refused: string };
  /** What the model computes, and the inputs it reads. Methods attach to this. */
  readonly forward: (model: PretrainedModel, options?: { readonly alone?: boolean }) => OpenGraph;
  readonly loss: (computed: Computed, config: Config) => Loss;
  /** Lay examples out; feeds every input but `normaliser`. */
  readonly batch: (examples: readonly TokenizedExample[], layout: LayoutOptions) => Batch;
}

/** Declare an objective; its own config type stays inside it. */
export function defineObjective<Config extends object>(objective: Objective<Config>): Objective<Config> {
  return Object.freeze(objective);
}
