import { TuneError } from "../errors.ts";
import { type Fields, flag, integer, oneOf, real } from "../fields.ts";
import { constant, type Value } from "../graph/index.ts";
import type { Rng } from "../linalg/index.ts";
import { type ActivationName, activationFunctions, add, gemm, mul, reshape, transpose } from "../ops/index.ts";
import {
  type Attachment,
  type Citation,
  defineMethod,
  type Method,
  type ParameterSpec,
  type Parameters,
  type ReadsBehind,
  type Site,
} from "./method.ts";

/** Options of adapters behind sublayers. */
export interface BottleneckConfig {
  readonly reduction: number;
  readonly positions: "both" | "feed-forward" | "attention";
  readonly crossAttention: boolean;
  readonly placement: "sublayer" | "residual" | "normed" | "parallel";
  readonly activation: ActivationName;
  readonly scaling: number;
  readonly dropout: number;
  readonly frozenNorms: boolean;
}

/** Options of those whose matrices are sums of Kronecker products. */
export interface PhmConfig extends BottleneckConfig {
  readonly terms: number;
  readonly frozenRule: boolean;
  /** One slow rule for the model instead of one for each matrix; of PHM. */
  readonly sharedRule: boolean;
}

/** Options of Compacter. */
export interface CompacterConfig extends Omit<PhmConfig, "sharedRule"> {
  readonly fastRank: number;
  readonly ownRules: boolean;
}

const activations = Object.keys(activationFunctions) as [ActivationName, ...ActivationName[]]; // its keys

const bottleneckFields: Fields<BottleneckConfig> = {
  reduction: real(32, "hidden size over the width of the bottleneck", { min: 1 / 64 }),
  positions: oneOf(["both", "feed-forward", "attention"], "behind attention and feed-forward, or behind one of them"),
  crossAttention: flag(false, "behind attention to the encoder too (T5)"),
  placement: oneOf(
    ["sublayer", "residual", "normed", "parallel"],
    "reads what the sublayer gives, what the block adds it to (AdapterHub's ++), the norm of that (the same in BERT), or what goes into the block",
  ),
  activation: oneOf(activations, "between down and up, by the names of transformers; gelu_new is by tanh, gelu exact"),
  scaling: real(1, "what the adapter gives is multiplied by it"),
  dropout: real(0, "share of what the adapter gives that is dropped while tuning", { min: 0, below: 1 }),
  frozenNorms: flag(false, "leave the model's norms as they are, as AdapterHub does"),
};
const kroneckerFields: Fields<Omit<PhmConfig, "sharedRule">> = {
  ...bottleneckFields,
  terms: integer(4, "Kronecker products in a matrix; divides hidden size and bottleneck", { min: 1 }),
  frozenRule: flag(false, "leave the slow matrices as they were drawn"),
};
const phmFields: Fields<PhmConfig> = {
  ...kroneckerFields,
  sharedRule: flag(false, "one slow rule for the whole model instead of one for each matrix"),
};
const compacterFields: Fields<CompacterConfig> = {
  ...kroneckerFields,
  fastRank: integer(1, "rank of the fast matrices", { min: 1 }),
  ownRules: flag(false, "a slow rule for each matrix instead of one for the whole model"),
};

/** The width of the bottleneck. */
export function bottleneckWidth({ outFeatures }: Pick<Site, "outFeatures">, { reduction }: BottleneckConfig): number {
  return Math.round((outFeatures - (outFeatures % reduction)) / reduction); // Python's floor division, which AdapterHub uses
}

/**
 * x·W + b with W = Σᵢ Aᵢ ⊗ (sᵢ·tᵢ), never made: x [tokens, in], A [n, n, n], s [n, in/n, rank], t [n, rank, out/n],
 * b [out]. W[a·in/n+p, b·out/n+q] = Σᵢ A[i,a,b]·(sᵢtᵢ)[p,q]: s acts on every part of x, A mixes the parts, t spreads them.
 */
export function phmLinear(x: Value, rule: Value, left: Value, right: Value, bias: Value): Value {
  const [n = 1, part = 1, rank = 1] = left.shape.map(Number);
  const out = Number(right.shape[2] ?? 1) * n;
  const inner = n * rank;
  const s = reshape(transpose(left, [1, 0, 2]), [part, inner]);
  const narrow = reshape(gemm(reshape(x, [-1, part]), s), [-1, n * inner]); // [tokens, (a, i, r)]
  // A as one matrix from (a, i, r) to (b, i, r).
  const same = Array.from({ length: inner * inner }, (_, at) => Number(Math.floor(at / inner) === at % inner));
  const diagonal = constant(same, "float32", [1, n, rank, 1, n, rank]);
  const spread = mul(reshape(transpose(rule, [1, 0, 2]), [n, n, 1, n, 1, 1]), diagonal);
  const mixed = gemm(narrow, reshape(spread, [n * inner, n * inner]));
  const wide = gemm(reshape(mixed, [-1, inner]), reshape(right, [inner, out / n]));
  return add(reshape(wide, [-1, out]), bias);
}

