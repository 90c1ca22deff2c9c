import { constant, type Graph, graph, input, mulDims, type Value } from "../../graph/index.ts";
import { type Attend, exactAttention, plannedAttention, type TaylorDegree } from "../../models/index.ts";
import { mul, sumAll } from "../../ops/index.ts";
import { type Machine, runSeconds } from "../../plan/cost.ts";
import { broadcastLate, differentiate, fold, sumProducts } from "../../transforms/index.ts";

/** The query heads that share a key head. */
export interface HeadGroup {
  readonly headDim: number;
  readonly group: number;
}

/** Tokens in a chunk: about as many as keep the work within chunks below that between them. */
export function chunkFor(headDim: number): number {
  return headDim <= 16 ? 64 : headDim <= 32 ? 128 : 256;
}

/**
 * Seconds that attention takes forward and backward, of one key head and those that share it, over a text of `length` tokens, at the
 * speeds of a machine: as the planner reckons the graphs of a step.
 */
export function attentionSeconds(
  { headDim, group }: HeadGroup,
  degree: TaylorDegree | undefined,
  length: number,
  machine: Machine,
): number {
  const attention =
    degree === undefined
      ? exactAttention
      : plannedAttention({ chunk: chunkFor(headDim), alone: true, heads: [{ layer: 0, head: 0, degree, range: 1 }] });
  const step = stepOf(attention.attend, attention.multiple, { headDim, group });
  return runSeconds(step, { batch: 1, block: Math.ceil(length / attention.multiple) }, machine);
}

function stepOf(attend: (positionIds: Value) => Attend, multiple: number, { headDim, group }: HeadGroup): Graph {
  const seq = mulDims("block", multiple);
  const positionIds = input("position_ids", "int64", ["batch", seq]);
  const query = input("query", "float32", ["batch", group, seq, headDim]);
  const key = input("key", "float32", ["batch", 1, seq, headDim]);
  const value = input("value", "float32", ["batch", 1, seq, headDim]);
  const out = attend(positionIds)(query, { key, value }, { scale: 1 / Math.sqrt(headDim), layer: 0 });
  const loss = sumAll(mul(out, constant(0.5)));
  const gradients = differentiate(loss, [query, key, value]);
  const [lossOut, ...rest] = sumProducts(broadcastLate(fold([loss, ...gradients]))) as [Value, ...Value[]]; // as many
  return graph({
    name: "attention",
    inputs: [positionIds, query, key, value],
    outputs: Object.fromEntries([
      ["loss", lossOut],
      ...rest.map((gradient, i) => [`gradient ${i}`, gradient] as const),
    ]),
  });
}
