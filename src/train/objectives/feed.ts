import { assert } from "../../errors.ts";
import type { Fed } from "../../models/index.ts";
import { type Batch, type LayoutOptions, type Sequence, sequencesOf, type TokenizedExample } from "../data/index.ts";

/** Feed sequences as their model reads them. */
export function feedSequences(sequences: readonly Sequence[], { feed, padId }: LayoutOptions): Fed {
  assert(feed !== undefined, "the layout of this objective's batches is of a model");
  return feed(sequences, padId);
}

/** A batch of examples each of which has one answer, fed as `labels`. */
export function answeredBatch(
  examples: readonly TokenizedExample[],
  layout: LayoutOptions,
  labels: (answers: readonly number[], shape: readonly number[]) => Batch["feeds"][string],
): Batch {
  const { feeds, sizes } = feedSequences(examples, layout);
  const answers = examples.map((example) => example.answers?.[0] ?? 0);
  return {
    feeds: { ...feeds, labels: labels(answers, [examples.length]) },
    sizes,
    tokens: countTokens(examples),
    targets: examples.length,
  };
}

/** Numbers that are read of all sequences of examples. */
export function countTokens(examples: readonly TokenizedExample[]): number {
  return examples.flatMap(sequencesOf).reduce((sum, { inputIds }) => sum + inputIds.length, 0);
}