/** The same product where the fast matrices are whole: B [n, in/n, out/n]. W is made, once for all tokens. */
export function phmDense(x: Value, rule: Value, fast: Value, bias: Value): Value {
  const [n = 1, part = 1, width = 1] = fast.shape.map(Number);
  const slow = reshape(transpose(rule, [1, 2, 0]), [n * n, n]);
  const product = gemm(slow, reshape(fast, [n, part * width])); // [(a, b), (p, q)]
  const matrix = reshape(transpose(reshape(product, [n, n, part, width]), [0, 2, 1, 3]), [n * part, n * width]);
  return add(gemm(x, matrix), bias);
}

type Project = (x: Value, side: "down" | "up") => Value;

/** y + s·up(activation(down(h))): h is y, what the sublayer gives or what the block adds it to; or x, read besides. */
function behind({ x, y, dropout }: Attachment, project: Project, config: BottleneckConfig): Value {
  const { activation, placement, scaling } = config;
  const inner = project(placement === "normed" || placement === "parallel" ? x : y, "down");
  const up = project(activationFunctions[activation](inner), "up");
  return add(y, dropout(scaling === 1 ? up : mul(up, scaling), config.dropout));
}

const zeros = (_rng: Rng, size: number): Float32Array => new Float32Array(size);
const normal =
  (deviation: number) =>
  (rng: Rng, size: number): Float32Array =>
    Float32Array.from({ length: size }, () => deviation * rng.normal());
/** Xavier-uniform with gain √2, of slices [rows, columns]. */
const xavier =
  (rows: number, columns: number) =>
  (rng: Rng, size: number): Float32Array => {
    const bound = xavierBound(rows, columns);
    return Float32Array.from({ length: size }, () => (2 * rng.uniform() - 1) * bound);
  };

/** √2·√(6/(rows + columns)). */
export function xavierBound(rows: number, columns: number): number {
  return Math.SQRT2 * Math.sqrt(6 / (rows + columns));
}

/** Sizes in and out of the projections of a site. */
function sidesOf(site: Site, config: BottleneckConfig): readonly (readonly ["down" | "up", number, number])[] {
  const [hidden, width] = [site.outFeatures, bottleneckWidth(site, config)];
  return [
    ["down", hidden, width],
    ["up", width, hidden],
  ];
}

/** @throws {TuneError} `bad-option` when the bottleneck has no width, or a number of terms that does not divide both. */
function checkSizes(site: Site, config: BottleneckConfig & { readonly terms?: number }): void {
  const { outFeatures: hidden, module } = site;
  const { reduction, terms = 1 } = config;
  const width = bottleneckWidth(site, config);
  if (width >= 1 && hidden % terms === 0 && width % terms === 0) return;
  const divisors = (value: number): number[] =>
    Array.from({ length: value }, (_, i) => i + 1).filter((n) => value % n === 0);
  const fitting = width < 1 ? [] : divisors(width).filter((n) => hidden % n === 0);
  const widths = divisors(hidden).filter((value) => value % terms === 0 && hidden / value <= 64);
  throw new TuneError(
    "bad-option",
    width < 1
      ? `reduction ${reduction} leaves no bottleneck of ${module}, which is ${hidden} wide.`
      : `${terms} terms do not divide both ${hidden} (the hidden size) and ${width} (the bottleneck).`,
    {
      at: `adapter behind ${module}`,
      fix: [
        ...(fitting.length > 0 ? [`use ${fitting.join(", ")} terms`] : []),
        ...(widths.length > 0 ? [`use a reduction of ${widths.map((value) => hidden / value).join(", ")}`] : []),
      ].join(", or "),
    },
  );
}

function reads({ placement }: BottleneckConfig): ReadsBehind | undefined {
  return placement === "sublayer" ? undefined : placement === "normed" ? "norm" : placement;
}

/** The slow rule that all matrices read. Not zero: every gradient but that of the last bias would be. */
function sharedRule({ terms: n, frozenRule }: Pick<PhmConfig, "terms" | "frozenRule">): ParameterSpec {
  return { shape: [n, n, n], initial: normal(1e-4), decays: false, shared: true, trained: !frozenRule };
}

/** The slow rule of one matrix. */
function ownRule({ terms: n, frozenRule }: Pick<PhmConfig, "terms" | "frozenRule">): ParameterSpec {
  return { shape: [n, n, n], initial: normal(0.01), decays: false, trained: !frozenRule };
}

function notMergeable(name: string): never {
  throw new TuneError("no-merged-form", `${name} cannot be folded into weights: its adapters are not linear.`, {
    at: name,
    fix: "keep the adapter beside the model (--to adapterhub)",
  });
}

const cite: Citation = {
  title: "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers",
  authors: "Rabeeh Karimi Mahabadi and James Henderson and Sebastian Ruder",
  year: 2021,
  arxiv: "2106.04647",
  at: "§3, eqs. (3)–(5)",
};

