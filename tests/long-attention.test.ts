import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Graph, graph, input, mulDims, type Value } from "../src/graph/index.ts";
import { attendingExactly, exactAttentionFor } from "../src/models/index.ts";
import { matmul, mul, sumAll } from "../src/ops/index.ts";
import { bytesOfValue, liveMemory } from "../src/plan/memory.ts";
import { executionOrder } from "../src/plan/order.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { memoryChoices } from "../src/train/memory.ts";
import { broadcastLate, differentiate, expand, fold, recompute, sumProducts } from "../src/transforms/index.ts";
import { families } from "./helpers/families.ts";
import { familyTraining } from "./helpers/family-training.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

describe("attention block after block", () => {
  it.each(Object.keys(families))("trains %s as attention of all scores at once does", async (name) => {
    const config = families[name] ?? {};
    const whole = await familyTraining(device, config, 3);
    const blocks = await familyTraining(device, config, 3, (model) => attendingExactly(model, 2048));
    for (const part of ["losses", "gradNorms"] as const)
      whole[part].forEach((value, i) => {
        expect((blocks[part][i] ?? Number.NaN) / value, `${part} ${i}`).toBeCloseTo(1, 4);
      });
  });

  it("is chosen for long sequences alone, with more blocks the longer they are", () => {
    expect([1024, 2048, 4096, 16384, 10 ** 6].map((length) => exactAttentionFor(length).multiple)).toEqual([
      4, 8, 16, 64, 64,
    ]);
  });
});

describe.each(["fast", "balanced", "small"] as const)("its memory (%s)", (memory) => {
  it("grows with the length of a sequence, not with its square", () => {
    const [short, long] = [4096, 16384].map(
      (length) => liveMemory(stepOf(length, memory), symbolsOf(length)).peakBytes,
    );
    expect(long).toBeLessThan(4.5 * (short ?? 0));
  });

  // `small` computes the forward pass twice: what it holds of the first for the second is one block.
  it.skipIf(memory === "small")(
    "holds no buffer of a block for the backward pass, which ONNX Runtime would do for a value of the same shape",
    () => {
      const length = 4096;
      const made = stepOf(length, memory);
      const symbols = symbolsOf(length);
      /** Bytes of what grows with the length alone, such as the queries of all heads. */
      const wide = 4 * length * 64;
      const spans = new Map<string, { first: number; last: number }>();
      executionOrder(made.nodes).forEach((node, at) => {
        for (const value of node.outputs) {
          if (bytesOfValue(value, symbols) <= 2 * wide) continue;
          const shape = value.shape.join();
          spans.set(shape, { first: spans.get(shape)?.first ?? at, last: at });
        }
      });
      expect(spans.size).toBeGreaterThan(16);
      for (const [shape, { first, last }] of spans) expect(last - first, shape).toBeLessThan(100);
    },
  );
});

function symbolsOf(length: number): Record<string, number> {
  return { batch: 1, block: length / exactAttentionFor(length).multiple };
}

/** The attention part of a training step: four heads of 16, forward and backward, as it is compiled. */
function stepOf(length: number, memory: keyof typeof memoryChoices): Graph {
  const [heads, headDim] = [4, 16];
  const attention = exactAttentionFor(length);
  const seq = mulDims("block", attention.multiple);
  const sources = ["query", "key", "value"].map((name) => input(name, "float32", ["batch", heads, seq, headDim]));
  const eye = input("eye", "float32", [headDim, headDim]);
  const positionIds = input("position_ids", "int64", ["batch", seq]);
  const [query, key, value] = sources.map((x) => matmul(x, eye)) as [Value, Value, Value];
  const mixed = attention.attend(positionIds)(query, { key, value }, { scale: 0.25, layer: 0 });
  const joined = input("joined", "float32", [mulDims("batch", seq), heads * headDim]);
  const loss = sumAll(mul(mixed, joined));
  const all = sumProducts(broadcastLate(fold(expand([loss, ...differentiate(loss, sources)], new Set()))));
  const [first, ...others] = all as [Value, ...Value[]]; // as many as before
  const light = recompute(first, others, {
    bytes: (one) => bytesOfValue(one, symbolsOf(length)),
    repeatable: memoryChoices[memory].repeatable,
  });
  const [dq, dk, dv] = light.outputs as [Value, Value, Value];
  return graph({
    name: "attention",
    inputs: [...sources, eye, positionIds, joined],
    outputs: { loss: first, dq, dk, dv },
    first: [first, ...light.repeated],
  });
}
