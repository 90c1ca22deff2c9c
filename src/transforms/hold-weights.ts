import { type Node, numberAttribute, type Value, type WeightValue } from "../graph/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** How a weight is read where it is held in another form: all of it, or rows. */
interface Held {
  readonly whole: () => Value;
  readonly rows: (indices: Value) => Value;
}

/**
 * Read frozen weights from another form than float32. Each node that reads one gets a decoded copy of its own, so that
 * no copy outlives it; a gather of rows decodes those rows alone. For a graph that is done otherwise: gradients have
 * been taken, and what is repeated has been chosen.
 * @returns the values, and the decoded copies: they belong in the front of a file, so that ONNX Runtime makes each as
 * late as it can (see `plan/order.ts`).
 */
export function holdWeights(
  values: readonly Value[],
  hold: (value: WeightValue) => Held | undefined,
): { readonly values: readonly Value[]; readonly decoded: readonly Value[] } {
  const known = new Map<WeightValue, Held | undefined>();
  const heldOf = (value: Value | undefined): Held | undefined => {
    if (value?.kind !== "weight") return undefined;
    if (!known.has(value)) known.set(value, hold(value));
    return known.get(value);
  };
  const decoded: Value[] = [];
  const rewritten = rewrite(values, {
    node: (node, inputs) => {
      if (!node.inputs.some((value) => heldOf(value) !== undefined)) return undefined;
      const rows = isRowGather(node) ? heldOf(node.inputs[0]) : undefined;
      if (rows) return [rows.rows(inputs[1] as Value)]; // a gather has indices
      const own = node.inputs.map((value, i) => {
        const whole = heldOf(value)?.whole();
        if (whole) decoded.push(whole);
        return whole ?? inputs[i];
      });
      return rebuild(node, own);
    },
  });
  return { values: rewritten, decoded };
}

function isRowGather({ op, attributes }: Node): boolean {
  return op === "Gather" && numberAttribute(attributes, "axis", 0) === 0;
}
