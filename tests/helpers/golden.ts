import { fileURLToPath } from "node:url";
import type { Tensor } from "../../src/graph/index.ts";
import { openSafetensors } from "../../src/io/safetensors.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

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
