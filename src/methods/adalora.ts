import { TuneError } from "../errors.ts";
import { type Fields, integer, oneOf, real } from "../fields.ts";
import { constant, type Value } from "../graph/index.ts";
import {
  abs,
  add,
  cast,
  concat,
  div,
  gemm,
  less,
  matmul,
  mul,
  reduceMean,
  reshape,
  scatterElements,
  slice,
  sqrt,
  sub,
  sumAll,
  sumSquares,
  topIndices,
  transpose,
} from "../ops/index.ts";
import { type BudgetPlan, budgetAt, planBudget } from "./adalora-budget.ts";
import { defineMethod, type Method, type Parameters, type Site, type TrainedSite } from "./method.ts";

/** Options of AdaLoRA. */
export interface AdaloraConfig {
  readonly initialRank: number;
  readonly targetRank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly budgetWarmup: number;
  readonly budgetFinal: number;
  readonly budgetEvery: number;
  readonly sensitivityDecay: number;
  readonly uncertaintyDecay: number;
  readonly orthogonalWeight: number;
  readonly orthogonalForm: "peft" | "paper";
}

const fields: Fields<AdaloraConfig> = {
  initialRank: integer(12, "rank that every matrix starts with", { min: 1 }),
  targetRank: integer(8, "mean rank that is left at the end", { min: 0 }),
  alpha: {
    ...real(24, "the update is scaled by alpha / initial rank", { min: 0 }),
    follows: { from: ({ initialRank }) => 2 * Number(initialRank), says: "twice the initial rank" },
  },
  dropout: real(0, "share of the adapter's inputs dropped while training", { min: 0, below: 1 }),
  budgetWarmup: real(0.1, "updates before pruning begins; below 1 a share of all", { min: 0 }),
  budgetFinal: real(0.4, "updates after pruning has ended; below 1 a share of all", { min: 0 }),
  budgetEvery: integer(1, "updates between prunings", { min: 1 }),
  sensitivityDecay: real(0.85, "how slowly smoothed sensitivity changes", { min: 0, below: 1 }),
  uncertaintyDecay: real(0.85, "how slowly its uncertainty changes", { min: 0, below: 1 }),
  orthogonalWeight: real(0.5, "weight of the penalty that keeps the factors orthogonal", { min: 0 }),
  orthogonalForm: {
    ...oneOf(["peft", "paper"], "mean of Frobenius norms, as PEFT, or sum of their squares, as eq. (4)"),
    idle: ({ orthogonalWeight }) => (orthogonalWeight === 0 ? "orthogonalWeight is 0" : undefined),
  },
};

/** alpha over the initial rank, whatever is pruned later; with PEFT's 1e-5, which counts when bits are compared. */
export function adaloraScale({ alpha, initialRank }: Pick<AdaloraConfig, "alpha" | "initialRank">): number {
  return alpha / (initialRank + 1e-5);
}

function matrices(
  { module, inFeatures, outFeatures }: Site,
  { initialRank }: AdaloraConfig,
): ReturnType<Method["parameters"]> {
  const largest = Math.min(inFeatures, outFeatures);
  if (initialRank > largest) {
    throw new TuneError(
      "rank-too-large",
      `initialRank ${initialRank} exceeds the smaller side of ${module} [${outFeatures}, ${inFeatures}].`,
      {
        at: `adalora, ${module}`,
        fix: `use initialRank ≤ ${largest}, or leave "${module.split(".").at(-1)}" out of the target modules`,
      },
    );
  }
  const normal = {
    initial: (rng: { normal(): number }, size: number) =>
      Float32Array.from({ length: size }, () => 0.02 * rng.normal()),
  };
  return {
    A: { shape: [initialRank, inFeatures], ...normal },
    B: { shape: [outFeatures, initialRank], ...normal },
    E: { shape: [initialRank, 1], initial: (_rng, size) => new Float32Array(size) },
  };
}

