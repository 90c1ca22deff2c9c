/** Tensors that checkpoints hold, that a model does not use, and that change nothing. */
export interface Harmless {
  readonly names: RegExp;
  /** Why nothing is lost without them. */
  readonly why: string;
  /** What must be so besides, or they are not harmless: all zeros, or the same values as a tensor that is used. */
  readonly when?: "zeros" | { readonly sameAs: string };
}

const frequencies = "frequencies of rotary positions, which config.json gives";

/** Whatever the family. */
export const sharedHarmless: readonly Harmless[] = [
  { names: /(^|\.)rotary_emb\.inv_freq$/, why: frequencies },
  { names: /(^|\.)position_ids$/, why: "the numbers 0, 1, …, a buffer of older versions" },
  { names: /(^|\.)num_batches_tracked$/, why: "a counter of training" },
  { names: /\.(q|k|v|kv|prob)_(scale|zero_point)$/, why: "scales of a quantised cache, which is not quantised here" },
  { names: /^v_head\./, why: "a value head beside the model, of TRL's PPO" },
  { names: /\.bias$/, when: "zeros", why: "biases of zeros, which tools of GPTQ write beside every matrix" },
];

/** Of the descendants of BERT. */
export const encoderHeads: readonly Harmless[] = [
  { names: /^(cls|lm_predictions|mask_predictions|lm_head|mlm)\./, why: "heads of pretraining" },
  { names: /^qa_outputs\./, why: "a head for answers in a text" },
  { names: /(^|\.)pooler\.dense\.(weight|bias)$/, why: "the pooler, which this task does not read" },
];

/** Masks that older versions of GPT-2's kin wrote down. */
export function causalMasks(module: string): Harmless {
  return {
    names: new RegExp(`\\.${module}\\.(bias|masked_bias)$`),
    why: "masks of tokens to come, buffers of older versions",
  };
}
