import { constant, type Dim, int, type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import { apply, concat, Expand, findOp, gatherElements, maxSplitParts, Reshape, Shape, split } from "../ops/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** Columns of a matrix, picked by what buffers say. */
export function picksColumns({ op, inputs: [x, places], attributes }: Node): boolean {
  const along = x?.shape.length === 2 && numberAttribute(attributes, "axis", 0) === 1;
  return along && ((op === "Gather" && isGiven(places)) || (op === "GatherElements" && isSpread(places)));
}

/** A buffer, or several joined. */
function isGiven(value: Value | undefined): boolean {
  if (value?.kind !== "result") return value?.kind === "parameter";
  return value.node.op === "Concat" && value.node.inputs.every((part) => part?.kind === "parameter");
}

function isSpread(value: Value | undefined): boolean {
  return value?.kind === "result" && value.node.op === "Expand" && isGiven(value.node.inputs[0]);
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
  const sizes = new Map<string, Value>();
  const takenOf = (original: Value, x: Value): Taken => {
    const found = taken.get(original) ?? take(x, pickers.get(original) ?? [], sizes);
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

/** @param sizes the sizes of picked columns, which inputs of one height share. */
function take(x: Value, pickers: readonly Node[], sizes: Map<string, Value>): Taken {
  const [height, width] = x.shape;
  // Row by row, by places that are the same in each: ONNX Runtime's Gather takes several times as long, on one thread.
  const pick = (places: Value): Value => {
    const [count] = places.shape;
    const size = sizes.get(`${height} × ${count}`) ?? concat([heightOf(x), vector(count)], 0);
    sizes.set(`${height} × ${count}`, size);
    return gatherElements(x, apply(Expand, [places, size]), 1);
  };
  const places = pickers.map(({ inputs }) => inputs[1] as Value); // a gather has indices
  const together = pickers.length > 1 && pickers.length <= maxSplitParts;
  const all = together ? [pick(concat(places, 0))] : places.map(pick);
  const counts = places.map(({ shape }) => Number(shape[0]));
  const columns = together ? split(all[0] as Value, counts, 1) : all;
  const view = all.reduce((seen, some) => apply(Reshape, [seen, concat([heightOf(some), vector(width)], 0)]), x);
  return { columns, view };
}

function heightOf(matrix: Value): Value {
  return apply(Shape, [matrix], { start: int(0), end: int(1) });
}

function vector(size: Dim | undefined): Value {
  return constant([Number(size)], "int64");
}
