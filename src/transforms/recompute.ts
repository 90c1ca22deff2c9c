import { type Node, topologicalOrder, type Value, withScope } from "../graph/index.ts";
import { minimumCut } from "./minimum-cut.ts";
import { rebuild } from "./rewrite.ts";

/** What to weigh when values are recomputed. */
export interface RecomputeOptions {
  /** What keeping a value until the backward pass costs. */
  readonly bytes: (value: Value) => number;
  /** Whether a node of the forward pass may be run again. */
  readonly repeatable: (node: Node) => boolean;
}

/** Outputs whose backward pass recomputes what it can. */
export interface Recomputed {
  readonly outputs: readonly Value[];
  /** The repeated values: to be declared before the backward pass, so that ONNX Runtime runs them when they are read. */
  readonly repeated: readonly Value[];
  /** Bytes of the forward pass's values that the backward pass still reads. */
  readonly savedBytes: number;
}

/**
 * Keep as few bytes as possible of the forward pass for the backward pass, and run cheap operators again for the rest:
 * a minimum cut between what must be computed once and what is read later (the partitioner of PyTorch's AOTAutograd).
 * `outputs` are what the step computes besides `loss`. Every repeated operator sees the inputs it saw before, so the
 * results are the same bit by bit.
 */
export function recompute(loss: Value, outputs: readonly Value[], options: RecomputeOptions): Recomputed {
  const forward = new Set(topologicalOrder([loss]));
  const backward = topologicalOrder(outputs).filter((node) => !forward.has(node));
  const isForward = (value: Value | undefined): value is Value => value?.kind === "result" && forward.has(value.node);
  const read = new Set(backward.flatMap((node) => node.inputs.filter(isForward)));
  const repeated = valuesToRepeat(read, forward, options);

  const again = new Map<Value, Value>();
  const repeat = (value: Value): Value => {
    if (value.kind !== "result" || !repeated.has(value)) return value;
    if (!again.has(value)) {
      const { node } = value;
      const results = withScope(`${node.scope}/grad`, () =>
        rebuild(
          node,
          node.inputs.map((source) => source && repeat(source)),
        ),
      );
      node.outputs.forEach((output, i) => {
        again.set(output, results[i] as Value); // as many as before
      });
    }
    return again.get(value) as Value; // set above
  };
  const rewritten = new Map<Value, Value>();
  for (const node of backward) {
    const inputs = node.inputs.map((value) => value && (rewritten.get(value) ?? repeat(value)));
    if (inputs.every((value, i) => value === node.inputs[i])) continue;
    const results = withScope(node.scope, () => rebuild(node, inputs));
    node.outputs.forEach((output, i) => {
      rewritten.set(output, results[i] as Value); // as many as before
    });
  }
  const kept = new Set<Value>();
  for (const value of read) for (const source of keptFor(value, repeated)) kept.add(source);
  return {
    outputs: outputs.map((value) => rewritten.get(value) ?? value),
    repeated: [...again.values()],
    savedBytes: [...kept].reduce((sum, value) => sum + options.bytes(value), 0),
  };
}

/** The kept values from which a value is recomputed; itself when it is kept. */
function keptFor(value: Value, repeated: ReadonlySet<Value>, found = new Set<Value>()): ReadonlySet<Value> {
  if (value.kind !== "result") return found;
  if (!repeated.has(value)) return found.add(value);
  for (const source of value.node.inputs) if (source) keptFor(source, repeated, found);
  return found;
}

function valuesToRepeat(
  read: ReadonlySet<Value>,
  forward: ReadonlySet<Node>,
  { bytes, repeatable }: RecomputeOptions,
): ReadonlySet<Value> {
  // What depends on no product (masks, rotary tables) is shared by all layers: repeating it would keep it all the same.
  const deep = new Set<Node>();
  for (const node of forward) {
    const below = node.inputs.some((value) => value?.kind === "result" && deep.has(value.node));
    if (below || !repeatable(node)) deep.add(node);
  }
  const places = new Map<Value, number>();
  const reached: Value[] = [];
  const reach = (value: Value): number => {
    const known = places.get(value);
    if (known !== undefined) return known;
    const place = reached.push(value) - 1;
    places.set(value, place);
    return place;
  };
  for (const value of read) reach(value);
  const may = (value: Value): boolean => value.kind === "result" && repeatable(value.node) && deep.has(value.node);
  const edges: { from: number; to: number; capacity: number }[] = [];
  const [source, sink] = [0, 1];
  const [entry, exit] = [(place: number): number => 2 + 2 * place, (place: number): number => 3 + 2 * place];
  for (let place = 0; place < reached.length; place++) {
    const value = reached[place] as Value; // grows as it is walked
    edges.push({ from: entry(place), to: exit(place), capacity: bytes(value) });
    if (read.has(value)) edges.push({ from: exit(place), to: sink, capacity: Number.POSITIVE_INFINITY });
    if (!may(value)) {
      edges.push({ from: source, to: entry(place), capacity: Number.POSITIVE_INFINITY });
      continue;
    }
    for (const input of value.kind === "result" ? value.node.inputs : []) {
      if (input?.kind !== "result") continue;
      edges.push({ from: exit(reach(input)), to: entry(place), capacity: Number.POSITIVE_INFINITY });
    }
  }
  const sinkSide = minimumCut(2 + 2 * reached.length, edges, source, sink);
  return new Set(reached.filter((_, place) => sinkSide.has(entry(place))));
}
