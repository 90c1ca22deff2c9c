import { bytesPerElement, type Graph, type Node, resolveDim, type Value } from "../graph/index.ts";
import { opOf } from "../ops/index.ts";
import { executionOrder } from "./order.ts";

/** Sizes of a graph's symbolic dimensions, such as `batch`. */
export type Symbols = Readonly<Record<string, number>>;

/** What the values between nodes take while a graph runs. */
export interface LiveMemory {
  /** The most bytes alive at once. */
  readonly peakBytes: number;
  /** Values alive at that moment, largest first. */
  readonly atPeak: readonly { readonly value: Value; readonly bytes: number }[];
}

/** Bytes of a value. Sizes that no symbol decides count as 1. */
export function bytesOfValue({ dtype, shape }: Value, symbols: Symbols): number {
  return shape.reduce((bytes: number, dim) => bytes * (resolveDim(dim, symbols) ?? 1), bytesPerElement(dtype));
}

/**
 * Follow every value from the node that makes it to the last that reads it, in ONNX Runtime's order. Values are freed
 * right after their last reader; a view keeps what it is a view of. Weights, parameters and inputs are not counted.
 */
export function liveMemory(graph: Graph, symbols: Symbols): LiveMemory {
  const order = executionOrder(graph.nodes);
  const owner = new Map<Value, Value>();
  const ownerOf = (value: Value): Value => owner.get(value) ?? value;
  for (const node of graph.nodes) {
    const [source] = node.inputs;
    const [view] = node.outputs;
    if (opOf(node).view && source && view) owner.set(view, ownerOf(source));
  }
  const kept = new Set([...graph.outputs.values()].map(ownerOf));
  const readers = new Map<Value, number>();
  const readBy = (node: Node): readonly Value[] => [
    ...new Set(node.inputs.flatMap((value) => (value ? [ownerOf(value)] : [])).filter(({ kind }) => kind === "result")),
  ];
  for (const node of order) for (const value of readBy(node)) readers.set(value, (readers.get(value) ?? 0) + 1);
  const alive = new Map<Value, number>();
  let bytes = 0;
  let peakBytes = 0;
  let peak: readonly (readonly [Value, number])[] = [];
  const peakAt = { step: -1 };
  order.forEach((node, step) => {
    for (const output of node.outputs) {
      if (owner.has(output)) continue;
      const size = bytesOfValue(output, symbols);
      alive.set(output, size);
      bytes += size;
    }
    if (bytes > peakBytes) [peakBytes, peakAt.step] = [bytes, step];
    const dead = [
      ...readBy(node).filter((value) => {
        const left = (readers.get(value) ?? 1) - 1;
        readers.set(value, left);
        return left === 0;
      }),
      ...node.outputs.filter((output) => !owner.has(output) && (readers.get(output) ?? 0) === 0),
    ];
    for (const value of dead) {
      if (kept.has(value)) continue;
      bytes -= alive.get(value) ?? 0;
      if (step !== peakAt.step) alive.delete(value);
    }
    if (step === peakAt.step) {
      peak = [...alive];
      for (const value of dead) if (!kept.has(value)) alive.delete(value);
    }
  });
  return {
    peakBytes,
    atPeak: peak.map(([value, size]) => ({ value, bytes: size })).sort((a, b) => b.bytes - a.bytes),
  };
}
