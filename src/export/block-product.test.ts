import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { graph, input, tensor, weight } from "../graph/index.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { dequantised, matvec, openPacked, writePacked } from "../io/packed/index.ts";
import { createRng } from "../linalg/index.ts";
import { gemm } from "../ops/index.ts";
import { chooseScheme } from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { compileGraph } from "../runtime/program.ts";
import { inDtype } from "./onnx-dtypes.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const [rows, tokens] = [24, 3];

/** A random matrix, quantised, written to a file and opened again. */
async function packed(method: string, bits: number, columns: number, options = {}) {
  const rng = createRng(1, `${method} ${bits} ${columns}`);
  const weights = Float64Array.from({ length: rows * columns }, () => rng.normal());
  const values = new Float64Array(columns * columns);
  // Inputs of unequal size, so that the order of activations is not the order of columns.
  for (let k = 0; k < columns; k++) values[k * columns + k] = 1 + rng.uniform() * 9;
  const { scheme, config } = chooseScheme(method, options);
  const site = { name: "w", rows, columns, weight: weights, hessian: { columns, values } };
  const { matrix } = await scheme.quantise(site, bits, config);
  const storage = memoryStorage();
  await writePacked(storage, "w", { info: {}, matrices: [{ name: "w", stored: "out,in", matrix }], tensors: [] });
  const entry = (await openPacked(storage, "w")).matrices.get("w");
  if (!entry) throw new Error("it was just written");
  return { matrix, source: dequantised(entry) };
}

async function product(source: Awaited<ReturnType<typeof packed>>["source"], columns: number) {
  const rng = createRng(2, "x");
  const x = input("x", "float32", [tokens, columns]);
  const [y] = inDtype([gemm(x, weight("w", source), { transB: true })], "q4");
  if (!y) throw new Error("one output for one");
  const program = await compileGraph(device, graph({ name: "product", inputs: [x], outputs: { y } }));
  const data = Float32Array.from({ length: tokens * columns }, () => rng.normal());
  const { y: result } = await program.run({ feeds: { x: { ...tensor("float32", [tokens, columns], 0), data } } });
  await program.release();
  return { data, result: result?.data as Float32Array, nodes: program.graph.nodes, weights: program.graph.weights };
}

describe("MatMulNBits on packed codes", () => {
  it.each([
    ["rtn", 4, 128, {}],
    ["rtn", 3, 100, {}],
    ["rtn", 8, 96, { groupSize: 32 }],
    ["rtn", 2, 96, { groupSize: 0 }],
    ["gptq", 4, 160, {}],
    ["gptq", 2, 150, { groupSize: 32 }],
  ])(
    "%s in %i bits over %i columns %o multiplies by the weights that were packed",
    async (method, bits, columns, options) => {
      const { matrix, source } = await packed(method, bits, columns, options);
      const { data, result, nodes, weights } = await product(source, columns);
      expect(nodes.map(({ op }) => op)).toContain("MatMulNBits");
      expect(weights.map(({ name }) => name)).toContain("w_code_zeros");
      for (let t = 0; t < tokens; t++) {
        const expected = matvec(matrix, data.subarray(t * columns, (t + 1) * columns));
        const largest = Math.max(...expected.map(Math.abs));
        expected.forEach((value, row) => {
          expect(Math.abs((result[t * rows + row] ?? 0) - value)).toBeLessThan(2e-5 * largest);
        });
      }
    },
  );

  it("rounds again what its codes cannot say", async () => {
    const { source } = await packed("shiftadd", 2, 96);
    const { weights } = await product(source, 96);
    expect(weights.map(({ name }) => name)).toEqual(["w_q4", "w_q4_scales"]);
  });
});
