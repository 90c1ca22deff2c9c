import type { Attributes, Dim, Node, Value } from "../graph/index.ts";
import type { Op } from "./op.ts";

// Nodes are immutable, so what is known of one when it is made stays true.
const known = new WeakMap<Node, readonly Dim[]>();

/**
 * The elements of an int64 scalar or vector that carries sizes, symbolic where they are; undefined when they are only
 * known at run time. This is what lets `Shape → Gather → Concat → Reshape` chains keep symbolic shapes.
 */
export function sizesOf(value: Value | undefined): readonly Dim[] | undefined {
  if (value === undefined || value.shape.length > 1) return undefined;
  if (value.kind === "constant") {
    return value.dtype === "int64" || value.dtype === "int32" ? Array.from(value.tensor.data, Number) : undefined;
  }
  return value.kind === "result" && value.index === 0 ? known.get(value.node) : undefined;
}

/** Note what the first output of a new node is known to hold. */
export function noteSizes(op: Op, node: Node, inputs: readonly (Value | undefined)[], attributes: Attributes): void {
  const sizes = op.sizes?.({ inputs, attributes, sizesOf });
  if (sizes !== undefined) known.set(node, sizes);
}
