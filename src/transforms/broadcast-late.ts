import { isConcrete, type Value } from "../graph/index.ts";
import { apply, Expand, opOf } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/** Elementwise operators of two inputs, which broadcast. */
const broadcasting: ReadonlySet<string> = new Set(["Add", "Sub", "Mul", "Div"]);

/**
 * Leave broadcasting to the operators that broadcast anyway: f(expand a, b) = f(a, b) where b has the whole shape, and
 * f(expand a, s) = expand f(a, s) for a scalar s. The gradient of a mean, one number a row, is then never spread out.
 */
export function broadcastLate(outputs: readonly Value[]): readonly Value[] {
  return rewrite(outputs, {
    node: (node, inputs) => {
      const [a, b] = inputs;
      if (!broadcasting.has(node.op) || !a || !b) return undefined;
      return (
        through(a, b, (narrow) => apply(opOf(node), [narrow, b])) ??
        through(b, a, (narrow) => apply(opOf(node), [a, narrow]))
      );
    },
  });
}

/** f of an expanded value and another, by f of the narrow value it was expanded from. */
function through(wide: Value, other: Value, f: (narrow: Value) => Value): readonly Value[] | undefined {
  if (wide.kind !== "result" || wide.node.op !== "Expand") return undefined;
  const [narrow, shape] = wide.node.inputs;
  if (!narrow || !shape || narrow.shape.length !== wide.shape.length) return undefined;
  if (other.shape.join() === wide.shape.join()) return [f(narrow)];
  return isConcrete(other.shape) && other.shape.length === 0 ? [apply(Expand, [f(narrow), shape])] : undefined;
}
