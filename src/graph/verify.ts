import { assert } from "../errors.ts";
import { isCanonicalDim, isConcrete, sameShape } from "./dims.ts";
import type { Graph } from "./graph.ts";
import { printNode, printType } from "./print.ts";
import { isDType, sizeOf } from "./tensor.ts";
import type { Node, Value, ValueType } from "./value.ts";

const shown = 20;

/**
 * Check a graph's invariants: every value named once, producers before consumers, nothing read that the graph does not
 * hold, outputs present, element types and sizes well formed, literals and weights of their declared type.
 * `infer` adds type checking: it gives the types a node's outputs ought to have, or undefined when it does not know.
 * @throws when one is broken (a bug in a pass, never a person's mistake), with the printed nodes.
 */
export function verify(
  graph: Graph,
  options: { readonly infer?: (node: Node) => readonly ValueType[] | undefined } = {},
): void {
  const problems: string[] = [];
  const leaves = [...graph.inputs, ...graph.parameters, ...graph.weights, ...graph.constants];
  const defined = new Set<Value>();
  const named = new Set<string>();
  const define = (value: Value): readonly string[] => {
    const name = graph.names.get(value);
    const wrong: string[] = [];
    if (defined.has(value)) wrong.push(`${name} is defined twice`);
    defined.add(value);
    if (name === undefined || name === "") wrong.push(`a ${value.kind} value has no name`);
    else if (named.has(name)) wrong.push(`two values are called ${name}`);
    else named.add(name);
    return [...wrong, ...misshapen(value).map((what) => `${name}: ${what}`)];
  };

  for (const leaf of leaves) {
    const name = graph.names.get(leaf);
    problems.push(...define(leaf).map((what) => `${what}: ${leaf.kind} ${name}`));
    if ("name" in leaf && leaf.name !== name) {
      problems.push(`the ${leaf.kind} ${leaf.name} goes by the name ${name}`);
    }
  }
  for (const node of graph.nodes) {
    const wrong: string[] = [];
    if (node.op === "") wrong.push("a node has no operator");
    if (node.outputs.length === 0) wrong.push("a node has no output");
    node.inputs.forEach((value, i) => {
      if (value !== undefined && !defined.has(value)) wrong.push(`input ${i} is not computed before`);
    });
    node.outputs.forEach((value, i) => {
      if (value.node !== node || value.index !== i) wrong.push(`output ${i} belongs to another node`);
      wrong.push(...define(value));
    });
    wrong.push(...mistyped(node, options.infer?.(node)));
    // Printed only when something is wrong: most graphs are fine and many are large.
    problems.push(...wrong.map((what) => `${what}: ${printNode(graph.names, node)}`));
  }
  for (const [name, value] of graph.outputs) {
    if (value.kind !== "result" || !defined.has(value)) problems.push(`output ${name} is computed by no node`);
    if (graph.names.get(value) !== name) problems.push(`output ${name} goes by the name ${graph.names.get(value)}`);
  }
  if (graph.names.size > defined.size) problems.push("names are given to values that the graph does not hold");
  assert(problems.length === 0, () => {
    const more = problems.length > shown ? `\n  … and ${problems.length - shown} more` : "";
    return `graph ${graph.name} is not well formed:\n  ${problems.slice(0, shown).join("\n  ")}${more}`;
  });
}

/** What is wrong with a value by itself. */
function misshapen(value: Value): readonly string[] {
  const { dtype, shape } = value;
  const problems: string[] = [];
  if (!isDType(dtype)) problems.push(`${dtype} is no element type`);
  for (const dim of shape) {
    if (!isCanonicalDim(dim)) problems.push(`${JSON.stringify(dim)} is not a size in canonical spelling`);
  }
  if (value.kind === "parameter" && !isConcrete(shape)) problems.push("a parameter's sizes must be numbers");
  if (value.kind === "weight" && !sameShape(shape, value.source.shape)) {
    problems.push(`its source is ${printType(value.source)}`);
  }
  if (value.kind === "constant") {
    const { tensor } = value;
    const fits =
      tensor.dtype === dtype && sameShape(tensor.shape, shape) && tensor.data.length === sizeOf(tensor.shape);
    if (!fits) problems.push(`its literal is ${printType(tensor)} with ${tensor.data.length} elements`);
  }
  return problems;
}

function mistyped(node: Node, expected: readonly ValueType[] | undefined): readonly string[] {
  if (expected === undefined) return [];
  if (expected.length !== node.outputs.length) {
    return [`${node.op} has ${expected.length} outputs here, not ${node.outputs.length}`];
  }
  return node.outputs.flatMap((value, i) => {
    const type = expected[i];
    if (type === undefined || (type.dtype === value.dtype && sameShape(type.shape, value.shape))) return [];
    return [`output ${i} ought to be ${printType(type)}`];
  });
}
