import { TuneError } from "../errors.ts";
import { type Fields, integer, oneOf, real, text } from "../fields.ts";
import type { Tensor, Value } from "../graph/index.ts";
import { add, detach, expandLike, gather, gemm, graft, mul, scatterElements, unsqueeze } from "../ops/index.ts";
import { defineMethod, type Method, type ParameterSpec, type Parameters, type Site } from "./method.ts";

/** Options of PaCA. */
export interface PacaConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly select: "random" | "first" | "norm" | "list";
  readonly columnList: string;
}

const fields: Fields<PacaConfig> = {
  rank: integer(8, "columns of each weight that are trained", { min: 1 }),
  alpha: {
    ...real(16, "what is trained is scaled by alpha / rank", { min: 0 }),
    follows: { from: ({ rank }) => 2 * Number(rank), says: "twice the rank" },
  },
  select: oneOf(["random", "first", "norm", "list"], "which: drawn, the first, the longest, or those of --column-list"),
  columnList: {
    ...text("columns to train with --select list, such as 0,5,17"),
    idle: ({ select }) => (select === "list" ? undefined : `select is ${String(select)}, and only list reads it`),
  },
};

/** The factor on the trained delta. */
export function pacaScale({ alpha, rank }: Pick<PacaConfig, "alpha" | "rank">): number {
  return alpha / rank;
}

function tensors(site: Site, { rank, select, columnList }: PacaConfig): Record<"indices" | "delta", ParameterSpec> {
  const { module, inFeatures, outFeatures, layout } = site;
  if (rank > inFeatures) {
    throw new TuneError("rank-too-large", `rank ${rank} exceeds the ${inFeatures} inputs of ${module}.`, {
      at: `paca, ${module}`,
      fix: `use rank ≤ ${inFeatures}, or leave "${module.split(".").at(-1)}" out of the target modules`,
    });
  }
  const listed = select === "list" ? listOf(columnList, rank, site) : [];
  const inOrder = (places: Iterable<number>): BigInt64Array =>
    BigInt64Array.from(
      [...places].sort((a, b) => a - b),
      BigInt,
    );
  const all = Array.from({ length: inFeatures }, (_, i) => i);
  const choices: Readonly<Record<PacaConfig["select"], ParameterSpec["initial"]>> = {
    random: (rng) => inOrder(rng.shuffle([...all]).slice(0, rank)),
    first: () => inOrder(all.slice(0, rank)),
    norm: {
      fromWeight: (weight) => {
        const lengths = columnLengths(weight, layout);
        return inOrder(all.toSorted((a, b) => (lengths[b] ?? 0) - (lengths[a] ?? 0) || a - b).slice(0, rank));
      },
    },
    list: () => inOrder(listed),
  };
  return {
    indices: {
      shape: [rank],
      dtype: "int64",
      trained: false,
      initial: choices[select],
      // biome-ignore lint/plugin: the columns that one module tunes
      check: (values) => problemWith(Array.from(values.data, Number), inFeatures),
    },
    delta: { shape: [outFeatures, rank], initial: (_rng, size) => new Float32Array(size) },
  };
}

/** Columns written as text. */
function listOf(text: string, rank: number, { module, inFeatures }: Site): readonly number[] {
  const parts = text.split(",").map((part) => part.trim());
  const places = parts.map(Number);
  const unread = parts.filter((part) => !/^\d+$/.test(part));
  const problem =
    unread.length > 0
      ? `columnList holds ${JSON.stringify(unread[0])}, which is no column`
      : places.length !== rank
        ? `columnList lists ${places.length}, but rank is ${rank}`
        : problemWith(places, inFeatures);
  if (problem === undefined) return places;
  throw new TuneError("bad-option", `The columns to train: ${problem}.`, {
    at: `paca, ${module}`,
    fix: `list ${rank} different whole numbers from 0 to ${inFeatures - 1}, separated by commas`,
  });
}

/** What is wrong with a choice of columns. */
function problemWith(places: readonly number[], inFeatures: number): string | undefined {
  const outside = places.filter((place) => !(Number.isSafeInteger(place) && place >= 0 && place < inFeatures));
  const twice = places.filter((place, i) => places.indexOf(place) !== i);
  const found = [
    ...(outside.length > 0 ? [`names ${[...new Set(outside)].slice(0, 5).join(", ")} of ${inFeatures} columns`] : []),
    ...(twice.length > 0 ? [`names ${[...new Set(twice)].slice(0, 5).join(", ")} twice`] : []),
  ];
  return found.length > 0 ? found.join(" and ") : undefined;
}

