import { TuneError } from "../errors.ts";
import { isConcrete, type Node, numberAttribute, topologicalOrder, type Value } from "../graph/index.ts";
import type { LinearSite } from "../ops/index.ts";
import { linearModules } from "./linear.ts";
import type { Method } from "./method.ts";

/**
 * A table whose rows a node looks up, as the linear map of one-hot tokens that it is: W [tokens, hidden] is stored
 * [in, out], and `x` are the numbers of the rows instead of one-hot vectors.
 */
export interface EmbeddingSite extends LinearSite {
  readonly module: string;
}

/** The embedding whose rows a node looks up, if it does; its module is the one that the weight is named for. */
export function embeddingOf(node: Node): EmbeddingSite | undefined {
  const [weight, ids] = node.inputs;
  if (node.domain !== "" || node.op !== "Gather" || numberAttribute(node.attributes, "axis", 0) !== 0) return undefined;
  if (weight?.kind !== "weight" || !weight.name.endsWith(".weight") || ids === undefined) return undefined;
  if (weight.shape.length !== 2 || !isConcrete(weight.shape)) return undefined;
  const [inFeatures = 0, outFeatures = 0] = weight.shape;
  const module = weight.name.slice(0, -".weight".length);
  return { module, x: ids, weight, bias: undefined, layout: "in,out", inFeatures, outFeatures };
}

/**
 * The embeddings of a model by module, in the order the model reads them. A table that is looked up in several places is
 * left out: T5's encoder and decoder each have a module of their own for it, and PEFT adapts those apart.
 */
export function embeddingModules(outputs: Readonly<Record<string, Value>>): ReadonlyMap<string, LinearSite> {
  const sites = new Map<string, LinearSite>();
  const several = new Set<string>();
  for (const node of topologicalOrder(Object.values(outputs))) {
    const site = embeddingOf(node);
    if (site && sites.has(site.module)) several.add(site.module);
    if (site) sites.set(site.module, site);
  }
  for (const module of several) sites.delete(module);
  return sites;
}

/** What a method can attach to, by module: linear maps, and embeddings where it has a form for them. */
export function adaptableModules(
  outputs: Readonly<Record<string, Value>>,
  { embedding }: Pick<Method<never>, "embedding">,
): ReadonlyMap<string, LinearSite> {
  const linear = linearModules(outputs);
  return embedding === undefined ? linear : new Map([...linear, ...embeddingModules(outputs)]);
}

/**
 * Refuse embeddings for a method that has no form for them.
 * @throws {TuneError} `bad-option` naming them.
 */
export function refuseEmbeddings(method: string, modules: readonly string[]): void {
  if (modules.length === 0) return;
  throw new TuneError("bad-option", `${method} does not adapt embeddings, such as ${modules.join(", ")}.`, {
    at: "target modules",
    fix: `use lora for them, or leave ${modules.map((module) => module.split(".").at(-1)).join(", ")} out of the target modules`,
  });
}
