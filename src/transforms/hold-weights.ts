import { type Node, numberAttribute, type Value, type WeightValue } from "../graph/index.ts";
import { add, concat, findOp, slice } from "../ops/index.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/** How a weight is read where it is held in another form: all of it, or rows. */
interface Held {
  readonly whole: () => Value;
  readonly rows: (indices: Value) => Value;
  /** The rows in pieces, from the first to the last, where all of them together would be large. */
  readonly pieces?: readonly HeldPiece[] | undefined;
}

/** Rows of a weight that follow one another. */
interface HeldPiece {
  /** How many rows. */
  readonly rows: number;
  readonly whole: () => Value;
}

/**
 * Read frozen weights from another form than float32. Each node that reads one gets a decoded copy of its own, so that
 * no copy outlives it; a gather of rows decodes those rows alone, and a product with a large weight decodes it piece by
 * piece. For a graph that is done otherwise: gradients have
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
      const product = inPieces(node, inputs, heldOf(node.inputs[1])?.pieces);
      if (product) {
        decoded.push(...product.decoded);
        return [product.value];
      }
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

/** A product of rows with a weight that is decoded in pieces: of its outputs side by side, or of its inputs added up. */
function inPieces(
  node: Node,
  [x]: readonly (Value | undefined)[],
  pieces: Held["pieces"],
): { readonly value: Value; readonly decoded: readonly Value[] } | undefined {
  const site = findOp(node.domain, node.op)?.linear?.(node);
  if (!pieces || !x || !site || site.bias || site.weight !== node.inputs[1] || x.shape.length !== 2) return undefined;
  const decoded = pieces.map(({ whole }) => whole());
  const product = (part: Value, piece: Value): Value => rebuild(node, [part, piece])[0] as Value; // a product has one output
  if (site.layout === "out,in")
    return {
      value: concat(
        decoded.map((piece) => product(x, piece)),
        1,
      ),
      decoded,
    };
  let start = 0;
  const parts = decoded.map((piece, i) => {
    const end = start + (pieces[i]?.rows ?? 0);
    const part = product(slice(x, [start], [end], [1]), piece);
    start = end;
    return part;
  });
  return { value: parts.reduce((sum, part) => add(sum, part)), decoded };
}
