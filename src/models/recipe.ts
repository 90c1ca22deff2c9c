import type { RecipeActivation } from "./activations.ts";

/**
 * A decoder-only transformer as plain data, for engines that compute it without a graph: what stands where, in transformers'
 * names. A residual stream x runs through; in every layer x += attention(norm(x)) and x += feed-forward(norm(x)).
 */
export interface DecodeRecipe {
  /** x = embedding[token]·scale, plus positions[position] where positions are learnt. */
  readonly embedding: { readonly tensor: string; readonly scale: number; readonly positions?: string };
  readonly layers: readonly LayerRecipe[];
  readonly norm: NormRecipe;
  /** Logits = W·norm(x), then cap·tanh(·/cap) with a cap. */
  readonly head: { readonly tensor: string; readonly cap?: number };
}

/** Root-mean-square or layer norm; its tensors are `module.weight` and, for a layer norm, `module.bias`. */
export interface NormRecipe {
  readonly kind: "rms" | "layer";
  readonly module: string;
  readonly epsilon: number;
  /** It multiplies by 1 + weight. */
  readonly addsOne: boolean;
}

/** A linear map: `module.weight`, [outputs, inputs] or transposed as `layout` says, and `module.bias`. */
export interface LinearRecipe {
  readonly module: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly bias: boolean;
  readonly layout: "out,in" | "in,out";
}

/** Rotary positions. */
export interface RopeRecipe {
  /** Angle of a pair = position · frequency: as many as there are pairs. */
  readonly frequencies: readonly number[];
  /** Factor on cosines and sines. */
  readonly scale: number;
}

/** One layer. */
export interface LayerRecipe {
  readonly attention: {
    readonly norm: NormRecipe;
    /** Queries, keys and values, as three maps or as one whose outputs are those of the three. */
    readonly projections: readonly LinearRecipe[];
    readonly heads: number;
    readonly kvHeads: number;
    readonly headDim: number;
    /** Norms over each head. */
    readonly queryNorm?: NormRecipe;
    readonly keyNorm?: NormRecipe;
    readonly rope?: RopeRecipe;
    readonly scale: number;
    readonly window?: number;
    readonly cap?: number;
    readonly output: LinearRecipe;
    /** Of what attention gives, before it is added. */
    readonly after?: NormRecipe;
  };
  readonly feedForward: {
    readonly norm: NormRecipe;
    /** Up alone; gate and up; or one map that gives gate, then up. */
    readonly inner: readonly LinearRecipe[];
    /** down(f(gate)·up), or down(f(up)). */
    readonly gated: boolean;
    readonly activation: RecipeActivation;
    readonly down: LinearRecipe;
    readonly after?: NormRecipe;
  };
}