function makeCompacter(
  name: string,
  summary: string,
  positions: BottleneckConfig["positions"],
): Method<CompacterConfig> {
  return defineMethod<CompacterConfig>({
    name,
    summary,
    cite,
    fields: { ...compacterFields, positions: { ...compacterFields.positions, initial: positions } },
    attaches: "linear",
    rates: [3e-4, 1e-3, 3e-3, 1e-2],
    sublayers: true,
    form: "adapterhub",
    readsBehind: reads,
    check: checkSizes,
    parameters: (site, config) => {
      const { terms: n, fastRank, ownRules } = config;
      const own = sidesOf(site, config).flatMap(([side, into, out]): [string, ParameterSpec][] => [
        ...(ownRules ? [[`rule_${side}`, ownRule(config)] as [string, ParameterSpec]] : []),
        [`left_${side}`, { shape: [n, into / n, fastRank], initial: xavier(into / n, fastRank), decays: false }],
        [`right_${side}`, { shape: [n, fastRank, out / n], initial: xavier(fastRank, out / n), decays: false }],
        [`bias_${side}`, { shape: [out], initial: zeros }],
      ]);
      return { ...(ownRules ? {} : { rule: sharedRule(config) }), ...Object.fromEntries(own) };
    },
    adapt: (attachment, parameter, config) =>
      behind(
        attachment,
        (x, side) =>
          phmLinear(
            x,
            parameter(config.ownRules ? `rule_${side}` : "rule"),
            ...parts(parameter, ["left", "right", "bias"] as const, side),
          ),
        config,
      ),
    merge: () => notMergeable(name),
  });
}

function parts<const Names extends readonly string[]>(
  parameter: Parameters,
  names: Names,
  side: string,
): { readonly [Key in keyof Names]: Value } {
  return names.map((name) => parameter(`${name}_${side}`)) as { readonly [Key in keyof Names]: Value }; // one a name
}

/** Adapters behind attention and feed-forward; one slow rule for the whole model. */
export const compacter: Method<CompacterConfig> = makeCompacter(
  "compacter",
  "Adapters behind sublayers, of Kronecker products with one slow rule for the model",
  "both",
);

/** Compacter behind the feed-forward alone. */
export const compacterPlusPlus: Method<CompacterConfig> = makeCompacter(
  "compacter++",
  "Compacter behind the feed-forward alone",
  "feed-forward",
);

/** Adapters of Kronecker products with a rule of their own each and whole fast matrices. §4.1 of the paper. */
export const phm: Method<PhmConfig> = defineMethod<PhmConfig>({
  name: "phm",
  summary: "Adapters behind sublayers, of Kronecker products with rules of their own (PHM-Adapter)",
  cite,
  fields: phmFields,
  attaches: "linear",
  rates: [3e-4, 1e-3, 3e-3, 1e-2],
  sublayers: true,
  form: "adapterhub",
  readsBehind: reads,
  check: checkSizes,
  parameters: (site, config) => {
    const { terms: n, sharedRule: shared } = config;
    const own = sidesOf(site, config).flatMap(([side, into, out]): [string, ParameterSpec][] => [
      ...(shared ? [] : [[`rule_${side}`, ownRule(config)] as [string, ParameterSpec]]),
      [`fast_${side}`, { shape: [n, into / n, out / n], initial: xavier(into / n, out / n), decays: false }],
      [`bias_${side}`, { shape: [out], initial: zeros }],
    ]);
    return { ...(shared ? { rule: sharedRule(config) } : {}), ...Object.fromEntries(own) };
  },
  adapt: (attachment, parameter, config) =>
    behind(
      attachment,
      (x, side) =>
        phmDense(
          x,
          parameter(config.sharedRule ? "rule" : `rule_${side}`),
          ...parts(parameter, ["fast", "bias"] as const, side),
        ),
      config,
    ),
  merge: () => notMergeable("phm"),
});

/** Dense adapters. Houlsby et al. 2019 (arXiv 1902.00751), §2.1. */
export const bottleneck: Method<BottleneckConfig> = defineMethod<BottleneckConfig>({
  name: "bottleneck",
  summary: "Dense adapters behind sublayers",
  cite: {
    title: "Parameter-Efficient Transfer Learning for NLP",
    authors:
      "Neil Houlsby and Andrei Giurgiu and Stanislaw Jastrzebski and Bruna Morrone and Quentin de Laroussilhe and Andrea Gesmundo and Mona Attariyan and Sylvain Gelly",
    year: 2019,
    arxiv: "1902.00751",
    at: "§2.1",
  },
  fields: bottleneckFields,
  attaches: "linear",
  rates: [3e-4, 1e-3, 3e-3, 1e-2],
  sublayers: true,
  form: "adapterhub",
  readsBehind: reads,
  check: checkSizes,
  parameters: (site, config) => {
    const own = sidesOf(site, config).flatMap(([side, into, out]): [string, ParameterSpec][] => [
      [`weight_${side}`, { shape: [out, into], initial: normal(0.02), decays: false }],
      [`bias_${side}`, { shape: [out], initial: zeros }],
    ]);
    return Object.fromEntries(own);
  },
  adapt: (attachment, parameter, config) =>
    behind(
      attachment,
      (x, side) => {
        const [weight, c] = parts(parameter, ["weight", "bias"] as const, side);
        return gemm(x, weight, { transB: true, c });
      },
      config,
    ),
  merge: () => notMergeable("bottleneck"),
});
