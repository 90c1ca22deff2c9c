import { type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import { mul, opOf, reduceSum, reshapeTo } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/**
 * Sum rows of (G·Vᵀ) ∘ P as rows of G ∘ (P·V), where P·V is there already: of attention's gradient, that is a sum over
 * a head's width instead of over all keys. Dao et al. 2022 (FlashAttention), §3.1 and Appendix B.2, eq. (4).
 */
export function sumProducts(outputs: readonly Value[]): readonly Value[] {
  const products = new Map<Value, Node[]>(); // by the value that their first operand is a view of
  for (const node of topologicalOrder(outputs)) {
    const [first] = node.inputs;
    if (node.op !== "MatMul" || !first) continue;
    const source = viewed(first);
    products.set(source, [...(products.get(source) ?? []), node]);
  }
  return rewrite(outputs, {
    node: (node, [product, axes]) => {
      if (node.op !== "ReduceSum" || product?.kind !== "result" || product.node.op !== "Mul") return undefined;
      if (axes?.kind !== "constant" || numberAttribute(node.attributes, "keepdims", 1) !== 1) return undefined;
      const [axis] = Array.from(axes.tensor.data, Number);
      const rank = product.shape.length;
      if (axes.tensor.data.length !== 1 || (axis !== -1 && axis !== rank - 1)) return undefined;
      const [a, b] = product.node.inputs as [Value, Value]; // Mul has two
      const narrow = narrower(a, b, products) ?? narrower(b, a, products);
      const shape = node.outputs[0]?.shape;
      return narrow && shape ? [reshapeTo(narrow, shape, [product])] : undefined;
    },
  });
}

/** Sums of the rows of g·vᵀ ∘ p over the columns of v, where p·v is among the products. */
function narrower(gv: Value, p: Value, products: ReadonlyMap<Value, readonly Node[]>): Value | undefined {
  const product = viewed(gv);
  if (product.kind !== "result" || product.node.op !== "MatMul" || !sameRows(gv, product)) return undefined;
  const [g, transposed] = product.node.inputs;
  if (!g || transposed?.kind !== "result" || transposed.node.op !== "Transpose") return undefined;
  const [v] = transposed.node.inputs;
  const perm = transposed.node.attributes["perm"];
  const rank = transposed.shape.length;
  const swapsLast =
    perm?.type === "ints" && perm.value.every((from, to) => from === (to < rank - 2 ? to : 2 * rank - 3 - to));
  if (!swapsLast || !v) return undefined;
  const forward = products.get(viewed(p))?.find(({ inputs }) => inputs[1] === v);
  const [rows] = forward?.inputs ?? [];
  const [mixed] = forward?.outputs ?? [];
  if (!mixed || !rows || rows.shape.join() !== product.shape.join() || mixed.shape.join() !== g.shape.join())
    return undefined;
  return reduceSum(mul(g, mixed), [-1]);
}

/** What a value is a view of. */
function viewed(value: Value): Value {
  if (value.kind !== "result" || !opOf(value.node).view) return value;
  return viewed(value.node.inputs[0] as Value); // a view has an input
}

/** Whether two views cut the same elements into the same rows. */
function sameRows(a: Value, b: Value): boolean {
  return a.shape.at(-1) === b.shape.at(-1);
}
