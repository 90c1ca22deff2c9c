import { describe, expect, it } from "vitest";
import { memoryStorage } from "../io/memory-storage.ts";
import { createRng, type Matrix, svd } from "../linalg/index.ts";
import { type BaseCache, cacheName, folderCache, memoryCache, writeSvd } from "./base-svd.ts";
import { fileJournal } from "./journal.ts";
import { localProducts, type Products } from "./products.ts";
import type { MatrixDiagnosis } from "./report.ts";
import { certifiedSpectrum, type Spectrum } from "./spectrum.ts";
import { packedTriangle, unpackTriangle } from "./triangle.ts";
import { type LookedAt, walkPairs } from "./walk.ts";

/** Gaussian, with a few directions that stand out. */
function weight(rows: number, cols: number, seed: number): Matrix<Float32Array> {
  const rng = createRng(seed, "weight");
  return { rows, cols, data: Float32Array.from({ length: rows * cols }, () => rng.normal() / Math.sqrt(cols)) };
}

function update(
  rows: number,
  cols: number,
  strength: number,
): { left: Matrix<Float64Array>; right: Matrix<Float64Array> } {
  const rng = createRng(3, "update", rows);
  const normal = (n: number): Float64Array => Float64Array.from({ length: n }, () => rng.normal());
  const left = normal(rows * 2).map((value, i) => (value * strength * (i % 2 === 0 ? 1 : 0.5)) / Math.sqrt(rows));
  return {
    left: { rows, cols: 2, data: left },
    right: { rows: 2, cols, data: normal(2 * cols).map((v) => v / Math.sqrt(cols)) },
  };
}

/** Products that count the squares they compute. */
function counted(): Products & { squares: number } {
  const products = {
    ...localProducts,
    squares: 0,
    place: async (matrix: Matrix) => {
      const placed = await localProducts.place(matrix);
      const square = (): ReturnType<typeof placed.square> => {
        products.squares += 1;
        return placed.square();
      };
      return { ...placed, square };
    },
  };
  return products;
}

const gist = (found: Spectrum | undefined): unknown => ({
  intruders: found?.bound.map((value) => value < 0.5),
  cosines: found?.maxCos.map((value) => value.toFixed(3)),
  sigma: found?.sigma.map((value) => value.toFixed(3)),
});

describe.each([[200, 300], [300, 200]])("leading triplets of a base [%d, %d] in a cache", (rows, cols) => {
  const base = weight(rows, cols, 1);
  const look = (products: Products, cache: BaseCache | undefined, strength: number): Promise<Spectrum | undefined> =>
    certifiedSpectrum(base, update(rows, cols, strength), { k: 6, eps: 0.5, products, ...(cache ? { cache } : {}) });

  it("decide the same for any adapter, without a square", async () => {
    const storage = memoryStorage();
    // The first update has no intruder, so nobody asked for the smallest value yet.
    for (const strength of [0.01, 6, 6]) {
      const products = counted();
      const plain = gist(await look(localProducts, undefined, strength));
      expect(gist(await look(products, folderCache(storage, "c"), strength))).toEqual(plain);
      expect(products.squares).toBe(strength === 0.01 ? 1 : 0);
    }
    expect((await storage.list("c")).length).toBe(1);
    const [memory, products] = [memoryCache(), counted()];
    await look(products, memory, 0.01);
    expect(gist(await look(products, memory, 6))).toEqual(gist(await look(localProducts, undefined, 6)));
  });

  it("are made again where one byte is another, the end is missing, or they are of another weight", async () => {
    const storage = memoryStorage();
    const plain = gist(await look(localProducts, folderCache(storage, "c"), 6));
    const path = `c/${(await cacheName(base)).replace(".safetensors", ".leading.safetensors")}`;
    const whole = (await storage.read(path)).slice();
    const other = memoryStorage();
    await certifiedSpectrum(weight(rows, cols, 2), update(rows, cols, 6), {
      ...{ k: 6, eps: 0.5, products: localProducts, cache: folderCache(other, "c") },
    });
    const [foreign = ""] = await other.list("c");
    const places = [20, whole.length >> 1, whole.length - 2, whole.length - 4000];
    const damaged = places.map((at) => whole.map((byte, i) => (i === at ? byte ^ 16 : byte)));
    for (const bytes of [...damaged, whole.slice(0, -1), new Uint8Array(), await other.read(foreign.startsWith("c/") ? foreign : `c/${foreign}`)]) {
      await storage.write(path, bytes);
      const products = counted();
      expect(gist(await look(products, folderCache(storage, "c"), 6))).toEqual(plain);
      expect(products.squares).toBe(1);
      expect(await storage.read(path)).toEqual(whole);
    }
  });
}); // biome-ignore format: a table

