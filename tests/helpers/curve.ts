import type { Tensor } from "../../src/graph/index.ts";
import { type Batch, makeBatch } from "../../src/train/data/index.ts";

/** One [2, 16] batch of the [n, 2, 16] ids and labels of a golden curve; labels of -100 are not trained. */
export function curveBatch(curve: ReadonlyMap<string, Tensor>, index: number): Batch {
  const row = (name: string, i: number): number[] =>
    Array.from((curve.get(name) as Tensor).data.slice((2 * index + i) * 16, (2 * index + i + 1) * 16), Number);
  const examples = [0, 1].map((i) => ({
    inputIds: Int32Array.from(row("input_ids", i)),
    trained: Uint8Array.from(row("labels", i), (label) => Number(label >= 0)),
    line: i + 1,
  }));
  return makeBatch(examples, { padId: 0 });
}
