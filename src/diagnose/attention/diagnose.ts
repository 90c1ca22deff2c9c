import {
  featureCount,
  type HeadPlan,
  outputBound,
  type PlannedHead,
  type TaylorDegree,
  taylorDegrees,
  taylorError,
  taylorRange,
} from "../../models/index.ts";
import type { Machine } from "../../plan/cost.ts";
import { attentionSeconds, chunkFor } from "./cost.ts";
import { type HeadSample, sampleHead } from "./head.ts";
import type { AttentionProbe, Centres, ProbedLayer, ProbedText } from "./probe.ts";
import type { DegreeDiagnosis, HeadDiagnosis, Verdict } from "./report.ts";

/** What decides whether a head may attend by a polynomial. */
export interface Eligibility {
  /** Weights may be off by this share at most, by a bound that holds for every token looked at. */
  readonly weightError: number;
  /** Instead, outputs may be off by this share on sampled queries: measured, not certified. */
  readonly sampledError?: number;
  /** How much faster than exact attention it must be reckoned to be: 0.2 asks for four fifths of its time. */
  readonly hysteresis: number;
}

/** A head is certified where no weight is off by more than 3 %. */
export const eligibilityDefaults: Eligibility = { weightError: 0.03, hysteresis: 0.2 };

/** Sampled queries of a text, and every how many of them errors are measured. */
const [sampledPlaces, errorEvery] = [256, 8];

/** A diagnosis of all heads, and the plan that follows from it. */
export interface AttentionDiagnosis {
  readonly heads: readonly HeadDiagnosis[];
  readonly plan: HeadPlan;
}

/**
 * Look at every head of a model on texts of one length: norms, scores, errors, time, verdict. Spec of "Computational Limits of
 * LoRA" (arXiv 2406.03136), §4.1 to 4.3 of our design.
 * @param texts token ids, all of the same length, a multiple of 4.
 */
export async function diagnoseHeads(
  probe: AttentionProbe,
  texts: readonly Int32Array[],
  options: Eligibility & {
    readonly machine: Machine;
    readonly onProgress?: (done: number, total: number) => void;
  },
): Promise<AttentionDiagnosis> {
  const { onProgress } = options;
  const length = texts[0]?.length ?? 0;
  const count = Math.min(sampledPlaces, length);
  const places = Array.from({ length: count }, (_, i) => Math.floor(((i + 1) * length) / count) - 1);
  const total = 2 * texts.length;
  let done = 0;
  const none = probe.layers.map(({ keyHeads, headDim }) => ({
    query: new Float32Array(keyHeads * headDim),
    key: new Float32Array(keyHeads * headDim),
  }));
  const means: Centres[] = [];
  for (const ids of texts) {
    const seen = await probe.look(ids, places.slice(0, 1), none);
    means.push(seen.map(({ queryMeans, keyMeans }) => ({ query: queryMeans, key: keyMeans })));
    onProgress?.(++done, total);
  }
  const centres = none.map((_, i) => ({
    query: meanOf(means.map((of) => of[i]?.query)),
    key: meanOf(means.map((of) => of[i]?.key)),
  }));
  const heads = probe.layers.map(({ heads: n }) => Array.from({ length: n }, () => emptyHead()));
  for (const ids of texts) {
    const seen = await probe.look(ids, places, centres);
    probe.layers.forEach((layer, i) => {
      heads[i]?.forEach((head, h) => {
        lookAt(head, h, layer, seen[i] as ProbedText, length); // one a layer
      });
    });
    // What is centred follows from the norms of this text and those before.
    probe.layers.forEach((layer, i) => {
      heads[i]?.forEach((head, h) => {
        const sharing = sharingKeys(heads[i] ?? [], h, layer);
        sampleAt(head, h, {
          sharing,
          layer,
          seen: seen[i] as ProbedText,
          places,
          centre: centres[i] as Centres[number],
        });
      });
    });
    onProgress?.(++done, total);
  }
  const costs = relativeCosts(probe.layers, length, options.machine);
  const found = probe.layers.flatMap((layer, i) =>
    (heads[i] ?? []).map((head, h, all) => conclude(head, h, sharingKeys(all, h, layer), layer, costs, options)),
  );
  return { heads: found, plan: planOf(probe.layers, found, centres, options) };
}

/** The time of attention by a polynomial over that of exact attention, of a layer's heads. */
type Costs = (layer: ProbedLayer, degree: TaylorDegree) => number;

