import { constant, int, type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import { apply, concat, findOp, gather, maxSplitParts, Reshape, Shape, split } from "../ops/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** Columns of a matrix, picked by what buffers say. */
export function picksColumns({ op, inputs: [x, places], attributes }: Node): boolean {
  return (
    op === "Gather" &&
    x?.shape.length === 2 &&
    numberAttribute(attributes, "axis", 0) === 1 &&
    (places?.kind === "parameter" || (places?.kind === "result" && isJoined(places.node)))
  );
}

function isJoined({ op, inputs }: Node): boolean {
  return op === "Concat" && inputs.every((value) => value?.kind === "parameter");
}

/**
 * Take the columns that a module's backward pass needs of its input while the input is there, so that they are kept and
 * it is not; those of modules with one input together. ONNX Runtime runs a node when something needs it; so the modules'
 * products are made to need them: they read their input as a view whose height is the columns'.
 */
export function takeColumnsEarly(outputs: readonly Value[]): readonly Value[] {
  const pickers = new Map<Value, Node[]>(); // by input
  for (const node of topologicalOrder(outputs)) {
    const [x] = node.inputs;
    if (x && picksColumns(node)) pickers.set(x, [...(pickers.get(x) ?? []), node]);
  }
  if (pickers.size === 0) return outputs;
  const taken = new Map<Value, Taken>();
  const takenOf = (original: Value, x: Value): Taken => {
    const found = taken.get(original) ?? take(x, pickers.get(original) ?? []);
    taken.set(original, found);
    return found;
  };
  return rewrite(outputs, {
    node: (node, inputs) => {
      const [original] = node.inputs;
      const [x, ...others] = inputs;
      const own = original && pickers.get(original);
      if (!own || !x) return undefined;
      const place = own.indexOf(node);
      if (place >= 0) return [takenOf(original, x).columns[place] as Value]; // the columns of each
      const picks = own.some(({ scope }) => scope === node.scope);
      if (!picks || findOp(node.domain, node.op)?.contraction === undefined) return undefined;
      return rebuild(node, [takenOf(original, x).view, ...others]);
    },
  });
}

/** What several pick of a matrix, and the matrix again, to be had once they have picked. */
interface Taken {
  readonly columns: readonly Value[];
  readonly view: Value;
}

function take(x: Value, pickers: readonly Node[]): Taken {
  const places = pickers.map(({ inputs }) => inputs[1] as Value); // a gather has indices
  const together = pickers.length > 1 && pickers.length <= maxSplitParts;
  const all = together ? [gather(x, concat(places, 0), 1)] : places.map((some) => gather(x, some, 1));
  const counts = places.map(({ shape }) => Number(shape[0]));
  const columns = together ? split(all[0] as Value, counts, 1) : all;
  const heights = all.map((some) => apply(Shape, [some], { start: int(0), end: int(1) }));
  const view = heights.reduce(
    (seen, height) => apply(Reshape, [seen, concat([height, constant([Number(x.shape[1])], "int64")], 0)]),
    x,
  );
  return { columns, view };
}
