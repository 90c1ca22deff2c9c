import { mkdtemp, realpath, rm, symlink, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { assert } from "../errors.ts";
import {
  type Graph,
  graph,
  input,
  type LazyTensor,
  makeNode,
  parameter,
  type Tensor,
  tensor,
  weight,
} from "../graph/index.ts";
import { castTensor } from "../io/convert.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { cast, matmul } from "../ops/index.ts";
import type { Device, ProgramSource } from "./device.ts";
import { openNodeDevice } from "./node.ts";
import { nodeStorage } from "./node-storage.ts";
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

/** Two products with weights that lie on the disk in a dtype. */
async function ofFiles(
  folder: string,
  dtype: "float32" | "bfloat16",
): Promise<{ readonly doubled: Graph; readonly paths: readonly string[] }> {
  const values = Array.from({ length: 64 * 64 }, (_, i) => (i % 7) - 3);
  const whole = castTensor(tensor("float32", [64, 64], values), dtype);
  const path = join(folder, "model.safetensors");
  await writeSafetensors(nodeStorage, path, [{ name: "w", tensor: whole }]);
  const { tensors } = await openSafetensors(nodeStorage, path);
  const w = weight("w", tensors.get("w") as LazyTensor, dtype);
  const x = input("x", "float32", ["n", 64]);
  return { doubled: graph({ inputs: [x], outputs: { y: matmul(x, cast(w, "float32")) } }), paths: [path] };
}

const row = { x: tensor("float32", [1, 64], 1) };

describe("weights on the disk", () => {
  let folder: string;
  let device: Device;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-mapped-"));
    device = await openNodeDevice({ worker: false, threads: 1 });
  });
  afterAll(async () => {
    await device.close();
    await rm(folder, { recursive: true });
  });

  it.each(["float32", "bfloat16"] as const)("are not read when ONNX Runtime can map them (%s)", async (dtype) => {
    const { doubled } = await ofFiles(folder, dtype);
    const sources: ProgramSource[] = [];
    const watching: Device = {
      ...deaf,
      inPlace: true,
      compile: (source) => {
        sources.push(source);
        return device.compile(source);
      },
      run: (request) => device.run(request),
    };
    const mapped = await compileGraph(watching, doubled);
    const copied = await compileGraph({ ...watching, inPlace: false }, doubled);
    expect(sources.map(({ folder: found, externalData = [] }) => [found, externalData.length])).toEqual([
      [await realpath(folder), 0],
      [undefined, 1],
    ]);
    const results = [await mapped.run({ feeds: row }), await copied.run({ feeds: row })];
    expect(results[0]).toEqual(results[1]);
    await mapped.release();
  });

  it("are refused when the file was changed after it was opened", async () => {
    const { doubled, paths } = await ofFiles(folder, "float32");
    await utimes(paths[0] as string, 1, 1);
    await expect(compileGraph(device, doubled)).rejects.toMatchObject({ code: "file-changed" });
  });

  it("follow a link to the folder that the file is in", async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), "scion-linked-"));
    await ofFiles(folder, "float32");
    await symlink(join(folder, "model.safetensors"), join(elsewhere, "linked.safetensors"));
    const { tensors } = await openSafetensors(nodeStorage, join(elsewhere, "linked.safetensors"));
    const x = input("x", "float32", ["n", 64]);
    const w = weight("w", tensors.get("w") as LazyTensor);
    const program = await compileGraph(device, graph({ inputs: [x], outputs: { y: matmul(x, w) } }));
    expect((await program.run({ feeds: row }))["y"]?.shape).toEqual([1, 64]);
    await program.release();
    await rm(elsewhere, { recursive: true });
  });
});

it("hands weights over as inputs where they are read in place and not laid out", async () => {
  const x64 = input("x", "float32", ["n", 64]);
  const read = async (): Promise<Tensor> => tensor("float32", [64, 64], 2);
  const w = weight("w", { dtype: "float32", shape: [64, 64], sizeBytes: 4 * 64 * 64, read });
  const product = graph({ inputs: [x64], outputs: { y: matmul(x64, w) } });
  const sources: ProgramSource[] = [];
  const device = await openNodeDevice({ worker: true, threads: 1 });
  const compile: Device["compile"] = (source) => {
    sources.push({ ...source, weights: { ...source.weights } });
    return device.compile(source);
  };
  const run: Device["run"] = (request) => device.run(request);
  const program = await compileGraph({ ...deaf, inPlace: true, compile, run }, product, { laidOutBytes: 0 });
  expect(Object.keys(sources[0]?.weights ?? {})).toEqual(["w"]);
  for (let turn = 0; turn < 2; turn++)
    expect((await program.run({ feeds: row }))["y"]).toEqual(tensor("float32", [1, 64], 128));
  await device.close();
});