/** B·diag(E)·scale [out, rank]: with it the update is a LoRA's, and costs no more than one. */
function scaledB(parameter: Parameters, config: AdaloraConfig): Value {
  return mul(parameter("B"), mul(transpose(parameter("E"), [1, 0]), adaloraScale(config)));
}

/**
 * How far the rows of A and the columns of B are from orthonormal. `peft`: mean over all 2n matrices of ‖M‖, as PEFT and
 * the authors' code; `paper`: Σ ‖M‖², eq. (4). M = AAᵀ − I or BᵀB − I.
 */
function orthogonality(
  sites: readonly TrainedSite<AdaloraConfig>[],
  { orthogonalForm, orthogonalWeight }: AdaloraConfig,
): Value {
  const terms = sites.flatMap(({ parameter, config: { initialRank } }) => {
    const identity = constant(
      Array.from({ length: initialRank ** 2 }, (_, i) => Number(i % (initialRank + 1) === 0)),
      "float32",
      [initialRank, initialRank],
    );
    const [A, B] = [parameter("A"), parameter("B")];
    return [gemm(A, A, { transB: true }), gemm(B, B, { transA: true })].map((product) => {
      const square = sumSquares(sub(product, identity));
      // The norm's slope at zero is no number; this far below float32's resolution of the products it is one.
      return orthogonalForm === "paper" ? square : sqrt(add(square, 1e-12));
    });
  });
  const sum = terms.reduce((total, term) => add(total, term));
  return mul(orthogonalForm === "paper" ? sum : div(sum, terms.length), orthogonalWeight);
}

/**
 * Adaptive budget: W + (alpha/initialRank)·P diag(λ) Q, where over a run the least important triplets {P column, λ, Q
 * row} of the whole model are pruned until `targetRank` a matrix are left on average. Zhang et al. 2023, §3; B, E and A
 * are the paper's P, λ and Q. E starts at zero, so training starts at the base model.
 *
 * The step's graph keeps the smoothed sensitivity |w·g| of every element and its uncertainty (§3.2), with the updated
 * w and the clipped g as PEFT and the authors' code do, scores triplets by their products (means over a
 * triplet's vectors), and sets λ to zero outside the budget of {@link budgetAt}. A pruned λ still gets a gradient and
 * may come back, until the last selection; from then on the pruned ones are zero after every update.
 */