describe("a whole decomposition in a cache", () => {
  it("is computed again where one byte is another", async () => {
    const storage = memoryStorage();
    const base = weight(20, 12, 1);
    await writeSvd(storage, "c", base, svd(base));
    const path = `c/${await cacheName(base)}`;
    expect(await folderCache(storage, "c").has(base)).toBe(true);
    const whole = (await storage.read(path)).slice();
    await storage.write(path, whole.map((byte, i) => (i === whole.length - 100 ? byte ^ 1 : byte))); // biome-ignore format: short
    expect(await folderCache(storage, "c").has(base)).toBe(false);
    expect((await folderCache(storage, "c").svd(base)).S).toEqual(svd(base).S);
    expect(await folderCache(storage, "c").has(base)).toBe(true);
  });
});

describe("the lower triangle", () => {
  it.each([1, 5, 32, 67])("of a symmetric matrix of %d is all of it", (n) => {
    const whole = Float32Array.from(
      { length: n * n },
      (_, i) => Math.min(i % n, Math.floor(i / n)) * 100 + Math.max(i % n, Math.floor(i / n)),
    );
    const packed = packedTriangle({ rows: n, cols: n, data: whole }, new Float32Array((n * (n + 1)) / 2));
    expect(unpackTriangle(packed, n, new Float32Array(n * n)).data).toEqual(whole);
  });
});

describe("a journal", () => {
  it("does not believe a line that is not as it was written", async () => {
    const storage = memoryStorage();
    const journal = fileJournal(storage, "d/progress.jsonl");
    const diagnosis = { name: "w", intruders: [1] } as unknown as MatrixDiagnosis; // all that this test looks at
    await journal.append("a", diagnosis);
    await journal.append("b", diagnosis);
    expect([...(await journal.read()).keys()]).toEqual(["a", "b"]);
    const whole = (await storage.read("d/progress.jsonl")).slice();
    for (let at = 0; at < whole.length; at++) {
      await storage.write("d/progress.jsonl", whole.map((byte, i) => (i === at ? byte ^ 1 : byte))); // biome-ignore format: short
      const found = await journal.read();
      expect(found.size).toBeLessThan(2);
      for (const kept of found.values()) expect(kept).toEqual(diagnosis);
    }
  });
});

describe("a walk", () => {
  it("reads every base into the same memory, and hashes what each one is", async () => {
    const arrays = new Set<ArrayBufferLike>();
    const pairs = [1, 2, 3].map((seed) => ({
      ...{
        name: `w${seed}`,
        module: "w",
        rows: 40,
        cols: 30,
        part: undefined,
        tuned: async () => weight(40, 30, seed),
      },
      base: async (memory?: { take(length: number): Float32Array }) => {
        const data = memory?.take(1200) ?? new Float32Array(1200);
        data.set(weight(40, 30, seed).data);
        arrays.add(data.buffer);
        return { rows: 40, cols: 30, data };
      },
    }));
    const look = async (): Promise<LookedAt> => ({ diagnosis: { method: "exact" } as unknown as MatrixDiagnosis }); // the walk looks at the method alone
    const { baseHashes } = await walkPairs(pairs, {}, look);
    expect(arrays.size).toBe(1);
    const names = await Promise.all([1, 2, 3].map((seed) => cacheName(weight(40, 30, seed))));
    expect(baseHashes.map((hash) => `${hash}.safetensors`)).toEqual(names);
  });
});
