import { createCipheriv, createHmac } from "node:crypto";
import { describe, expect, it } from "vitest";
import { erfc } from "./erfc.ts";
import { newKey, openGenerator } from "./generator.ts";

const key = Uint8Array.from({ length: 32 }, (_, i) => i);
const generator = openGenerator(key);

async function normals(count: number, purpose: string, step: number, scale?: number): Promise<Float32Array> {
  const into = new Float32Array(count);
  await generator.normals(into, purpose, step, scale);
  return into;
}
async function uniforms(count: number, purpose: string, step: number): Promise<Float64Array> {
  const into = new Float64Array(count);
  await generator.uniforms(into, purpose, step);
  return into;
}
const mean = (values: Iterable<number>, of: (x: number) => number): number => {
  let [sum, count] = [0, 0];
  for (const value of values) {
    sum += of(value);
    count += 1;
  }
  return sum / count;
};
/** √n times the largest difference between what was drawn and its distribution: 1.95 is exceeded once in a thousand. */
function kolmogorovSmirnov(values: ArrayLike<number>, cdf: (x: number) => number): number {
  const sorted = Float64Array.from(values).sort();
  const worst = sorted.reduce((most, x, i) => {
    const p = cdf(x);
    return Math.max(most, Math.abs(p - i / sorted.length), Math.abs(p - (i + 1) / sorted.length));
  }, 0);
  return Math.sqrt(sorted.length) * worst;
}
const normalCdf = (x: number): number => erfc(-x / Math.SQRT2) / 2;