function columnLengths({ shape, data }: Tensor, layout: Site["layout"]): Float64Array {
  const [rows = 0, width = 0] = shape;
  const [count, along] = layout === "out,in" ? [width, 1] : [rows, width];
  const across = layout === "out,in" ? width : 1;
  const squares = new Float64Array(count);
  for (let column = 0; column < count; column++) {
    for (let row = 0; row < (layout === "out,in" ? rows : width); row++) {
      squares[column] = (squares[column] ?? 0) + Number(data[row * across + column * along]) ** 2;
    }
  }
  return squares;
}

/** scale·delta·x at the trained columns: x [tokens, in] -> [tokens, out]. */
function deltaOutput(x: Value, parameter: Parameters, config: PacaConfig): Value {
  return gemm(x, parameter("delta"), { transB: true, alpha: pacaScale(config) });
}

/** The trained columns, from what they are in the pretrained weight. */
function columnsNow(pretrained: Value, delta: Value, config: PacaConfig): Value {
  const scale = pacaScale(config);
  return add(pretrained, scale === 1 ? delta : mul(delta, scale));
}

/**
 * Partial connections: `rank` columns of each weight are trained where they are, W[:, c] + (alpha/rank)·Δ, all others
 * stay. Woo et al. 2025. Δ [out, rank] starts at zero, so training starts at the base model, and weight decay pulls
 * towards it. Equal to LoRA whose A is fixed and picks the columns of x.
 *
 * Training computes with the current weight itself: one product forward, one backward, as in the frozen model, and of x
 * only the columns c are kept for Δ's gradient, dyᵀ·x[:, c]. Where weights cannot be written (a GPU's buffers), the
 * delta's product stands beside the weight's.
 */
export const paca: Method<PacaConfig> = defineMethod<PacaConfig>({
  name: "paca",
  summary: "Some columns of each weight, trained where they are",
  cite: {
    title: "PaCA: Partial Connection Adaptation for Efficient Fine-Tuning",
    authors: "Sunghyeon Woo and Sol Namkung and Sunwoo Lee and Inho Jeong and Beomseok Kim and Dongsuk Jeon",
    year: 2025,
    arxiv: "2503.01905",
    at: "§3",
  },
  fields,
  attaches: "linear",
  rates: [3e-4, 1e-3, 3e-3, 1e-2],
  matched: (rank, scale) => ({ rank, alpha: scale * rank }),
  parameters: tensors,
  adapt: ({ x, y }, parameter, config) => add(y, deltaOutput(gather(x, parameter("indices"), 1), parameter, config)),
  merge: (weight, parameter, config) => {
    const columns = columnsNow(gather(weight, parameter("indices"), 1), parameter("delta"), config);
    return scatterElements(weight, expandLike(unsqueeze(parameter("indices"), [0]), columns), columns, 1);
  },
  live: {
    columns: "indices",
    trained: "delta",
    // The weight holds the delta already: y is whole, and so is dx. What is added to it is only there to be differentiated.
    adapt: ({ x, y }, parameter, config) =>
      graft(y, deltaOutput(detach(gather(x, parameter("indices"), 1)), parameter, config)),
    values: columnsNow,
  },
  asLora: ({ indices, delta }, config, { inFeatures }) => {
    const places = Array.from(indices?.data ?? [], Number);
    const select = new Float32Array(places.length * inFeatures);
    places.forEach((place, i) => {
      select[i * inFeatures + place] = 1;
    });
    const scale = Math.fround(pacaScale(config));
    return {
      A: { dtype: "float32", shape: [places.length, inFeatures], data: select },
      B: {
        dtype: "float32",
        shape: delta?.shape ?? [],
        data: Float32Array.from(delta?.data as Float32Array, (value) => value * scale), // trained tensors are float32
      },
    };
  },
  peft: {
    type: "PACA",
    tensors: { delta: "paca_delta", indices: "paca_indices" },
    // The authors' fork of PEFT keeps the columns themselves, divided by the scale.
    dialect: { absolute: "paca_w", indices: "paca_indices" },
  },
});
