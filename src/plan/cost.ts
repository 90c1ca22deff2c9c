import { type Graph, type Node, resolveDim, sizeOf, type Value } from "../graph/index.ts";
import { opOf } from "../ops/index.ts";
import { bytesOfValue, type Symbols } from "./memory.ts";

/** What an operator asks of a machine. */
export interface NodeCost {
  /** Multiplications and additions of a matrix product; 0 for everything else, which memory bounds. */
  readonly productFlops: number;
  /** Bytes read and written. */
  readonly movedBytes: number;
}

/** How fast a machine runs operators; see {@link measureMachine}. */
export interface Machine {
  /** Multiplications and additions of large matrix products, a second. */
  readonly flopsPerSecond: number;
  /** Bytes that operators other than products read and write, a second. */
  readonly bytesPerSecond: number;
  /** What an operator takes however small it is. */
  readonly secondsPerOperator: number;
}

/** The cost of a node at given sizes. A view costs nothing. */
export function nodeCost(node: Node, symbols: Symbols): NodeCost {
  const { view, contraction } = opOf(node);
  if (view) return { productFlops: 0, movedBytes: 0 };
  const values = [...new Set(node.inputs), ...node.outputs].filter((value): value is Value => value !== undefined);
  const movedBytes = values.reduce((bytes, value) => bytes + bytesOfValue(value, symbols), 0);
  if (contraction === undefined) return { productFlops: 0, movedBytes };
  const [output] = node.outputs;
  const size = sizeOf((output?.shape ?? []).map((dim) => resolveDim(dim, symbols) ?? 1));
  return { productFlops: 2 * size * (resolveDim(contraction(node), symbols) ?? 1), movedBytes };
}

/**
 * Seconds that a run of the graph takes: the arithmetic of its products, what all operators move, and the price of
 * calling them. The roofline model (Williams, Waterman & Patterson 2009, §2) without overlap: products of a
 * training step wait for operands that the operator before them has just written.
 */
export function runSeconds(graph: Graph, symbols: Symbols, machine: Machine): number {
  return graph.nodes.reduce((seconds, node) => {
    const { productFlops, movedBytes } = nodeCost(node, symbols);
    if (movedBytes === 0) return seconds;
    const work = productFlops / machine.flopsPerSecond + movedBytes / machine.bytesPerSecond;
    return seconds + machine.secondsPerOperator + work;
  }, 0);
}
