import { TuneError } from "../errors.ts";
import { toFloat32 } from "../io/convert.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type Matrix, type Svd, svd } from "../linalg/index.ts";
import { hashMatrices } from "./products.ts";

/**
 * The decompositions of base weights, by the weights' content: each is computed once, however many adapters are compared
 * with it, and whatever folder its model is in.
 */
export interface BaseCache {
  /** The decomposition of a base weight, from the cache or computed and put there. */
  svd(base: Matrix<Float32Array>): Promise<Svd<Float32Array>>;
  /** Whether it is there already. */
  has(base: Matrix<Float32Array>): Promise<boolean>;
}

/** A cache in memory alone, for one run. */
export function memoryCache(): BaseCache {
  const known = new Map<string, Svd<Float32Array>>();
  return {
    svd: async (base) => {
      const hash = await hashMatrices(base);
      const found = known.get(hash) ?? svd(base);
      known.set(hash, found);
      return found;
    },
    has: async (base) => known.has(await hashMatrices(base)),
  };
}

/**
 * A cache in a folder: `<hash>.safetensors` holds U, S and Vt in float32. Files that are damaged or do not fit are
 * computed anew.
 */
export function folderCache(storage: Storage, folder: string): BaseCache {
  const pathOf = async (base: Matrix<Float32Array>): Promise<string> =>
    joinPath(folder, `${await hashMatrices(base)}.safetensors`);
  return {
    svd: async (base) => {
      const path = await pathOf(base);
      const found = await readSvd(storage, path, base);
      if (found) return found;
      const computed = svd(base);
      await writeSvd(storage, path, computed);
      return computed;
    },
    has: async (base) => (await storage.sizeBytes(await pathOf(base))) !== undefined,
  };
}

/** Write a decomposition as a cache holds it; one that another program computed may be put there in this form. */
export async function writeSvd(storage: Storage, path: string, { U, S, Vt }: Svd<Float32Array>): Promise<void> {
  const tensor = (shape: readonly number[], data: Float32Array) => ({ dtype: "float32", shape, data }) as const;
  await writeSafetensors(storage, path, [
    { name: "U", tensor: tensor([U.rows, U.cols], U.data) },
    { name: "S", tensor: tensor([S.length], S) },
    { name: "Vt", tensor: tensor([Vt.rows, Vt.cols], Vt.data) },
  ]);
}

async function readSvd(storage: Storage, path: string, base: Matrix): Promise<Svd<Float32Array> | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  try {
    const { tensors } = await openSafetensors(storage, path);
    const q = Math.min(base.rows, base.cols);
    const read = async (name: string, shape: readonly number[]): Promise<Float32Array> => {
      const lazy = tensors.get(name);
      if (lazy?.shape.join() !== shape.join()) throw new TuneError("read-failed", `${path} does not hold ${name}.`);
      return (await toFloat32(lazy)).data;
    };
    const [U, S, Vt] = [await read("U", [base.rows, q]), await read("S", [q]), await read("Vt", [q, base.cols])];
    return { U: { rows: base.rows, cols: q, data: U }, S, Vt: { rows: q, cols: base.cols, data: Vt } };
  } catch (error) {
    if (error instanceof TuneError) return undefined; // cut short or foreign: computed anew and replaced
    throw error;
  }
}

/** The name of a base weight's file in a cache. */
export async function cacheName(base: Matrix<Float32Array>): Promise<string> {
  return `${await hashMatrices(base)}.safetensors`;
}
