import type { Value } from "../graph/index.ts";
import { apply, findOp, ops } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";
import { shareNodes } from "./share.ts";

const composites = [...ops.values()].flatMap((op) => (op.composite?.found ? [{ op, ...op.composite.found }] : []));

/** Put operators that are formulas of others in place of these formulas: their gradients are shorter. */
export function compose(outputs: readonly Value[]): readonly Value[] {
  const composed = rewrite(outputs, {
    node: (node, inputs) => {
      for (const { op, root, recognise } of composites) {
        const found = node.domain === "" && node.op === root ? recognise({ ...node, inputs }) : undefined;
        if (found) return [apply(op, found.inputs, found.attributes)];
      }
      return undefined;
    },
  });
  return shareNodes(composed);
}

/**
 * Write the formulas back where a runtime has no kernel; `kernels` names the operators that it has. What formulas share
 * with each other and with gradients is computed once.
 */
export function expand(outputs: readonly Value[], kernels: ReadonlySet<string>): readonly Value[] {
  const expanded = rewrite(outputs, {
    node: (node, inputs) =>
      kernels.has(node.op) ? undefined : findOp(node.domain, node.op)?.composite?.expand(inputs, node.attributes),
  });
  return shareNodes(expanded);
}