describe("secret random numbers", () => {
  const count = 200_000;

  it("are normal: moments, tails and the whole distribution", async () => {
    const draws = await normals(count, "noise", 0);
    const moments = [
      [1, 0, 1],
      [2, 1, 2],
      [3, 0, 15],
      [4, 3, 96],
      [6, 15, 10170],
    ] as const; // power, its mean, its variance
    for (const [power, expected, variance] of moments) {
      const error = mean(draws, (x) => x ** power) - expected;
      expect(Math.abs(error), `moment ${power}`).toBeLessThan(4 * Math.sqrt(variance / count));
    }
    for (const bound of [1, 2, 3, 4]) {
      const p = erfc(bound / Math.SQRT2);
      const share = mean(draws, (x) => (Math.abs(x) > bound ? 1 : 0));
      expect(Math.abs(share - p), `beyond ${bound}`).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / count));
    }
    expect(kolmogorovSmirnov(draws, normalCdf)).toBeLessThan(1.95);
  });

  it("are uniform", async () => {
    const draws = await uniforms(count, "batches", 0);
    expect(kolmogorovSmirnov(draws, (x) => x)).toBeLessThan(1.95);
    expect(draws.every((x) => x >= 0 && x < 1)).toBe(true);
    expect(draws.every((x) => Number.isInteger(x * 2 ** 53))).toBe(true);
    expect(draws.some((x) => !Number.isInteger(x * 2 ** 51))).toBe(true);
  });

  it("are scaled by the standard deviation that is asked for", async () => {
    const [plain, scaled] = [await normals(1000, "noise", 3), await normals(1000, "noise", 3, 8)];
    expect(scaled).toEqual(plain.map((x) => 8 * x));
    expect((await normals(5, "noise", 3, 0)).every((x) => x === 0)).toBe(true);
  });

  it("never change for a key, a purpose and a step, whatever was drawn before and however much is drawn", async () => {
    // Written down once: an engine that gives other numbers would add other noise when a run is resumed.
    expect([...(await normals(4, "noise", 5))]).toEqual([
      -0.6870531439781189, 1.0052669048309326, 0.31197452545166016, 0.4918786883354187,
    ]);
    const long = await normals(70_000, "noise", 5);
    expect(long.subarray(0, 4)).toEqual(await normals(4, "noise", 5));
    expect(await normals(70_000, "noise", 5)).toEqual(long);
    const [a, b] = [new Float32Array(30_000), new Float32Array(30_000)];
    await Promise.all([generator.normals(a, "noise", 6), generator.normals(b, "noise", 7)]);
    expect(a).toEqual(await normals(30_000, "noise", 6));
    expect(b).toEqual(await normals(30_000, "noise", 7));
    const again = new Float32Array(70_000);
    await openGenerator(key.slice()).normals(again, "noise", 5);
    expect(again).toEqual(long);
  });

  it("are AES in counter mode, and normals half the sum of four draws after the first", async () => {
    const drawn = (kind: string, count: number): number[] => {
      const name = createHmac("sha256", key)
        .update(JSON.stringify([kind, "noise", 5]))
        .digest();
      const bytes = createCipheriv("aes-256-ctr", name, new Uint8Array(16)).update(new Uint8Array(8 * count));
      const word = (at: number, drop: number): number => bytes.readUInt32LE(at) >>> drop;
      return Array.from({ length: count }, (_, i) => (word(8 * i, 5) * 2 ** 26 + word(8 * i + 4, 6)) / 2 ** 53);
    };
    expect([...(await uniforms(40_000, "noise", 5))]).toEqual(drawn("uniforms", 40_000));
    const points = drawn("normals", 120_000).map((x) => 2 * x - 1);
    const draws = points.flatMap((x, i) => {
      const y = points[i + 1] ?? 0;
      const square = x * x + y * y;
      if (i % 2 === 1 || square >= 1) return [];
      const factor = Math.sqrt((-2 * Math.log(square)) / square);
      return [x * factor, y * factor];
    });
    const found = await normals(20_000, "noise", 5);
    const worst = found.reduce((most, x, i) => {
      const four = draws.slice(1 + 4 * i, 5 + 4 * i);
      return Math.max(most, Math.abs(x - four.reduce((sum, draw) => sum + draw, 0) / 2));
    }, 0);
    expect(worst).toBeLessThan(5e-7); // rounding to float32 of numbers up to 4 or so
  });

  it("are independent across keys, purposes, steps and kinds, and within a stream", async () => {
    const other = new Float32Array(count);
    await openGenerator(key.map((byte, i) => (i === 31 ? byte ^ 1 : byte))).normals(other, "noise", 0);
    const reference = await normals(count, "noise", 0);
    const streams = [
      other,
      await normals(count, "noise", 1),
      await normals(count, "noise", 2 ** 40),
      await normals(count, "noise2", 0),
      await normals(count, "", 0),
      (await uniforms(count, "noise", 0)).map((x) => (x - 0.5) * Math.sqrt(12)),
      Float32Array.from(reference, (_, i) => reference[(i + 1) % count] ?? 0),
      Float32Array.from(reference, (_, i) => reference[(i + count / 2) % count] ?? 0),
    ];
    for (const [i, stream] of streams.entries()) {
      const correlation = reference.reduce((sum, x, at) => sum + x * (stream[at] ?? 0), 0) / count;
      expect(Math.abs(correlation), `stream ${i}`).toBeLessThan(4 / Math.sqrt(count));
    }
    const firsts = new Set<number | undefined>();
    for (let step = 0; step < 200; step++) firsts.add((await normals(1, "noise", step))[0]);
    expect(firsts.size).toBe(200);
  });

  it("have keys of 32 bytes that differ, which later changes of the array do not touch", async () => {
    expect(newKey()).toHaveLength(32);
    expect(newKey()).not.toEqual(newKey());
    expect(() => openGenerator(new Uint8Array(16))).toThrow(/32 bytes/);
    const mine = key.slice();
    const opened = openGenerator(mine);
    mine.fill(0);
    const into = new Float32Array(4);
    await opened.normals(into, "noise", 5);
    expect(into).toEqual(await normals(4, "noise", 5));
    await expect(generator.normals(into, "noise", -1)).rejects.toThrow(/step/);
    await expect(generator.normals(into, "noise", 0.5)).rejects.toThrow(/step/);
    expect(JSON.stringify(opened)).not.toContain("key");
  });

  it("need a platform that has them", () => {
    const platform = Object.getOwnPropertyDescriptor(globalThis, "crypto");
    Object.defineProperty(globalThis, "crypto", { value: { getRandomValues: () => 0 }, configurable: true });
    try {
      expect(() => openGenerator(key)).toThrow(expect.objectContaining({ code: "no-cryptography" }));
      expect(() => newKey()).toThrow(expect.objectContaining({ code: "no-cryptography" }));
    } finally {
      if (platform !== undefined) Object.defineProperty(globalThis, "crypto", platform);
    }
  });
});
