import { TuneError } from "../errors.ts";
import {
  constant,
  type DType,
  type Graph,
  graph,
  input,
  int,
  type LazyTensor,
  makeNode,
  type ResultValue,
  type Tensor,
  tensor,
  type Value,
  weight,
} from "../graph/index.ts";
import { writeOnnx } from "../io/onnx/write.ts";
import type { Device, ProgramSource } from "./device.ts";

/** One promise of {@link Device}; `check` throws when it is not kept. Free of test frameworks: pages run it too. */
export interface DeviceLaw {
  readonly name: string;
  check(device: Device): Promise<void>;
}

/** What every device promises, whatever it runs on. */
export const deviceLaws: readonly DeviceLaw[] = [
  {
    name: "trains with its state on the device, as float64 arithmetic says",
    check: async (device) => {
      const program = await device.compile({ ...serialise(descent), residentOutputs: ["p.next"] });
      await device.upload("p", tensor("float32", [3, 1], [0.5, -0.25, 0.125]));
      const expected = descend([0.5, -0.25, 0.125], 20);
      for (const loss of expected.losses) {
        const outputs = await device.run({
          program,
          feeds: { x: examples, t: targets, lr: tensor("float32", [], 0.1) },
          reads: { p: "p" },
          writes: { "p.next": "p" },
        });
        same(Object.keys(outputs), ["loss"]);
        near(outputs["loss"]?.data, [loss]);
      }
      near((await device.download("p")).data, expected.p);
    },
  },
  {
    name: "replaces parts of buffers where it can",
    check: async (device) => {
      if (!device.patches) return;
      const x = input("x", "float32", [2, 2]);
      const [y] = makeNode({ op: "Neg", inputs: [x], outputs: [{ dtype: "float32", shape: [2, 2] }] }).outputs;
      const program = await device.compile({
        ...serialise(graph({ inputs: [x], outputs: { y: y as Value } })),
        residentOutputs: ["y"],
      });
      await device.upload("whole", tensor("float32", [3, 2], [1, 2, 3, 4, 5, 6]));
      await device.upload("places", tensor("int64", [2], [2, 0]));
      const feeds = { x: tensor("float32", [2, 2], [10, 20, 30, 40]) };
      await device.run({ program, feeds, patches: { y: [{ buffer: "whole", places: "places" }] } });
      same(await device.download("whole"), tensor("float32", [3, 2], [-20, -40, 3, 4, -10, -30]));
      await device.upload("high", tensor("float32", [3, 1], [1, 2, 3]));
      await device.upload("low", tensor("float32", [1, 2], [4, 5]));
      await device.upload("first", tensor("int64", [1], [0]));
      const several = [
        { buffer: "high", places: "places" },
        { buffer: "low", places: "first" },
      ];
      await device.run({ program, feeds, patches: { y: several } });
      same(await device.download("high"), tensor("float32", [3, 1], [-20, 2, -10]));
      same(await device.download("low"), tensor("float32", [1, 2], [-30, -40]));
    },
  },
  {
    name: "cuts an output into buffers where it can, each to be replaced by itself, and joins them",
    check: async (device) => {
      if (!device.patches) return;
      const x = input("x", "float32", [5]);
      const [y] = makeNode({ op: "Neg", inputs: [x], outputs: [{ dtype: "float32", shape: [5] }] }).outputs;
      const program = await device.compile({
        ...serialise(graph({ inputs: [x], outputs: { y: y as Value } })),
        residentOutputs: ["y"],
      });
      const feeds = { x: tensor("float32", [5], [1, 2, 3, 4, 5]) };
      const pieces = [
        { buffer: "a", shape: [2, 2] },
        { buffer: "b", shape: [1] },
      ];
      await device.run({ program, feeds, writes: { y: pieces } });
      const joined = { x: ["a", "b"] };
      const again = await device.compile(serialise(graph({ inputs: [x], outputs: { y: y as Value } })));
      same((await device.run({ program: again, feeds: {}, reads: joined }))["y"], feeds.x);
      await device.upload("a", tensor("float32", [4], [6, 7, 8, 9]));
      same(await device.download("b"), tensor("float32", [1], [-5]));
      const other = { y: tensor("float32", [5], [-6, -7, -8, -9, 5]) };
      same((await device.run({ program: again, feeds: {}, reads: joined }))["y"], other.y);
      await device.run({ program, feeds, writes: { y: pieces } });
      same(await device.download("a"), tensor("float32", [2, 2], [-1, -2, -3, -4]));
      await device.discard(["a"]);
      same(await device.download("b"), tensor("float32", [1], [-5]));
    },
  },
  {
    name: "leaves every buffer as it was when a run fails, and names the node",
    check: async (device) => {
      const program = await device.compile({ ...serialise(descent), residentOutputs: ["p.next"] });
      const before = tensor("float32", [3, 1], [1, 2, 3]);
      await device.upload("p", before);
      const feeds = { x: tensor("float32", [2, 5], 1), t: targets, lr: tensor("float32", [], 0.1) };
      const error = await fails(
        device.run({ program, feeds, reads: { p: "p" }, writes: { "p.next": "p" } }),
        "run-failed",
      );
      holds(error.message.includes("prediction"), `the node is not named: ${error.message}`);
      same(await device.download("p"), before);
    },
  },
  {
    name: "refuses what is no program, saying why",
    check: async (device) => {
      await fails(device.compile({ model: Uint8Array.of(1, 2, 3) }), "program-rejected");
      const x = input("x", "float32", ["n"]);
      const unknown = graph({ outputs: { "layer.3": node("NoSuchOperator", [x], x) } });
      const error = await fails(device.compile(serialise(unknown)), "program-rejected");
      holds(error.message.includes("NoSuchOperator"), `the operator is not named: ${error.message}`);
    },
  },
  {
    name: "carries every dtype and shape there and back",
    check: async (device) => {
      const dtypes: readonly DType[] = [
        ...(["float32", "float64", "float16", "int64", "int32", "int16", "int8"] as const),
        ...(["uint64", "uint32", "uint16", "uint8", "bool"] as const),
      ];
      for (const dtype of dtypes) {
        for (const shape of [[], [3], [2, 3], [0], [2, 0, 4]]) {
          const sent = tensor(dtype, shape, 1);
          await device.upload("b", sent);
          same(await device.download("b"), sent);
        }
      }
      await fails(device.upload("b", tensor("bfloat16", [1], 1)), "dtype-unsupported");
    },
  },
  {
    name: "carries halves, integers and booleans through a run",
    check: async (device) => {
      for (const dtype of ["float16", "int64", "bool", "float32"] as const) {
        const x = input("x", dtype, ["n"]);
        const program = await device.compile(serialise(graph({ outputs: { y: node("Identity", [x], x) } })));
        const sent = tensor(dtype, [3], [1, 0, 1]);
        same(await device.run({ program, feeds: { x: sent } }), { y: sent });
      }
    },
  },
  {
    name: "copies what it is given and what it gives",
    check: async (device) => {
      const mine = tensor("float32", [2], [1, 2]);
      const placed = device.upload("b", mine);
      await placed;
      mine.data[0] = 9;
      const given = await device.download("b");
      given.data[1] = 9;
      same((await device.download("b")).data, [1, 2]);
    },
  },
  {
    name: "reads what it is lent, and leaves it to the caller",
    check: async (device) => {
      const mine = tensor("float32", [2], [1, 2]);
      const x = input("x", "float32", ["n"]);
      const program = await device.compile(serialise(graph({ outputs: { y: node("Neg", [x], x) } })));
      await device.upload("b", mine, { lent: true });
      same((await device.run({ program, feeds: {}, reads: { x: "b" } }))["y"]?.data, [-1, -2]);
      await device.upload("b", tensor("float32", [1], [3]), { lent: true });
      await device.discard(["b"]);
      same(mine.data, [1, 2]);
    },
  },
  {
    name: "takes views of larger arrays",
    check: async (device) => {
      const large = Float32Array.of(0, 1, 2, 3);
      const view: Tensor = { dtype: "float32", shape: [2], data: large.subarray(1, 3) };
      await device.upload("b", view);
      same((await device.download("b")).data, [1, 2]);
      const x = input("x", "float32", ["n"]);
      const program = await device.compile(serialise(graph({ outputs: { y: node("Neg", [x], x) } })));
      same((await device.run({ program, feeds: { x: view } }))["y"]?.data, [-1, -2]);
      same(large, [0, 1, 2, 3]);
    },
  },
  {
    name: "lets buffers grow, drops resident outputs that nobody keeps, and carries calls out in order",
    check: async (device) => {
      const program = await device.compile({ ...serialise(append), residentOutputs: ["present"] });
      await device.upload("cache", tensor("float32", [0, 2], []));
      const step = (value: number) =>
        device.run({
          program,
          feeds: { x: tensor("float32", [1, 2], value) },
          reads: { past: "cache" },
          writes: { present: "cache" },
        });
      await Promise.all([step(1), step(2), step(3)]);
      same(await device.run({ program, feeds: { x: tensor("float32", [1, 2], 4) }, reads: { past: "cache" } }), {});
      same(await device.download("cache"), tensor("float32", [3, 2], [1, 1, 2, 2, 3, 3]));
    },
  },
  {
    name: "reads weights from external data in memory",
    check: async (device) => {
      const x = input("x", "float32", ["n", 2]);
      const w = weight("w", lazy(tensor("float32", [2, 2], [1, 2, 3, 4])));
      const product = graph({ outputs: { y: node("MatMul", [x, w], x) } });
      const data = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);
      const source = { ...serialise(product), externalData: [{ path: "weights.bin", data }] };
      const program = await device.compile(source);
      const { y } = await device.run({ program, feeds: { x: tensor("float32", [1, 2], [1, 10]) } });
      same(y, tensor("float32", [1, 2], [31, 42]));
    },
  },
  {
    name: "reads weights in the memory that they were handed over in, where it can",
    check: async (device) => {
      if (!device.inPlace) return;
      const x = input("x", "float32", ["n", 2]);
      const w = weight("w", lazy(tensor("float32", [2, 2], [1, 2, 3, 4])));
      const product = graph({ outputs: { y: node("MatMul", [x, w], x) } });
      const model = writeOnnx(product, { place: () => "input" });
      const program = await device.compile({ model, weights: { w: tensor("float32", [2, 2], [1, 2, 3, 4]) } });
      for (const [row, expected] of [
        [
          [1, 10],
          [31, 42],
        ],
        [
          [0, 1],
          [3, 4],
        ],
      ] as const) {
        const { y } = await device.run({ program, feeds: { x: tensor("float32", [1, 2], row) } });
        same(y, tensor("float32", [1, 2], expected));
      }
      await device.release(program);
    },
  },
  {
    name: "forgets what is discarded and released, and says what it does not know",
    check: async (device) => {
      const program = await device.compile(serialise(append));
      await device.upload("cache", tensor("float32", [1, 2], 1));
      await device.discard(["cache", "never there"]);
      await fails(device.download("cache"), "unknown-buffer");
      await device.release(program);
      await device.release(program);
      await fails(device.run({ program, feeds: {} }), "unknown-program");
    },
  },
  {
    name: "stays closed",
    check: async (device) => {
      await device.close();
      await device.close();
      await fails(device.download("b"), "device-closed");
    },
  },
];

