import { constant, int, type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import { apply, concat, findOp, Reshape, Shape } from "../ops/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** Columns of a matrix, picked by what a buffer says. */
export function picksColumns({ op, inputs: [x, places], attributes }: Node): boolean {
  return (
    op === "Gather" &&
    places?.kind === "parameter" &&
    x?.shape.length === 2 &&
    numberAttribute(attributes, "axis", 0) === 1
  );
}

/**
 * Take the columns that a module's backward pass needs of its input while the input is there, so that they are kept and
 * it is not. ONNX Runtime runs a node when something needs it; so the module's product is made to need them: it reads
 * its input as a view whose height is the columns'.
 */
export function takeColumnsEarly(outputs: readonly Value[]): readonly Value[] {
  const pickers = new Map<Value, Map<string, Node>>(); // by input, then by module
  for (const node of topologicalOrder(outputs)) {
    const [x] = node.inputs;
    if (!x || !picksColumns(node)) continue;
    const own = pickers.get(x) ?? new Map<string, Node>();
    pickers.set(x, own.set(node.scope, node));
  }
  if (pickers.size === 0) return outputs;
  const picked = new Map<Node, Value>();
  const pick = (picker: Node, x: Value): Value => {
    const columns = picked.get(picker) ?? (rebuild(picker, [x, picker.inputs[1]])[0] as Value); // a gather has an output
    picked.set(picker, columns);
    return columns;
  };
  return rewrite(outputs, {
    node: (node, inputs) => {
      const [original] = node.inputs;
      const [x, ...others] = inputs;
      if (!original || !x) return undefined;
      if (picksColumns(node)) return [pick(node, x)];
      const picker = pickers.get(original)?.get(node.scope);
      if (!picker || findOp(node.domain, node.op)?.contraction === undefined) return undefined;
      const height = apply(Shape, [pick(picker, x)], { start: int(0), end: int(1) });
      const view = apply(Reshape, [x, concat([height, constant([Number(x.shape[1])], "int64")], 0)]);
      return rebuild(node, [view, ...others]);
    },
  });
}
