import { assert } from "../errors.ts";
import { constant, type Value } from "../graph/index.ts";
import { concat, mul, split } from "../ops/index.ts";
import type { Attend, AttendOptions, SequenceAttention } from "./architecture.ts";
import { causalAttention, joinHeads } from "./attention.ts";
import { polynomialHeads, polynomialMasks } from "./polynomial-attention.ts";
import type { TaylorDegree } from "./taylor-error.ts";

/** Key heads (with the query heads that share them) whose scores go through a polynomial of this degree. */
export interface PlannedHead {
  /** The layer, from 0. */
  readonly layer: number;
  /** The key head, from 0. */
  readonly head: number;
  readonly degree: TaylorDegree;
  /** The bound on |score| that it was planned for; beyond it, training goes on with exact attention. */
  readonly range: number;
  /** What is subtracted from its keys and queries, [headDim] each. */
  readonly centres?: { readonly key?: readonly number[]; readonly query?: readonly number[] };
}

/** Which heads attend by a polynomial, as data; all others attend exactly. */
export interface HeadPlan {
  /** Tokens in a chunk, a multiple of 4: within one, scores are exact. */
  readonly chunk: number;
  /** Whether rows hold one document each; packed rows cost the square of their number of chunks. */
  readonly alone: boolean;
  readonly heads: readonly PlannedHead[];
}

/** Causal attention with the heads of a plan by polynomials ({@link polynomialHeads}), all others exactly. */
export function plannedAttention({ chunk, alone, heads }: HeadPlan): SequenceAttention {
  assert(chunk % 4 === 0 && chunk > 0, "a chunk is a multiple of 4 tokens");
  const attend: SequenceAttention["attend"] = (positionIds, watch): Attend => {
    const exact = causalAttention(positionIds);
    const masks = polynomialMasks(positionIds, chunk, { alone });
    return (query, cache, options) => {
      const own = heads.filter(({ layer }) => layer === options.layer);
      if (own.length === 0) return exact(query, cache, options);
      assert(reasonForExact(options) === undefined, () => `layer ${options.layer} can only attend exactly`);
      const kvHeads = Number(cache.key.shape[1]);
      const group = Number(query.shape[1]) / kvHeads;
      const runs = runsOf(kvHeads, own);
      const parts = (x: Value, each: number): readonly Value[] =>
        cut(
          x,
          runs.map(({ count }) => count * each),
        );
      const [queries, keys, values] = [parts(query, group), parts(cache.key, 1), parts(cache.value, 1)];
      const mixed = runs.map(({ degree, centres, ranges }, i) => {
        const [q, key, value] = [queries[i], keys[i], values[i]] as [Value, Value, Value]; // as many parts of each
        if (degree === undefined) return exact(q, { key, value }, options);
        const found = polynomialHeads(q, { key, value }, options.scale, masks, { degree, chunk, centres });
        const limits = constant(
          ranges.map((range) => 1 / range),
          "float32",
          [ranges.length],
        );
        watch?.(mul(found.ranges, limits));
        return joinHeads(found.out);
      });
      return concat(mixed, 1);
    };
  };
  const watched = [...heads].sort((a, b) => a.layer - b.layer || a.head - b.head);
  return { multiple: chunk, alone, attend, watched };
}

/** Why scores of a layer are no product of a query and a key, or not of all earlier keys; undefined where they are. */
export function reasonForExact({ window, cap, bias, bidirectional }: Omit<AttendOptions, "scale">): string | undefined {
  if (window !== undefined) return `it sees ${window} tokens back only, which is linear already`;
  if (cap !== undefined) return "its scores are capped";
  if (bias !== undefined) return "a bias is added to its scores";
  return bidirectional ? "it sees later tokens too" : undefined;
}

interface Run {
  readonly count: number;
  readonly ranges: readonly number[];
  readonly degree: TaylorDegree | undefined;
  readonly centres: { readonly key?: readonly number[]; readonly query?: readonly number[] };
}

/** Neighbouring heads that attend alike, in order. */
function runsOf(kvHeads: number, planned: readonly PlannedHead[]): readonly Run[] {
  const runs: { head: number; count: number; degree: TaylorDegree | undefined; centred: string; of: PlannedHead[] }[] =
    [];
  for (let head = 0; head < kvHeads; head++) {
    const found = planned.find((one) => one.head === head);
    const centred = `${found?.centres?.key !== undefined} ${found?.centres?.query !== undefined}`;
    const last = runs.at(-1);
    if (last && last.degree === found?.degree && last.centred === centred) {
      last.count += 1;
      if (found) last.of.push(found);
    } else runs.push({ head, count: 1, degree: found?.degree, centred, of: found ? [found] : [] });
  }
  return runs.map(({ count, degree, of }) => {
    const all = (which: "key" | "query"): readonly number[] => of.flatMap(({ centres }) => centres?.[which] ?? []);
    const [key, query] = [all("key"), all("query")];
    return {
      count,
      degree,
      ranges: of.map(({ range }) => range),
      centres: { ...(key.length > 0 ? { key } : {}), ...(query.length > 0 ? { query } : {}) },
    };
  });
}

/** Cut along the heads. */
function cut(x: Value, sizes: readonly number[]): readonly Value[] {
  return sizes.length === 1 ? [x] : split(x, sizes, 1);
}
