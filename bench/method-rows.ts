import { chooseMethod, type Method, type MethodChoice } from "../src/methods/index.ts";
import { add } from "../src/ops/index.ts";
import type { BaseWeightsName } from "../src/train/base-weights.ts";

/** A row of the benchmark of methods: what is trained, on what. */
export interface MethodRow {
  readonly choice: (rank: number) => MethodChoice;
  readonly targets: "all-linear" | readonly string[];
  readonly baseWeights?: BaseWeightsName;
  /** PEFT's method of the same mathematics, as `side_method_peft.py` calls it. */
  readonly peer?: string;
}

/**
 * The frozen forward pass and the gradient of what flows through it, down to the first layer: what every method pays. A
 * vector beside the first layer's queries, keys and values asks for it, and costs next to nothing itself.
 */
const floor = {
  name: "floor",
  summary: "forward and dX alone",
  fields: {},
  attaches: "linear",
  parameters: ({ outFeatures }) => ({
    shift: { shape: [outFeatures], initial: (_rng, size) => new Float32Array(size) },
  }),
  adapt: ({ y }, parameter) => add(y, parameter("shift")),
  merge: (weight) => weight,
} satisfies Method;

const lora = (rank: number): MethodChoice => chooseMethod("lora", { rank, alpha: 2 * rank });

/** What the benchmark of a step trains. */
export const loraRow: MethodRow = { choice: lora, targets: "all-linear", peer: "lora" };

/** Every row by name. Adding one is adding a record here. */
export const methodRows: Readonly<Record<string, MethodRow>> = {
  floor: {
    choice: () => ({ method: floor, config: {} }),
    targets: ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj"],
  },
  lora: loraRow,
  dora: { choice: (rank) => chooseMethod("dora", { rank, alpha: 2 * rank }), targets: "all-linear" },
  adalora: {
    // The run is longer than the benchmark, so that every update selects and masks, the dearest kind.
    choice: (rank) =>
      chooseMethod("adalora", {
        initialRank: rank,
        targetRank: rank / 2,
        alpha: 2 * rank,
        budgetWarmup: 0,
        budgetFinal: 0,
      }),
    targets: "all-linear",
    peer: "adalora",
  },
  paca: { choice: (rank) => chooseMethod("paca", { rank, alpha: rank }), targets: "all-linear" },
  "lora q8": { choice: lora, targets: "all-linear", baseWeights: "q8" },
  "lora q4": { choice: lora, targets: "all-linear", baseWeights: "q4" },
  "dora q4": {
    choice: (rank) => chooseMethod("dora", { rank, alpha: 2 * rank }),
    targets: "all-linear",
    baseWeights: "q4",
  },
  "paca q8": {
    choice: (rank) => chooseMethod("paca", { rank, alpha: rank }),
    targets: "all-linear",
    baseWeights: "q8",
  },
  "paca q4": {
    choice: (rank) => chooseMethod("paca", { rank, alpha: rank }),
    targets: "all-linear",
    baseWeights: "q4",
  },
  // Behind the same sublayers, of the same width: what Kronecker products cost against dense matrices.
  bottleneck: {
    choice: () => chooseMethod("bottleneck", { reduction: 24, frozenNorms: true }),
    targets: ["o_proj", "down_proj"],
  },
  compacter: {
    choice: () => chooseMethod("compacter", { reduction: 24, frozenNorms: true }),
    targets: ["o_proj", "down_proj"],
  },
};
