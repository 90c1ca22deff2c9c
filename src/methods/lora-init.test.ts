import { expect, it } from "vitest";
import type { Tensor } from "../graph/index.ts";
import { weight as weightValue } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { loraDeparture, loraStart } from "./lora-init.ts";
import type { ParameterSpec } from "./method.ts";

const [out, into, rank] = [420, 400, 4];
const config = { rank, alpha: 8, rslora: false, init: "pissa" } as const;

/** A weight whose singular values are 20, 19, …, and some noise. */
function decaying(): Tensor<"float32"> {
  const rng = createRng(3, "weight");
  const data = new Float32Array(out * into);
  for (let k = 0; k < 12; k++) {
    const left = Float64Array.from({ length: out }, () => rng.normal() / Math.sqrt(out));
    const right = Float64Array.from({ length: into }, () => rng.normal() / Math.sqrt(into));
    for (let i = 0; i < out; i++) {
      const row = data.subarray(i * into, (i + 1) * into);
      for (let j = 0; j < into; j++) row[j] = (row[j] ?? 0) + (20 - k) * (left[i] ?? 0) * (right[j] ?? 0);
    }
  }
  return { dtype: "float32", shape: [out, into], data };
}

async function valuesOf(initial: ParameterSpec["initial"], weight: Tensor): Promise<Float32Array> {
  if (typeof initial !== "object") throw new Error("PiSSA starts from the weight");
  return (await initial.fromWeight(weight)) as Float32Array; // LoRA's are float32
}

it("PiSSA of a large weight takes its largest part out of it, whole with the rest", async () => {
  const tensor = decaying();
  const source = {
    dtype: "float32",
    shape: tensor.shape,
    sizeBytes: 4 * out * into,
    read: async () => tensor,
  } as const;
  const site = {
    module: "m",
    weight: weightValue("m.weight", source),
    inFeatures: into,
    outFeatures: out,
    layout: "out,in",
  } as const;
  const start = loraStart(site, config, 2);
  const [A, B] = [await valuesOf(start.A, tensor), await valuesOf(start.B, tensor)];
  const base = await loraDeparture(site, config, 2)?.base(tensor);
  let [worst, left, whole] = [0, 0, 0];
  for (let i = 0; i < out; i++) {
    for (let j = 0; j < into; j++) {
      let part = 0;
      for (let k = 0; k < rank; k++) part += 2 * (B[i * rank + k] ?? 0) * (A[k * into + j] ?? 0);
      const [rest, value] = [base?.[i * into + j] ?? 0, tensor.data[i * into + j] ?? 0];
      worst = Math.max(worst, Math.abs(part + rest - value));
      left += rest ** 2;
      whole += value ** 2;
    }
  }
  expect(worst).toBeLessThan(1e-5);
  // The four largest of twelve: what is left has 16² + … + 9² of 20² + … + 9², about, for the vectors are not orthogonal.
  expect(left / whole).toBeGreaterThan(0.4);
  expect(left / whole).toBeLessThan(0.56);
  // Both ends of the part have the same length.
  expect(Math.hypot(...A.subarray(0, into))).toBeCloseTo(
    Math.hypot(...Array.from({ length: out }, (_, i) => B[i * rank] ?? 0)),
    3,
  );
});

it.each([
  // PEFT: nn.init.normal_(A, std = 1/r) and B zero; or what torch's Linear starts with, for A, or for A and B.
  { init: "gaussian", deviation: { A: 1 / rank, B: 0 }, largest: { A: Number.POSITIVE_INFINITY, B: 0 } },
  { init: "kaiming", deviation: { A: 1 / Math.sqrt(3 * into), B: 0 }, largest: { A: 1 / Math.sqrt(into), B: 0 } },
  {
    init: "random",
    deviation: { A: 1 / Math.sqrt(3 * into), B: 1 / Math.sqrt(3 * rank) },
    largest: { A: 1 / Math.sqrt(into), B: 1 / Math.sqrt(rank) },
  },
] as const)("$init draws A and B as PEFT does", ({ init, deviation, largest }) => {
  const site = { module: "m", inFeatures: into, outFeatures: out, layout: "out,in" } as Parameters<typeof loraStart>[0];
  const start = loraStart(site, { ...config, init }, 2);
  for (const key of ["A", "B"] as const) {
    const draw = start[key];
    if (typeof draw !== "function") throw new Error("it is drawn");
    const values = draw(createRng(5, key), 20_000) as Float32Array; // LoRA's are float32
    const square = values.reduce((sum, value) => sum + value * value, 0) / values.length;
    expect(Math.sqrt(square)).toBeCloseTo(deviation[key], 2);
    expect(Math.abs(values.reduce((sum, value) => sum + value, 0)) / values.length).toBeLessThan(0.01);
    expect(values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)).toBeLessThanOrEqual(largest[key]);
  }
});
