import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { bytesOf } from "../graph/index.ts";
import { contentHash } from "../io/content-hash.ts";
import { createRng, createRooms, type Multiply, matmul } from "../linalg/index.ts";
import { chooseScheme, createAlgebra, type Hessian, prepareHessian } from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { sequencesOf } from "../train/data/index.ts";
import { cutIntoBlocks } from "./blocks.ts";
import { layOutCalibration } from "./calibration.ts";
import { carriedFeeds, firstCarried } from "./carry.ts";
import { collectGrams } from "./grams.ts";
import { relativeError } from "./output-error.ts";
import { type DeviceProducts, deviceProducts } from "./products.ts";

let device: Device;
let products: DeviceProducts;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 2 });
  products = deviceProducts(device);
});
afterAll(async () => {
  await products.close();
  await device.close();
});

/** Σ x·xᵀ of correlated random inputs of unequal size, one of them dead. */
function hessianOf(columns: number, rows: number): Hessian {
  const rng = createRng(columns);
  const sizes = Float64Array.from({ length: columns }, (_, j) => (j === 5 ? 0 : Math.exp(rng.normal())));
  const data = new Float64Array(rows * columns);
  for (let t = 0; t < rows; t++) {
    const shared = rng.normal();
    for (let j = 0; j < columns; j++) data[t * columns + j] = (sizes[j] ?? 0) * (rng.normal() + shared);
  }
  const x = { rows, cols: columns, data };
  return { columns, values: matmul(x, x, { transA: true }).data };
}

function randomWeight(rows: number, columns: number): Float32Array {
  const rng = createRng(1, "weight");
  return Float32Array.from({ length: rows * columns }, () => 0.02 * rng.normal());
}

describe("products on a device", () => {
  it.each([
    [false, false],
    [true, false],
    [false, true],
  ])("are those of plain loops, transposed %s and %s, in the type of the first", async (transA, transB) => {
    const rng = createRng(3);
    const random = (rows: number, cols: number) => ({
      rows,
      cols,
      data: Float64Array.from({ length: rows * cols }, () => rng.normal()),
    });
    const [a, b] = [transA ? random(120, 90) : random(90, 120), transB ? random(70, 120) : random(120, 70)];
    const plain = matmul(a, b, { transA, transB });
    const wide = await products.multiply(a, b, { transA, transB });
    expect([wide.rows, wide.cols]).toEqual([90, 70]);
    expect(furthest(wide.data, plain.data)).toBeLessThan(1e-12);
    const narrow = await products.multiply({ ...a, data: Float32Array.from(a.data) }, b, { transA, transB });
    expect(narrow.data).toBeInstanceOf(Float32Array);
    expect(furthest(narrow.data, plain.data)).toBeLessThan(1e-4);
  });

  it("factor, sweep and judge to the codes and errors of plain loops", async () => {
    const [rows, columns] = [384, 576];
    const hessian = hessianOf(columns, 900);
    const options = { damping: 0.01, activationOrder: true };
    let calls = 0;
    const multiply: Multiply = (a, b, how) => {
      calls += 1;
      return products.multiply(a, b, how);
    };
    const [plain, fast] = [
      await prepareHessian(hessian, options),
      await prepareHessian(hessian, options, { multiply }),
    ];
    expect(calls).toBeGreaterThan(10);
    expect(fast.order).toEqual(plain.order);
    for (let i = 0; i < columns; i++) {
      const row = (from: Float64Array): Float64Array => from.subarray(i * columns + i, (i + 1) * columns);
      expect(furthest(row(fast.upper), row(plain.upper))).toBeLessThan(1e-10 * Math.abs(plain.upper[0] ?? 1) + 1e-10);
    }
    const weight = randomWeight(rows, columns);
    const site = { name: "w", rows, columns, weight, hessian };
    const algebra = createAlgebra(multiply);
    for (const [name, bits, own] of [
      ["gptq", 4, {}],
      ["gptq", 3, { groupSize: 0 }],
      ["gptq", 3, { groupSize: 160, activationOrder: false }],
      ["shiftadd", 2, { rounds: 3 }],
      ["shiftadd", 3, { blockWise: true, rounds: 3 }],
    ] as const) {
      const { scheme, config } = chooseScheme(name, own);
      calls = 0;
      const { matrix } = await scheme.quantise(site, bits, config, algebra);
      expect(calls).toBeGreaterThan(3);
      const { matrix: expected } = await scheme.quantise(site, bits, config);
      expect(contentHash(bytesOf(matrix.planes)), `${name} ${bits}`).toBe(contentHash(bytesOf(expected.planes)));
      expect(matrix.scales).toEqual(expected.scales);
    }
  }, 120_000);

  it("give the errors of outputs that plain loops give", async () => {
    const [rows, columns] = [192, 1216];
    const hessian = hessianOf(columns, 64);
    const weight = randomWeight(rows, columns);
    const { scheme, config } = chooseScheme("rtn");
    const { matrix } = await scheme.quantise({ name: "w", rows, columns, weight }, 3, config);
    const rooms = createRooms();
    const plain = await relativeError(weight, matrix, hessian, { rooms });
    let calls = 0;
    const multiply: Multiply = (a, b, how) => {
      calls += 1;
      return products.multiply(a, b, how);
    };
    const fast = await relativeError(weight, matrix, hessian, { rooms, multiply });
    expect(calls).toBe(4); // two strips, of the error and of the whole
    expect(fast / plain).toBeCloseTo(1, 5);
  }, 120_000);
});

it("grams that are computed by halves are whole, and symmetric to the last bit", async () => {
  const model = await randomModel();
  const cut = cutIntoBlocks(model.loss(), model.architecture.outputModule);
  const { batches } = layOutCalibration(randomExamples(16).flatMap(sequencesOf), { padId: 0, widest: 48 });
  const carried = await firstCarried(device, cut, { batches, tokens: 0, comfortableTokens: 0 });
  const [block] = cut.blocks;
  if (!block) throw new Error("there are two");
  const feedsOf = (i: number) => carriedFeeds(carried[i] ?? []);
  const whole = await collectGrams(device, cut, block, batches, feedsOf, createRooms());
  const halves = await collectGrams(device, cut, block, batches, feedsOf, createRooms(), 20); // strips of 10
  expect(new Set(block.sites.map(whole)).size).toBe(4); // q, k and v share one, gate and up another
  for (const site of block.sites) {
    const [expected, { values, columns, exact }] = [whole(site), halves(site)];
    expect(exact).toBe(true);
    expect(columns).toBe(site.inFeatures);
    expect(furthest(values, expected.values)).toBeLessThan(1e-5 * Math.max(...expected.values));
    for (let i = 0; i < columns; i++)
      for (let j = 0; j < i; j++) expect(values[j * columns + i]).toBe(values[i * columns + j]);
  }
});

function furthest(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < b.length; i++) most = Math.max(most, Math.abs((a[i] ?? Number.NaN) - (b[i] ?? 0)));
  return most;
}
