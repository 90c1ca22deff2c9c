import { assert, TuneError } from "../errors.ts";
import { type Fields, flag, integer, oneOf, real } from "../fields.ts";
import type { Tensor, Value } from "../graph/index.ts";
import { add, gather, gemm, matmul, mul, reshape, reshapeTo } from "../ops/index.ts";
import { type LoraInit, loraDeparture, loraEmbeddingStart, loraInits, loraStart } from "./lora-init.ts";
import {
  type Departure,
  defineMethod,
  type EmbeddingForm,
  type Method,
  type ParameterSpec,
  type Parameters,
  type Site,
} from "./method.ts";

/** Options of LoRA and of the methods made from it. */
export interface LoraConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly dropout: number;
  readonly plusRatio: number;
  readonly freezeA: boolean;
  readonly init: LoraInit;
}

/** What they are on the command line. */
export const loraFields: Fields<LoraConfig> = {
  rank: integer(8, "rank of the update", { min: 1 }),
  alpha: {
    ...real(16, "the update is scaled by alpha / rank", { min: 0 }),
    follows: { from: ({ rank, rslora }) => (rslora ? 16 : 2 * Number(rank)), says: "twice the rank; 16 with rslora" },
  },
  rslora: flag(false, "scale by alpha / √rank instead, which suits high ranks (rsLoRA)"),
  dropout: real(0, "share of the adapter's inputs dropped while training", { min: 0, below: 1 }),
  plusRatio: {
    ...real(1, "learning rate of B as a multiple of A's (LoRA+; 16 is a good start)", { min: 0 }),
    idle: ({ freezeA }) => (freezeA ? "A is not trained (freezeA)" : undefined),
  },
  freezeA: flag(false, "train B alone and leave A as it starts (FFA-LoRA)"),
  init: oneOf(loraInits, "how A and B start: as no update, or as a part of the weight (PiSSA, OLoRA)"),
};

/** The factor on B·A: alpha/rank; Kalajdzievski 2023 (arXiv 2312.03732), §3, eq. (1): alpha/√rank. */
export function loraScale({ rank, alpha, rslora }: LoraConfig): number {
  return alpha / (rslora ? Math.sqrt(rank) : rank);
}

/**
 * A [rank, in] and B [out, rank]. B may learn faster: LoRA+, Hayou et al. 2024 (arXiv 2402.12354), §4. Or B alone learns:
 * FFA-LoRA, Sun et al. 2024 (arXiv 2403.12313), §4.
 */
export function loraMatrices(site: Site, config: LoraConfig): Record<"A" | "B", ParameterSpec> {
  const { inFeatures, outFeatures } = site;
  const { rank, plusRatio, freezeA } = config;
  const start = loraStart(site, config, loraScale(config));
  return {
    A: { shape: [rank, inFeatures], initial: start.A, trained: !freezeA },
    B: { shape: [outFeatures, rank], initial: start.B, rate: freezeA ? 1 : plusRatio },
  };
}

/** @throws {TuneError} `rank-too-large` when a weight has no such rank. */
export function checkRank({ module, inFeatures, outFeatures }: Site, { rank }: LoraConfig): void {
  const largest = Math.min(inFeatures, outFeatures);
  if (rank <= largest) return;
  throw new TuneError(
    "rank-too-large",
    `rank ${rank} exceeds the smaller side of ${module} [${outFeatures}, ${inFeatures}].`,
    {
      at: `lora, ${module}`,
      fix: `use rank ≤ ${largest}, or leave "${module.split(".").at(-1)}" out of the target modules`,
    },
  );
}

/** What is left of a weight whose largest part A and B start as; see `lora-init.ts`. */
export function departureOf(site: Site, config: LoraConfig): Departure<LoraConfig> | undefined {
  return loraDeparture(site, config, loraScale(config));
}

/** LoRA of the largest rank, with every factor in B and zeros behind what is shorter. */
export const loraCommon: NonNullable<Method<LoraConfig>["common"]> = {
  config: (configs) => {
    const [first] = configs as [LoraConfig]; // of one adapter at least
    const rank = Math.max(...configs.map((config) => config.rank));
    return { ...first, rank, alpha: rank, rslora: false, init: "kaiming" };
  },
  tensors: ({ A, B, ...others }, from, to) => {
    const [a, b] = [A as Tensor, B as Tensor]; // of a method that has them
    const [[, into = 0], [out = 0]] = [a.shape, b.shape];
    const tall = new Float32Array(to.rank * into);
    tall.set(a.data as Float32Array); // adapters are float32
    const wide = new Float32Array(out * to.rank);
    const factor = loraScale(from) / loraScale(to);
    for (let i = 0; i < out; i++) {
      for (let j = 0; j < from.rank; j++) wide[i * to.rank + j] = factor * Number(b.data[i * from.rank + j]);
    }
    return {
      ...others,
      A: { dtype: "float32", shape: [to.rank, into], data: tall },
      B: { dtype: "float32", shape: [out, to.rank], data: wide },
    };
  },
};

