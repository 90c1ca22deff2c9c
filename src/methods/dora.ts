import type { Tensor, Value } from "../graph/index.ts";
import { add, detach, div, gemm, mul, reduceSum, sqrt, sub, transpose, unsqueeze } from "../ops/index.ts";
import {
  checkRank,
  departureOf,
  type LoraConfig,
  loraCommon,
  loraFields,
  loraMatrices,
  loraOutput,
  loraUpdate,
} from "./lora.ts";
import { defineMethod, type Method, type Site } from "./method.ts";

/**
 * Weight-decomposed low-rank adaptation: W' = m ∘ (W + s·BA) / ‖W + s·BA‖, a trained length m [out] for every row and
 * LoRA for its direction. Liu et al. 2024, §3.2 eq. (5); the norm is a constant of the gradient, §4.3 eq. (11). m starts
 * at the rows' own lengths, so training starts at the base model.
 */
export const dora: Method<LoraConfig> = defineMethod<LoraConfig>({
  name: "dora",
  summary: "LoRA for the direction of each row of a weight, and a trained length",
  cite: {
    title: "DoRA: Weight-Decomposed Low-Rank Adaptation",
    authors:
      "Shih-Yang Liu and Chien-Yi Wang and Hongxu Yin and Pavlo Molchanov and Yu-Chiang Frank Wang and Kwang-Ting Cheng and Min-Hung Chen",
    year: 2024,
    arxiv: "2402.09353",
    at: "§3.2 eq. (5), §4.3 eq. (11)",
  },
  fields: loraFields,
  attaches: "linear",
  matched: (rank, scale) => ({ rank, alpha: scale * rank }),
  parameters: (site, config) => ({
    ...loraMatrices(site, config),
    magnitude: {
      shape: [site.outFeatures],
      initial: { fromWeight: (weight) => rowLengths(weight, site) },
      decays: true, // as in Hugging Face's Trainer, which knows no other vectors than norms and biases
    },
  }),
  departure: departureOf,
  check: checkRank,
  common: loraCommon,
  adapt: ({ site, x, y, bias, dropout }, parameter, config) => {
    const weight = site.layout === "out,in" ? site.weight : transpose(site.weight, [1, 0]);
    const lengths = detach(lengthsOf(add(weight, loraUpdate(parameter, config))));
    const scale = div(parameter("magnitude"), lengths);
    const dropped = dropout(x, config.dropout);
    // What dropout leaves of x goes through the weight too, as in PEFT.
    const unbiased = bias ? sub(y, bias) : y;
    const product = dropped === x ? unbiased : gemm(dropped, site.weight, { transB: site.layout === "out,in" });
    return add(y, add(mul(product, sub(scale, 1)), mul(loraOutput(dropped, parameter, config), scale)));
  },
  merge: (weight, parameter, config) => {
    const updated = add(weight, loraUpdate(parameter, config));
    return mul(updated, unsqueeze(div(parameter("magnitude"), lengthsOf(updated)), [1]));
  },
  peft: {
    type: "LORA",
    flag: "use_dora",
    tensors: { A: "lora_A.weight", B: "lora_B.weight", magnitude: "lora_magnitude_vector" },
    tokenRows: true,
  },
});

/** Euclidean lengths of the rows of a weight [out, in] -> [out]. */
function lengthsOf(weight: Value): Value {
  return sqrt(reduceSum(mul(weight, weight), [1], { keep: false }));
}

function rowLengths({ data }: Tensor, { inFeatures, outFeatures, layout }: Site): Float32Array {
  const [across, along] = layout === "out,in" ? [inFeatures, 1] : [1, outFeatures];
  return Float32Array.from({ length: outFeatures }, (_, row) => {
    let sum = 0;
    for (let i = 0; i < inFeatures; i++) sum += Number(data[row * across + i * along]) ** 2;
    return Math.sqrt(sum);
  });
}
