import { assert } from "../errors.ts";
import {
  type ConstantValue,
  type InputValue,
  makeNode,
  type Node,
  type ParameterValue,
  type Value,
  type WeightValue,
} from "./value.ts";

/** A computation with named inputs and outputs: everything its outputs depend on, in an order that can be run. */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly InputValue[];
  readonly parameters: readonly ParameterValue[];
  readonly weights: readonly WeightValue[];
  readonly constants: readonly ConstantValue[];
  /** Every node once, producers before consumers. */
  readonly nodes: readonly Node[];
  readonly outputs: ReadonlyMap<string, Value>;
  /** The unique name of every value in the graph. */
  readonly names: ReadonlyMap<Value, string>;
}

/**
 * Close a set of outputs into a graph.
 * Inputs come in the order given (an unused one is kept), then others in order of first use.
 * @throws when two different leaves share a name, or an output's name is taken by a leaf it is not.
 */
export function graph(options: {
  readonly name?: string;
  readonly inputs?: readonly InputValue[];
  readonly outputs: Readonly<Record<string, Value>> | ReadonlyMap<string, Value>;
  /** Values whose nodes come before all others, in this order; runtimes take the order of nodes as a hint. */
  readonly first?: readonly Value[];
}): Graph {
  const requested = options.outputs instanceof Map ? [...options.outputs] : Object.entries(options.outputs);
  const outputs = separateOutputs(requested);
  const nodes = topologicalOrder([...(options.first ?? []), ...outputs.values()]);
  const inputs = new Set<InputValue>(options.inputs ?? []);
  const parameters = new Set<ParameterValue>();
  const weights = new Set<WeightValue>();
  const constants = new Set<ConstantValue>();
  for (const node of nodes) {
    for (const value of node.inputs) {
      if (value === undefined) continue;
      if (value.kind === "input") inputs.add(value);
      else if (value.kind === "parameter") parameters.add(value);
      else if (value.kind === "weight") weights.add(value);
      else if (value.kind === "constant") constants.add(value);
    }
  }
  const leaves = { inputs: [...inputs], parameters: [...parameters], weights: [...weights], constants: [...constants] };
  return Object.freeze({
    name: options.name ?? "graph",
    ...leaves,
    nodes,
    outputs,
    names: nameValues(outputs, nodes, leaves),
  });
}

/** The name of a value in this graph. */
export function nameOf(graph: Graph, value: Value): string {
  const name = graph.names.get(value);
  assert(name !== undefined, `a ${value.kind} value is not part of graph ${graph.name}`);
  return name;
}

/** Every node that `values` depend on, producers first, in a deterministic order. */
export function topologicalOrder(values: readonly Value[]): readonly Node[] {
  const order: Node[] = [];
  const state = new Map<Node, "open" | "done">();
  const stack: { node: Node; next: number }[] = [];
  const push = (value: Value | undefined): void => {
    if (value?.kind !== "result") return;
    const seen = state.get(value.node);
    assert(seen !== "open", () => `a cycle through ${value.node.op} in ${value.node.scope}`);
    if (seen === "done") return;
    state.set(value.node, "open");
    stack.push({ node: value.node, next: 0 });
  };
  for (const value of values) {
    push(value);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      if (top.next < top.node.inputs.length) {
        push(top.node.inputs[top.next++]);
      } else {
        state.set(top.node, "done");
        order.push(top.node);
        stack.pop();
      }
    }
  }
  return order;
}

/** Each output its own result, so that it can carry its name: leaves and repeats pass through Identity. */
function separateOutputs(requested: readonly (readonly [string, Value])[]): ReadonlyMap<string, Value> {
  const outputs = new Map<string, Value>();
  const taken = new Set<Value>();
  for (const [name, value] of requested) {
    const { dtype, shape } = value;
    const own =
      value.kind === "result" && !taken.has(value)
        ? value
        : makeNode({ op: "Identity", inputs: [value], outputs: [{ dtype, shape }], scope: "" }).outputs[0];
    assert(own !== undefined, "Identity has one output");
    taken.add(own);
    outputs.set(name, own);
  }
  return outputs;
}

function nameValues(
  outputs: ReadonlyMap<string, Value>,
  nodes: readonly Node[],
  leaves: Pick<Graph, "inputs" | "parameters" | "weights" | "constants">,
): ReadonlyMap<Value, string> {
  const names = new Map<Value, string>();
  const taken = new Set<string>();
  const claim = (value: Value, name: string): void => {
    assert(!taken.has(name), `two values are called ${name}`);
    taken.add(name);
    names.set(value, name);
  };
  for (const leaf of [...leaves.inputs, ...leaves.parameters, ...leaves.weights]) claim(leaf, leaf.name);
  for (const [name, value] of outputs) claim(value, name);
  const counts = new Map<string, number>();
  const claimFree = (value: Value, stem: string): void => {
    let name = stem;
    for (let n = counts.get(stem) ?? 0; taken.has(name) || name === ""; ) {
      n += 1;
      counts.set(stem, n);
      name = `${stem}_${n}`;
    }
    claim(value, name);
  };
  // Names from the source model first, so that a derived name never pushes one aside.
  for (const node of nodes) {
    for (const value of node.outputs) {
      if (!names.has(value) && value.hint && !taken.has(value.hint)) claim(value, value.hint);
    }
  }
  leaves.constants.forEach((value) => {
    claimFree(value, "constant");
  });
  for (const node of nodes) {
    const stem = node.scope === "" ? node.op : `${node.scope}/${node.op}`;
    for (const value of node.outputs) if (!names.has(value)) claimFree(value, stem);
  }
  return names;
}
