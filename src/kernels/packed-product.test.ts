import { describe, expect, it } from "vitest";
import { type Coding, dequantise, matvec, type PackedMatrix, packPlanes, scalesShape } from "../io/packed/index.ts";
import { createRng } from "../linalg/index.ts";
import { nodeThreads } from "../runtime/node-threads.ts";
import { createArena, viewsOf } from "./arena.ts";
import { chooseBuild, openKernels } from "./module.ts";
import { type EntryBytes, layOutPacked, threadScratchBytes } from "./packed-product.ts";
import { programBytes, type Step, writeProgram } from "./program.ts";
import { blockTables, tile } from "./reference.ts";
import { openTeam, teamBytes } from "./team.ts";

interface Case {
  readonly outputs: number;
  readonly inputs: number;
  readonly bits: number;
  readonly coding?: Coding;
  readonly rowGroup?: number;
  readonly columnGroup?: number;
  readonly ordered?: boolean;
}

/** Random codes, scales like 0.02·2^-i, an order when asked for. */
function randomMatrix(options: Case, seed = 0): PackedMatrix {
  const { outputs: rows, inputs: columns, bits, coding = "binary", rowGroup = rows, columnGroup = 1 } = options;
  const rng = createRng(seed, JSON.stringify(options));
  const shape = { rows, columns, bits, coding, rowGroup, columnGroup, scaleKind: "float32" } as const;
  const codes = Uint8Array.from({ length: rows * columns }, () => rng.integer(2 ** bits));
  const count = scalesShape(shape).reduce((product, size) => product * size, 1);
  const perPlane = coding === "binary" ? count / bits : count;
  const scales = Float32Array.from(
    { length: count },
    (_, i) => (0.01 + 0.02 * rng.uniform()) * 2 ** -Math.floor(i / perPlane),
  );
  return {
    ...shape,
    planes: packPlanes(codes, shape),
    scales,
    ...(coding === "uniform" ? { zeros: Uint8Array.from({ length: count }, () => rng.integer(2 ** bits)) } : {}),
    ...(options.ordered ? { order: rng.shuffle(Uint32Array.from({ length: columns }, (_, i) => i)) } : {}),
  };
}

/** W·x by the kernels, for rows of x side by side. */
async function multiply(
  matrix: PackedMatrix,
  xs: readonly Float32Array[],
  { entryBytes, threads = 1 }: { entryBytes: EntryBytes; threads?: number },
): Promise<readonly Float32Array[]> {
  const arena = createArena();
  const control = arena.reserve(teamBytes);
  const placed = layOutPacked(arena, matrix, { entryBytes });
  if (placed === undefined) throw new Error("no layout");
  const rows = arena.reserve(4);
  const rowBytes = 4 * matrix.columns;
  const x = arena.reserve(rowBytes * xs.length);
  const y = arena.reserve(placed.outputBytes * xs.length);
  const scratch = arena.reserve(threadScratchBytes * threads);
  const tables = arena.reserve(placed.scratchBytes(xs.length));
  const room = arena.reserve(4096);
  const memory = arena.create({ shared: threads > 1 });
  const views = viewsOf(memory);
  placed.load(views, matrix);
  views.words[rows.at / 4] = xs.length;
  xs.forEach((values, i) => {
    views.floats.set(values, (x.at + i * rowBytes) / 4);
  });
  const places = { rows: rows.at, tables, scratch: scratch.at };
  const steps: Step[] = [
    ...placed.tables({ at: x.at, rowBytes, threadBytes: 0 }, places),
    ...placed.product({ at: y.at, rowBytes: placed.outputBytes }, { bias: 0, adds: false }, places),
  ];
  expect(programBytes(steps)).toBeLessThanOrEqual(room.bytes);
  writeProgram(views.words, room.at, steps);
  const team = await openTeam(memory, control, nodeThreads, { threads, build: chooseBuild(), shared: threads > 1 });
  team.run(room, steps.length);
  team.close();
  return xs.map((_, i) => {
    const at = (y.at + i * placed.outputBytes) / 4;
    return views.floats.slice(at, at + matrix.rows);
  });
}

function inputs(count: number, seed: number): Float32Array {
  const rng = createRng(seed, "x", count);
  return Float32Array.from({ length: count }, () => rng.normal());
}

/** ‖a − b‖ / ‖b‖. */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    error += ((a[i] ?? 0) - (b[i] ?? 0)) ** 2;
    size += (b[i] ?? 0) ** 2;
  }
  return Math.sqrt(error / (size || 1));
}

/** The same for products: of the size that Wx has when its terms do not cancel, √ΣΣ(w·x)². */
function productError(matrix: PackedMatrix, x: Float32Array, y: ArrayLike<number>): number {
  const weights = dequantise(matrix);
  const expected = matvec(matrix, x);
  let [error, size] = [0, 0];
  for (let row = 0; row < matrix.rows; row++) {
    error += ((y[row] ?? 0) - (expected[row] ?? 0)) ** 2;
    for (let k = 0; k < x.length; k++) size += ((weights[row * x.length + k] ?? 0) * (x[k] ?? 0)) ** 2;
  }
  return Math.sqrt(error / size);
}

const cases: readonly Case[] = [
  ...[1, 63, 64, 65, 257].flatMap((outputs) =>
    [4, 8, 12, 128, 1000].map((inputs) => ({ outputs, inputs, bits: 1 + (outputs % 3) })),
  ),
  { outputs: 512, inputs: 256, bits: 2, rowGroup: 64, columnGroup: 8 },
  { outputs: 352, inputs: 128, bits: 3, rowGroup: 44, columnGroup: 8 },
  { outputs: 200, inputs: 130, bits: 2, rowGroup: 100, ordered: true },
  { outputs: 96, inputs: 352, bits: 3, coding: "uniform", rowGroup: 1, columnGroup: 88, ordered: true },
  { outputs: 100, inputs: 200, bits: 4, coding: "uniform", rowGroup: 1, columnGroup: 200 },
  { outputs: 70, inputs: 320, bits: 2, rowGroup: 1, columnGroup: 64 },
  { outputs: 130, inputs: 100, bits: 2, rowGroup: 13, columnGroup: 5 },
];