/** Run one law on a device of its own. */
export async function checkLaw(law: DeviceLaw, open: () => Promise<Device>): Promise<void> {
  const device = await open();
  try {
    await law.check(device);
  } finally {
    await device.close();
  }
}

const examples = tensor("float32", [4, 3], [1, 0, 2, 0, 1, -1, 0.5, 0.5, 0, -1, 2, 1]);
const targets = tensor("float32", [4, 1], [1, -1, 0.5, 2]);

/** Least squares by gradient descent: loss = mean((x·p − t)²), p' = p − lr·∂loss/∂p. */
const descent: Graph = (() => {
  const x = input("x", "float32", ["n", "features"]);
  const t = input("t", "float32", ["n", 1]);
  const lr = input("lr", "float32", []);
  const p = input("p", "float32", [3, 1]);
  const predicted = node("MatMul", [x, p], t, { hint: "prediction" });
  const error = node("Sub", [predicted, t], t);
  const loss = node("ReduceMean", [node("Mul", [error, error], t)], lr, { attributes: { keepdims: int(0) } });
  const sum = node("MatMul", [node("Transpose", [x], { dtype: "float32", shape: ["features", "n"] }), error], p);
  const gradient = node("Mul", [sum, constant(2 / 4)], p);
  return graph({ outputs: { "p.next": node("Sub", [p, node("Mul", [gradient, lr], p)], p), loss } });
})();

