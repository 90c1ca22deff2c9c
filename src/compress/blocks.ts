import { type Graph, graph, type InputValue, input, type Node, topologicalOrder, type Value } from "../graph/index.ts";
import { linearModules } from "../methods/index.ts";
import type { OpenGraph } from "../models/index.ts";
import { gather, gemm, type LinearSite, slice } from "../ops/index.ts";
import { fold, rewrite } from "../transforms/index.ts";

/** A linear map of a block. */
export interface BlockSite extends LinearSite {
  readonly module: string;
}

/** A stretch of a model that is quantised at once: what one numbered layer adds to what came before it. */
export interface Block {
  /** The number that its modules carry. */
  readonly layer: number;
  readonly sites: readonly BlockSite[];
  /** Values that earlier blocks computed and this one or a later one reads. */
  readonly carriedIn: readonly Value[];
  /** What later blocks read of this one and those before it. */
  readonly carriedOut: readonly Value[];
}

/** A model cut into blocks, with the leaves that its graphs read. */
export interface BlockedModel {
  readonly open: OpenGraph;
  readonly blocks: readonly Block[];
}

/**
 * Cut a model where its numbered layers begin. A node belongs to the last layer that it or anything it depends on
 * belongs to; values that depend on weights and cross into a later layer are carried, all others (masks, tables of
 * positions) are computed anew. Knows no architecture: numbers in module names are what it goes by.
 */
export function cutIntoBlocks(open: OpenGraph, outputModule: string): BlockedModel {
  const linear = [...linearModules(open.outputs)].filter(([module]) => module !== outputModule);
  const sites = linear.flatMap(([module, site]) => {
    const layer = layerOf(module);
    return layer === undefined ? [] : [{ ...site, module, layer }];
  });
  const layers = [...new Set(sites.map(({ layer }) => layer))].sort((a, b) => a - b);
  const order = topologicalOrder(Object.values(open.outputs));
  const depths = new Map<Node, number>();
  const heavy = new Set<Node>();
  for (const node of order) {
    let depth = -1;
    for (const value of node.inputs) {
      if (value?.kind === "weight") {
        heavy.add(node);
        depth = Math.max(depth, layerOf(value.name) ?? -1);
      }
      if (value?.kind !== "result") continue;
      if (heavy.has(value.node)) {
        heavy.add(node);
        depth = Math.max(depth, depths.get(value.node) ?? -1);
      }
    }
    if (heavy.has(node)) depth = Math.max(depth, layerOf(node.scope) ?? -1);
    depths.set(node, depth);
  }
  const crossing = (layer: number): Value[] => {
    const found = new Set<Value>();
    for (const node of order) {
      if ((depths.get(node) ?? -1) < layer) continue;
      for (const value of node.inputs) {
        if (value?.kind !== "result" || !heavy.has(value.node)) continue;
        if ((depths.get(value.node) ?? -1) < layer) found.add(value);
      }
    }
    return [...found];
  };
  const blocks = layers.map((layer, i): Block => {
    const next = layers[i + 1];
    return {
      layer,
      sites: sites.filter((site) => site.layer === layer),
      carriedIn: crossing(layer),
      carriedOut: next === undefined ? [] : crossing(next),
    };
  });
  return { open, blocks };
}

/** The first number in a module's path. */
function layerOf(module: string): number | undefined {
  const found = /(?:^|\.)(\d+)(?:\.|$)/.exec(module)?.[1];
  return found === undefined ? undefined : Number(found);
}

/** The name of a carried value among a program's inputs. */
export function carriedName(index: number): string {
  return `carried.${index}`;
}

/** The name of a value that is carried on, among a program's outputs. */
export function resultName(index: number): string {
  return `result.${index}`;
}

/** The flat places (of batch·seq) that are no padding. */
export const tokenRows = "token_rows";

