import { describe, expect, it } from "vitest";
import { graph, input, int, type Value } from "../graph/index.ts";
import { applyAll, maxSplitParts, reference, Split, split } from "../ops/index.ts";
import { splitPartsOf } from "../runtime/provider.ts";
import { evaluate } from "./evaluate.ts";
import { splitFew } from "./split-few.ts";

const x = input("x", "float32", [2, 120]);
const feeds = new Map([
  [
    "x",
    reference(
      [2, 120],
      Float64Array.from({ length: 240 }, (_, i) => i),
    ),
  ],
]);

function valuesOf(parts: readonly Value[]): readonly (readonly number[])[] {
  const found = evaluate(
    graph({ inputs: [x], outputs: Object.fromEntries(parts.map((part, i) => [`part ${i}`, part])) }),
    feeds,
  );
  return parts.map((_, i) => [...(found.get(`part ${i}`)?.data ?? [])]);
}

function mostParts(values: readonly Value[]): number {
  const { nodes } = graph({ inputs: [x], outputs: Object.fromEntries(values.map((value, i) => [`${i}`, value])) });
  return Math.max(...nodes.filter(({ op }) => op === "Split").map(({ outputs }) => outputs.length));
}

describe("a split into many parts, in steps", () => {
  it.each([8, 15, 50])("gives %i parts as one split does, of any sizes", (count) => {
    const sizes = Array.from({ length: count }, (_, i) => (i < count - 1 ? 1 + (i % 3) : 0));
    sizes[count - 1] = 120 - sizes.reduce((sum, size) => sum + size, 0);
    const parts = split(x, sizes, 1);
    const few = splitFew(parts, 7);
    expect(mostParts(few)).toBeLessThanOrEqual(7);
    expect(few.map(({ shape }) => shape)).toEqual(parts.map(({ shape }) => shape));
    expect(valuesOf(few)).toEqual(valuesOf(parts));
  });

  it("cuts lengths that nobody knows yet into equal groups", () => {
    const open = input("open", "float32", ["15*block", 2]);
    const parts = applyAll(Split, [open], { axis: int(0), num_outputs: int(15) });
    const few = splitFew(parts, 7);
    expect(few.map(({ shape }) => shape)).toEqual(parts.map(({ shape }) => shape));
    expect(mostParts(few)).toBeLessThanOrEqual(7);
  });

  it("leaves what is few enough, and providers that can bind any number, alone", () => {
    const parts = split(x, [40, 80], 1);
    expect(splitFew(parts, 7)).toEqual(parts);
    const many = applyAll(Split, [x], { axis: int(1), num_outputs: int(12) });
    expect(splitFew(many, splitPartsOf("cpu"))).toEqual(many);
    expect(splitPartsOf("webgpu")).toBe(maxSplitParts);
  });
});