/** The same in float64. */
function descend(start: readonly number[], steps: number): { readonly p: number[]; readonly losses: number[] } {
  let p = [...start];
  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    const errors = [...targets.data].map((t, row) => dot([...examples.data.slice(3 * row, 3 * row + 3)], p) - t);
    losses.push(dot(errors, errors) / 4);
    p = p.map((value, i) => value - 0.1 * (2 / 4) * errors.reduce((sum, e, row) => sum + e * at(3 * row + i), 0));
  }
  return { p, losses };
}

const at = (index: number): number => examples.data[index] ?? 0;
const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, i) => sum + x * (b[i] ?? 0), 0);

/** present = past with x below it, as a KV cache grows. */
const append: Graph = (() => {
  const past = input("past", "float32", ["length", 2]);
  const x = input("x", "float32", [1, 2]);
  const present = node(
    "Concat",
    [past, x],
    { dtype: "float32", shape: ["length+1", 2] },
    { attributes: { axis: int(0) } },
  );
  return graph({ outputs: { present } });
})();

function node(
  op: string,
  inputs: readonly Value[],
  type: Pick<Value, "dtype" | "shape">,
  options: Pick<Parameters<typeof makeNode>[0], "attributes"> & { readonly hint?: string } = {},
): ResultValue {
  const { attributes = {}, hint } = options;
  const [result] = makeNode({ op, inputs, attributes, outputs: [type], hints: [hint] }).outputs;
  if (result === undefined) throw new Error("a node has an output");
  return result;
}

