import { constantOf, sizeOf, type Value } from "../graph/index.ts";
import { findOp, fromReference, sizesOf, toReference } from "../ops/index.ts";
import { evaluateNode } from "./evaluate.ts";
import { rewrite } from "./rewrite.ts";

/** Results larger than this stay computed at run time: folding must not swell the model file. */
const largestFold = 4096;

/** Compute at build time what depends on constants alone, and what is known of sizes. Gradients must have been taken before. */
export function fold(outputs: readonly Value[]): readonly Value[] {
  return rewrite(outputs, {
    node: (node, inputs) => {
      if (node.op === "Detach" || node.op === "Graft") return [inputs[0] as Value]; // gradients are settled by now
      const [first] = node.outputs;
      const sizes = node.outputs.length === 1 ? sizesOf(first) : undefined;
      if (first && sizes?.every((size) => typeof size === "number")) {
        const shape = first.shape.length === 0 ? [] : [sizes.length];
        return [constantOf(fromReference({ dtype: first.dtype, shape, data: Float64Array.from(sizes) }))];
      }
      if (inputs.length === 0 || !inputs.every((value) => value === undefined || isSmallConstant(value)))
        return undefined;
      if (findOp(node.domain, node.op) === undefined) return undefined;
      const operands = inputs.map((value) => (value?.kind === "constant" ? toReference(value.tensor) : undefined));
      const results = evaluateNode(node, operands);
      if (results.some((result) => sizeOf(result.shape) > largestFold)) return undefined;
      return results.map((result) => constantOf(fromReference(result)));
    },
  });
}

function isSmallConstant(value: Value): boolean {
  return value.kind === "constant" && sizeOf(value.shape) <= largestFold && !/float16/.test(value.dtype);
}
