import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../../errors.ts";
import { constant, graph, input, int, ints, print, tensor, type WeightValue, weight } from "../../graph/index.ts";
import { importOnnx } from "../../models/onnx-graph.ts";
import { add, apply, Concat, matmul, reshape, Softmax, Transpose } from "../../ops/index.ts";
import { memoryStorage } from "../memory-storage.ts";
import type { Storage } from "../storage.ts";
import { openOnnx } from "./read.ts";
import { bytesField, message, messageField, serialise, stringField, varintField } from "./wire.ts";
import { layOutWeights, weightFile, writeOnnx } from "./write.ts";

const w = weight("w", {
  dtype: "float32",
  shape: [3, 2],
  sizeBytes: 24,
  read: async () => tensor("float32", [3, 2], [1, 2, 3, 4, 5, 6]),
});
const x = input("x", "float32", ["batch", 3]);
const y = apply(Softmax, [add(matmul(x, w), constant([0.5, -0.5]))], { axis: int(-1) });
const wide = apply(Concat, [y, apply(Transpose, [reshape(y, ["batch", 2])], { perm: ints([0, 1]) })], { axis: int(1) });
const model = graph({ name: "tiny", inputs: [x], outputs: { y, wide } });

let inline: Uint8Array;
let outside: Uint8Array;
let weights: Uint8Array;
beforeAll(async () => {
  const literal = await w.source.read();
  inline = writeOnnx(model, { place: () => literal });
  const layout = layOutWeights(model, () => "weights.bin", 1e9);
  outside = writeOnnx(model, layout);
  const chunks: Uint8Array[] = [];
  for (const file of layout.files) for await (const chunk of weightFile(file, layout.place)) chunks.push(chunk);
  weights = Uint8Array.from(chunks.flatMap((chunk) => [...chunk]));
});

it("lays weights out in as many files as keep each within a size", () => {
  const weightOf = (name: string, rows: number): WeightValue => weight(name, { ...w.source, shape: [rows, 256] });
  const sizes = { a: 3, b: 4, c: 20, d: 1 };
  const sum = Object.entries(sizes)
    .map(([name, rows]) => matmul(constant(Array<number>(rows).fill(1), "float32", [1, rows]), weightOf(name, rows)))
    .reduce((left, right) => add(left, right));
  const { files, place } = layOutWeights(graph({ outputs: { sum } }), (file) => `w${file}`, 12 * 1024);
  const found = files.map(({ location, weights: inside, sizeBytes }) => [
    location,
    inside.map(({ name }) => name),
    sizeBytes,
  ]);
  expect(found).toEqual([
    ["w0", ["a", "b"], 8 * 1024], // b starts on a page
    ["w1", ["c"], 20 * 1024], // larger than a file may be, and alone
    ["w2", ["d"], 1024],
  ]);
  const last = files[2]?.weights[0];
  expect(last && place(last)).toEqual({ location: "w2", offset: 0, length: 1024 });
});

const open = (bytes: Uint8Array, files: Record<string, Uint8Array> = {}): ReturnType<typeof openOnnx> =>
  openOnnx(memoryStorage({ "m/model.onnx": bytes, ...files }), "m/model.onnx");

describe("an ONNX file that we wrote", () => {
  it("reads back as the same graph", async () => {
    const read = await open(inline);
    expect(read).toMatchObject({ irVersion: 10, producer: "scion", name: "tiny" });
    expect(read.inputs).toEqual([{ name: "x", dtype: "float32", shape: ["batch", 3] }]);
    const again = await importOnnx(read);
    const operators = (text: string): string[] => text.match(/= \w+/g) ?? [];
    expect(operators(print(again))).toEqual(operators(print(model)));
    expect([...again.outputs].map(([name, { dtype, shape }]) => [name, dtype, shape])).toEqual(
      [...model.outputs].map(([name, { dtype, shape }]) => [name, dtype, shape]),
    );
    expect((await again.weights.find(({ name }) => name === "w")?.source.read())?.data).toEqual(
      Float32Array.of(1, 2, 3, 4, 5, 6),
    );
  });

  it("may keep its weights beside it, and they are read only when asked for", async () => {
    const storage = memoryStorage({ "m/model.onnx": outside, "m/weights.bin": weights });
    const reads: string[] = [];
    const watched: Storage = {
      ...storage,
      read: (path, range) => {
        reads.push(path);
        return storage.read(path, range);
      },
    };
    const read = await openOnnx(watched, "m/model.onnx");
    expect(reads).toEqual(["m/model.onnx"]);
    expect(read.initializers.get("w")?.external).toBe("weights.bin");
    expect((await read.initializers.get("w")?.read())?.data).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
  });
});

