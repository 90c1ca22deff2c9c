import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { besides, columnsOf, type Matrix, matmul, qr, rowsOf, svd, transposed, zeroMatrix } from "../linalg/index.ts";
import {
  type Adapter,
  adaptedModules,
  chooseMethod,
  configAt,
  type LoraConfig,
  loraScale,
  parameterName,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { asLora } from "./as-lora.ts";

/** An adapter, and how much of it. */
export interface WeightedAdapter {
  readonly adapter: Adapter;
  /** Its update is multiplied by this; negative takes it away. */
  readonly weight: number;
}

/**
 * How updates become one, as PEFT's `add_weighted_adapter` has it.
 * `cat`: ranks are added up, and the update is the weighted sum exactly. `svd`: the best update of a given rank for that
 * sum. `linear`: A and B are summed each for itself, which is no sum of the updates, but keeps the rank.
 */
export const combinations = ["cat", "svd", "linear"] as const;
export type Combination = (typeof combinations)[number];

/** How to combine. */
export interface CombineOptions {
  readonly how?: Combination;
  /** Rank of the result by `svd`; the largest among the adapters unless given. */
  readonly rank?: number;
}

/** One adapter's part in a module: A [rank, in], B [out, rank], and the factor of B·A. */
interface Part {
  readonly A: Matrix<Float64Array>;
  readonly B: Matrix<Float64Array>;
  readonly factor: number;
}

type Pair = Omit<Part, "factor">;

/**
 * Add adapters of one model up, each with its weight, to one plain LoRA adapter.
 * @throws {TuneError} `bad-option` when weights or ranks do not fit; `no-adapter-form` for adapters that are no LoRA, or
 * hold whole modules or biases, of which there can be but one.
 */
export function combineAdapters(
  model: PretrainedModel,
  adapters: readonly WeightedAdapter[],
  { how = "cat", rank }: CombineOptions = {},
): Adapter {
  refuse(adapters, { how, ...(rank === undefined ? {} : { rank }) });
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const parts = new Map<string, Part[]>();
  const ranks: number[] = [];
  for (const { adapter, weight } of adapters) {
    const lora = asLora(model, adapter, "the combination of adapters");
    const modules = adaptedModules(outputs, { ...lora, outputModule });
    const configs = modules.map((module) => configAt(lora.choice, module) as unknown as LoraConfig); // of LoRA
    ranks.push(Math.max(...configs.map((config) => config.rank)));
    for (const [i, module] of modules.entries()) {
      const read = (key: string): Matrix<Float64Array> =>
        matrixOf(lora.parameters.get(parameterName(module, lora.choice.method.name, key)) as Tensor); // of LoRA
      const factor = weight * loraScale(configs[i] as LoraConfig); // one a module
      parts.set(module, [...(parts.get(module) ?? []), { A: read("A"), B: read("B"), factor }]);
    }
  }
  const total = ranks.reduce((sum, value) => sum + value, 0);
  const wanted = how === "cat" ? total : (rank ?? Math.max(...ranks));
  const parameters = new Map<string, Tensor>();
  for (const [module, own] of parts) {
    const { A, B } = padded(combine[how](own, { rank: wanted, module }), wanted);
    parameters.set(parameterName(module, "lora", "A"), tensorOf(A));
    parameters.set(parameterName(module, "lora", "B"), tensorOf(B));
  }
  const { dropout = 0 } = (adapters[0] as WeightedAdapter).adapter.choice.config; // there is one, or it was refused
  // Every factor is in A and B now.
  return {
    choice: chooseMethod("lora", { rank: wanted, alpha: wanted, dropout }),
    targets: [...parts.keys()],
    parameters,
  };
}

const combine: Readonly<
  Record<Combination, (parts: readonly Part[], target: { rank: number; module: string }) => Pair>
> = {
  cat: (parts) => stacked(parts),
  svd: (parts, { rank }) => {
    // Of B·A without ever making it: B = Q·R and Aᵀ = P·S, so that the small R·Sᵀ has its singular values.
    const { A, B } = stacked(parts);
    const [left, right] = [qr(B), qr(transposed(A))];
    const { U, S, Vt } = svd(matmul(left.R, transposed(right.R)));
    const kept = Math.min(rank, S.length);
    const lengths = matmul(left.Q, columnsOf(U, 0, kept));
    return {
      A: matmul(rowsOf(Vt, 0, kept), transposed(right.Q)),
      B: { ...lengths, data: lengths.data.map((value, i) => value * (S[i % kept] ?? 0)) },
    };
  },
  linear: (parts, { module }) => {
    const [first] = parts as [Part]; // a module has a part
    if (parts.some(({ A }) => A.rows !== first.A.rows)) {
      throw new TuneError(
        "bad-option",
        `The adapters have ranks ${parts.map(({ A }) => A.rows).join(" and ")} at ${module}.`,
        {
          at: "combining by linear",
          fix: "combine by cat or svd, which take any ranks",
        },
      );
    }
    // The sign goes to one side alone.
    return {
      A: summed(parts.map(({ A, factor }) => scaled(A, Math.sign(factor) * Math.sqrt(Math.abs(factor))))),
      B: summed(parts.map(({ B, factor }) => scaled(B, Math.sqrt(Math.abs(factor))))),
    };
  },
};

/** Side by side: the product is the sum of the products. */
function stacked(parts: readonly Part[]): Pair {
  const [firstA, ...otherA] = parts.map(({ A, factor }) => transposed(scaled(A, factor)));
  const [firstB, ...otherB] = parts.map(({ B }) => B);
  if (!firstA || !firstB) throw new Error("a module has a part");
  return { A: transposed(besides(firstA, ...otherA)), B: besides(firstB, ...otherB) };
}

/** Zeros behind what is shorter than the rank. */
function padded({ A, B }: Pair, rank: number): Pair {
  const lacking = rank - A.rows;
  if (lacking === 0) return { A, B };
  return {
    A: transposed(besides(transposed(A), zeroMatrix(A.cols, lacking))),
    B: besides(B, zeroMatrix(B.rows, lacking)),
  };
}

function scaled(matrix: Matrix<Float64Array>, factor: number): Matrix<Float64Array> {
  return { ...matrix, data: matrix.data.map((value) => factor * value) };
}

function summed(matrices: readonly Matrix<Float64Array>[]): Matrix<Float64Array> {
  const [first, ...others] = matrices as [Matrix<Float64Array>]; // one a part
  return {
    ...first,
    data: first.data.map((value, i) => others.reduce((sum, { data }) => sum + (data[i] ?? 0), value)),
  };
}

function matrixOf({ shape, data }: Tensor): Matrix<Float64Array> {
  const [rows = 0, cols = 0] = shape;
  return { rows, cols, data: Float64Array.from(data as Float32Array) }; // adapters are float32
}

function tensorOf({ rows, cols, data }: Matrix): Tensor {
  return { dtype: "float32", shape: [rows, cols], data: Float32Array.from(data) };
}

function refuse(adapters: readonly WeightedAdapter[], { how, rank }: CombineOptions & { how: Combination }): void {
  const problems: string[] = [];
  if (adapters.length === 0) problems.push("there is no adapter");
  for (const { weight } of adapters) if (!Number.isFinite(weight)) problems.push(`the weight ${weight} is no number`);
  if (rank !== undefined && how !== "svd") problems.push(`a rank is given, but ${how} has its own`);
  if (rank !== undefined && !(Number.isSafeInteger(rank) && rank > 0)) problems.push(`the rank ${rank} is not above 0`);
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, {
      at: "combining adapters",
      fix: "give adapters with a weight each; a rank only with svd",
    });
  }
  if (adapters.some(({ adapter }) => adapter.choice.inPlace !== undefined)) {
    throw new TuneError(
      "no-adapter-form",
      "An adapter with whole modules, biases or tokens cannot be added to others.",
      {
        at: "combining adapters",
        fix: "use adapters that were trained without them",
      },
    );
  }
}
