import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { golden, readGolden } from "../../tests/helpers/golden.ts";
import { openDecoder } from "../generate/index.ts";
import type { Tensor } from "../graph/index.ts";
import { type Adapter, chooseMethod } from "../methods/index.ts";
import { openModel, type PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { readAdapter } from "./adapter-files.ts";
import { combinations, combineAdapters } from "./combine.ts";

let device: Device;
let model: PretrainedModel;
let a: Adapter;
let b: Adapter;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  model = await openModel(nodeStorage, golden("llama-tiny"));
  a = await readAdapter(nodeStorage, golden("peft-mix/a"), model);
  b = await readAdapter(nodeStorage, golden("peft-mix/b"), model);
});
afterAll(() => device.close());

/** Logits at the last of [2, 12] tokens. */
async function lastLogits(adapter: Adapter, ids: Tensor): Promise<readonly number[]> {
  const decoder = await openDecoder(device, model, adapter);
  const rows = [0, 12].map((at) => Array.from(ids.data.slice(at, at + 12), Number));
  const at = await decoder.start(rows);
  const logits = at.logits.flatMap((scores) => [...scores]);
  await at.end();
  await decoder.close();
  return logits;
}

describe("adapters combined with weights", () => {
  it.each(combinations)("by %s give the logits of PEFT's add_weighted_adapter", async (how) => {
    const expected = await readGolden("peft-mix.expected.safetensors");
    const weighted = [
      { adapter: a, weight: 0.7 },
      { adapter: b, weight: -0.4 },
    ];
    const combined = combineAdapters(model, weighted, { how, ...(how === "svd" ? { rank: 3 } : {}) });
    expect(combined.choice.config["rank"]).toBe({ cat: 8, svd: 3, linear: 4 }[how]);
    const found = await lastLogits(combined, expected.get("input_ids") as Tensor);
    const { data } = expected.get(how) as Tensor;
    const reference = [11, 23].flatMap((row) => [...data.slice(row * 64, (row + 1) * 64)].map(Number));
    const worst = Math.max(...found.map((value, i) => Math.abs(value - (reference[i] ?? Number.NaN))));
    expect(worst / Math.max(...reference.map(Math.abs))).toBeLessThan(1e-5);
  });

  it("are refused where there is no such sum", () => {
    const other = { ...b, choice: chooseMethod("lora", { rank: 2 }) };
    const [, rows] = [...b.parameters][0] as [string, Tensor];
    expect(rows.shape[0]).toBe(4);
    const half = new Map(
      [...b.parameters].map(([name, { shape, data }]): [string, Tensor] => [
        name,
        name.endsWith("A")
          ? {
              dtype: "float32",
              shape: [2, shape[1] ?? 0],
              data: Float32Array.from(data.slice(0, data.length / 2), Number),
            }
          : { dtype: "float32", shape: [shape[0] ?? 0, 2], data: new Float32Array(data.length / 2) },
      ]),
    );
    const mixed = [
      { adapter: a, weight: 1 },
      { adapter: { ...other, parameters: half }, weight: 1 },
    ];
    expect(() => combineAdapters(model, mixed, { how: "linear" })).toThrow(/ranks 4 and 2 at \S+q_proj/);
    expect(combineAdapters(model, mixed).choice.config["rank"]).toBe(6);
    expect(() => combineAdapters(model, [{ adapter: a, weight: Number.NaN }], { rank: 2 })).toThrow(
      /NaN is no number\na rank is given, but cat/,
    );
    const withHead = { ...a, choice: { ...a.choice, inPlace: { modules: ["lm_head"], biases: "none" } as const } };
    expect(() => combineAdapters(model, [{ adapter: withHead, weight: 1 }])).toThrow("cannot be added");
  });
});
