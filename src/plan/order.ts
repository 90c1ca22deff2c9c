import type { Node } from "../graph/index.ts";

/**
 * The order in which ONNX Runtime runs a graph's nodes when it rewrites nothing. Not the file's: its sequential
 * executor walks backward from the nodes that nobody reads, the last in the file first, and before each node runs what
 * it reads, again the last in the file first (`GraphViewer` and `Graph::ReverseDFSFrom` in onnxruntime/core/graph).
 * So a node late in the file runs as early as something needs it, and a node early in the file as late as it can.
 */
export function executionOrder(nodes: readonly Node[]): readonly Node[] {
  const index = new Map(nodes.map((node, i) => [node, i]));
  const read = new Set<Node>();
  const sources = nodes.map((node) => {
    const found = new Set<Node>();
    for (const value of node.inputs) if (value?.kind === "result") found.add(value.node);
    for (const source of found) read.add(source);
    return [...found].sort((a, b) => (index.get(a) ?? 0) - (index.get(b) ?? 0));
  });
  const order: Node[] = [];
  const visited = new Set<Node>();
  const stack: { readonly node: Node; readonly leave: boolean }[] = nodes
    .filter((node) => !read.has(node))
    .map((node) => ({ node, leave: false }));
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { node, leave } = top;
    if (leave) {
      order.push(node);
      continue;
    }
    if (visited.has(node)) continue;
    visited.add(node);
    stack.push({ node, leave: true });
    for (const source of sources[index.get(node) ?? 0] ?? []) {
      if (!visited.has(source)) stack.push({ node: source, leave: false });
    }
  }
  return order;
}
