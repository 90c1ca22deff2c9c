import { type Graph, type Node, nameOf, type Value } from "../graph/index.ts";
import { opOf, type Reference, required, toReference } from "../ops/index.ts";

/**
 * Run a graph in float64, operator by operator: the yardstick that gradients and runtimes are held against.
 * `feeds` gives every input, parameter and weight by name.
 */
export function evaluate(graph: Graph, feeds: ReadonlyMap<string, Reference>): ReadonlyMap<string, Reference> {
  const values = new Map<Value, Reference>();
  const read = (value: Value): Reference => {
    if (value.kind === "constant") return toReference(value.tensor);
    const found = values.get(value) ?? (value.kind === "result" ? undefined : feeds.get(value.name));
    if (found === undefined) throw new Error(`no value for ${nameOf(graph, value)}`);
    return found;
  };
  for (const node of graph.nodes) {
    const results = evaluateNode(
      node,
      node.inputs.map((value) => value && read(value)),
    );
    node.outputs.forEach((output, i) => {
      values.set(output, required(results, i, node.op));
    });
  }
  return new Map([...graph.outputs].map(([name, value]) => [name, read(value)]));
}

/** Run one node in float64. */
export function evaluateNode(node: Node, inputs: readonly (Reference | undefined)[]): readonly Reference[] {
  return opOf(node).evaluate(inputs, node.attributes);
}
