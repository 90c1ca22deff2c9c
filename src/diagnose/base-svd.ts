import { assert } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { readSealedTensors, writeSealedTensors } from "../io/sealed-tensors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type LeadingTriplets, type Matrix, type Svd, svd } from "../linalg/index.ts";
import { hashMatrices } from "./products.ts";
import { packedTriangle, unpackTriangle } from "./triangle.ts";
import { weightMemory } from "./weight-memory.ts";

/**
 * What was computed of base weights, by the weights' content: each is computed once, however many adapters are compared
 * with it, and whatever folder its model is in.
 */
export interface BaseCache {
  /** The decomposition of a base weight, from the cache or computed and put there. */
  svd(base: Matrix<Float32Array>): Promise<Svd<Float32Array>>;
  /** Whether it is there already. */
  has(base: Matrix<Float32Array>): Promise<boolean>;
  /**
   * Its leading singular triplets, where as many as `wanted` are there and `enough` of them are settled. The square lies in
   * memory that the next call writes over.
   */
  leading(base: Matrix<Float32Array>, least: { wanted: number; enough: number }): Promise<KeptLeading | undefined>;
  /** Put them there, with the square if it is kept. */
  keepLeading(base: Matrix<Float32Array>, leading: BaseLeading, square: () => Promise<Matrix>): Promise<void>;
}

/** What {@link certifiedSpectrum} needs of a base. */
export interface BaseLeading {
  readonly leading: LeadingTriplets;
  /** Of a tall matrix: the square of its smallest singular value is above this; absent where nobody asked. */
  readonly lowest?: number;
}

/** With the square of the smaller side, where it was kept. */
export interface KeptLeading extends BaseLeading {
  readonly square?: Matrix<Float32Array>;
}

/** A cache in memory alone, for one program: decompositions and leading triplets, and no squares. */
export function memoryCache(): BaseCache {
  const known = new Map<string, Svd<Float32Array>>();
  const triplets = new Map<string, BaseLeading>();
  return {
    svd: async (base) => {
      const hash = await hashMatrices(base);
      const found = known.get(hash) ?? svd(base);
      known.set(hash, found);
      return found;
    },
    has: async (base) => known.has(await hashMatrices(base)),
    leading: async (base, least) => suits(triplets.get(await hashMatrices(base)), least),
    keepLeading: async (base, leading) => void triplets.set(await hashMatrices(base), leading),
  };
}

function suits<T extends BaseLeading>(
  found: T | undefined,
  { wanted, enough }: { readonly wanted: number; readonly enough: number },
): T | undefined {
  return found && found.leading.S.length >= wanted && found.leading.converged >= enough ? found : undefined;
}

/**
 * A cache in a folder: `<hash>.safetensors` holds U, S and Vt in float32, and `<hash>.leading.safetensors` the leading
 * triplets and the square. Files that are damaged, cut short or of another weight are made again.
 */
