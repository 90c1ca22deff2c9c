import { assert } from "../../errors.ts";
import { type Tensor, tensor } from "../../graph/index.ts";
import { attentionBlocks, targetMultiple } from "../../models/index.ts";
import { packRows } from "./packing.ts";
import type { TokenizedExample } from "./tokenize.ts";

/** What a training step reads, and how much there is of it. */
export interface Batch {
  readonly feeds: {
    /** [batch, seq]: each row one or several documents, padded on the right. */
    readonly input_ids: Tensor<"int64">;
    /** [batch, seq]: 0, 1, … in every document, which attends to itself alone; 0 at padding. */
    readonly position_ids: Tensor<"int64">;
    /** [targets]: indices into the batch·seq positions whose next token is a label. */
    readonly target_positions: Tensor<"int64">;
    /** [targets]: the labels, the tokens right after those positions. */
    readonly labels: Tensor<"int64">;
    /** [targets]: 1, or 0 where a target only fills up a chunk. */
    readonly label_weights: Tensor<"float32">;
  };
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Labels: what the loss is a mean over. */
  readonly targets: number;
}

/** The sizes of a batch, by the symbols that the objective's graph names them with. */
export function batchSizes({
  input_ids,
  labels,
}: Batch["feeds"]): Readonly<Record<"batch" | "block" | "chunk", number>> {
  const [batch = 1, seq = attentionBlocks] = input_ids.shape;
  return { batch, block: seq / attentionBlocks, chunk: labels.data.length / targetMultiple };
}

/** How a batch is laid out. */
export interface LayoutOptions {
  /** The token that fills rows up. Any will do: no label depends on what stands to its right. */
  readonly padId: number;
  /** The model's hidden size, to pack several examples into a row where that is less work; without it, one a row. */
  readonly hiddenSize?: number;
}

/**
 * Put examples side by side, padded on the right to a multiple of what attention is cut into. Packing changes where an
 * example stands and nothing else: its positions start at 0, it attends to itself alone, and its labels count the same.
 */
export function makeBatch(examples: readonly TokenizedExample[], { padId, hiddenSize }: LayoutOptions): Batch {
  assert(examples.length > 0, "a batch needs an example");
  const lengths = examples.map(({ inputIds }) => inputIds.length);
  const { rows, width } =
    hiddenSize === undefined ? oneARow(lengths) : packRows(lengths, { multiple: attentionBlocks, hiddenSize });
  const ids = new Int32Array(rows.length * width).fill(padId);
  const positions = new Int32Array(ids.length);
  const targets: number[] = [];
  const labels: number[] = [];
  for (const [row, indices] of rows.entries()) {
    let start = row * width;
    for (const index of indices) {
      const { inputIds, trained } = examples[index] as TokenizedExample; // packed from their lengths
      ids.set(inputIds, start);
      for (const [i, label] of inputIds.entries()) {
        positions[start + i] = i;
        if (i === 0 || trained[i] !== 1) continue;
        targets.push(start + i - 1);
        labels.push(label);
      }
      start += inputIds.length;
    }
  }
  const labelled = targets.length;
  const weights = targets.map(() => 1);
  while (targets.length % targetMultiple > 0 || targets.length === 0) {
    targets.push(0);
    labels.push(0);
    weights.push(0);
  }
  const shape = [rows.length, width];
  return {
    feeds: {
      input_ids: tensor("int64", shape, ids),
      position_ids: tensor("int64", shape, positions),
      target_positions: tensor("int64", [targets.length], targets),
      labels: tensor("int64", [labels.length], labels),
      label_weights: tensor("float32", [weights.length], weights),
    },
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    targets: labelled,
  };
}

function oneARow(lengths: readonly number[]): { rows: readonly (readonly number[])[]; width: number } {
  const width = Math.ceil(Math.max(...lengths) / attentionBlocks) * attentionBlocks;
  return { rows: lengths.map((_, i) => [i]), width };
}

/** Every example once, those of like length together, so that little is padding. For measuring, where order is free. */
export function batchesByLength(
  examples: readonly TokenizedExample[],
  { batchSize, ...options }: LayoutOptions & { readonly batchSize: number },
): readonly Batch[] {
  const sorted = examples.toSorted((a, b) => a.inputIds.length - b.inputIds.length);
  return Array.from({ length: Math.ceil(sorted.length / batchSize) }, (_, i) =>
    makeBatch(sorted.slice(i * batchSize, (i + 1) * batchSize), options),
  );
}