export const adalora: Method<AdaloraConfig> = defineMethod<AdaloraConfig>({
  name: "adalora",
  summary: "Low-rank updates that share a budget of ranks by importance",
  cite: {
    title: "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
    authors:
      "Qingru Zhang and Minshuo Chen and Alexander Bukharin and Nikos Karampatziakis and Pengcheng He and Yu Cheng and Weizhu Chen and Tuo Zhao",
    year: 2023,
    arxiv: "2303.10512",
    at: "§3 eq. (4) and (14)",
  },
  fields,
  attaches: "linear",
  rates: [3e-4, 1e-3, 3e-3, 1e-2],
  matched: (rank, scale) => {
    const initialRank = Math.ceil(1.5 * rank); // as in the paper: half as much again, to choose from
    return { initialRank, targetRank: rank, alpha: scale * initialRank };
  },
  parameters: matrices,
  adapt: ({ x, y, dropout }, parameter, config) => {
    const reduced = gemm(dropout(x, config.dropout), parameter("A"), { transB: true });
    return add(y, gemm(reduced, scaledB(parameter, config), { transB: true }));
  },
  merge: (weight, parameter, config) => add(weight, matmul(scaledB(parameter, config), parameter("A"))),
  ranks: ({ E }, { initialRank }) => ({
    rank: Array.from(E?.data ?? [], Number).filter((value) => value !== 0).length,
    of: initialRank,
  }),
  asLora: ({ A, B, E }, config) => {
    const [a, b, e] = [A, B, E].map((tensor) => tensor?.data as Float32Array); // trained tensors are float32
    const [inFeatures, outFeatures] = [A?.shape[1] ?? 0, B?.shape[0] ?? 0];
    const kept = [...(e ?? [])].flatMap((value, i) => (value === 0 ? [] : [i]));
    const scale = adaloraScale(config);
    const [left, right] = [new Float32Array(outFeatures * kept.length), new Float32Array(kept.length * inFeatures)];
    kept.forEach((triplet, i) => {
      for (let j = 0; j < inFeatures; j++) {
        right[i * inFeatures + j] = (a?.[triplet * inFeatures + j] ?? 0) * (e?.[triplet] ?? 0);
      }
      for (let j = 0; j < outFeatures; j++) {
        left[j * kept.length + i] = (b?.[j * config.initialRank + triplet] ?? 0) * scale;
      }
    });
    return {
      A: { dtype: "float32", shape: [kept.length, inFeatures], data: right },
      B: { dtype: "float32", shape: [outFeatures, kept.length], data: left },
    };
  },
  training: {
    schedule: ({ steps, sites }, config) => {
      const plan = planBudget(steps, config, {
        initial: sites.reduce((sum, site) => sum + site.config.initialRank, 0),
        target: sites.reduce((sum, site) => sum + site.config.targetRank, 0),
      });
      return { scalars: (step) => budgetScalars(plan, step), settledFrom: plan.lastSelection + 1 };
    },
    penalty: orthogonality,
    track: {
      state: ["sensitivity", "uncertainty"],
      update: ({ parameter, gradient, state, scalar }, { sensitivityDecay, uncertaintyDecay }) => {
        const towards = (from: Value, to: Value, decay: number): Value =>
          add(from, mul(sub(to, from), mul(scalar("adalora_track"), 1 - decay)));
        const now = abs(mul(parameter, gradient));
        const sensitivity = towards(state("sensitivity"), now, sensitivityDecay);
        const uncertainty = towards(state("uncertainty"), abs(sub(now, sensitivity)), uncertaintyDecay);
        return { state: { sensitivity, uncertainty }, score: mul(sensitivity, uncertainty) };
      },
    },
    settle: (sites, { scalar, state }) => {
      const ranks = sites.map(({ config }) => config.initialRank);
      const scores = concat(
        sites.map(({ score }, i) => {
          const over = (key: string, axis: number): Value => reduceMean(score(key), [axis], { keep: false });
          return add(add(reshape(score("E"), [ranks[i] as number]), over("B", 0)), over("A", 1)); // a rank a site
        }),
        0,
      );
      const total = ranks.reduce((sum, rank) => sum + rank, 0);
      const places = constant(Array.from({ length: total }, (_, i) => i));
      // From the most important down; of equal ones the first, so that ties keep as many as the budget says.
      const beyond = sub(1, cast(less(places, scalar("adalora_budget")), "float32"));
      const selected = scatterElements(places, topIndices(scores, total), beyond, 0);
      const before = state("pruned", [total]);
      const pruned = add(before, mul(sub(selected, before), scalar("adalora_select")));
      const factors = sub(1, mul(pruned, scalar("adalora_mask")));
      let start = 0;
      const parameters = new Map(
        sites.map(({ module, parameter }, i) => {
          const end = start + (ranks[i] as number); // a rank a site
          const own = reshape(slice(factors, [start], [end], [0]), [end - start, 1]);
          start = end;
          return [module, { E: mul(parameter("E"), own) }];
        }),
      );
      return {
        parameters,
        state: { pruned },
        reports: { budget: sub(total, sumAll(pruned)), importance: sumAll(scores) },
      };
    },
  },
  peft: { type: "ADALORA", tensors: { A: "lora_A", B: "lora_B", E: "lora_E" }, tokenRows: true },
});

function budgetScalars(plan: BudgetPlan, step: number): Readonly<Record<string, number>> {
  const { budget, tracks, selects, masks } = budgetAt(plan, step - 1);
  return {
    adalora_budget: budget,
    adalora_track: Number(tracks),
    adalora_select: Number(selects),
    adalora_mask: Number(masks),
  };
}
