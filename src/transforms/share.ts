import type { Node, Value } from "../graph/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** Compute once what is computed alike: nodes of the same operator, attributes and inputs become one. */
export function shareNodes(outputs: readonly Value[]): readonly Value[] {
  const numbers = new Map<Value | string, number>();
  const numberOf = (value: Value): number => {
    const key = literal(value) ?? value;
    const number = numbers.get(key) ?? numbers.size;
    numbers.set(key, number);
    return number;
  };
  const made = new Map<string, readonly Value[]>();
  return rewrite(outputs, {
    node: (node, inputs) => {
      const operation = operationOf(node);
      if (operation === undefined) return undefined;
      const key = `${operation}(${inputs.map((value) => (value ? numberOf(value) : "_")).join()})`;
      const unchanged = inputs.every((value, i) => value === node.inputs[i]);
      const results = made.get(key) ?? (unchanged ? node.outputs : rebuild(node, inputs));
      made.set(key, results);
      return results;
    },
  });
}

/** A number or a short list as text; larger constants are told apart by identity. */
function literal(value: Value): string | undefined {
  if (value.kind !== "constant" || value.tensor.data.length > 64) return undefined;
  return `${value.dtype}[${value.shape}] ${Array.from(value.tensor.data, spell).join()}`;
}

/** Zero has two signs. */
function spell(element: number | bigint): string {
  return Object.is(element, -0) ? "-0" : String(element);
}

function operationOf({ domain, op, attributes }: Node): string | undefined {
  const given = Object.entries(attributes);
  if (given.some(([, { type }]) => type === "tensor")) return undefined;
  return `${domain}:${op} ${given.map(([name, { type, value }]) => `${name}:${type}=${JSON.stringify(value)}`).sort()}`;
}
