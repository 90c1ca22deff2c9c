import { graph, type Node, type Value } from "../graph/index.ts";
import { findOp, type LinearSite } from "../ops/index.ts";

/** The linear map that a node of a module computes, if it does. */
export function linearOf(node: Node): LinearSite | undefined {
  return node.scope === "" ? undefined : findOp(node.domain, node.op)?.linear?.(node);
}

/** The linear maps of a model, by module, in the order the model computes them. */
export function linearModules(outputs: Readonly<Record<string, Value>>): ReadonlyMap<string, LinearSite> {
  const sites = new Map<string, LinearSite>();
  for (const node of graph({ outputs }).nodes) {
    const site = linearOf(node);
    if (site) sites.set(node.scope, site);
  }
  return sites;
}
