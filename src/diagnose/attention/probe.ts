import { type InputValue, input, type Tensor, tensor, type Value, withScope } from "../../graph/index.ts";
import { type Adapter, attach, checkParameters } from "../../methods/index.ts";
import { exactAttention, type OpenGraph, type PretrainedModel, reasonForExact } from "../../models/index.ts";
import {
  abs,
  gather,
  mul,
  reduceMax,
  reduceMean,
  reduceSum,
  reshapeTo,
  scale as scaled,
  sqrt,
  squeeze,
  sub,
} from "../../ops/index.ts";
import type { Device } from "../../runtime/device.ts";
import { onShare } from "../../runtime/device-share.ts";
import { compileGraph } from "../../runtime/program.ts";
import { type BaseWeightsName, heldGraph } from "../../train/base-weights.ts";
import { fold, readInPlace } from "../../transforms/index.ts";

/** How one layer attends. */
export interface ProbedLayer {
  readonly layer: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly headDim: number;
  /** Scores are query·key·scale. */
  readonly scale: number;
  /** Why its scores are no products of a query and a key alone; undefined where they are. */
  readonly exactOnly: string | undefined;
}

/** What a layer's heads read of one text of L tokens; queries are scaled, so that scores are query·key. */
export interface ProbedText {
  /** [heads, rows, headDim]: at the sampled places. */
  readonly queries: Float32Array;
  /** [keyHeads, L, headDim]. */
  readonly keys: Float32Array;
  /** [keyHeads, L, valueDim]. */
  readonly values: Float32Array;
  /** [heads, L]: Euclidean norms, as they are and with the layer's centre of queries taken off. */
  readonly queryNorms: Float32Array;
  readonly centredQueryNorms: Float32Array;
  /** [keyHeads, L]. */
  readonly keyNorms: Float32Array;
  readonly centredKeyNorms: Float32Array;
  /** [heads] and [keyHeads]: the largest |entry|, of queries that are not scaled. */
  readonly queryEntries: Float32Array;
  readonly keyEntries: Float32Array;
  /** [keyHeads, headDim]: means over the text, of queries over those that share a key head. */
  readonly queryMeans: Float32Array;
  readonly keyMeans: Float32Array;
}

/** What is subtracted from the queries and keys of each layer, [keyHeads, headDim]. */
export type Centres = readonly { readonly query: Float32Array; readonly key: Float32Array }[];

/** A model that shows what its heads read. */
export interface AttentionProbe {
  readonly layers: readonly ProbedLayer[];
  /** One text, with the centres given, at the places given: a layer after the other. */
  look(ids: Int32Array, places: readonly number[], centres: Centres): Promise<readonly ProbedText[]>;
  close(): Promise<void>;
}

const outputs = [
  "queries",
  "keys",
  "values",
  "queryNorms",
  "centredQueryNorms",
  "keyNorms",
  "centredKeyNorms",
  "queryEntries",
  "keyEntries",
  "queryMeans",
  "keyMeans",
] as const satisfies readonly (keyof ProbedText)[];

/**
 * Open a causal language model for looking at its queries and keys as it really applies them: rotary positions, biases and norms
 * included, with an adapter attached or not.
 * @throws {TuneError} `task-mismatch` for other models, `adapter-mismatch`.
 */
export function openProbe(
  device: Device,
  model: PretrainedModel,
  { adapter, baseWeights }: { readonly adapter?: Adapter; readonly baseWeights?: BaseWeightsName },
): Promise<AttentionProbe> {
  return onShare(device, async (share) => {
    const { layers, inputs, named, hidden } = probeGraph(model);
    const { outputModule } = model.architecture;
    // An adapter attaches to the whole model, also behind the last queries and keys.
    const attached = adapter && attach({ ...named, hidden }, { ...adapter, outputModule, training: false });
    const shown = Object.keys(named).map((name) => (attached?.outputs ?? named)[name] as Value); // attaching keeps names
    const folded = readInPlace(fold(shown));
    const graph = heldGraph(baseWeights, {
      name: "attention probe",
      inputs,
      outputs: Object.fromEntries(Object.keys(named).map((name, i) => [name, folded[i] as Value])), // one a name
    });
    const program = await compileGraph(share, graph);
    if (attached && adapter) {
      checkParameters(attached.trainables, adapter.parameters, model.folder);
      for (const [name, values] of adapter.parameters) await share.upload(name, values);
    }
    const reads = Object.fromEntries(program.graph.parameters.map(({ name }) => [name, name]));
    const taken = new Set(program.graph.inputs.map(({ name }) => name));
    return {
      layers,
      look: async (ids, places, centres) => {
        const { feeds } = textFeeds(ids, places);
        centres.forEach(({ query, key }, i) => {
          const { keyHeads, headDim } = layers[i] as ProbedLayer; // as many
          feeds[`query_centre.${i}`] = tensor("float32", [keyHeads, 1, headDim], query);
          feeds[`key_centre.${i}`] = tensor("float32", [keyHeads, 1, headDim], key);
        });
        const given = Object.fromEntries(Object.entries(feeds).filter(([name]) => taken.has(name)));
        const found = await program.run({ feeds: given, reads });
        return layers.map((_, i) =>
          Object.fromEntries(outputs.map((name) => [name, found[`${name}.${i}`]?.data])),
        ) as unknown as readonly ProbedText[]; // every output of every layer
      },
      close: () => share.close(),
    };
  });
}