function lazy(whole: Tensor): LazyTensor {
  return { dtype: whole.dtype, shape: whole.shape, sizeBytes: whole.data.byteLength, read: async () => whole };
}

function serialise(program: Graph): ProgramSource {
  const place = () => ({ location: "weights.bin", offset: 0, length: 16 }); // the one weight that a law uses
  return { model: writeOnnx(program, { place }) };
}

// Assertions, plain because a page has no test framework.

function holds(condition: boolean, message: string): void {
  if (!condition) throw new Error(message);
}

/** Equal in every part; typed arrays compare with lists of numbers. */
function same(actual: unknown, expected: unknown): void {
  const [a, b] = [show(actual), show(expected)];
  holds(a === b, `${a} is not ${b}`);
}

function show(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (typeof part === "bigint") return Number(part);
    return ArrayBuffer.isView(part) ? Array.from(part as Uint8Array, Number) : part; // every view here is a typed array
  });
}

/** Equal to float32 tolerance after a few dozen operations. */
function near(actual: ArrayLike<number | bigint> | undefined, expected: readonly number[]): void {
  same(actual?.length, expected.length);
  expected.forEach((value, i) => {
    const got = Number(actual?.[i]);
    holds(Math.abs(got - value) <= 1e-5 * Math.max(1, Math.abs(value)), `${got} is not near ${value}`);
  });
}

async function fails(promise: Promise<unknown>, code: string): Promise<TuneError> {
  try {
    await promise;
  } catch (error) {
    holds(error instanceof TuneError && error.code === code, `failed otherwise: ${String(error)}`);
    return error as TuneError; // just checked
  }
  throw new Error(`did not fail with ${code}`);
}