function relativeCosts(layers: readonly ProbedLayer[], length: number, machine: Machine): Costs {
  const shape = ({ headDim, heads, keyHeads }: ProbedLayer): string => `${headDim} ${heads / keyHeads}`;
  const known = new Map<string, ReadonlyMap<TaylorDegree, number>>();
  for (const layer of layers) {
    if (known.has(shape(layer))) continue;
    const group = { headDim: layer.headDim, group: layer.heads / layer.keyHeads };
    const exact = attentionSeconds(group, undefined, length, machine);
    known.set(
      shape(layer),
      new Map(taylorDegrees.map((degree) => [degree, attentionSeconds(group, degree, length, machine) / exact])),
    );
  }
  return (layer, degree) => known.get(shape(layer))?.get(degree) ?? Number.POSITIVE_INFINITY;
}

/** What is gathered of a head, text by text. */
interface Gathered {
  gammaQuery: number;
  gammaKey: number;
  /** Largest norms over texts: of queries and of keys, plain and centred. */
  query: { plain: number; centred: number };
  key: { plain: number; centred: number };
  readonly samples: HeadSample[];
}

function emptyHead(): Gathered {
  const none = { plain: 0, centred: 0 };
  return { gammaQuery: 0, gammaKey: 0, query: { ...none }, key: { ...none }, samples: [] };
}

function lookAt(head: Gathered, h: number, { heads, keyHeads }: ProbedLayer, seen: ProbedText, length: number): void {
  const keyHead = Math.floor(h / (heads / keyHeads));
  const most = (norms: Float32Array, row: number, from: number): number => {
    let found = 0;
    for (let i = from; i < length; i++) found = Math.max(found, norms[row * length + i] ?? 0);
    return found;
  };
  head.gammaQuery = Math.max(head.gammaQuery, seen.queryEntries[h] ?? 0);
  head.gammaKey = Math.max(head.gammaKey, seen.keyEntries[keyHead] ?? 0);
  head.query.plain = Math.max(head.query.plain, most(seen.queryNorms, h, 0));
  head.query.centred = Math.max(head.query.centred, most(seen.centredQueryNorms, h, 0));
  // Every query meets the first key exactly.
  head.key.plain = Math.max(head.key.plain, most(seen.keyNorms, keyHead, 1));
  head.key.centred = Math.max(head.key.centred, most(seen.centredKeyNorms, keyHead, 1));
}

function sampleAt(
  head: Gathered,
  h: number,
  {
    sharing,
    layer: { heads, keyHeads, headDim },
    seen,
    places,
    centre,
  }: {
    readonly sharing: readonly Gathered[];
    readonly layer: ProbedLayer;
    readonly seen: ProbedText;
    readonly places: readonly number[];
    readonly centre: Centres[number];
  },
): void {
  const keyHead = Math.floor(h / (heads / keyHeads));
  const row = (values: Float32Array, index: number, count: number): Float32Array => {
    const size = values.length / count;
    return values.subarray(index * size, (index + 1) * size);
  };
  const keys = row(seen.keys, keyHead, keyHeads);
  const values = row(seen.values, keyHead, keyHeads);
  const { query, key } = centredOf(sharing);
  head.samples.push(
    sampleHead(
      {
        headDim,
        valueDim: (values.length / keys.length) * headDim,
        queries: row(seen.queries, h, heads),
        places,
        keys,
        values,
        centres: {
          ...(query ? { query: row(centre.query, keyHead, keyHeads) } : {}),
          ...(key ? { key: row(centre.key, keyHead, keyHeads) } : {}),
        },
      },
      { chunk: chunkFor(headDim), errorEvery },
    ),
  );
}

/** The query heads that share a head's keys, itself among them. */
function sharingKeys(all: readonly Gathered[], h: number, { heads, keyHeads }: ProbedLayer): readonly Gathered[] {
  const group = heads / keyHeads;
  const first = h - (h % group);
  return all.slice(first, first + group);
}

/** Of heads that share keys: a centre is taken off where that makes the largest norm of all smaller. */
function centredOf(sharing: readonly Gathered[]): HeadDiagnosis["centred"] {
  const smaller = (part: "query" | "key"): boolean =>
    Math.max(...sharing.map((head) => head[part].centred)) < Math.max(...sharing.map((head) => head[part].plain));
  return { query: smaller("query"), key: smaller("key") };
}

