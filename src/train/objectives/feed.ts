import { assert } from "../../errors.ts";
import type { Fed } from "../../models/index.ts";
import { type Batch, type LayoutOptions, type Sequence, sequencesOf, type TokenizedExample } from "../data/index.ts";

/** Feed sequences as their model reads them. */
export function feedSequences(sequences: readonly Sequence[], { feed, padId }: LayoutOptions): Fed {
  assert(feed !== undefined, "the layout of this objective's batches is of a model");
  return feed(sequences, padId);
}

/** A batch of examples each of which has as many answers, fed as `labels`: their answers end to end. */
export function answeredBatch(
  examples: readonly TokenizedExample[],
  layout: LayoutOptions,
  labels: (answers: readonly number[], each: number) => Batch["feeds"][string],
): Batch {
  const { feeds, sizes } = feedSequences(examples, layout);
  const each = examples[0]?.answers?.length ?? 0;
  assert(
    examples.every(({ answers }) => answers?.length === each),
    "examples of a batch have as many answers each",
  );
  const answers = examples.flatMap((example) => example.answers ?? []);
  return {
    feeds: { ...feeds, labels: labels(answers, each) },
    sizes,
    tokens: countTokens(examples),
    targets: examples.length,
  };
}

/** Numbers that are read of all sequences of examples. */
export function countTokens(examples: readonly TokenizedExample[]): number {
  return examples.flatMap(sequencesOf).reduce((sum, { inputIds }) => sum + inputIds.length, 0);
}
