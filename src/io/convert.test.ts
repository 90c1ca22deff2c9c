import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type DType, type LazyTensor, type Tensor, tensor } from "../graph/index.ts";
import {
  assertFinite,
  bfloat16ToFloat32,
  castTensor,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  partToFloat32,
  toFloat32,
} from "./convert.ts";

const everyPattern = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The finite values of a 16-bit format, ascending, with their patterns; -0 is left out. */
function grid(values: Float32Array): { value: number; pattern: number }[] {
  return [...values]
    .map((value, pattern) => ({ value, pattern }))
    .filter(({ value }) => Number.isFinite(value) && !Object.is(value, -0))
    .sort((a, b) => a.value - b.value);
}

/** The slow truth: the nearest value of the grid, ties to the even pattern; past the largest, half a step to infinity. */
function nearestPattern(sorted: ReturnType<typeof grid>, x: number, infinity: number): number {
  let low = 0;
  let high = sorted.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((sorted[middle]?.value ?? 0) <= x) low = middle;
    else high = middle;
  }
  const [a, b] = [sorted[low], sorted[high]];
  if (a === undefined || b === undefined) throw new Error("empty grid");
  const largest = sorted.at(-1);
  const before = sorted.at(-2);
  if (largest !== undefined && before !== undefined) {
    const limit = largest.value + (largest.value - before.value) / 2;
    if (Math.abs(x) >= limit) return infinity | (x < 0 ? 0x8000 : 0);
  }
  const down = x - a.value;
  const up = b.value - x;
  const pattern = down < up || (down === up && a.pattern % 2 === 0) ? a.pattern : b.pattern;
  return pattern === 0 && (x < 0 || Object.is(x, -0)) ? 0x8000 : pattern;
}

const formats = [
  { dtype: "float16", widen: float16ToFloat32, narrow: float32ToFloat16, infinity: 0x7c00, nan: 0x7e00 },
  { dtype: "bfloat16", widen: bfloat16ToFloat32, narrow: float32ToBfloat16, infinity: 0x7f80, nan: 0x7fc0 },
] as const;

describe.each(formats)("$dtype", ({ dtype, widen, narrow, infinity, nan }) => {
  const values = widen(everyPattern);
  const sorted = grid(values);

  it("widens and narrows every pattern back to itself", () => {
    const back = narrow(values);
    for (let i = 0; i < 65536; i++) {
      const nanPattern = (i & 0x7fff) > infinity;
      if (Number.isNaN(values[i]) !== nanPattern) throw new Error(`pattern ${i} became ${values[i]}`);
      if (!nanPattern && back[i] !== i) throw new Error(`pattern ${i} came back as ${back[i]}`);
    }
    expect(narrow(Float32Array.of(Number.NaN))[0]).toBe(nan);
    expect([...widen(Uint16Array.of(infinity, infinity | 0x8000))]).toEqual([Infinity, -Infinity]);
  });

  it.each([
    [0, 7],
    [1, 6],
    [1, 7],
  ])("widens from element %i to %i, into memory that is handed over too", (start, end) => {
    const halves = Uint16Array.of(0x3c00, 1, 0x8000, 0xbf80, 0x3f80, 0x7bff, 0x8001);
    const expected = Array.from(halves.subarray(start, end), (half) => values[half]);
    expect([...widen(halves.subarray(start, end))]).toEqual(expected);
    const memory = new Float32Array(9).fill(5);
    widen(halves.subarray(start, end), memory.subarray(1, 1 + end - start));
    expect([...memory]).toEqual([5, ...expected, ...Array(8 - expected.length).fill(5)]);
  });

  it("is read in parts as it is read whole, several at once, and into memory that is handed over", async () => {
    const size = 2 ** 20 + 3;
    const patterns = (seed: number): Uint16Array =>
      Uint16Array.from({ length: size }, (_, i) => (i * 7 + seed) & 0x3fff);
    const inParts = (data: Uint16Array): LazyTensor & Required<Pick<LazyTensor, "readPart">> => ({
      dtype,
      shape: [size],
      sizeBytes: 2 * size,
      read: () => Promise.reject(new Error("it is read in parts")),
      readPart: async (start, end, into) => {
        const part = into ? new Uint16Array(into, 0, end - start) : new Uint16Array(end - start);
        await Promise.resolve();
        part.set(data.subarray(start, end));
        return part;
      },
    });
    const read = await Promise.all([1, 2].map((seed) => toFloat32(inParts(patterns(seed)))));
    for (const [i, { data }] of read.entries()) {
      const expected = widen(patterns(i + 1));
      expect(data.every((value, at) => value === expected[at])).toBe(true);
    }
    const memory = new ArrayBuffer(64);
    const part = await partToFloat32(inParts(patterns(1)), size - 5, size, memory);
    expect(part.buffer).toBe(memory);
    expect([...part]).toEqual([...widen(patterns(1)).subarray(size - 5)]);
  });

  it("rounds float32 to nearest, ties to even", () => {
    const tie = fc.integer({ min: 0, max: sorted.length - 2 }).map((i) => {
      return ((sorted[i]?.value ?? 0) + (sorted[i + 1]?.value ?? 0)) / 2;
    });
    const x = fc.oneof(fc.float({ noNaN: true }), fc.float({ min: -(2 ** -14), max: 2 ** -14, noNaN: true }), tie);
    fc.assert(
      fc.property(x, (value) => {
        const single = Math.fround(value);
        expect(narrow(Float32Array.of(single))[0]).toBe(nearestPattern(sorted, single, infinity));
      }),
      { seed: 1, numRuns: 2000 },
    );
  });

  it("rounds float64 once, not twice", () => {
    const nearTie = fc
      .tuple(fc.integer({ min: 0, max: sorted.length - 2 }), fc.constantFrom(-1, 0, 1))
      .map(([i, side]) => {
        const middle = ((sorted[i]?.value ?? 0) + (sorted[i + 1]?.value ?? 0)) / 2;
        return middle * (1 + side * 2 ** -50);
      });
    fc.assert(
      fc.property(fc.oneof(nearTie, fc.double({ noNaN: true })), (value) => {
        const cast = castTensor(tensor("float64", [1], [value]), dtype);
        expect(cast.data[0]).toBe(nearestPattern(sorted, value, infinity));
      }),
      { seed: 2, numRuns: 2000 },
    );
  });
});

