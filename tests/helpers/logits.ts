import { openDecoder } from "../../src/generate/index.ts";
import type { Tensor } from "../../src/graph/index.ts";
import type { Adapter } from "../../src/methods/index.ts";
import type { PretrainedModel } from "../../src/models/index.ts";
import type { Device } from "../../src/runtime/device.ts";

/** Scores after the last token of each row. */
export async function lastLogits(
  device: Device,
  model: PretrainedModel,
  rows: readonly number[][],
  adapter?: Adapter,
): Promise<number[]> {
  const decoder = await openDecoder(device, model, adapter);
  const at = await decoder.start(rows);
  const logits = at.logits.flatMap((scores) => [...scores]);
  await at.end();
  await decoder.close();
  return logits;
}

/** A matrix as rows. */
export function rowsOf({ shape, data }: Tensor): number[][] {
  const [rows = 0, columns = 0] = shape;
  return Array.from({ length: rows }, (_, i) => Array.from(data.slice(i * columns, (i + 1) * columns), Number));
}

/** The scores at the last position of each row of [batch, seq, vocab] logits. */
export function lastOf({ shape, data }: Tensor): number[] {
  const [batch = 0, seq = 0, vocab = 0] = shape;
  return Array.from({ length: batch }, (_, i) =>
    [...data.slice((i * seq + seq - 1) * vocab, (i + 1) * seq * vocab)].map(Number),
  ).flat();
}

/** Largest difference, relative to the largest size in `b`; infinite where the lengths differ. */
export function difference(a: readonly number[], b: readonly number[]): number {
  const scale = Math.max(...b.map(Math.abs));
  return a.length === b.length
    ? Math.max(...a.map((x, i) => Math.abs(x - (b[i] ?? 0)))) / scale
    : Number.POSITIVE_INFINITY;
}
