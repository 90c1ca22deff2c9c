import type { Node } from "../graph/index.ts";
import { opOf } from "../ops/index.ts";
import { laidOutBytes } from "../runtime/program.ts";

/** What a step spends to take less memory. No choice changes a gradient beyond float32 rounding. */
export interface MemoryChoice {
  /** Which operators of the forward pass the backward pass may run again instead of keeping what they gave. */
  readonly repeatable: (node: Node) => boolean;
  /**
   * Up to how many bytes of frozen weights ONNX Runtime lays out for its kernels: faster products of tens of rows, for a
   * copy of each weight in each direction.
   */
  readonly laidOutBytes: number;
  readonly summary: string;
}

/** From the most memory to the least. */
export const memoryChoices: Readonly<Record<"fast" | "balanced" | "small", MemoryChoice>> = {
  fast: {
    repeatable: () => false,
    laidOutBytes: Number.POSITIVE_INFINITY,
    summary: "keep everything the backward pass reads",
  },
  balanced: {
    repeatable: (node) => opOf(node).cost === "memory" || node.inputs.length === 1,
    laidOutBytes,
    summary: "recompute norms, masks and activation functions",
  },
  small: {
    repeatable: (node) => opOf(node).cost === "memory" || !readsWeights(node),
    laidOutBytes: 0,
    summary: "recompute attention too, and keep one copy of the weights",
  },
};

/** Name of a choice. */
export type MemoryChoiceName = keyof typeof memoryChoices;

function readsWeights(node: Node): boolean {
  return node.inputs.some((value) => value?.kind === "weight" || value?.kind === "parameter");
}
