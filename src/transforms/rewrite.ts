import { makeNode, type Node, topologicalOrder, type Value, withScope } from "../graph/index.ts";
import { applyAll, findOp } from "../ops/index.ts";

/** What to put in place of a node, given its already rewritten inputs; undefined keeps it. */
export type Replacement = (node: Node, inputs: readonly (Value | undefined)[]) => readonly Value[] | undefined;

/**
 * Rebuild what `outputs` depend on with some leaves and nodes replaced. Untouched parts are shared, not copied;
 * rebuilt nodes keep their module and their names.
 */
export function rewrite(
  outputs: readonly Value[],
  { leaf, node: replace }: { readonly leaf?: (value: Value) => Value | undefined; readonly node?: Replacement },
): readonly Value[] {
  const rewritten = new Map<Value, Value>();
  const map = (value: Value): Value => {
    const known = rewritten.get(value);
    if (known !== undefined) return known;
    const result = value.kind === "result" ? value : (leaf?.(value) ?? value);
    rewritten.set(value, result);
    return result;
  };
  for (const node of topologicalOrder(outputs)) {
    const inputs = node.inputs.map((value) => value && map(value));
    const changed = inputs.some((value, i) => value !== node.inputs[i]);
    const results = withScope(
      node.scope,
      () => replace?.(node, inputs) ?? (changed ? rebuild(node, inputs) : undefined),
    );
    node.outputs.forEach((output, i) => {
      rewritten.set(output, results?.[i] ?? output);
    });
  }
  return outputs.map(map);
}

/** The same operation on other inputs; its types are inferred anew. */
export function rebuild(node: Node, inputs: readonly (Value | undefined)[]): readonly Value[] {
  const op = findOp(node.domain, node.op);
  if (op) return applyAll(op, inputs, node.attributes);
  const { domain, attributes, outputs } = node;
  return makeNode({ op: node.op, domain, inputs, attributes, outputs, hints: outputs.map(({ hint }) => hint) }).outputs;
}
