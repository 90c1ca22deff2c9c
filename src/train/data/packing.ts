import { assert } from "../../errors.ts";

/** Documents laid out in rows of one length, each row holding one or several. */
export interface Packing {
  /** Indices of the documents of each row, in their order from left to right. */
  readonly rows: readonly (readonly number[])[];
  /** Length of every row: a multiple of what attention is cut into. */
  readonly width: number;
}

/** What decides how documents are laid out. */
export interface PackOptions {
  /** Rows are a multiple of this long. */
  readonly multiple: number;
  /** The model's hidden size, against which the price of attention over longer rows is weighed. */
  readonly hiddenSize: number;
}

/**
 * Lay documents of given lengths out in as little work as possible: few long rows have little padding, many short
 * ones cost less in attention. For every number of rows, the shortest rows that first-fit by decreasing length fills
 * (MULTIFIT: Coffman, Garey & Johnson 1978, §3); among those, the cheapest.
 */
export function packRows(lengths: readonly number[], { multiple, hiddenSize }: PackOptions): Packing {
  assert(lengths.length > 0, "nothing to pack");
  const order = lengths.map((_, i) => i).sort((a, b) => (lengths[b] as number) - (lengths[a] as number)); // indices
  const up = (length: number): number => Math.ceil(length / multiple) * multiple;
  const longest = lengths[order[0] as number] as number;
  const total = lengths.reduce((sum, length) => sum + length, 0);
  let best: Packing | undefined;
  let bestCost = Number.POSITIVE_INFINITY;
  for (let count = lengths.length; count >= 1; count--) {
    // Fewer rows are longer ones: without a token of padding, this many and all that are fewer cost at least this.
    if (total * (1 + attentionShare(Math.max(longest, total / count), hiddenSize)) >= bestCost) break;
    // Rows twice as long as needed always suffice; the bisection ends at a width that first-fit was seen to fill.
    let [low, high] = [up(Math.max(longest, total / count)), up(Math.max(2 * longest, (2 * total) / count))];
    let rows = firstFit(lengths, order, high, count);
    assert(rows !== undefined, () => `${count} rows of ${high} do not hold ${total} tokens`);
    while (low < high) {
      const middle = low + Math.floor((high - low) / multiple / 2) * multiple;
      const fitted = firstFit(lengths, order, middle, count);
      if (fitted) [rows, high] = [fitted, middle];
      else low = middle + multiple;
    }
    const cost = rows.length * high * (1 + attentionShare(high, hiddenSize));
    if (cost < bestCost) [best, bestCost] = [{ rows, width: high }, cost];
  }
  assert(best !== undefined, "one row holds everything");
  return best;
}

/**
 * Attention's arithmetic over rows of `width`, as a share of that of a transformer's linear maps: 2·width·hidden for
 * scores and as much for mixing, of which blocks skip three eighths, against 24·hidden² (Kaplan et al. 2020, Table 1).
 */
function attentionShare(width: number, hiddenSize: number): number {
  return (4 * (5 / 8) * width) / (24 * hiddenSize);
}

/** Put each document into the first row with room for it; undefined when `count` rows do not suffice. */
function firstFit(
  lengths: readonly number[],
  order: readonly number[],
  width: number,
  count: number,
): readonly (readonly number[])[] | undefined {
  const rows: number[][] = [];
  const left: number[] = [];
  for (const index of order) {
    const length = lengths[index] as number; // `order` lists indices
    let row = left.findIndex((room) => room >= length);
    if (row === -1) {
      if (rows.length === count || length > width) return undefined;
      row = rows.push([]) - 1;
      left.push(width);
    }
    rows[row]?.push(index);
    left[row] = (left[row] as number) - length;
  }
  return rows;
}
