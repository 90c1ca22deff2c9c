import { TuneError } from "../errors.ts";
import { add, gemm, matmul, mul } from "../ops/index.ts";
import { integer, real } from "./fields.ts";
import { defineMethod, type Method } from "./method.ts";

/** Options of LoRA. */
export interface LoraConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
}

/**
 * Low-rank adaptation: y = Wx + (alpha/rank)·B(Ax). Hu et al. 2021, §4.1 eq. (3).
 * A [rank, in] starts uniform in ±1/√in (Kaiming with a = √5, as PEFT) and B [out, rank] at zero, so training starts
 * at the base model. Dropout acts on the input of A.
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
  fields: {
    rank: integer(8, "rank of the update", { min: 1 }),
    alpha: real(16, "the update is scaled by alpha / rank", { min: 0 }),
    dropout: real(0, "share of the adapter's inputs dropped while training", { min: 0, below: 1 }),
  },
  attaches: "linear",
  parameters: ({ module, inFeatures, outFeatures }, { rank }) => {
    const largest = Math.min(inFeatures, outFeatures);
    if (rank > largest) {
      throw new TuneError(
        "rank-too-large",
        `rank ${rank} exceeds the smaller side of ${module} [${outFeatures}, ${inFeatures}].`,
        {
          at: `lora, ${module}`,
          fix: `use rank ≤ ${largest}, or leave "${module.split(".").at(-1)}" out of the target modules`,
        },
      );
    }
    return {
      A: {
        shape: [rank, inFeatures],
        initial: (rng, size) => {
          const bound = 1 / Math.sqrt(inFeatures);
          return Float32Array.from({ length: size }, () => (2 * rng.uniform() - 1) * bound);
        },
      },
      B: { shape: [outFeatures, rank], initial: (_rng, size) => new Float32Array(size) },
    };
  },
  adapt: ({ x, y, dropout }, parameter, { rank, alpha, dropout: rate }) => {
    const reduced = gemm(dropout(x, rate), parameter("A"), { transB: true });
    return add(y, gemm(reduced, parameter("B"), { transB: true, alpha: alpha / rank }));
  },
  merge: (weight, parameter, { rank, alpha }) => add(weight, mul(alpha / rank, matmul(parameter("B"), parameter("A")))),
  peft: { type: "LORA", tensors: { A: "lora_A.weight", B: "lora_B.weight" } },
});
