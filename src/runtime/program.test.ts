import { expect, it } from "vitest";
import { assert } from "../errors.ts";
import { graph, input, makeNode, parameter, type Tensor, tensor, weight } from "../graph/index.ts";
import type { Device, ProgramSource } from "./device.ts";
import { openNodeDevice } from "./node.ts";
import { compileGraph } from "./program.ts";

const x = input("x", "float32", ["n", "n+1"]);
const p = parameter("p", "float32", [2]);
const [y] = makeNode({ op: "Identity", inputs: [x], outputs: [x] }).outputs;
const [q] = makeNode({ op: "Identity", inputs: [p], outputs: [p] }).outputs;
assert(y !== undefined && q !== undefined, "Identity has an output");
const both = graph({ name: "both", outputs: { y, q } });

const deaf: Device = {
  provider: "none",
  compile: async () => 1,
  run: async () => ({}),
  upload: async () => undefined,
  download: async () => tensor("float32", [1], 0),
  discard: async () => undefined,
  release: async () => undefined,
  close: async () => undefined,
};

it.each<[string, Record<string, Tensor>, string]>([
  ["missing", {}, "x is missing"],
  ["unknown", { x: tensor("float32", [1, 2], 0), z: tensor("float32", [], 0) }, "no input z"],
  ["of another dtype", { x: tensor("int64", [1, 2], 0) }, "x is int64[1, 2], not float32[n, n+1]"],
  ["of another rank", { x: tensor("float32", [1], 0) }, "not float32[n, n+1]"],
  ["at odds with a symbol", { x: tensor("float32", [2, 2], 0) }, "n+1 is 3 here"],
])("refuses a feed that is %s", async (_what, feeds, saying) => {
  const program = await compileGraph(deaf, both);
  await expect(async () => program.run({ feeds, reads: { p: "p" } })).rejects.toMatchObject({
    code: "bad-feed",
    message: expect.stringContaining(saying),
    at: "program both",
  });
});

it("hands over large weights beside the model, each in memory of its own", async () => {
  const sources: ProgramSource[] = [];
  const device: Device = { ...deaf, compile: async (source) => sources.push(source) };
  const large = new Float32Array(1000);
  const read = async () => ({ dtype: "float32", shape: [500], data: large.subarray(500) }) as const;
  const w = weight("w", { dtype: "float32", shape: [500], sizeBytes: 2000, read });
  const [out] = makeNode({ op: "Identity", inputs: [w], outputs: [w] }).outputs;
  assert(out !== undefined, "Identity has an output");
  await compileGraph(device, graph({ outputs: { out } }));
  const [data] = sources[0]?.externalData?.map((file) => file.data) ?? [];
  expect(data?.buffer).not.toBe(large.buffer);
  expect(data?.byteLength).toBe(2000);
  expect(sources[0]?.model.byteLength).toBeLessThan(1000);
});

it("runs with weights inside and beside the model", async () => {
  const device = await openNodeDevice({ worker: false, threads: 1 });
  try {
    for (const size of [4, 1000]) {
      const value = tensor("float32", [size], 2);
      const read = async () => ({ ...value, data: value.data.slice() });
      const w = weight("w", { dtype: "float32", shape: [size], sizeBytes: 4 * size, read });
      const v = input("v", "float32", [size]);
      const [out] = makeNode({ op: "Mul", inputs: [v, w], outputs: [w] }).outputs;
      assert(out !== undefined, "Mul has an output");
      const program = await compileGraph(device, graph({ outputs: { out } }));
      const outputs = await program.run({ feeds: { v: tensor("float32", [size], 3) } });
      expect(outputs["out"]).toEqual(tensor("float32", [size], 6));
      await program.release();
    }
  } finally {
    await device.close();
  }
});