describe("products by table look-up", () => {
  // Three bytes an entry leave float32's rounding. One byte is within 1 % at sizes of a model's layer; a handful of rows or
  // columns average less.
  it.each(cases)("$outputs×$inputs, $bits bits, groups $rowGroup×$columnGroup $coding", async (options) => {
    const matrix = randomMatrix(options);
    const xs = [inputs(options.inputs, 1), inputs(options.inputs, 2), inputs(options.inputs, 3)];
    const exact = await multiply(matrix, xs, { entryBytes: 3 });
    const fine = await multiply(matrix, xs, { entryBytes: 2 });
    const fast = await multiply(matrix, xs, { entryBytes: 1 });
    xs.forEach((x, i) => {
      expect(productError(matrix, x, exact[i] ?? [])).toBeLessThan(1e-6);
      expect(productError(matrix, x, fine[i] ?? [])).toBeLessThan(1e-4);
      expect(productError(matrix, x, fast[i] ?? [])).toBeLessThan(options.outputs < 16 ? 0.03 : 0.015);
    });
  });

  it("keeps the error of one-byte tables below 1 % for normal inputs", async () => {
    const matrix = randomMatrix({ outputs: 1024, inputs: 1024, bits: 2 });
    const x = inputs(1024, 4);
    const [y = new Float32Array()] = await multiply(matrix, [x], { entryBytes: 1 });
    expect(relativeError(y, matvec(matrix, x))).toBeLessThan(0.01);
  });

  it("gives the same bits with two threads as with one", async () => {
    const matrix = randomMatrix({ outputs: 300, inputs: 700, bits: 2 });
    const xs = [inputs(700, 1), inputs(700, 2)];
    const alone = await multiply(matrix, xs, { entryBytes: 1 });
    expect(await multiply(matrix, xs, { entryBytes: 1, threads: 2 })).toEqual(alone);
  });

  it("gives zeros for zeros, and NaN for NaN", async () => {
    const matrix = randomMatrix({ outputs: 65, inputs: 64, bits: 2 });
    const x = new Float32Array(64);
    const [zeros] = await multiply(matrix, [x], { entryBytes: 1 });
    expect(zeros?.every((value) => value === 0)).toBe(true);
    x[7] = Number.NaN;
    const [nan] = await multiply(matrix, [x], { entryBytes: 1 });
    expect(nan?.every((value) => Number.isNaN(value))).toBe(true);
  });

  it("sums 32 tables of the largest entries without overflow", async () => {
    const shape = { outputs: 64, inputs: 256, bits: 1 };
    const matrix = randomMatrix(shape);
    const ones = { ...matrix, planes: packPlanes(new Uint8Array(64 * 256).fill(1), matrix) };
    const x = new Float32Array(256).fill(3);
    const [y = new Float32Array()] = await multiply(ones, [x], { entryBytes: 1 });
    expect(relativeError(y, matvec(ones, x))).toBeLessThan(0.005);
  });
});

describe("the twins", () => {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const kernels = openKernels(memory, { shared: false });
  const { bytes, floats, words } = viewsOf(memory);

  it("makes the same tables, to the bit", () => {
    for (const entryBytes of [1, 2, 3] as const) {
      for (const tables of [2, 8, 32]) {
        const x = inputs(4 * tables, tables);
        const expected = blockTables(x, entryBytes);
        const [rows, at, out, scales, scratch, args] = [1024, 2048, 8192, 16384, 32768, 65536];
        words[rows / 4] = 1;
        floats.set(x, at / 4);
        words.set([rows, at, 0, 0, 0, 0, 1, x.length, tables, 1, entryBytes, out, scales, scratch], args / 4);
        kernels.makeTables(0, 1, args);
        expected.bytes.forEach((table, i) => {
          expect([...bytes.subarray(out + 16 * tables * i, out + 16 * tables * (i + 1))]).toEqual([...table]);
          expect(floats[scales / 4 + i]).toBe(expected.scales[i]);
        });
      }
    }
  });

  it("sums a tile to the same bits", () => {
    const rng = createRng(5);
    for (const tables of [2, 32, 34, 96]) {
      const planes = Uint8Array.from({ length: 32 * tables }, () => rng.integer(256));
      const table = Uint8Array.from({ length: 16 * tables }, () => 1 + rng.integer(255));
      const scales = Float32Array.from({ length: Math.ceil(tables / 32) }, () => rng.uniform());
      const y = Float32Array.from({ length: 64 }, () => rng.normal());
      bytes.set(planes, 65536);
      bytes.set(table, 131072);
      floats.set(scales, 196608 / 4);
      floats.set(y, 200704 / 4);
      kernels.tile(65536, 131072, 196608, 200704, tables);
      tile(planes, table, scales, y);
      expect([...floats.subarray(200704 / 4, 200704 / 4 + 64)]).toEqual([...y]);
    }
  });

  it("makes the table of the paper's example", () => {
    // x = [1, 2, −3, 0.5], largest sum 6.5: entries in steps of 6.5/127.
    const { bytes: made } = blockTables(Float32Array.of(1, 2, -3, 0.5), 1);
    const entries = [...(made[0] ?? [])].map((byte) => byte - 128);
    expect(entries).toEqual([-10, 29, 68, 107, -127, -88, -49, -10, 10, 49, 88, 127, -107, -68, -29, 10]);
  });
});
