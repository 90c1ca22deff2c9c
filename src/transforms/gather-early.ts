import { type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import { gather, opOf } from "../ops/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/**
 * Compute only the rows that are asked for: gather(f(x), i) = f(gather(x, i)) for operators that work row by row. What
 * nothing but a gather reads is moved behind it, as far up as rows stay rows: in a language model with its loss on some
 * positions, the last layer's output projection and feed-forward, and their gradients, see those positions alone.
 */
export function gatherEarly(outputs: readonly Value[]): readonly Value[] {
  const wanted = wantedRows(outputs);
  if (wanted.size === 0) return outputs;
  const gathered = new Map<Value, Value>();
  const rowsOf = (value: Value, indices: Value): Value => {
    const rows = gathered.get(value) ?? gather(value, indices);
    gathered.set(value, rows);
    return rows;
  };
  return rewrite(outputs, {
    node: (node, inputs) => {
      const [data] = node.inputs;
      if (isRowGather(node) && data && wanted.has(data)) return [inputs[0] as Value]; // its rows already
      const indices = node.outputs[0] && wanted.get(node.outputs[0]);
      if (!indices) return undefined;
      const carriers = opOf(node).rows?.(node) ?? [];
      const own = inputs.map((value, i) => {
        const original = node.inputs[i];
        return value && original && carriers.includes(i) && !wanted.has(original) ? rowsOf(value, indices) : value;
      });
      return rebuild(node, own);
    },
  });
}

/** Values of which all readers want the same rows, and the indices of those. */
function wantedRows(outputs: readonly Value[]): ReadonlyMap<Value, Value> {
  const order = topologicalOrder(outputs);
  const readers = new Map<Value, Node[]>();
  for (const node of order) {
    for (const value of new Set(node.inputs)) if (value) readers.set(value, [...(readers.get(value) ?? []), node]);
  }
  const wanted = new Map<Value, Value>();
  const wantedBy = (reader: Node, value: Value): Value | undefined => {
    if (isRowGather(reader) && reader.inputs[0] === value) return reader.inputs[1];
    const carried =
      opOf(reader)
        .rows?.(reader)
        ?.every((i) => reader.inputs[i] !== value) === false;
    return carried && reader.outputs[0] ? wanted.get(reader.outputs[0]) : undefined;
  };
  for (const node of order.toReversed()) {
    const [value] = node.outputs;
    if (!value || outputs.includes(value) || node.outputs.length > 1 || !opOf(node).rows?.(node)) continue;
    const indices = new Set((readers.get(value) ?? []).map((reader) => wantedBy(reader, value)));
    const [only] = indices;
    if (indices.size === 1 && only) wanted.set(value, only);
  }
  return wanted;
}

function isRowGather({ op, attributes }: Node): boolean {
  return op === "Gather" && numberAttribute(attributes, "axis", 0) === 0;
}
