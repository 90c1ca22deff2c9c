import type { TaylorDegree } from "../../models/index.ts";

/** What a polynomial of a degree would do in a head. */
export interface DegreeDiagnosis {
  readonly degree: TaylorDegree;
  /** Products of up to that many coordinates: the size of the state is this times headDim + 1. */
  readonly features: number;
  /** The largest relative error of a weight that the bound on the scores allows; `certified` in reports. */
  readonly weightError: number;
  /** Bound on what an output is off, as a multiple of the range of its column of values; null where there is none. */
  readonly outputBound: number | null;
  /** ‖Õ − O‖/‖O‖ over sampled queries: measured, and no bound. */
  readonly sampled: { readonly mean: number; readonly max: number };
  /** Its time over that of exact attention at the length, forward and backward, reckoned. */
  readonly cost: number;
}

/** What a head can be. */
export type Verdict =
  | { readonly kind: "polynomial"; readonly degree: TaylorDegree; readonly by: "certificate" | "sample" }
  | { readonly kind: "exact"; readonly why: string };

/** One query head on the texts looked at; scores with the layer's scale. */
export interface HeadDiagnosis {
  readonly layer: number;
  readonly head: number;
  readonly keyHead: number;
  readonly headDim: number;
  /** The largest |entry| of a query and of a key: the paper's Γ. */
  readonly gamma: { readonly query: number; readonly key: number };
  /** Bounds on |score|, the first token's aside: largest query norm × largest key norm, as they are and centred. */
  readonly range: { readonly plain: number; readonly centred: number };
  /** The bound that a plan would hold to: the smaller one. */
  readonly bound: number;
  /** What a plan would subtract: whatever makes the bound smaller. */
  readonly centred: { readonly query: boolean; readonly key: boolean };
  /** |score| over sampled queries and all keys that they see, the first token's too. */
  readonly scores: { readonly p50: number; readonly p90: number; readonly p99: number; readonly max: number };
  readonly degrees: readonly DegreeDiagnosis[];
  readonly verdict: Verdict;
  /** The bound with the adapter over that without; absent without one. */
  readonly growth?: number;
}

/** The whole. */
export interface AttentionReport {
  readonly model: string;
  readonly adapter?: string;
  readonly texts: number;
  /** Tokens of each text. */
  readonly length: number;
  /** √(ln length): the scale that the theorem's threshold has; it has no constant, so it is no pass mark. */
  readonly threshold: number;
  /** Weights may be off by this share where a head is certified. */
  readonly weightError: number;
  /** Outputs may be off by this share on sampled queries, where that is allowed to decide. */
  readonly sampledError?: number;
  readonly chunk: number;
  readonly heads: readonly HeadDiagnosis[];
  /** Key heads that a plan makes polynomial, and all. */
  readonly qualified: number;
  readonly keyHeads: number;
}
