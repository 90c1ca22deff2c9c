import { fileURLToPath } from "node:url";
import type { Tensor } from "../../src/graph/index.ts";
import { openSafetensors } from "../../src/io/safetensors.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";
import { makeBatch, type TokenBatch } from "../../src/train/data/index.ts";

/** The path of a golden file or folder. */
export function golden(name: string): string {
  return fileURLToPath(new URL(`../golden/${name}`, import.meta.url));
}

/** Every tensor of a golden safetensors file. */
export async function readGolden(name: string): Promise<ReadonlyMap<string, Tensor>> {
  const { tensors } = await openSafetensors(nodeStorage, golden(name));
  const read = new Map<string, Tensor>();
  for (const [key, lazy] of tensors) read.set(key, await lazy.read());
  return read;
}

function rowsOf({ shape, data }: Tensor): number[][] {
  const [rows = 1, columns = 1] = shape;
  return Array.from({ length: rows }, (_, i) => Array.from(data.slice(i * columns, (i + 1) * columns), Number));
}

/** A batch of rows of tokens [rows, length], with labels of −100 where nothing is learnt. */
export function batchOf(ids: Tensor, labels: Tensor): TokenBatch {
  const marks = rowsOf(labels);
  const examples = rowsOf(ids).map((row, i) => ({
    inputIds: Int32Array.from(row),
    trained: Uint8Array.from(marks[i] ?? [], (label) => Number(label >= 0)),
    line: i + 1,
  }));
  return makeBatch(examples, { padId: 0 });
}

/** One [2, 16] batch of a curve's [n, 2, 16]. */
export function batchAt(curve: ReadonlyMap<string, Tensor>, index: number): TokenBatch {
  const cut = (name: string): Tensor => {
    const whole = curve.get(name) as Tensor<"int64">;
    return { dtype: "int64", shape: [2, 16], data: whole.data.slice(index * 32, (index + 1) * 32) };
  };
  return batchOf(cut("input_ids"), cut("labels"));
}

/** The tensor in the file that starts a parameter of ours. */
export function peftName(module: string, key: string, embedding = false): string {
  if (embedding) return `base_model.model.${module}.lora_embedding_${key}.default`;
  return `base_model.model.${module}.lora_${key === "magnitude" ? "magnitude_vector" : key}.default.weight`;
}
