import { TuneError } from "../errors.ts";
import { bytesOf, type DataOf, type LazyTensor, type Tensor } from "../graph/index.ts";
import { createContentHash } from "./content-hash.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import type { Storage } from "./storage.ts";

/*
 * Tensors that can be made again, in a safetensors file that says what they were computed from, with a checksum of all of it:
 * a file that is damaged, cut short or of something else counts as none.
 */

/** Write tensors. `from` says what they were computed from, and how. */
export async function writeSealedTensors(
  storage: Storage,
  path: string,
  from: string,
  tensors: Readonly<Record<string, Tensor>>,
): Promise<void> {
  const names = Object.keys(tensors).sort();
  const hash = createContentHash();
  hash.update(new TextEncoder().encode(from));
  for (const name of names) {
    const tensor = tensors[name] as Tensor; // one of its own keys
    hash.update(headOf(name, tensor));
    hash.update(bytesOf(tensor.data));
  }
  const entries = names.map((name) => ({ name, tensor: tensors[name] as Tensor }));
  await writeSafetensors(storage, path, entries, { from, checksum: hash.digest() });
}

/**
 * Read tensors that {@link writeSealedTensors} wrote; undefined where the file is not as it was written, was computed from
 * something else, or is not there. `memory` may give some to read a float32 tensor of so many elements into.
 */
export async function readSealedTensors(
  storage: Storage,
  path: string,
  from: string,
  memory: (name: string, length: number) => ArrayBuffer | undefined = () => undefined,
): Promise<ReadonlyMap<string, Tensor> | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  try {
    const { metadata, tensors } = await openSafetensors(storage, path);
    if (metadata["from"] !== from) return undefined;
    const hash = createContentHash();
    hash.update(new TextEncoder().encode(from));
    const read = new Map<string, Tensor>();
    for (const name of [...tensors.keys()].sort()) {
      const lazy = tensors.get(name) as LazyTensor; // one of its own keys
      const { dtype, shape } = lazy;
      hash.update(headOf(name, lazy));
      const length = shape.reduce((product, size) => product * size, 1);
      const data = await dataOf(lazy, length, dtype === "float32" ? memory(name, length) : undefined);
      hash.update(bytesOf(data));
      read.set(name, { dtype, shape, data });
    }
    return metadata["checksum"] === hash.digest() ? read : undefined;
  } catch (error) {
    if (error instanceof TuneError) return undefined; // cut short, or no such file: to be made again
    throw error;
  }
}

async function dataOf(lazy: LazyTensor, length: number, memory: ArrayBuffer | undefined): Promise<DataOf> {
  if (memory && lazy.readPart) return lazy.readPart(0, length, memory);
  return (await lazy.read()).data;
}

function headOf(name: string, { dtype, shape }: Pick<Tensor, "dtype" | "shape">): Uint8Array {
  return new TextEncoder().encode(JSON.stringify([name, dtype, shape]));
}
