import { assert } from "../../errors.ts";
import { type Tensor, tensor } from "../../graph/index.ts";
import { attentionBlocks } from "../../models/index.ts";
import type { TokenizedExample } from "./tokenize.ts";

/** What a training step reads, and how much there is of it. */
export interface Batch {
  readonly feeds: {
    /** [batch, seq], padded on the right. */
    readonly input_ids: Tensor<"int64">;
    /** [batch, seq]: 0, 1, … in every row; 0 where no row has a token. */
    readonly position_ids: Tensor<"int64">;
    /** [targets]: indices into the batch·seq positions whose next token is a label. */
    readonly target_positions: Tensor<"int64">;
    /** [targets]: the labels, the tokens right after those positions. */
    readonly labels: Tensor<"int64">;
  };
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Labels: what the loss is a mean over. */
  readonly targets: number;
}

/** How a batch is padded. */
export interface PadOptions {
  /** The token that fills rows up. Any will do: no label depends on what stands to its right. */
  readonly padId: number;
}

/** Put examples side by side, padded on the right to the longest and to a multiple of what attention is cut into. */
export function makeBatch(examples: readonly TokenizedExample[], { padId }: PadOptions): Batch {
  assert(examples.length > 0, "a batch needs an example");
  const longest = Math.max(...examples.map(({ inputIds }) => inputIds.length));
  const seq = Math.ceil(longest / attentionBlocks) * attentionBlocks;
  const ids = new Int32Array(examples.length * seq).fill(padId);
  // Columns that only fill up may lie beyond the model's context, which has no positions there.
  const positions = Int32Array.from(ids, (_, i) => (i % seq < longest ? i % seq : 0));
  const targets: number[] = [];
  const labels: number[] = [];
  let tokens = 0;
  for (const [row, { inputIds, trained }] of examples.entries()) {
    ids.set(inputIds, row * seq);
    tokens += inputIds.length;
    for (const [i, label] of inputIds.entries()) {
      if (i === 0 || trained[i] !== 1) continue;
      targets.push(row * seq + i - 1);
      labels.push(label);
    }
  }
  return {
    feeds: {
      input_ids: tensor("int64", [examples.length, seq], ids),
      position_ids: tensor("int64", [examples.length, seq], positions),
      target_positions: tensor("int64", [targets.length], targets),
      labels: tensor("int64", [labels.length], labels),
    },
    tokens,
    targets: targets.length,
  };
}

/** Every example once, those of like length together, so that little is padding. For measuring, where order is free. */
export function batchesByLength(
  examples: readonly TokenizedExample[],
  { batchSize, ...options }: PadOptions & { readonly batchSize: number },
): readonly Batch[] {
  const sorted = examples.toSorted((a, b) => a.inputIds.length - b.inputIds.length);
  return Array.from({ length: Math.ceil(sorted.length / batchSize) }, (_, i) =>
    makeBatch(sorted.slice(i * batchSize, (i + 1) * batchSize), options),
  );
}
