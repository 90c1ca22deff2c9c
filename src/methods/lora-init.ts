import type { LazyTensor, Tensor } from "../graph/index.ts";
import {
  besides,
  columnsOf,
  createRng,
  leadingTriplets,
  type Matrix,
  matmul,
  operatorOf,
  qr,
  type Rng,
  rowsOf,
  type Svd,
  svd,
  transposed,
} from "../linalg/index.ts";
import type { Departure, ParameterSpec, Site } from "./method.ts";

/** How A and B start. */
export const loraInits = ["kaiming", "gaussian", "pissa", "olora", "random"] as const;
export type LoraInit = (typeof loraInits)[number];

/** What decides it. */
interface InitConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly init: LoraInit;
}

/** A [rank, in] and B [out, rank]. */
interface Start {
  readonly A: Matrix<Float64Array>;
  readonly B: Matrix<Float64Array>;
}

/** The starts that are parts of the weight W [out, in] itself, so that scale·B·A is one. */
const factorisations: Readonly<
  Partial<Record<LoraInit, (weight: Matrix<Float64Array>, rank: number, scale: number) => Promise<Start>>>
> = {
  // Meng et al. 2024 (arXiv 2404.02948), eqs. (2)–(4): the largest singular values, half of each on either side.
  pissa: async (weight, rank, scale) => {
    const { U, S, Vt } = await largestTriplets(weight, rank);
    const halves = S.subarray(0, rank).map((value) => Math.sqrt(value / scale));
    const [A, B] = [rowsOf(Vt, 0, rank), columnsOf(U, 0, rank)];
    return {
      A: { ...A, data: A.data.map((value, i) => value * (halves[Math.floor(i / A.cols)] ?? 0)) },
      B: { ...B, data: B.data.map((value, i) => value * (halves[i % rank] ?? 0)) },
    };
  },
  // Büyükakyüz 2024 (arXiv 2406.01775), §3: the first rows of R and columns of Q, as they are.
  olora: async (weight, rank) => {
    const { Q, R } = qr(weight);
    return { A: rowsOf(R, 0, rank), B: columnsOf(Q, 0, rank) };
  },
};

/** Sides up to which a whole decomposition takes seconds at most. */
const wholeSide = 384;

/**
 * The largest singular values and their vectors. Of a large matrix they are those that a few products find: how near they
 * come matters little, since whatever part is taken out of the weight, training starts at the same model.
 */
async function largestTriplets(weight: Matrix<Float64Array>, count: number): Promise<Svd<Float64Array>> {
  if (Math.min(weight.rows, weight.cols) <= wholeSide) return svd(weight);
  return leadingTriplets(operatorOf(weight), count, {
    rng: createRng(0, "pissa"),
    block: Math.max(16, Math.ceil(count / 2)),
    iterations: 3,
    looks: 1,
  });
}

/** How A and B get their initial values: drawn, or computed from the weight. `scale` is the factor on B·A. */
export function loraStart(
  site: Site,
  config: InitConfig,
  scale: number,
): Readonly<Record<"A" | "B", ParameterSpec["initial"]>> {
  const { rank, init } = config;
  if (factorisations[init]) {
    return {
      A: { fromWeight: async (weight) => Float32Array.from((await startOf(weight, site, config, scale)).A.data) },
      B: { fromWeight: async (weight) => Float32Array.from((await startOf(weight, site, config, scale)).B.data) },
    };
  }
  const zeros = (_rng: Rng, size: number): Float32Array => new Float32Array(size);
  if (init === "gaussian") {
    return { A: (rng, size) => Float32Array.from({ length: size }, () => rng.normal() / rank), B: zeros };
  }
  return { A: uniform(site.inFeatures), B: init === "random" ? uniform(rank) : zeros };
}

/** The same beside an embedding, where PEFT leaves weights whole and A at zero whatever the start is called. */
export function loraEmbeddingStart({ init }: Pick<InitConfig, "init">): Readonly<Record<"A" | "B", Drawn>> {
  const normal: Drawn = (rng, size) => Float32Array.from({ length: size }, () => rng.normal());
  return { A: init === "random" ? normal : (_rng, size) => new Float32Array(size), B: normal };
}

type Drawn = (rng: Rng, size: number) => Float32Array;

/** As torch's linear layers start: uniform in ±1/√in, which is Kaiming's with a = √5. */
function uniform(inFeatures: number): (rng: Rng, size: number) => Float32Array {
  const bound = 1 / Math.sqrt(inFeatures);
  return (rng, size) => Float32Array.from({ length: size }, () => (2 * rng.uniform() - 1) * bound);
}

/**
 * What PiSSA and OLoRA do to the frozen weight: W − scale·B₀·A₀ stands in its place while A and B are trained. Beside the
 * whole weight the same update is [B, −B₀]·[A; A₀]: LoRA of twice the rank, with the same scale.
 */
export function loraDeparture<Config extends InitConfig>(
  site: Site,
  config: Config,
  scale: number,
): Departure<Config> | undefined {
  if (!factorisations[config.init]) return undefined;
  return {
    base: async (weight) => {
      const { A, B } = await startOf(weight, site, config, scale);
      const product = matmul(B, A);
      const { data } = site.layout === "out,in" ? product : transposed(product);
      return Float32Array.from(data, (value, i) => Number(weight.data[i]) - scale * value);
    },
    besideWhole: async (weight, { A, B, ...others }) => {
      const start = await startOf(weight, site, config, scale);
      const minus = { ...start.B, data: start.B.data.map((value) => -value) };
      const wide = besides(matrixOf(B as Tensor), minus); // methods with this start have A and B
      const tall = transposed(besides(transposed(matrixOf(A as Tensor)), transposed(start.A))); // likewise
      return { ...others, A: tensorOf(tall), B: tensorOf(wide) };
    },
    config: (own) => ({
      ...own,
      rank: 2 * own.rank,
      alpha: own.alpha * (own.rslora ? Math.SQRT2 : 2),
      init: "kaiming",
    }),
  };
}

/** Decompositions of weights take long, and A, B and the frozen weight each ask for them. */
const known = new WeakMap<LazyTensor, Map<string, Promise<Start>>>();

function startOf(
  weight: Tensor,
  { weight: value, layout }: Site,
  { init, rank }: InitConfig,
  scale: number,
): Promise<Start> {
  const factorise = factorisations[init];
  if (!factorise) throw new Error(`${init} computes nothing from weights`);
  const starts = (value.kind === "weight" ? known.get(value.source) : undefined) ?? new Map<string, Promise<Start>>();
  if (value.kind === "weight") known.set(value.source, starts);
  const key = [init, rank, scale, layout].join();
  const stored = matrixOf(weight);
  const start = starts.get(key) ?? factorise(layout === "out,in" ? stored : transposed(stored), rank, scale);
  starts.set(key, start);
  return start;
}

function matrixOf({ shape, data }: Tensor): Matrix<Float64Array> {
  const [rows = 1, cols = 1] = shape;
  return { rows, cols, data: Float64Array.from(data as Float32Array) }; // weights are read as float32
}

function tensorOf({ rows, cols, data }: Matrix): Tensor<"float32"> {
  return { dtype: "float32", shape: [rows, cols], data: Float32Array.from(data) };
}