/** Whole rows of a multiple of what exact attention takes: what is left over at the end of a text is not looked at. */
export function wholeLength(tokens: number): number {
  return tokens - (tokens % exactAttention.multiple);
}

function textFeeds(ids: Int32Array, places: readonly number[]): { readonly feeds: Record<string, Tensor> } {
  const positions = Int32Array.from({ length: ids.length }, (_, i) => i);
  return {
    feeds: {
      input_ids: tensor("int64", [1, ids.length], ids),
      position_ids: tensor("int64", [1, ids.length], positions),
      places: tensor("int64", [places.length], places),
    },
  };
}

function probeGraph(model: PretrainedModel): {
  readonly layers: readonly ProbedLayer[];
  readonly inputs: readonly InputValue[];
  readonly named: OpenGraph["outputs"];
  readonly hidden: Value;
} {
  const layers: ProbedLayer[] = [];
  const places = input("places", "int64", ["rows"]);
  const centres: InputValue[] = [];
  const named: Record<string, Value> = {};
  const { inputs, outputs: whole } = model.hidden({
    ...exactAttention,
    attend: (positionIds) => {
      const exact = exactAttention.attend(positionIds);
      return (query, cache, options) => {
        const i = layers.length;
        const [batch = 1, heads, seq = 1, headDim] = query.shape as readonly [
          number | string,
          number,
          number | string,
          number,
        ]; // rank 4
        const keyHeads = Number(cache.key.shape[1]);
        layers.push({ layer: i, heads, keyHeads, headDim, scale: options.scale, exactOnly: reasonForExact(options) });
        const centre = (part: string): InputValue => {
          const made = input(`${part}_centre.${i}`, "float32", [keyHeads, 1, headDim]);
          centres.push(made);
          return made;
        };
        const group = heads / keyHeads;
        withScope("probe", () => {
          const q = scaled(query, options.scale);
          const grouped = reshapeTo(q, [batch, keyHeads, group, seq, headDim], [query]);
          const norms = (x: Value, axis: number): Value => sqrt(reduceSum(mul(x, x), [axis], { keep: false }));
          const flat = (x: Value): Value => squeeze(x, [0]);
          const far = reshapeTo(centre("query"), [keyHeads, 1, 1, headDim], []);
          const made: Record<(typeof outputs)[number], Value> = {
            queries: flat(gather(q, places, 2)),
            keys: flat(cache.key),
            values: flat(cache.value),
            queryNorms: flat(norms(q, 3)),
            centredQueryNorms: flat(reshapeTo(norms(sub(grouped, far), 4), [batch, heads, seq], [query])),
            keyNorms: flat(norms(cache.key, 3)),
            centredKeyNorms: flat(norms(sub(cache.key, centre("key")), 3)),
            queryEntries: flat(reduceMax(abs(query), [2, 3], { keep: false })),
            keyEntries: flat(reduceMax(abs(cache.key), [2, 3], { keep: false })),
            queryMeans: flat(reduceMean(grouped, [2, 3], { keep: false })),
            keyMeans: flat(reduceMean(cache.key, [2], { keep: false })),
          };
          for (const [name, value] of Object.entries(made)) named[`${name}.${i}`] = value;
        });
        return exact(query, cache, options);
      };
    },
  });
  return { layers, inputs: [...inputs, places, ...centres], named, hidden: whole["hidden"] as Value }; // its one output
}
