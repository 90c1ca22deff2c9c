import { type Attributes, numberAttribute, stringAttribute, type Value } from "../graph/index.ts";
import { apply, reduceSum, ScatterElements } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/**
 * Work with few updates instead of the large tensor of zeros that they are put into: for S = ScatterElements(0, i, u)
 * along an axis, ΣS = Σu, and S + t = ScatterElements(t, i, u). The gradient of a log-likelihood, which reaches one
 * logit a row, then needs no second and third tensor as large as the logits.
 */
export function useSparsity(outputs: readonly Value[]): readonly Value[] {
  return rewrite(outputs, {
    node: (node, inputs) => {
      const [a, b] = inputs;
      if (node.op === "ReduceSum" && a && b) {
        const sparse = asSparse(a);
        const axes = b.kind === "constant" ? Array.from(b.tensor.data, Number) : [];
        if (!sparse || axes.length !== 1 || sparse.axis !== wrap(axes[0] as number, a.shape.length)) return undefined;
        return [reduceSum(sparse.updates, axes, { keep: numberAttribute(node.attributes, "keepdims", 1) === 1 })];
      }
      if (node.op === "Add" && a && b) {
        const sparse = asSparse(a);
        if (!sparse || a.shape.join() !== b.shape.join()) return undefined;
        return [apply(ScatterElements, [b, sparse.indices, sparse.updates], sparse.attributes)];
      }
      return undefined;
    },
  });
}

/** The parts of a tensor that is zero but for what was added at some indices. */
function asSparse(value: Value): { indices: Value; updates: Value; axis: number; attributes: Attributes } | undefined {
  if (value.kind !== "result" || value.node.op !== "ScatterElements") return undefined;
  const { node } = value;
  const [zeros, indices, updates] = node.inputs;
  const isZero =
    (zeros?.kind === "result" && zeros.node.op === "ConstantOfShape") ||
    (zeros?.kind === "constant" && Array.from(zeros.tensor.data, Number).every((element) => element === 0));
  if (!isZero || !indices || !updates || stringAttribute(node.attributes, "reduction", "none") !== "add")
    return undefined;
  const axis = wrap(numberAttribute(node.attributes, "axis", 0), value.shape.length);
  return { indices, updates, axis, attributes: node.attributes };
}

function wrap(axis: number, rank: number): number {
  return axis < 0 ? axis + rank : axis;
}
