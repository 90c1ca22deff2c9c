import { real } from "../../fields.ts";
import { input, tensor } from "../../graph/index.ts";
import {
  ArgMax,
  apply,
  cast,
  equal,
  gatherElements,
  gemm,
  logSoftmax,
  mul,
  neg,
  reciprocal,
  sumAll,
  unsqueeze,
} from "../../ops/index.ts";
import { embeddingForward, pairBatch, sides } from "./embedding.ts";
import { defineObjective, type Objective } from "./objective.ts";

/** Options of {@link contrastive}. */
export interface ContrastiveConfig {
  readonly similarityScale: number;
}

/**
 * Of all second texts of a batch, each first text is to be nearest to its own: the cross-entropy of scaled cosines.
 * Henderson et al. 2017 (arXiv 1705.00652), §4.4; `MultipleNegativesRankingLoss` in sentence-transformers.
 */
export const contrastive: Objective<ContrastiveConfig> = defineObjective<ContrastiveConfig>({
  name: "contrastive",
  summary: "bring texts that go together near, and apart from all others of the batch",
  cite: {
    title: "Efficient Natural Language Response Suggestion for Smart Reply",
    authors: "Henderson, Al-Rfou, Strope, Sung, Lukacs, Guo, Kumar, Miklos, Kurzweil",
    year: 2017,
    arxiv: "1705.00652",
    at: "§4.4",
  },
  fields: { similarityScale: real(20, "what cosines are multiplied by before the softmax", { min: 0 }) },
  learnsFrom: "texts",
  meanOver: "pairs",
  examples: { refused: "every pair of a batch is held against all others" },
  forward: embeddingForward,
  loss: ({ tuned }, { similarityScale }) => {
    const [first, second] = sides(tuned);
    const own = input("own", "int64", ["pairs"]);
    const normaliser = input("normaliser", "float32", []);
    const scores = gemm(first, second, { transB: true, alpha: similarityScale });
    const column = unsqueeze(own, [1]);
    const right = cast(equal(apply(ArgMax, [scores], { axis: { type: "int", value: 1 } }), column), "float32");
    return {
      inputs: [own, normaliser],
      loss: neg(mul(sumAll(gatherElements(logSoftmax(scores), column, 1)), reciprocal(normaliser))),
      measures: { nearest: mul(sumAll(right), reciprocal(normaliser)) },
    };
  },
  batch: (examples, layout) => {
    const batch = pairBatch(examples, layout);
    const places = Int32Array.from(examples, (_, i) => i);
    return { ...batch, feeds: { ...batch.feeds, own: tensor("int64", [places.length], places) } };
  },
});
