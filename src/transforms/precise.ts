import type { Value } from "../graph/index.ts";
import { findOp } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";
import { shareNodes } from "./share.ts";

/** Write operators whose kernels are `rough` as formulas of others, where their records have one. */
export function precise(outputs: readonly Value[], rough: ReadonlySet<string>): readonly Value[] {
  if (rough.size === 0) return outputs;
  const written = rewrite(outputs, {
    node: (node, [x]) => {
      const formula = rough.has(node.op) && x?.dtype === "float32" ? findOp(node.domain, node.op)?.precise : undefined;
      return x && formula && [formula(x)];
    },
  });
  return shareNodes(written);
}
