import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tensor } from "../../graph/index.ts";
import { createRng } from "../../linalg/index.ts";
import { memoryStorage } from "../memory-storage.ts";
import { openSafetensors, writeSafetensors } from "../safetensors.ts";
import {
  decodePowers,
  dequantise,
  dequantised,
  encodePowers,
  matvec,
  openPacked,
  type PackedMatrix,
  packedSize,
  packPlanes,
  planeScales,
  planesBytes,
  roundToPowers,
  rowOfByte,
  scalesShape,
  termsOf,
  unpackPlanes,
  writePacked,
} from "./index.ts";

describe("additive powers of two", () => {
  it("round as the paper's tables do", () => {
    const table: Readonly<Record<string, readonly [number, number, number]>> = {
      0.3: [0.25, 0.3125, 0.296875],
      0.7: [0.5, 0.75, 0.6875],
      0.725: [1, 0.75, 0.71875],
      1.45: [2, 1.5, 1.4375],
      1.5: [2, 1.5, 1.5],
      0.013: [0.015625, 0.013671875, 0.01318359375],
      1: [1, 1, 1],
      0: [0, 0, 0],
    };
    for (const [value, expected] of Object.entries(table)) {
      expect([1, 2, 3].map((terms) => roundToPowers(Number(value), terms))).toEqual(expected);
    }
  });

  it("stay within the bounds of each number of terms over a grid of logarithms", () => {
    const bounds = [0.4142136, 0.1082, 0.0274];
    bounds.forEach((bound, i) => {
      let worst = 0;
      for (let x = 2 ** -20; x < 2 ** 20; x *= 1.00037)
        worst = Math.max(worst, Math.abs(roundToPowers(x, i + 1) / x - 1));
      expect(worst).toBeLessThanOrEqual(bound);
      expect(worst).toBeGreaterThan(0.95 * bound);
    });
  });

  it("are what greedy rounding gives, but for a last term beyond a gap of 7, and scale with powers of two", () => {
    const greedy = (value: number, terms: number): number => {
      let sum = 0;
      for (let i = 0; i < terms && value !== sum; i++) {
        const logarithm = Math.log2(Math.abs(value - sum));
        // Where two powers are equally near, the last bit of the logarithm would decide.
        fc.pre(Math.abs(logarithm - Math.floor(logarithm) - 0.5) > 1e-9);
        sum += Math.sign(value - sum) * 2 ** Math.round(logarithm);
      }
      return sum;
    };
    fc.assert(
      fc.property(fc.double({ min: 1e-12, max: 1e12, noNaN: true }), fc.integer({ min: 1, max: 3 }), (x, terms) => {
        const coded = roundToPowers(x, terms);
        expect(Math.abs(coded / greedy(x, terms) - 1)).toBeLessThanOrEqual(0.006);
        expect(roundToPowers(8 * x, terms)).toBe(8 * coded);
        expect(roundToPowers(-x, terms)).toBe(-coded);
        expect(Math.fround(coded)).toBe(coded);
        expect(termsOf(encodePowers(x, terms))).toBeLessThanOrEqual(terms);
      }),
    );
  });

  it("hold every code's number", () => {
    for (let code = 0; code < 65536; code++) expect(Math.fround(decodePowers(code))).toBe(decodePowers(code));
    expect(roundToPowers(1e-30, 3)).toBe(0);
  });
});

/** A matrix with random codes and scales. */
function randomMatrix(options: {
  rows: number;
  columns: number;
  bits: number;
  rowGroup?: number;
  columnGroup?: number;
  uniform?: boolean;
  ordered?: boolean;
  seed?: number;
}): PackedMatrix {
  const { rows, columns, bits, rowGroup = rows, columnGroup = 1, uniform = false, ordered = false, seed = 1 } = options;
  const rng = createRng(seed, "packed");
  const codes = Uint8Array.from({ length: rows * columns }, () => rng.integer(2 ** bits));
  const shape = {
    rows,
    columns,
    bits,
    rowGroup,
    columnGroup,
    coding: uniform ? ("uniform" as const) : ("binary" as const),
    scaleKind: uniform ? ("float32" as const) : ("powers" as const),
    ...(uniform ? {} : { terms: 3 }),
  };
  const count = scalesShape(shape).reduce((a, b) => a * b, 1);
  return {
    ...shape,
    planes: packPlanes(codes, shape),
    scales: uniform
      ? Float32Array.from({ length: count }, () => rng.uniform())
      : Uint16Array.from({ length: count }, () => encodePowers(rng.uniform(), 3)),
    ...(uniform ? { zeros: Uint8Array.from({ length: count }, () => rng.integer(2 ** bits)) } : {}),
    ...(ordered ? { order: rng.shuffle(Uint32Array.from({ length: columns }, (_, i) => i)) } : {}),
  };
}