/** scale·B·A [out, in]. */
export function loraUpdate(parameter: Parameters, config: LoraConfig): Value {
  return mul(loraScale(config), matmul(parameter("B"), parameter("A")));
}

/** scale·B·(A·x) [tokens, out]. */
export function loraOutput(x: Value, parameter: Parameters, config: LoraConfig): Value {
  const reduced = gemm(x, parameter("A"), { transB: true });
  return gemm(reduced, parameter("B"), { transB: true, alpha: loraScale(config) });
}

/**
 * The update of a looked-up row is (alpha/rank)·B·A[:, id]: A [rank, tokens] starts at zero and B [hidden, rank] from
 * N(0, 1), as in PEFT, where dropout does not act on embeddings either. Columns of A are looked up, so nothing is as large
 * as a product with the vocabulary.
 */
const loraEmbedding: EmbeddingForm<LoraConfig> = {
  parameters: ({ inFeatures, outFeatures }, config) => {
    const start = loraEmbeddingStart(config);
    return {
      A: { shape: [config.rank, inFeatures], initial: start.A, trained: !config.freezeA },
      B: { shape: [outFeatures, config.rank], initial: start.B },
    };
  },
  check: (site, config) => {
    checkRank(site, config);
    if (config.freezeA && config.init !== "random") {
      throw new TuneError(
        "bad-option",
        `A of an embedding, such as ${site.module}, starts at zero: with freezeA nothing would be learned there.`,
        {
          at: "freezeA",
          fix: `train A too, start with init "random", or leave "${site.module.split(".").at(-1)}" out of the target modules`,
        },
      );
    }
    if (config.plusRatio === 1) return;
    throw new TuneError("bad-option", `LoRA+ has no ratio for embeddings, such as ${site.module}.`, {
      at: "plusRatio",
      fix: `leave plusRatio at 1, or leave "${site.module.split(".").at(-1)}" out of the target modules`,
    });
  },
  adapt: ({ site, ids, y }, parameter, config) => {
    const columns = gather(parameter("A"), reshape(ids, [-1]), 1); // [rank, rows]
    const rows = gemm(columns, parameter("B"), { transA: true, transB: true, alpha: loraScale(config) });
    return add(y, y.shape.length === 2 ? rows : reshapeTo(rows, [...ids.shape, site.outFeatures], [ids]));
  },
};

/**
 * Low-rank adaptation: y = Wx + (alpha/rank)·B(Ax). Hu et al. 2021, §4.1 eq. (3).
 * A [rank, in] starts uniform in ±1/√in (Kaiming with a = √5, as PEFT) and B [out, rank] at zero, so training starts
 * at the base model; other starts are in `lora-init.ts`. Dropout acts on the input of A.
 */
export const lora: Method<LoraConfig> = defineMethod<LoraConfig>({
  name: "lora",
  summary: "Low-rank update beside each chosen linear layer",
  cite: {
    title: "LoRA: Low-Rank Adaptation of Large Language Models",
    authors:
      "Edward J. Hu and Yelong Shen and Phillip Wallis and Zeyuan Allen-Zhu and Yuanzhi Li and Shean Wang and Lu Wang and Weizhu Chen",
    year: 2021,
    arxiv: "2106.09685",
    at: "§4.1 eq. (3)",
  },
  fields: loraFields,
  attaches: "linear",
  matched: (rank, scale) => ({ rank, alpha: scale * rank }),
  parameters: loraMatrices,
  departure: departureOf,
  check: checkRank,
  common: loraCommon,
  adapt: ({ x, y, dropout }, parameter, config) => add(y, loraOutput(dropout(x, config.dropout), parameter, config)),
  merge: (weight, parameter, config) => add(weight, loraUpdate(parameter, config)),
  embedding: loraEmbedding,
  asLora: ({ A, B }, config) => {
    assert(A !== undefined && B !== undefined, "LoRA has A and B");
    const scale = loraScale(config);
    return { A, B: { ...B, data: Float32Array.from(B.data as Float32Array, (value) => scale * value) } }; // as trained
  },
  peft: {
    type: "LORA",
    tensors: { A: "lora_A.weight", B: "lora_B.weight" },
    embedding: { A: "lora_embedding_A", B: "lora_embedding_B" },
    tokenRows: true,
  },
});