function conclude(
  head: Gathered,
  h: number,
  sharing: readonly Gathered[],
  layer: ProbedLayer,
  costs: Costs,
  options: Eligibility,
): HeadDiagnosis {
  const { heads, keyHeads, headDim, exactOnly } = layer;
  const group = heads / keyHeads;
  const centred = centredOf(sharing);
  const bound =
    (centred.query ? head.query.centred : head.query.plain) * (centred.key ? head.key.centred : head.key.plain);
  const degrees = taylorDegrees.map((degree): DegreeDiagnosis => {
    const weightError = taylorError(degree, -bound, bound);
    const errors = head.samples.flatMap(({ errors: all }) => all[degree]);
    const limit = outputBound(weightError);
    return {
      degree,
      features: featureCount(headDim, degree),
      weightError,
      outputBound: Number.isFinite(limit) ? limit : null,
      sampled: { mean: errors.reduce((sum, error) => sum + error, 0) / errors.length, max: Math.max(...errors) },
      cost: costs(layer, degree),
    };
  });
  const sizes = head.samples.map((sample) => sample.sizes);
  return {
    layer: layer.layer,
    head: h,
    keyHead: Math.floor(h / group),
    headDim,
    gamma: { query: head.gammaQuery, key: head.gammaKey },
    range: { plain: head.query.plain * head.key.plain, centred: head.query.centred * head.key.centred },
    bound,
    centred,
    scores: {
      p50: quantile(sizes, 0.5),
      p90: quantile(sizes, 0.9),
      p99: quantile(sizes, 0.99),
      max: quantile(sizes, 1),
    },
    degrees,
    verdict: exactOnly === undefined ? verdictOf(degrees, options) : { kind: "exact", why: exactOnly },
  };
}

function verdictOf(
  degrees: readonly DegreeDiagnosis[],
  { weightError, sampledError, hysteresis }: Eligibility,
): Verdict {
  for (const { degree, weightError: certified, sampled, cost } of degrees) {
    if (cost > 1 - hysteresis) continue;
    if (certified <= weightError) return { kind: "polynomial", degree, by: "certificate" };
    if (sampledError !== undefined && sampled.max <= sampledError) return { kind: "polynomial", degree, by: "sample" };
  }
  const fits = degrees.find(
    ({ weightError: certified, sampled }) =>
      certified <= weightError || (sampledError !== undefined && sampled.max <= sampledError),
  );
  return {
    kind: "exact",
    why: fits ? `degree ${fits.degree} would do, but is not faster at this length` : "its scores are too large",
  };
}

/** The mean of the quantiles of texts, which are of one length. */
function quantile(sorted: readonly Float32Array[], share: number): number {
  const of = (values: Float32Array): number =>
    values[Math.min(values.length - 1, Math.floor(share * values.length))] ?? 0;
  if (share === 1) return Math.max(...sorted.map(of));
  return sorted.reduce((sum, values) => sum + of(values), 0) / sorted.length;
}

function meanOf(vectors: readonly (Float32Array | undefined)[]): Float32Array {
  const [first = new Float32Array()] = vectors;
  return first.map((_, i) => vectors.reduce((sum, vector) => sum + (vector?.[i] ?? 0), 0) / vectors.length);
}

/** A key head is planned where all query heads that share it may go by a polynomial: the highest degree that one of them asks for. */
function planOf(
  layers: readonly ProbedLayer[],
  found: readonly HeadDiagnosis[],
  centres: Centres,
  { weightError }: Eligibility,
): HeadPlan {
  const planned = layers.flatMap(({ layer, keyHeads, headDim, scale }) =>
    Array.from({ length: keyHeads }, (_, keyHead): PlannedHead | undefined => {
      const own = found.filter((head) => head.layer === layer && head.keyHead === keyHead);
      const degrees = own.map(({ verdict }) => (verdict.kind === "polynomial" ? verdict.degree : undefined));
      if (degrees.some((degree) => degree === undefined)) return undefined;
      const row = (values: Float32Array | undefined): readonly number[] =>
        Array.from(values?.subarray(keyHead * headDim, (keyHead + 1) * headDim) ?? []);
      const { query = false, key = false } = own[0]?.centred ?? {}; // those that share keys are centred alike
      const degree = Math.max(...(degrees as TaylorDegree[])) as TaylorDegree; // none is undefined
      const certified = own.every(({ verdict }) => verdict.kind === "polynomial" && verdict.by === "certificate");
      // A certificate says for which scores it holds; what was measured is taken to hold for a little larger ones.
      const range = certified ? taylorRange(degree, weightError) : 1.2 * Math.max(...own.map(({ bound }) => bound));
      return {
        layer,
        head: keyHead,
        degree,
        range,
        centres: {
          ...(query ? { query: row(centres[layer]?.query).map((x) => x / scale) } : {}),
          ...(key ? { key: row(centres[layer]?.key) } : {}),
        },
      };
    }),
  );
  const chunk = chunkFor(Math.max(0, ...layers.map(({ headDim }) => headDim)));
  return { chunk, alone: true, heads: planned.filter((head) => head !== undefined) };
}
