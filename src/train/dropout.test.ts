import { expect, it } from "vitest";
import { graph, inScope, parameter, type Value, weight } from "../graph/index.ts";
import { attach, chooseMethod, type DropoutMask } from "../methods/index.ts";
import { gemm, type Reference, reference } from "../ops/index.ts";
import { evaluate } from "../transforms/index.ts";
import { fillDropoutMasks, openDropoutMasks } from "./dropout.ts";

const [rows, into, out, rank, rate] = [3, 4, 2, 2, 0.25];
const numbers = (size: number, from: number): number[] => Array.from({ length: size }, (_, i) => Math.sin(from + i));

/** One linear map with LoRA beside it: y = x·Wᵀ + (alpha/rank)·drop(x)·Aᵀ·Bᵀ. */
function adapted(): { readonly y: Value; readonly masks: readonly DropoutMask[] } {
  const x = parameter("x", "float32", [rows, into]);
  const source = { dtype: "float32", shape: [out, into], sizeBytes: 4 * out * into, read: async () => data } as const;
  const data = { dtype: "float32", shape: [out, into], data: new Float32Array(out * into) } as const;
  const plain = inScope("m", () => gemm(x, weight("m.weight", source), { transB: true }));
  const choice = chooseMethod("lora", { rank, alpha: 6, dropout: rate });
  const { outputs, dropoutMasks } = attach({ y: plain }, { choice, targets: ["m"], outputModule: "", training: true });
  return { y: outputs["y"] as Value, masks: dropoutMasks };
}

it("drops a share of the adapter's inputs, makes up for it in the rest, and leaves the weight's alone", () => {
  const { y, masks } = adapted();
  const [x, w, a, b] = [
    numbers(rows * into, 1),
    numbers(out * into, 2),
    numbers(rank * into, 3),
    numbers(out * rank, 4),
  ];
  const run = (feeds: ReturnType<typeof fillDropoutMasks>): readonly number[] => {
    const given = new Map<string, Reference>([
      ["x", reference([rows, into], x)],
      ["m.weight", reference([out, into], w)],
      ["m.lora_A", reference([rank, into], a)],
      ["m.lora_B", reference([out, rank], b)],
      ...Object.entries(feeds).map(([name, { dtype, shape, data }]): [string, Reference] => [
        name,
        reference(shape.map(Number), Array.from(data, Number), dtype),
      ]),
    ]);
    return [...(evaluate(graph({ outputs: { y } }), given).get("y")?.data ?? [])].map(Number);
  };
  const expected = (kept: (i: number) => number): readonly number[] =>
    Array.from({ length: rows * out }, (_, at) => {
      const [row, column] = [Math.floor(at / out), at % out];
      let sum = 0;
      for (let i = 0; i < into; i++) {
        const value = x[row * into + i] ?? 0;
        sum += value * (w[column * into + i] ?? 0);
        for (let r = 0; r < rank; r++)
          sum += 3 * kept(row * into + i) * value * (a[r * into + i] ?? 0) * (b[column * rank + r] ?? 0);
      }
      return sum;
    });
  const close = (values: readonly number[]): unknown => values.map((value) => expect.closeTo(value, 6));
  const feeds = fillDropoutMasks(masks, {}, { seed: 3, step: 1, batch: 0 });
  const mask = feeds[masks[0]?.value.name ?? ""]?.data ?? [];
  expect(new Set(Array.from(mask, Number))).toEqual(new Set([0, 1]));
  expect(run(feeds)).toEqual(close(expected((i) => Number(mask[i]) / (1 - rate))));
  expect(run(openDropoutMasks(masks, {}))).toEqual(close(expected(() => 1)));
});

it("draws masks that keep their share, and anew for every seed, update, batch and layer", () => {
  const size = 40_000;
  const maskOf = (name: string): DropoutMask =>
    ({
      ...{ value: parameter(name, "bool", [size]), scale: parameter("scale", "float32", []), rate, module: "m" },
    }) as unknown as DropoutMask; // names and shapes are all that is read
  const drawn = (at: { seed: number; step: number; batch: number }, name = "a"): string => {
    const { data } = fillDropoutMasks([maskOf(name)], {}, at)[name] ?? { data: [] };
    expect(Array.from(data, Number).reduce((sum, kept) => sum + kept, 0) / size).toBeCloseTo(1 - rate, 1.8);
    return Array.from(data, Number).join("");
  };
  const first = { seed: 0, step: 1, batch: 0 };
  expect(drawn(first)).toBe(drawn(first));
  const others = [drawn({ ...first, seed: 1 }), drawn({ ...first, step: 2 }), drawn({ ...first, batch: 1 })];
  expect(new Set([drawn(first), ...others, drawn(first, "b")]).size).toBe(5);
});
