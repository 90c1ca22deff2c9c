import { describe, expect, it } from "vitest";
import { type LazyTensor, type Tensor, tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { mergedRows, mergesByRows } from "./merge-rows.ts";
import { rowParts } from "./row-parts.ts";

/* What is written a part at a time is what all of it at once would be. */

const rng = createRng(0, "parts");
const random = (...shape: number[]): Tensor<"float32"> =>
  tensor(
    "float32",
    shape,
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.normal()),
  );

/** A tensor on a disk: parts of it are read into memory that is lent, where there is room. */
function onDisk({ shape, data }: Tensor<"float32">, log: number[] = []): LazyTensor {
  return {
    dtype: "float32",
    shape,
    sizeBytes: data.byteLength,
    read: async () => tensor("float32", shape, data.slice()),
    readPart: async (start, end, into) => {
      log.push(end - start);
      if (!into || into.byteLength < 4 * (end - start)) return data.slice(start, end);
      const part = new Float32Array(into, 0, end - start);
      part.set(data.subarray(start, end));
      return part;
    },
  };
}

describe("rows in parts", () => {
  const [count, width] = [40, 3];
  const matrix = random(count, width);
  const orders: Readonly<Record<string, readonly number[] | undefined>> = {
    "as they are": undefined,
    named: Array.from({ length: count }, (_, i) => i),
    "of pairs": Array.from({ length: count }, (_, i) => i - (i % 8) + (i % 2) * 4 + Math.floor((i % 8) / 2)),
    "with more behind": [...Array.from({ length: count }, (_, i) => i), 0, 0, 39, 0, 17],
    turned: Array.from({ length: count }, (_, i) => count - 1 - i),
    scattered: Array.from({ length: count }, (_, i) => (i * 17) % count),
  };

  it.each(Object.entries(orders))("%s", async (_name, rows) => {
    const log: number[] = [];
    for (const source of [onDisk(matrix, log), { ...onDisk(matrix), readPart: undefined as never }]) {
      const given: number[] = [];
      for await (const part of rowParts(source, rows, 4 * width)) {
        expect(part.length).toBeLessThanOrEqual(4 * width);
        given.push(...part);
      }
      const wanted = rows ?? Array.from({ length: count }, (_, i) => i);
      expect(given).toEqual(wanted.flatMap((row) => [...matrix.data.subarray(row * width, (row + 1) * width)]));
    }
    expect(Math.max(...log)).toBeLessThanOrEqual(8 * width);
  });
});

describe("a low-rank update is merged into what is read", () => {
  it.each(["out,in", "in,out"] as const)("of a weight stored [%s]", async (layout) => {
    const [outs, ins, rank] = [7, 5, 3];
    const weight = layout === "out,in" ? random(outs, ins) : random(ins, outs);
    const [A, B] = [random(rank, ins), random(outs, rank)];
    const [rows, columns] = weight.shape as [number, number];
    const expected = Array.from({ length: rows * columns }, (_, at) => {
      const [row, column] = [Math.floor(at / columns), at % columns];
      const [out, into] = layout === "out,in" ? [row, column] : [column, row];
      let sum = weight.data[at] ?? 0;
      for (let k = 0; k < rank; k++) sum += (B.data[out * rank + k] ?? 0) * (A.data[k * ins + into] ?? 0);
      return sum;
    });
    const source = onDisk(weight);
    expect(mergesByRows(source, { A, B })).toBe(true);
    if (!mergesByRows(source, { A, B })) return;
    const merged = mergedRows(source, layout, { A, B });
    const near = (given: ArrayLike<unknown>, start: number, end: number): void => {
      expect(given).toHaveLength(end - start);
      for (let i = start; i < end; i++) expect(given[i - start]).toBeCloseTo(expected[i] ?? 0, 5); // a float32
    };
    near((await merged.read()).data, 0, rows * columns);
    const memory = new ArrayBuffer(4 * rows * columns);
    for (let start = 0; start < rows * columns; start += 3)
      for (const into of [undefined, memory]) {
        const end = Math.min(rows * columns, start + 11);
        near((await merged.readPart?.(start, end, into)) ?? [], start, end);
      }
    expect((await source.read()).data).toEqual(weight.data); // which stays as it was
  });

  it("but of large ranks, and of packed weights, which a device merges whole", () => {
    const source = onDisk(random(2, 2));
    const update = (rank: number): { A: Tensor; B: Tensor } => ({ A: random(rank, 2), B: random(2, rank) });
    expect(mergesByRows(source, update(64))).toBe(true);
    expect(mergesByRows(source, update(65))).toBe(false);
    expect(mergesByRows({ ...source, readPart: undefined as never }, update(2))).toBe(false);
  });
});