/** An output of {@link gramGraph}: columns `from` to `from + width` of a gram, from the row `from` down. */
export interface GramStrip {
  readonly gram: string;
  /** Columns of the whole gram. */
  readonly columns: number;
  readonly from: number;
  readonly width: number;
}

/** Grams of so many columns or more are computed in strips of half as many: what is above them is the same by symmetry. */
const stripsFrom = 4096;

/**
 * What computes the inputs of a block's linear maps: Σ x·xᵀ [in, in] over the tokens at {@link tokenRows}, for each distinct
 * input. `gramOf` says which site reads which; `strips` what each output is of them.
 */
export function gramGraph(
  model: BlockedModel,
  block: Block,
  halvedFrom: number = stripsFrom,
): {
  readonly graph: Graph;
  readonly gramOf: ReadonlyMap<string, string>;
  readonly strips: ReadonlyMap<string, GramStrip>;
} {
  const rows = input(tokenRows, "int64", ["tokens"]);
  const distinct = [...new Set(block.sites.map(({ x }) => x))];
  const gramOf = new Map(block.sites.map(({ module, x }) => [module, `gram.${distinct.indexOf(x)}`]));
  const [carried, ...values] = withCarried(block, distinct);
  const strips = new Map<string, GramStrip>();
  const outputs = values.flatMap((x, i): [string, Value][] => {
    const columns = block.sites.find((site) => site.x === distinct[i])?.inFeatures ?? 0;
    const width = columns < halvedFrom ? columns : halvedFrom / 2;
    const real = gather(x, rows);
    return Array.from({ length: Math.ceil(columns / width) }, (_, part): [string, Value] => {
      const from = part * width;
      const name = `gram.${i}${from === 0 ? "" : `.${from}`}`;
      const own = Math.min(width, columns - from);
      strips.set(name, { gram: `gram.${i}`, columns, from, width: own });
      const left = from === 0 ? real : slice(real, [from], [columns], [1]);
      const right = own === columns ? real : slice(real, [from], [from + own], [1]);
      return [name, gemm(left, right, { transA: true })];
    });
  });
  return { graph: close("inputs", model, [...(carried ?? []), rows], outputs), gramOf, strips };
}

/** What carries a block's results to the next: outputs `result.i`. `replace` gives the weights it computes with. */
export function forwardGraph(
  model: BlockedModel,
  { carriedIn, carriedOut }: Pick<Block, "carriedIn" | "carriedOut">,
  replace: (value: Value) => Value | undefined,
): Graph {
  const [carried, ...values] = withCarried({ carriedIn }, carriedOut);
  const replaced = rewrite(values, { leaf: replace });
  return close(
    "forward",
    model,
    carried ?? [],
    replaced.map((value, i): [string, Value] => [resultName(i), value]),
  );
}

/** Values with those that are carried in as inputs, first these inputs. */
function withCarried(
  { carriedIn }: Pick<Block, "carriedIn">,
  values: readonly Value[],
): readonly [readonly InputValue[], ...Value[]] {
  const inputs = carriedIn.map(({ dtype, shape }, i) => input(carriedName(i), dtype, shape));
  const standIn = new Map<Value, Value>(carriedIn.map((value, i) => [value, inputs[i] as InputValue])); // one each
  const cut = rewrite(values, {
    node: (node) => {
      if (!node.outputs.some((output) => standIn.has(output))) return undefined;
      return node.outputs.map((output) => standIn.get(output) ?? output);
    },
  });
  return [inputs, ...cut];
}

function close(
  name: string,
  { open }: BlockedModel,
  inputs: readonly InputValue[],
  outputs: readonly (readonly [string, Value])[],
): Graph {
  const folded = fold(outputs.map(([, value]) => value));
  // Ids and positions come first: the sizes of all others follow from theirs.
  const leading = open.inputs.filter(({ name: own }) => own === "input_ids" || own === "position_ids");
  const named = new Map(outputs.map(([key], i) => [key, folded[i] as Value])); // as many as before
  return graph({ name, inputs: [...leading, ...inputs], outputs: named });
}
