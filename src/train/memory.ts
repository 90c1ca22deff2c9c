import type { Node } from "../graph/index.ts";
import { opOf } from "../ops/index.ts";

/** What a step spends to take less memory. No choice changes a gradient beyond float32 rounding. */
export interface MemoryChoice {
  /** Which operators of the forward pass the backward pass may run again instead of keeping what they gave. */
  readonly repeatable: (node: Node) => boolean;
  /** Whether ONNX Runtime lays frozen weights out for its kernels: faster products, a copy for each direction. */
  readonly prepack: boolean;
  readonly summary: string;
}

/** From the most memory to the least. */
export const memoryChoices: Readonly<Record<"fast" | "balanced" | "small", MemoryChoice>> = {
  fast: {
    repeatable: () => false,
    prepack: true,
    summary: "keep everything the backward pass reads",
  },
  balanced: {
    repeatable: (node) => opOf(node).cost === "memory" || node.inputs.length === 1,
    prepack: true,
    summary: "recompute norms, masks and activation functions",
  },
  small: {
    repeatable: (node) => opOf(node).cost === "memory" || !readsWeights(node),
    prepack: false,
    summary: "recompute attention too, and keep one copy of the weights",
  },
};

/** Name of a choice. */
export type MemoryChoiceName = keyof typeof memoryChoices;

function readsWeights(node: Node): boolean {
  return node.inputs.some((value) => value?.kind === "weight" || value?.kind === "parameter");
}
