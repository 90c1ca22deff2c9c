import { isCanonicalDim } from "./dims.ts";
import type { Graph } from "./graph.ts";
import { spellElements, spellFloat, spellName } from "./literal.ts";
import type { Attribute, Node, Value, ValueType } from "./value.ts";

/**
 * A graph as text that people can read and {@link parse} can take back: one line a value, with its type.
 * Weights are shown by name and type alone. `print(parse(print(graph)))` is `print(graph)`.
 *
 * ```
 * graph step(x: float32[batch, 4]) {
 *   weight fc.weight: float32[4, 2] from bfloat16
 *   constant constant: float32[] = 0.5
 *   fc/MatMul: float32[batch, 2] = MatMul(x, fc.weight) @fc
 *   y: float32[batch, 2] = com.example::Scale(fc/MatMul, _, constant) {axis: 1, epsilon: 1e-5f, mode: "x"}
 *   return y
 * }
 * ```
 */
export function print(graph: Graph): string {
  const { names } = graph;
  const declare = (value: Value): string => `${nameIn(names, value)}: ${printType(value)}`;
  const outputs = [...graph.outputs].map(([name, value]) => {
    const inside = nameIn(names, value);
    return spellName(name) === inside ? inside : `${spellName(name)} = ${inside}`;
  });
  return [
    `graph ${spellName(graph.name)}(${graph.inputs.map(declare).join(", ")}) {`,
    ...graph.parameters.map((value) => `  parameter ${declare(value)}`),
    ...graph.weights.map((value) => {
      const { dtype } = value.source;
      return `  weight ${declare(value)}${dtype === value.dtype ? "" : ` from ${dtype}`}`;
    }),
    ...graph.constants.map((value) => `  constant ${declare(value)} = ${spellElements(value.tensor)}`),
    ...graph.nodes.map((node) => `  ${printNode(names, node)}`),
    `  return ${outputs.join(", ")}`,
    "}\n",
  ].join("\n");
}

/** One node as {@link print} shows it; values that `names` does not hold show as `?`. */
export function printNode(names: ReadonlyMap<Value, string>, node: Node): string {
  const outputs = node.outputs.map((value) => `${nameIn(names, value)}: ${printType(value)}`);
  const inputs = node.inputs.map((value) => (value === undefined ? "_" : nameIn(names, value)));
  const attributes = Object.entries(node.attributes).map(
    ([key, value]) => `${spellName(key)}: ${printAttribute(value)}`,
  );
  const op = node.domain === "" ? spellName(node.op) : `${spellName(node.domain)}::${spellName(node.op)}`;
  return [
    `${outputs.join(", ")} = ${op}(${inputs.join(", ")})`,
    ...(attributes.length > 0 ? [`{${attributes.join(", ")}}`] : []),
    ...(node.scope === "" ? [] : [`@${spellName(node.scope)}`]),
  ].join(" ");
}

/** A type as people read it: `float32[batch, seq, 64]`. */
export function printType({ dtype, shape }: ValueType): string {
  const sizes = shape.map((dim) => (typeof dim === "number" || isCanonicalDim(dim) ? dim : JSON.stringify(dim)));
  return `${dtype}[${sizes.join(", ")}]`;
}

function nameIn(names: ReadonlyMap<Value, string>, value: Value): string {
  const name = names.get(value);
  return name === undefined ? "?" : spellName(name);
}

function printAttribute(attribute: Attribute): string {
  switch (attribute.type) {
    case "int":
      return printInt(attribute.value);
    case "float":
      return printFloat(attribute.value);
    case "string":
      return JSON.stringify(attribute.value);
    case "ints":
      return `[${attribute.value.map(printInt).join(", ")}]`;
    case "floats":
      return `${attribute.value.length === 0 ? "floats" : ""}[${attribute.value.map(printFloat).join(", ")}]`;
    case "strings": {
      const strings = attribute.value.map((value) => JSON.stringify(value));
      return `${strings.length === 0 ? "strings" : ""}[${strings.join(", ")}]`;
    }
    case "tensor":
      return `${printType(attribute.value)} = ${spellElements(attribute.value)}`;
  }
}

/** All digits, also beyond 1e21 where JavaScript would write an exponent. */
function printInt(value: number): string {
  return Number.isInteger(value) ? String(BigInt(value)) : String(value);
}

/** With a suffix that tells it from an int; `inf` and `nan` need none. */
function printFloat(value: number): string {
  return Number.isFinite(value) ? `${spellFloat(value, false)}f` : spellFloat(value, false);
}
