import type { Graph, Node, WeightValue } from "../graph/index.ts";
import { opOf } from "../ops/index.ts";
import { readInPlace } from "../runtime/program.ts";
import { liveMemory, type Symbols } from "./memory.ts";

/** A program that a process holds, and the sizes it is run at. */
export interface PlannedProgram {
  readonly graph: Graph;
  readonly sizes: readonly Symbols[];
  /** Whether ONNX Runtime lays constant matrices out for its kernels. */
  readonly prepack: boolean;
}

/** Where the memory of a process that trains goes, at its peak. Bytes. */
export interface Footprint {
  readonly peakBytes: number;
  readonly parts: Readonly<Record<"process" | "weights" | "trained" | "activations" | "programs" | "loading", number>>;
}

/*
 * What Scion and ONNX Runtime 1.30 add to what a graph says, fitted to the configurations of `npm run bench:plan`.
 */

/** The compiler's own heap, and a session however small. */
const sessionBytes = 60e6;
/** A node in our graph, in the model file and in ONNX Runtime's session. */
const nodeBytes = 10e3;
/** Best fit in ever larger regions leaves gaps: the arena takes this much more than is alive at once. */
const arenaFactor = 1.5;

/**
 * The peak memory of a process on a CPU that opens programs one after the other, keeps them, and runs them.
 * @param processBytes what the process takes before.
 * @param trainedBytes parameters and optimiser state, which live outside the programs.
 * @param bufferBytes weights that live outside the programs and are written in parts.
 */
export function footprint(
  programs: readonly PlannedProgram[],
  {
    processBytes,
    trainedBytes,
    bufferBytes = 0,
  }: { readonly processBytes: number; readonly trainedBytes: number; readonly bufferBytes?: number },
): Footprint {
  // A run returns new parameters and state before it lets go of the old ones.
  const parts = {
    process: processBytes,
    weights: bufferBytes,
    trained: 2 * trainedBytes,
    activations: 0,
    programs: sessionBytes,
  };
  let peak: Footprint = { peakBytes: 0, parts: { ...parts, loading: 0 } };
  const reach = (loading: number): void => {
    const peakBytes = Object.values(parts).reduce((sum, bytes) => sum + bytes, loading);
    if (peakBytes > peak.peakBytes) peak = { peakBytes, parts: { ...parts, loading } };
  };
  for (const { graph, sizes, prepack } of programs) {
    const { copiedBytes, laidOutBytes, keptBytes } = weightMemory(graph, prepack);
    parts.programs += nodeBytes * graph.nodes.length;
    parts.weights += laidOutBytes + keptBytes;
    // While a session opens, what cannot be read in place is there as it was read, and as ONNX Runtime copied it.
    reach(2 * copiedBytes.all - copiedBytes.kept);
    parts.activations += arenaFactor * Math.max(0, ...sizes.map((symbols) => liveMemory(graph, symbols).peakBytes));
    reach(0);
  }
  return peak;
}

/**
 * What the weights of a program take: laid out for products, once for each that multiplies by one; as they are, where
 * something else reads them; and of those that ONNX Runtime copies while the program opens, all, and what is kept.
 */
function weightMemory(
  { nodes, weights }: Graph,
  prepack: boolean,
): {
  readonly laidOutBytes: number;
  readonly keptBytes: number;
  readonly copiedBytes: Readonly<Record<"all" | "kept", number>>;
} {
  const kept = new Set<WeightValue>();
  let laidOutBytes = 0;
  for (const node of nodes) {
    node.inputs.forEach((value, index) => {
      if (value?.kind !== "weight") return;
      if (prepack && isLaidOut(node, index)) laidOutBytes += value.source.sizeBytes;
      else kept.add(value);
    });
  }
  const sum = (values: readonly WeightValue[]): number =>
    values.reduce((bytes, { source }) => bytes + source.sizeBytes, 0);
  const copied = weights.filter((weight) => !readInPlace(weight, prepack));
  return {
    laidOutBytes,
    keptBytes: sum([...kept]),
    copiedBytes: { all: sum(copied), kept: sum(copied.filter((weight) => kept.has(weight))) },
  };
}

/** ONNX Runtime lays out the right-hand side of a product. */
function isLaidOut(node: Node, input: number): boolean {
  return input === 1 && opOf(node).contraction !== undefined;
}
