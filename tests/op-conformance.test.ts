import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import {
  constant,
  graph,
  type InputValue,
  input,
  isFloat,
  type Tensor,
  tensor,
  type Value,
} from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openOnnx, readTensorProto } from "../src/io/onnx/read.ts";
import { importOnnx } from "../src/models/onnx-graph.ts";
import {
  applyAll,
  fromReference,
  mul,
  type Op,
  operatorSet,
  ops,
  type Reference,
  type Sample,
  spread,
  sumAll,
  toReference,
} from "../src/ops/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { compileGraph } from "../src/runtime/program.ts";
import { differentiate, evaluate, expand } from "../src/transforms/index.ts";
import { readNodeTests } from "./helpers/node-tests.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** The samples' values as inputs of a graph (constants where the sample says so). */
function applied(
  op: Op,
  sample: Sample,
): { readonly outputs: readonly Value[]; readonly leaves: readonly InputValue[] } {
  const leaves: InputValue[] = [];
  const inputs = sample.inputs.map((given, i) => {
    if (given === undefined) return undefined;
    if (sample.constant?.includes(i)) return constant([...given.data], given.dtype, given.shape);
    const leaf = input(`x${i}`, given.dtype, given.shape);
    leaves.push(leaf);
    return leaf;
  });
  return { outputs: applyAll(op, inputs, sample.attributes), leaves };
}

function feedsOf(sample: Sample): Map<string, Reference> {
  return new Map(sample.inputs.flatMap((given, i) => (given ? [[`x${i}`, given] as const] : [])));
}

/** ONNX Runtime has kernels for these; what is ours alone is written in them. */
const standard: ReadonlySet<string> = new Set([...ops.values()].flatMap(({ name, domain }) => (domain ? [] : [name])));

async function runOnnx(
  outputs: Record<string, Value>,
  leaves: readonly InputValue[],
  feeds: Map<string, Reference>,
): Promise<Record<string, Tensor>> {
  const names = Object.keys(outputs);
  const values = expand(Object.values(outputs), standard);
  const written = graph({
    inputs: leaves,
    outputs: Object.fromEntries(names.map((name, i) => [name, values[i] as Value])),
  });
  const program = await compileGraph(device, written, { opset: operatorSet(written.nodes, 21) });
  try {
    const tensors = Object.fromEntries(leaves.map(({ name }) => [name, fromReference(feeds.get(name) as Reference)]));
    return await program.run({ feeds: tensors });
  } finally {
    await program.release();
  }
}

function expectClose(found: Reference, wanted: Reference, relative: number, what: string): void {
  expect([what, found.dtype, found.shape]).toEqual([what, wanted.dtype, wanted.shape]);
  const scale = Math.max(1e-3, ...wanted.data.map((value) => (Number.isFinite(value) ? Math.abs(value) : 0)));
  wanted.data.forEach((value, i) => {
    const at = `${what}[${i}]: ${found.data[i]} for ${value}`;
    if (!Number.isFinite(value)) expect(found.data[i], at).toBe(value);
    else
      expect(Math.abs((found.data[i] ?? Number.NaN) - value), at).toBeLessThanOrEqual(
        isFloat(wanted.dtype) ? relative * scale : 0,
      );
  });
}

describe.each([...ops.values()].filter(({ samples }) => samples.length > 0).map((op) => ({ name: op.name, op })))(
  "$name",
  ({ op }) => {
    it("has samples, and types that are those of its values", () => {
      expect(op.samples.length).toBeGreaterThan(0);
      for (const sample of op.samples) {
        const { outputs } = applied(op, sample);
        const values = op.evaluate(sample.inputs, sample.attributes ?? {});
        expect(outputs.map(({ dtype, shape }) => ({ dtype, shape }))).toEqual(
          values.map(({ dtype, shape }) => ({ dtype, shape: [...shape] })),
        );
      }
    });

    it.each(op.samples.map((sample, i) => ({ i, sample })))(
      "sample $i gives in ONNX Runtime what the reference gives",
      async ({ sample }) => {
        const { outputs, leaves } = applied(op, sample);
        const feeds = feedsOf(sample);
        const named = Object.fromEntries(outputs.map((value, i) => [`y${i}`, value]));
        const found = await runOnnx(named, leaves, feeds);
        const wanted = evaluate(graph({ inputs: leaves, outputs: named }), feeds);
        for (const [name, value] of wanted) {
          expectClose(toReference(found[name] as Tensor), value, sample.tolerance?.relative ?? 1e-5, name);
        }
      },
    );

    const trained = typeof op.grad === "function" ? op.samples.map((sample, i) => ({ i, sample })) : [];
    it.each(trained)("gradient of sample $i gives in ONNX Runtime what the reference gives", async ({ sample }) => {
      const { outputs, leaves } = applied(op, sample);
      const [y] = outputs;
      const real = leaves.filter(({ dtype }) => isFloat(dtype));
      if (y === undefined || !isFloat(y.dtype) || real.length === 0) return;
      const weights = spread(y.shape.map(Number), -1, 1, 0.53);
      const loss = sumAll(mul(y, constant([...weights.data], y.dtype, weights.shape)));
      const named = Object.fromEntries(differentiate(loss, real).map((value, i) => [`d${i}`, value]));
      const feeds = feedsOf(sample);
      const found = await runOnnx(named, leaves, feeds);
      const wanted = evaluate(graph({ inputs: leaves, outputs: named }), feeds);
      for (const [name, value] of wanted) expectClose(toReference(found[name] as Tensor), value, 1e-4, name);
    });
  },
);