/** A model with one initializer whose TensorProto has these fields. */
function holding(...fields: Parameters<typeof message>[0]): Uint8Array {
  return serialise(
    message([
      varintField(1, 10),
      messageField(8, [stringField(1, ""), varintField(2, 21)]),
      messageField(7, [stringField(2, "g"), messageField(5, fields)]),
    ]),
  );
}
const dims = [varintField(1, 2), varintField(1, 3), varintField(2, 1), stringField(8, "t")];
const beside = (location: string, offset: string, length: string): Uint8Array =>
  holding(
    ...dims,
    ...Object.entries({ location, offset, length }).map(([key, value]) =>
      messageField(13, [stringField(1, key), stringField(2, value)]),
    ),
    varintField(14, 1),
  );

describe("a damaged or malicious ONNX file", () => {
  const blob = { "m/w": new Uint8Array(24), w: new Uint8Array(24) };

  it.each<[string, () => Uint8Array, string]>([
    ["is empty", () => new Uint8Array(), "onnx-malformed"],
    ["is text", () => new TextEncoder().encode("<html>not found</html>"), "onnx-malformed"],
    [
      "holds fewer elements than its shape",
      () => holding(...dims, bytesField(9, new Uint8Array(20))),
      "onnx-malformed",
    ],
    ["holds more elements than its shape", () => holding(...dims, bytesField(9, new Uint8Array(28))), "onnx-malformed"],
    [
      "has a negative size",
      () => holding(varintField(1, -2), varintField(2, 1), bytesField(9, new Uint8Array(8))),
      "onnx-malformed",
    ],
    [
      "has an absurd size",
      () => holding(varintField(1, 2 ** 40), varintField(1, 2 ** 40), varintField(2, 1)),
      "onnx-malformed",
    ],
    ["has an unknown element type", () => holding(varintField(1, 1), varintField(2, 99)), "onnx-unsupported"],
    ["climbs out of its folder", () => beside("../w", "0", "24"), "path-outside-folder"],
    ["names an absolute path", () => beside("/etc/passwd", "0", "24"), "path-outside-folder"],
    ["names a missing file", () => beside("gone", "0", "24"), "file-not-found"],
    ["reaches past the end of its weights", () => beside("w", "4", "24"), "onnx-malformed"],
    ["says a wrong length", () => beside("w", "0", "12"), "onnx-malformed"],
    ["says a negative offset", () => beside("w", "-8", "24"), "onnx-malformed"],
    ["says an offset that is no number", () => beside("w", "0x1g", "24"), "onnx-malformed"],
  ])("that %s is refused", async (_what, bytes, code) => {
    await expect(open(bytes(), blob)).rejects.toMatchObject({ code });
  });

  it("is refused wherever it is cut off", async () => {
    for (let end = 0; end < inline.length; end++) {
      await expect(open(inline.subarray(0, end)), `cut at ${end}`).rejects.toThrow(TuneError);
    }
  });

  it("never crashes or hangs, whatever bytes are changed", async () => {
    const change = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(change, async (changes) => {
        const bytes = inline.slice();
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        try {
          await importOnnx(await open(bytes));
        } catch (error) {
          if (!(error instanceof TuneError)) throw error;
        }
      }),
      { numRuns: 1500, seed: 1 },
    );
  });

  it("is told apart from one with operators that we do not know, which are all named", async () => {
    const node = (op: string): Parameters<typeof message>[0][number] =>
      messageField(1, [stringField(2, op), stringField(4, op)]);
    const bytes = serialise(
      message([
        varintField(1, 10),
        messageField(8, [varintField(2, 21)]),
        messageField(7, [node("NonZero"), node("Loop"), node("NonZero")]),
      ]),
    );
    await expect(importOnnx(await open(bytes))).rejects.toThrow(/Loop, NonZero/);
  });
});
