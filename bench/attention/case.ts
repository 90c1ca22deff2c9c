/*
 * One case of bench:attention in a process of its own: the attention part of a training step, forward and backward, of a few heads.
 * Prints one line of JSON: milliseconds of each run, and the peak of the process's memory over what it was before.
 */
import { graph, input, inScope, mulDims, type Tensor, tensor, type Value } from "../../src/graph/index.ts";
import { createRng } from "../../src/linalg/index.ts";
import { exactAttention, exactAttentionFor, plannedAttention, type TaylorDegree } from "../../src/models/index.ts";
import { add, matmul, mul, reshapeTo, sumAll, transpose } from "../../src/ops/index.ts";
import { bytesOfValue } from "../../src/plan/memory.ts";
import { openNodeDevice } from "../../src/runtime/node.ts";
import { compileGraph } from "../../src/runtime/program.ts";
import { memoryChoices } from "../../src/train/memory.ts";
import { broadcastLate, differentiate, expand, fold, recompute, sumProducts } from "../../src/transforms/index.ts";

/** What is measured. */
export interface AttentionCase {
  /** Exact attention as models are tuned with at this length, with all scores of a layer at once, or by polynomials. */
  readonly kind: "exact" | "whole" | "polynomial";
  readonly degree?: TaylorDegree;
  readonly chunk?: number;
  readonly length: number;
  readonly headDim: number;
  readonly heads: number;
  /** Layers of attention, one after the other; one unless given. Times are of all. */
  readonly layers?: number;
  /** A bound on |score|. */
  readonly range: number;
  readonly memory: "fast" | "balanced" | "small";
  readonly runs: number;
  /** Whether outputs are wanted, for comparing. */
  readonly outputs?: boolean;
}

/** What was measured. */
export interface AttentionResult {
  readonly ms: readonly number[];
  readonly peakBytes: number;
  /** out, dq, dk, dv, where they were asked for. */
  readonly outputs?: Readonly<Record<string, readonly number[]>>;
}

async function measure(of: AttentionCase): Promise<AttentionResult> {
  const { headDim, heads, length, layers = 1 } = of;
  const attention =
    of.kind === "exact"
      ? exactAttentionFor(length)
      : of.kind === "whole"
        ? exactAttention
        : plannedAttention({
            ...{ chunk: of.chunk ?? 64, alone: true },
            heads: Array.from({ length: layers * heads }, (_, i) => ({
              layer: Math.floor(i / heads),
              head: i % heads,
              degree: of.degree ?? 2,
              range: of.range,
            })),
          });
  const seq = mulDims("block", attention.multiple);
  const rows = (name: string): ReturnType<typeof input> => input(name, "float32", ["batch", heads, seq, headDim]);
  const [query, key, value] = [rows("query"), rows("key"), rows("value")];
  const eye = input("eye", "float32", [headDim, headDim]);
  const positionIds = input("position_ids", "int64", ["batch", seq]);
  const attend = attention.attend(positionIds);
  /** A layer reads what those before it gave, small beside the inputs, so that scores stay as they are. */
  const layerOf = (layer: number, given: Value | undefined): Value => {
    const apart = given && reshapeTo(given, ["batch", seq, heads, headDim], [query]);
    const read = (x: Value): Value => (apart ? add(x, mul(transpose(apart, [0, 2, 1, 3]), 0.01)) : x);
    // As in a model, queries, keys and values are products, which no recomputation repeats.
    const [q, k, v] = [query, key, value].map((x) => matmul(read(x), eye)) as [Value, Value, Value];
    return attend(q, { key: k, value: v }, { scale: 1 / Math.sqrt(headDim), layer });
  };
  let mixed = inScope("layers.0", () => layerOf(0, undefined));
  for (let layer = 1; layer < layers; layer++) mixed = inScope(`layers.${layer}`, () => layerOf(layer, mixed));
  const joined = input("joined", "float32", [mulDims("batch", seq), heads * headDim]);
  const loss = sumAll(mul(mixed, joined));
  const gradients = differentiate(loss, [query, key, value]);
  const folded = sumProducts(broadcastLate(fold(expand([loss, ...gradients, mixed], new Set()))));
  const [first, ...others] = folded as [Value, ...Value[]]; // as many as before
  const symbols = { batch: 1, block: length / attention.multiple };
  const light = recompute(first, others, {
    bytes: (one) => bytesOfValue(one, symbols),
    repeatable: memoryChoices[of.memory].repeatable,
  });
  const names = ["dq", "dk", "dv", ...(of.outputs ? ["out"] : [])];
  const outputs = { loss: first, ...Object.fromEntries(names.map((name, i) => [name, light.outputs[i] as Value])) };
  const made = graph({
    name: "attention",
    inputs: [query, key, value, eye, positionIds, joined],
    outputs,
    first: [first, ...light.repeated],
  });
  const device = await openNodeDevice({ worker: false, threads: 1 });
  const program = await compileGraph(device, made, { tuning: { optimization: "disabled" } });
  const feeds = feedsOf(of);
  const before = process.memoryUsage.rss();
  const ms: number[] = [];
  let found: Readonly<Record<string, Tensor>> = {};
  for (let i = 0; i < of.runs; i++) {
    const started = performance.now();
    found = await program.run({ feeds });
    ms.push(performance.now() - started);
  }
  const peakBytes = 1024 * process.resourceUsage().maxRSS - before;
  await device.close();
  if (!of.outputs) return { ms, peakBytes };
  const values = ["out", "dq", "dk", "dv"].map(
    (name) => [name, Array.from(found[name]?.data as Float32Array)] as const,
  );
  return { ms, peakBytes, outputs: Object.fromEntries(values) };
}

/** Gaussian queries, keys and values, scaled so that the largest |score| is about the range. */
function feedsOf({ headDim, heads, length, range }: AttentionCase): Record<string, Tensor> {
  const size = heads * length * headDim;
  const some = (name: string, factor = 1): Float32Array => {
    const rng = createRng(7, name);
    return Float32Array.from({ length: size }, () => factor * rng.normal());
  };
  // Norms of Gaussian vectors lie around √d; the largest are about a quarter above.
  const longest = Math.sqrt(headDim) + 2.5;
  const factor = Math.sqrt((range * Math.sqrt(headDim)) / longest ** 2);
  const shape = [1, heads, length, headDim];
  return {
    query: tensor("float32", shape, some("query", factor)),
    key: tensor("float32", shape, some("key", factor)),
    value: tensor("float32", shape, some("value")),
    eye: tensor(
      "float32",
      [headDim, headDim],
      Float32Array.from({ length: headDim ** 2 }, (_, i) => Number(i % (headDim + 1) === 0)),
    ),
    position_ids: tensor(
      "int64",
      [1, length],
      Int32Array.from({ length }, (_, i) => i),
    ),
    joined: tensor("float32", [length, heads * headDim], some("joined")),
  };
}

console.log(JSON.stringify(await measure(JSON.parse(process.argv[2] ?? "{}") as AttentionCase)));
