import { constant, topologicalOrder, type Value, type WeightValue } from "../graph/index.ts";
import { apply, findOp, Reshape } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/**
 * Let products read a weight in place where laying it out for each of them would take more copies than one for each
 * direction. ONNX Runtime lays out initializers once a node; a view of one it leaves alone. `except` are weights that will be no
 * initializers of products.
 */
export function readInPlace(
  outputs: readonly Value[],
  { copies = 2, except = () => false }: { copies?: number; except?: (value: WeightValue) => boolean } = {},
): readonly Value[] {
  const products = new Map<WeightValue, number>();
  for (const node of topologicalOrder(outputs)) {
    if (!isProduct(node.op)) continue;
    for (const value of new Set(node.inputs)) {
      if (value?.kind === "weight") products.set(value, (products.get(value) ?? 0) + 1);
    }
  }
  return rewrite(outputs, {
    leaf: (value) => {
      if (value.kind !== "weight" || except(value)) return undefined;
      return (products.get(value) ?? 0) > copies ? view(value) : undefined;
    },
  });
}

/** The same shape again: it is the node that counts. */
function view(value: WeightValue): Value {
  return apply(Reshape, [value, constant(value.shape.map(Number), "int64")]);
}

function isProduct(op: string): boolean {
  return findOp("", op)?.linear !== undefined;
}