describe("planes", () => {
  it("put each sign into the nibble that the format names", () => {
    const shape = { bits: 1, rows: 130, columns: 13 };
    for (const [row, column] of [
      [0, 0],
      [9, 3],
      [16, 4],
      [33, 7],
      [63, 12],
      [129, 5],
    ] as const) {
      const codes = new Uint8Array(shape.rows * shape.columns);
      codes[row * shape.columns + column] = 1;
      const planes = packPlanes(codes, shape);
      const at = planes.findIndex((byte) => byte !== 0);
      const [tile, table, half, byte] = [
        Math.floor(at / 128),
        Math.floor(at / 32) % 4,
        Math.floor(at / 16) % 2,
        at % 16,
      ];
      const high = (planes[at] ?? 0) > 15 ? 1 : 0;
      expect(64 * tile + 32 * half + 16 * high + rowOfByte(byte)).toBe(row);
      expect(4 * table + Math.log2((planes[at] ?? 0) >> (4 * high))).toBe(column);
    }
  });

  it("give back every code", () => {
    const sizes = fc.record({
      bits: fc.integer({ min: 1, max: 8 }),
      rows: fc.integer({ min: 1, max: 140 }),
      columns: fc.integer({ min: 1, max: 40 }),
    });
    fc.assert(
      fc.property(sizes, fc.integer(), (shape, seed) => {
        const rng = createRng(seed);
        const codes = Uint8Array.from({ length: shape.rows * shape.columns }, () => rng.integer(2 ** shape.bits));
        const planes = packPlanes(codes, shape);
        expect(planes.length).toBe(planesBytes(shape));
        expect(unpackPlanes(planes, shape)).toEqual(codes);
      }),
      { numRuns: 60 },
    );
  });
});

describe("packed matrices", () => {
  const cases = [
    randomMatrix({ rows: 70, columns: 24, bits: 2 }),
    randomMatrix({ rows: 70, columns: 21, bits: 3, rowGroup: 9, columnGroup: 8 }),
    randomMatrix({ rows: 33, columns: 40, bits: 4, rowGroup: 1, columnGroup: 16, uniform: true, ordered: true }),
    randomMatrix({ rows: 5, columns: 4, bits: 8, rowGroup: 2, ordered: true }),
  ];

  it.each(cases)("multiply as their dequantised weights and as planes with scales and offsets do", (matrix) => {
    const { rows, columns, bits, rowGroup, columnGroup, order } = matrix;
    const rng = createRng(3);
    const x = Float64Array.from({ length: columns }, () => rng.normal());
    const weights = dequantise(matrix);
    const codes = unpackPlanes(matrix.planes, matrix);
    const { alpha, offset } = planeScales(matrix);
    const columnGroups = Math.ceil(columns / columnGroup);
    const groups = Math.ceil(rows / rowGroup) * columnGroups;
    matvec(matrix, x).forEach((y, row) => {
      let dense = 0;
      let planes = 0;
      for (let k = 0; k < columns; k++) {
        dense += (weights[row * columns + k] ?? 0) * (x[k] ?? 0);
        const group = Math.floor(row / rowGroup) * columnGroups + Math.floor(k / columnGroup);
        let w = offset?.[group] ?? 0;
        for (let i = 0; i < bits; i++) {
          const sign = ((codes[row * columns + k] ?? 0) >> i) & 1 ? 1 : -1;
          w += sign * (alpha[i * groups + group] ?? 0);
        }
        planes += w * (x[order?.[k] ?? k] ?? 0);
      }
      expect(dense).toBeCloseTo(y, 4); // weights are rounded to float32
      expect(planes).toBeCloseTo(y, 4);
    });
  });

  it("cost the bits of the paper's table, and what their tensors take where nothing is padded", () => {
    const columnWise = (rows: number, bits: number) =>
      packedSize({ rows, columns: 256, bits, rowGroup: rows, columnGroup: 1, coding: "binary", scaleKind: "powers" });
    expect(columnWise(256, 2).bitsPerWeight).toBe(2.125);
    expect(columnWise(512, 3).bitsPerWeight).toBeCloseTo(3.09375, 6);
    expect(columnWise(4096, 2).bitsPerWeight).toBeCloseTo(2.0078, 4);
    const { planesBytes: planes, scalesBytes, bitsPerWeight } = columnWise(256, 3);
    expect(planes + scalesBytes).toBe((bitsPerWeight * 256 * 256) / 8);
    const grouped = {
      rows: 64,
      columns: 256,
      bits: 3,
      rowGroup: 1,
      columnGroup: 32,
      coding: "uniform",
      scaleKind: "float16",
    } as const;
    expect(packedSize(grouped).bitsPerWeight).toBeCloseTo(3.59375, 6);
  });

  it("come back from a file as they were, in the model's layout", async () => {
    const storage = memoryStorage();
    const matrices = cases.map((matrix, i) => ({
      name: `layer.${i}.weight`,
      matrix,
      stored: i % 2 === 0 ? ("out,in" as const) : ("in,out" as const),
    }));
    const norm = tensor("float32", [3], [1, 2, 3]);
    await writePacked(storage, "m/packed.safetensors", {
      info: { method: "test" },
      matrices,
      tensors: [{ name: "norm.weight", tensor: norm }],
    });
    const file = await openPacked(storage, "m/packed.safetensors");
    expect(file.info).toEqual({ method: "test" });
    expect([...file.tensors.keys()]).toEqual(["norm.weight"]);
    for (const { name, matrix, stored } of matrices) {
      const entry = file.matrices.get(name);
      expect(await entry?.read()).toEqual(matrix);
      const weights = entry && (await dequantised(entry).read());
      const { rows, columns } = matrix;
      expect(weights?.shape).toEqual(stored === "out,in" ? [rows, columns] : [columns, rows]);
      const at = stored === "out,in" ? 1 * columns + 2 : 2 * rows + 1;
      expect(weights?.data[at]).toBe(dequantise(matrix)[1 * columns + 2]);
    }
  });
});