const nodeTests = readNodeTests();

describe.skipIf(nodeTests === undefined)(
  "the ONNX project's operator tests (skipped where ../shared is absent)",
  () => {
    // Element types that the float64 reference does not hold.
    const foreign = new Set(["float16", "bfloat16"]);

    /** Why a test does not apply. */
    const outside = [
      /: half precision$/,
      // Operators that no graph of ours uses yet.
      /without a record: (Attention|RMSNormalization|Einsum)\.$/,
      /without a record: (QuantizeLinear|DynamicQuantizeLinear|MatMulInteger|QLinearMatMul)\.$/,
      // Every one of these also asks for the mean and the inverse deviation.
      /^test_layer_normalization_.*Output 1 of LayerNormalization/,
      // Whole numbers raised to fractions.
      /^test_pow_types_int(32|64)_float32/,
    ];

    it("give the expected outputs, in the reference and in ONNX Runtime", async () => {
      const ran: string[] = [];
      const left = new Map<string, string>();
      for (const test of nodeTests ?? []) {
        const storage = memoryStorage();
        await storage.write("model.onnx", test.model);
        try {
          const model = await openOnnx(storage, "model.onnx");
          const given = await Promise.all(test.inputs.map((bytes) => readTensorProto(bytes, test.name)));
          const wanted = await Promise.all(test.outputs.map((bytes) => readTensorProto(bytes, test.name)));
          const tensors = new Map(given.map(({ tensor }, i) => [model.inputs[i]?.name ?? "", tensor] as const));
          if ([...given, ...wanted].some(({ tensor }) => foreign.has(tensor.dtype))) throw new Error("half precision");
          const sizes = new Map([...tensors].filter(([, { dtype, shape }]) => dtype === "int64" && shape.length <= 1));
          const imported = await importOnnx(model, sizes);
          const feeds = new Map(imported.inputs.map(({ name }) => [name, toReference(tensors.get(name) as Tensor)]));
          const reference = evaluate(imported, feeds);
          const program = await compileGraph(device, imported, { opset: operatorSet(imported.nodes, 21) });
          const fed = Object.fromEntries(imported.inputs.map(({ name }) => [name, tensors.get(name) as Tensor]));
          const found = await program.run({ feeds: fed }).finally(() => program.release());
          model.outputs.forEach(({ name }, i) => {
            const expected = toReference(wanted[i]?.tensor as Tensor);
            expectClose(reference.get(name) as Reference, expected, 2e-6, `${test.name}, ${name} in the reference`);
            expectClose(toReference(found[name] as Tensor), expected, 1e-5, `${test.name}, ${name} in ONNX Runtime`);
          });
          ran.push(test.name);
        } catch (error) {
          const reason = error instanceof TuneError ? `${error.code}: ${error.what}` : String((error as Error).message);
          left.set(test.name, reason);
        }
      }
      const unexpected = [...left].filter(
        ([name, reason]) => !outside.some((pattern) => pattern.test(`${name}: ${reason}`)),
      );
      expect(unexpected).toEqual([]);
      expect(ran.length).toBeGreaterThanOrEqual(234);
    });
  },
);

const tiny = fileURLToPath(new URL("../../shared/onnx/tiny-transformers", import.meta.url));

describe.skipIf(!existsSync(tiny))("whole exported models (skipped where ../shared is absent)", () => {
  it("DistilBERT, imported and written again, gives the logits of the file itself", async () => {
    const path = `${tiny}/distilbert-classification/model.onnx`;
    const imported = await importOnnx(await openOnnx(nodeStorage, path));
    const program = await compileGraph(device, imported);
    const original = await device.compile({ model: new Uint8Array(readFileSync(path)) });
    const ids = tensor("int64", [2, 5], [3, 14, 15, 9, 2, 6, 5, 35, 8, 0]);
    const mask = tensor("int64", [2, 5], [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    const feeds = { input_ids: ids, attention_mask: mask };
    const ours = await program.run({ feeds });
    const theirs = await device.run({ program: original, feeds });
    expectClose(toReference(ours["logits"] as Tensor), toReference(theirs["logits"] as Tensor), 1e-5, "logits");
    expect(imported.weights.length).toBeGreaterThan(20);
    await program.release();
    await device.release(original);
  });

  it.each([
    ["gpt2-random-fused/past.onnx", /com\.microsoft\.Attention/],
    ["qwen35-tiny-gqa/decoder.onnx", /com\.microsoft\.GroupQueryAttention/],
  ])("%s is refused, naming its fused operators", async (file, operators) => {
    const model = await openOnnx(nodeStorage, `${tiny}/${file}`);
    expect(model.initializers.size).toBeGreaterThan(5);
    await expect(importOnnx(model)).rejects.toThrow(operators);
  });
});