describe("castTensor", () => {
  it("keeps shape and values between any two dtypes that hold them", () => {
    const all: DType[] = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8"];
    const unsigned: DType[] = ["uint64", "uint32", "uint16", "uint8", "bool"];
    for (const from of [...all, ...unsigned]) {
      for (const to of [...all, ...unsigned]) {
        const source = castTensor(tensor("int32", [3, 1], [0, 1, 1]), from);
        const cast = castTensor(source, to);
        expect(cast).toMatchObject({ dtype: to, shape: [3, 1] });
        expect([...castTensor(cast, "int32").data]).toEqual([0, 1, 1]);
      }
    }
  });

  it.each([
    ["int8", "float32", 128],
    ["uint8", "float64", -1],
    ["int32", "float32", 0.5],
    ["int64", "float32", Number.NaN],
    ["int64", "float64", 2 ** 63],
    ["bool", "int32", 2],
    ["uint64", "int64", -1],
    ["int32", "int64", 2 ** 31],
  ] as const)("refuses to put into %s the %s %s", (to, from, value) => {
    expect(() => castTensor(tensor(from, [1], [value]), to)).toThrow(
      expect.objectContaining({ code: "cast-out-of-range" }),
    );
  });

  it("reads lazy tensors as float32", async () => {
    const half = castTensor(tensor("float32", [2], [1.5, -2]), "float16");
    const lazy = { dtype: half.dtype, shape: half.shape, sizeBytes: 4, read: async (): Promise<Tensor> => half };
    expect((await toFloat32(lazy)).data).toEqual(Float32Array.of(1.5, -2));
  });
});

describe("assertFinite", () => {
  it.each(["float32", "float64", "float16", "bfloat16"] as const)("finds NaN and infinity in %s", (dtype) => {
    const of = (values: number[]): Tensor => castTensor(tensor("float64", [2, 2], values), dtype);
    expect(() => assertFinite("w", of([1, -2, 0, 60000]))).not.toThrow();
    expect(() => assertFinite("w", of([1, 2, Number.NaN, -Infinity]))).toThrow(/w holds 2 values .* at \[1, 0\]/);
  });

  it("lets integers pass", () => expect(() => assertFinite("w", tensor("int64", [1], [7]))).not.toThrow());
});
