import { assert } from "../../errors.ts";
import { type Tensor, tensor } from "../../graph/index.ts";
import {
  exactAttention,
  type InputForm,
  type PretrainedModel,
  refuseLongerThan,
  targetMultiple,
} from "../../models/index.ts";
import { packRows } from "./packing.ts";
import { tokensOf } from "./store.ts";
import type { Sequence, TokenizedExample } from "./tokenize.ts";

/** What a training step reads, and how much there is of it. */
export interface Batch {
  /** The inputs of an objective's graph but `normaliser`, which is `targets` of the whole update. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** The batch's sizes, by the symbols that the graph names them with. */
  readonly sizes: Readonly<Record<string, number>>;
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Whether its rows only stand for a batch that none was drawn for: nothing of them counts. */
  readonly blank?: true;
  /** What the loss is a mean over: labels, in causal language modelling; examples, where each is alone. */
  readonly targets: number;
}

/** Sequences side by side, with what is to be predicted of them. */
export interface TokenBatch extends Batch {
  readonly feeds: {
    /** [batch, seq]: each row one or several documents, padded on the right. */
    readonly input_ids: Tensor<"int64">;
    /** [batch, seq]: 0, 1, … in every document, which attends to itself alone; 0 at padding. */
    readonly position_ids: Tensor<"int64">;
    /** [targets]: indices into the batch·seq positions whose next token is a label. */
    readonly target_positions: Tensor<"int64">;
    /** [targets]: the labels, the tokens right after those positions. */
    readonly labels: Tensor<"int64">;
    /** [targets]: 1, or a share of it where examples are alone; 0 where a target only fills up a chunk. */
    readonly label_weights: Tensor<"float32">;
  };
  /** For each label, which of the sequences it is of. */
  readonly owners: readonly number[];
}

/** How a batch is laid out. */
export interface LayoutOptions {
  /** The token that fills rows up. Any will do: no label depends on what stands to its right. */
  readonly padId: number;
  /** The model's hidden size, to pack several examples into a row where that is less work; without it, one a row. */
  readonly hiddenSize?: number;
  /** Rows are padded to a multiple of this many tokens: that of the model's attention, exact attention's unless given. */
  readonly multiple?: number;
  /** What a decoder beside an encoder begins with; `padId` unless given. */
  readonly startId?: number;
  /** One example a row, its loss a mean over its own labels: what gradients by example are of. */
  readonly alone?: boolean;
  /** How the model is fed, where it does not continue texts. */
  readonly feed?: InputForm["feed"];
  /** Rows of the model's table of positions, where it has one. */
  readonly positions?: number;
}

/** How batches of a model are laid out. */
export function layoutOf({ sizes, reads, startId, attention }: PretrainedModel, padId: number): LayoutOptions {
  return {
    ...{ padId, feed: reads.feed, multiple: attention.multiple },
    ...(attention.alone ? {} : { hiddenSize: sizes.hiddenSize }),
    ...(startId === undefined ? {} : { startId }),
    ...(reads.table ? { positions: reads.length } : {}),
  };
}

/**
 * Put sequences side by side, padded on the right to a multiple of what attention is cut into. Packing changes where a
 * sequence stands and nothing else: its positions start at 0, it attends to itself alone, and its labels count the same.
 * @throws {TuneError} `sequence-too-long` when one reaches beyond the model's table of positions.
 */
export function makeBatch(
  examples: readonly Sequence[],
  { padId, hiddenSize, multiple = exactAttention.multiple, positions: rowsOfTable, alone = false }: LayoutOptions,
): TokenBatch {
  assert(examples.length > 0, "a batch needs an example");
  const lengths = examples.map(({ inputIds }) => inputIds.length);
  if (rowsOfTable !== undefined) refuseLongerThan(rowsOfTable, Math.max(...lengths));
  const { rows, width } =
    hiddenSize === undefined || alone ? oneARow(lengths, multiple) : packRows(lengths, { multiple, hiddenSize });
  const ids = new Int32Array(rows.length * width).fill(padId);
  const positions = new Int32Array(ids.length);
  const targets: number[] = [];
  const labels: number[] = [];
  const owners: number[] = [];
  for (const [row, indices] of rows.entries()) {
    let start = row * width;
    for (const index of indices) {
      const { inputIds, trained } = examples[index] as Sequence; // packed from their lengths
      ids.set(inputIds, start);
      for (const [i, label] of inputIds.entries()) {
        positions[start + i] = i;
        if (i === 0 || trained[i] !== 1) continue;
        targets.push(start + i - 1);
        labels.push(label);
        owners.push(index);
      }
      start += inputIds.length;
    }
  }
  const labelled = targets.length;
  const weights = labelWeights(owners, alone);
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
    sizes: { batch: rows.length, block: width / multiple, chunk: labels.length / targetMultiple },
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    targets: alone ? examples.length : labelled,
    owners,
  };
}

/** What each label counts, by the example that it is of: 1, or a share of its example's where that is `alone`. */
export function labelWeights(owners: readonly number[], alone: boolean): number[] {
  const counts = new Map<number, number>();
  for (const owner of owners) counts.set(owner, (counts.get(owner) ?? 0) + 1);
  return owners.map((owner) => (alone ? 1 / (counts.get(owner) ?? 1) : 1));
}

function oneARow(
  lengths: readonly number[],
  multiple: number,
): { rows: readonly (readonly number[])[]; width: number } {
  const width = Math.ceil(Math.max(...lengths) / multiple) * multiple;
  return { rows: lengths.map((_, i) => [i]), width };
}

/** Every example once, those of like length together, so that little is padding. For measuring, where order is free. */
export function batchesByLength(
  examples: readonly TokenizedExample[],
  make: (examples: readonly TokenizedExample[], layout: LayoutOptions) => Batch,
  { batchSize, ...layout }: LayoutOptions & { readonly batchSize: number },
): readonly Batch[] {
  const sorted = examples.toSorted((a, b) => tokensOf(a) - tokensOf(b));
  return Array.from({ length: Math.ceil(sorted.length / batchSize) }, (_, i) =>
    make(sorted.slice(i * batchSize, (i + 1) * batchSize), layout),
  );
}