export function folderCache(storage: Storage, folder: string): BaseCache {
  const [packedMemory, squareMemory] = [weightMemory(), weightMemory()];
  const leadingPath = async (base: Matrix<Float32Array>): Promise<string> =>
    joinPath(folder, `${await hashMatrices(base)}.leading.safetensors`);
  // What `has` has read, for `svd`: a file that is there may be damaged, so that it must be read to be told.
  let last: { readonly hash: string; readonly found: Svd<Float32Array> | undefined } | undefined;
  const find = async (base: Matrix<Float32Array>): Promise<Svd<Float32Array> | undefined> => {
    const hash = await hashMatrices(base);
    if (last?.hash !== hash) {
      last = undefined;
      last = { hash, found: await readSvd(storage, joinPath(folder, await cacheName(base)), base) };
    }
    return last.found;
  };
  return {
    svd: async (base) => {
      const found = await find(base);
      if (found) return found;
      const computed = svd(base);
      await writeSvd(storage, folder, base, computed);
      last = { hash: await hashMatrices(base), found: computed };
      return computed;
    },
    has: async (base) => (await find(base)) !== undefined,
    leading: async (base, least) => {
      const found = await readSealedTensors(
        storage,
        await leadingPath(base),
        await fromOf("leading", base),
        (name, length) => (name === "square" ? packedMemory.take(length).buffer : undefined),
      );
      return found && suits(leadingOf(found, base, squareMemory.take), least);
    },
    keepLeading: async (base, { leading, lowest }, square) => {
      const { U, S, Vt, residuals, converged } = leading;
      const whole = await square();
      const size = whole.rows;
      const packed = packedTriangle(whole, packedMemory.take((size * (size + 1)) / 2));
      const float64 = (data: Float64Array): Tensor => ({ dtype: "float64", shape: [data.length], data });
      await writeSealedTensors(storage, await leadingPath(base), await fromOf("leading", base), {
        U: float32(U),
        S: float64(S),
        Vt: float32(Vt),
        residuals: float64(residuals),
        converged: float64(Float64Array.of(converged)),
        ...(lowest === undefined ? {} : { lowest: float64(Float64Array.of(lowest)) }),
        square: { dtype: "float32", shape: [packed.length], data: packed },
      });
    },
  };
}

/** Write a decomposition of a weight into a cache's folder; one that another program computed may be put there. */
export async function writeSvd(
  storage: Storage,
  folder: string,
  base: Matrix<Float32Array>,
  { U, S, Vt }: Svd<Float32Array>,
): Promise<void> {
  await writeSealedTensors(storage, joinPath(folder, await cacheName(base)), await fromOf("svd", base), {
    U: float32(U),
    S: { dtype: "float32", shape: [S.length], data: S },
    Vt: float32(Vt),
  });
}

async function readSvd(
  storage: Storage,
  path: string,
  base: Matrix<Float32Array>,
): Promise<Svd<Float32Array> | undefined> {
  const found = await readSealedTensors(storage, path, await fromOf("svd", base));
  const [U, S, Vt] = ["U", "S", "Vt"].map((name) => found?.get(name)?.data as Float32Array | undefined); // as written
  const { rows, cols } = base;
  const q = Math.min(rows, cols);
  return U && S && Vt && { U: { rows, cols: q, data: U }, S, Vt: { rows: q, cols, data: Vt } };
}

function leadingOf(
  found: ReadonlyMap<string, Tensor>,
  { rows, cols }: Matrix,
  memory: (length: number) => Float32Array,
): KeptLeading {
  const of = (name: string): Float64Array => {
    const data = found.get(name)?.data;
    assert(
      data instanceof Float32Array || data instanceof Float64Array,
      `a sealed file holds ${name} as it was written`,
    );
    return Float64Array.from(data);
  };
  const S = of("S");
  const [count, size] = [S.length, Math.min(rows, cols)];
  const packed = found.get("square")?.data;
  const [lowest] = found.has("lowest") ? of("lowest") : [];
  return {
    leading: {
      U: { rows, cols: count, data: of("U") },
      S,
      Vt: { rows: count, cols, data: of("Vt") },
      residuals: of("residuals"),
      converged: of("converged")[0] ?? 0,
    },
    ...(lowest === undefined ? {} : { lowest }),
    ...(packed instanceof Float32Array ? { square: unpackTriangle(packed, size, memory(size * size)) } : {}),
  };
}

/** What a file in the cache was computed from, and how: another way of computing is another number. */
async function fromOf(kind: "svd" | "leading", base: Matrix<Float32Array>): Promise<string> {
  return JSON.stringify({ kind, version: 1, of: await hashMatrices(base) });
}

function float32({ rows, cols, data }: Matrix): Tensor {
  return { dtype: "float32", shape: [rows, cols], data: data instanceof Float32Array ? data : Float32Array.from(data) };
}

/** The name of a base weight's file in a cache. */
export async function cacheName(base: Matrix<Float32Array>): Promise<string> {
  return `${await hashMatrices(base)}.safetensors`;
}