describe("reading a packed file", () => {
  const path = "packed.safetensors";

  async function written(change: (header: Record<string, unknown>) => void, drop: readonly string[] = []) {
    const storage = memoryStorage();
    const matrix = randomMatrix({ rows: 8, columns: 8, bits: 2, ordered: true });
    await writePacked(storage, path, { info: {}, matrices: [{ name: "w", matrix, stored: "out,in" }], tensors: [] });
    const { metadata, tensors } = await openSafetensors(storage, path);
    const header = JSON.parse(metadata["scion_packed"] ?? "") as Record<string, unknown>;
    change(header);
    const entries = [...tensors]
      .filter(([name]) => !drop.includes(name))
      .map(([name, lazy]) => ({ name, tensor: lazy }));
    const other = memoryStorage();
    await writeSafetensors(other, path, entries, { scion_packed: JSON.stringify(header) });
    return openPacked(other, path);
  }

  const matrixOf = (header: Record<string, unknown>): Record<string, unknown> =>
    (header["matrices"] as Record<string, Record<string, unknown>>)["w"] ?? {};

  it("refuses another version", async () => {
    const opening = written((header) => {
      header["version"] = 2;
    });
    await expect(opening).rejects.toMatchObject({ code: "packed-unknown-version" });
  });

  it.each([
    ["bits", 9],
    ["bits", 3],
    ["rows", 65],
    ["columns", 2 ** 40],
    ["rowGroup", 9],
    ["coding", "ternary"],
    ["scaleKind", "float16"],
    ["terms", 4],
    ["stored", "sideways"],
  ])("refuses %s %s, naming the matrix", async (key, value) => {
    const opening = written((header) => {
      matrixOf(header)[key] = value;
    });
    await expect(opening).rejects.toMatchObject({ code: "packed-malformed", message: expect.stringContaining("w") });
  });

  it("refuses a missing tensor, one that nothing describes, and an order that is none", async () => {
    await expect(written(() => undefined, ["w.scales"])).rejects.toThrow("w.scales");
    const undescribed = written((header) => {
      header["matrices"] = {};
    });
    await expect(undescribed).rejects.toThrow("no matrix that is described");
    const storage = memoryStorage();
    const matrix = { ...randomMatrix({ rows: 8, columns: 8, bits: 2 }), order: new Uint32Array(8) };
    await writePacked(storage, path, { info: {}, matrices: [{ name: "w", matrix, stored: "out,in" }], tensors: [] });
    const file = await openPacked(storage, path);
    await expect(file.matrices.get("w")?.read()).rejects.toThrow("every column once");
  });

  it("refuses safetensors that are no packed model", async () => {
    const storage = memoryStorage();
    await writeSafetensors(storage, path, [{ name: "w", tensor: tensor("float32", [1], [1]) }]);
    await expect(openPacked(storage, path)).rejects.toMatchObject({ code: "packed-malformed" });
  });
});
