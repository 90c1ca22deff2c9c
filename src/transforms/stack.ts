import { type Node, numberAttribute, type ParameterValue, topologicalOrder, type Value } from "../graph/index.ts";
import { concat, gemm, maxSplitParts, split } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/** Products with more rows than this together are bound by their arithmetic: one larger product would be no faster. */
const largestStack = 256;

/**
 * One product where several narrow ones read the same input: x·[A₁; A₂; …]ᵀ is read off for each. A product with a few
 * columns takes as long as it takes to read x, and so do its gradients.
 */
export function stackProducts(outputs: readonly Value[]): readonly Value[] {
  const open = new Map<Value, Node[]>(); // by x
  const groups = new Map<Node, Node[]>();
  for (const node of topologicalOrder(outputs)) {
    const [x] = node.inputs;
    if (!x || !isNarrow(node)) continue;
    const group = open.get(x);
    if (group && group.length < maxSplitParts && sumOf([...group, node]) <= largestStack) group.push(node);
    else open.set(x, [node]);
    groups.set(node, open.get(x) as Node[]); // just put there
  }
  const stacked = new Map<Node[], readonly Value[]>();
  return rewrite(outputs, {
    node: (node, [x]) => {
      const group = groups.get(node);
      if (!x || !group || group.length === 1) return undefined;
      const parts =
        stacked.get(group) ?? split(gemm(x, concat(group.map(matrixOf), 0), { transB: true }), group.map(rowsOf), 1);
      stacked.set(group, parts);
      return [parts[group.indexOf(node)] as Value]; // a part a member
    },
  });
}

/** x·Aᵀ with a trained A [rows, in] of few rows. */
function isNarrow({ op, inputs: [x, a, c], attributes }: Node): boolean {
  const plain = numberAttribute(attributes, "transA", 0) === 0 && numberAttribute(attributes, "alpha", 1) === 1;
  const transposed = numberAttribute(attributes, "transB", 0) === 1;
  return (
    op === "Gemm" &&
    plain &&
    transposed &&
    !c &&
    x !== a &&
    a?.kind === "parameter" &&
    Number(a.shape[0]) <= largestStack
  );
}

function matrixOf({ inputs }: Node): ParameterValue {
  return inputs[1] as ParameterValue; // as `isNarrow` asks
}

function rowsOf(node: Node): number {
  return Number(matrixOf(node).shape[0]);
}

function sumOf(nodes: readonly Node[]): number {
  return nodes.reduce((sum, node) => sum + rowsOf(node), 0);
}
