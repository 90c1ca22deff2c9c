import { nearest } from "../errors.ts";
import { ExactNumber } from "./exact-json.ts";
import { isJsonObject, type JsonObject } from "./json.ts";
import { type Problem, throwProblems } from "./problems.ts";

/** What an adapter's config says of what it computes, in our words. */
export interface AdapterHubSettings {
  /** Dense matrices, or sums of Kronecker products. */
  readonly kind: "dense" | "phm";
  /** Of Kronecker products: one slow rule for all, and fast matrices in two factors. */
  readonly sharedRule: boolean;
  readonly factorised: boolean;
  readonly frozenRule: boolean;
  readonly terms: number;
  readonly fastRank: number;
  /** Behind which sublayers. */
  readonly attention: boolean;
  readonly crossAttention: boolean;
  readonly feedForward: boolean;
  /** Layers without adapters, counted through encoder and decoder. */
  readonly leftOut: readonly number[];
  /** Hidden size over the width of the bottleneck, and layers that have another. */
  readonly reduction: number;
  readonly reductions: Readonly<Record<number, number>>;
  /**
   * What it reads: the sublayer's output, what the block adds it to (in BERT, the norm of that), or what goes into the
   * block.
   */
  readonly reads: "sublayer" | "residual" | "parallel";
  /** By the name that transformers has for it. */
  readonly activation: string;
  /** What it gives is multiplied by this. */
  readonly scaling: number;
  readonly dropout: number;
}

/** What is made of one key of an adapter's config. */
export interface AdapterHubField {
  /** What the class of `adapters` has unless told otherwise; undefined where it must be told. */
  readonly initial?: unknown;
  /**
   * `used`: followed, where it has a value that `is` takes. `inert`: it decides no value that an adapter's files do not
   * hold themselves. `fixed`: followed at that one value, unless it is `idle` beside the others.
   */
  readonly ledger: "used" | "inert" | "fixed";
  /** How it is followed, or why it may be left. */
  readonly why: string;
  readonly is?: (value: unknown) => boolean;
  readonly expected?: string;
  readonly idle?: (config: JsonObject) => boolean;
  /** Python has it as a float, and writes `1.0`. */
  readonly float?: true;
}

const isFlag = (value: unknown): boolean => typeof value === "boolean";
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) > 0;
const isPositive = (value: unknown): boolean => Number.isFinite(value) && Number(value) > 0;
const isLayer = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 0;
const isReduction = (value: unknown): boolean =>
  isPositive(value) ||
  (isJsonObject(value) &&
    Object.entries(value).every(([key, own]) => (key === "default" || /^\d+$/.test(key)) && isPositive(own)));

const flagOf = (initial: boolean | undefined, why: string): AdapterHubField => ({
  ...(initial === undefined ? {} : { initial }),
  ...{ ledger: "used", why, is: isFlag, expected: "true or false" },
});
const inert = (initial: unknown, why: string): AdapterHubField => ({ initial, ledger: "inert", why });
const fixed = (initial: unknown, why: string, idle?: AdapterHubField["idle"]): AdapterHubField => ({
  ...{ initial, ledger: "fixed", why, expected: JSON.stringify(initial) },
  ...(idle ? { idle } : {}),
});
const onlyStart = "values that adapters start from, which a saved one has left behind";
const dense = (config: JsonObject): boolean => config["phm_layer"] !== true;

/** Every field of `BnConfig` of AdapterHub's `adapters` 1.2, the configuration of bottleneck adapters. */
export const adapterHubFields: Readonly<Record<string, AdapterHubField>> = {
  adapter_residual_before_ln: fixed(false, "a norm behind the adapter", ({ ln_after }) => ln_after !== true),
  cross_adapter: flagOf(false, "adapters behind attention to the encoder"),
  dropout: {
    ...{ initial: 0, ledger: "used", why: "of what the adapter gives, while it is tuned", float: true },
    ...{
      is: (value) => Number.isFinite(value) && Number(value) >= 0 && Number(value) < 1,
      expected: "at least 0, below 1",
    },
  },
  factorized_phm_W: flagOf(true, "fast matrices in two factors"),
  factorized_phm_rule: fixed(false, "slow matrices in two factors", dense),
  hypercomplex_nonlinearity: inert("glorot-uniform", onlyStart),
  init_weights: inert("bert", onlyStart),
  init_weights_seed: inert(null, onlyStart),
  inv_adapter: fixed(null, "an invertible adapter behind the embeddings"),
  inv_adapter_reduction_factor: {
    ...inert(null, "of the invertible adapter, without which nothing is asked of it"),
    float: true,
  },
  is_parallel: flagOf(false, "reads what goes into the block"),
  learn_phm: flagOf(true, "whether slow matrices are trained"),
  leave_out: {
    ...{ initial: [], ledger: "used", why: "layers without adapters", expected: "a list of layers" },
    is: (value) => Array.isArray(value) && value.every(isLayer),
  },
  ln_after: fixed(false, "a norm of the adapter's own behind it"),
  ln_before: fixed(false, "a norm of the adapter's own in front of it"),
  mh_adapter: flagOf(undefined, "adapters behind attention"),
  non_linearity: { ledger: "used", why: "between down and up; the reader knows the names" },
  original_ln_after: fixed(true, "the block's own sum and norm come behind the adapter"),
  original_ln_before: flagOf(false, "reads what the block adds up"),
  output_adapter: flagOf(undefined, "adapters behind the feed-forward"),
  phm_bias: fixed(true, "a bias behind products", dense),
  phm_c_init: inert("normal", onlyStart),
  phm_dim: { initial: 4, ledger: "used", why: "Kronecker products", is: isCount, expected: "a whole number above 0" },
  phm_init_range: { ...inert(0.0001, onlyStart), float: true },
  phm_layer: flagOf(false, "Kronecker products"),
  phm_rank: { initial: 1, ledger: "used", why: "of the two factors", is: isCount, expected: "a whole number above 0" },
  reduction_factor: {
    ...{ ledger: "used", why: "hidden size over width, for all layers or by layer", is: isReduction },
    expected: 'a number above 0, or such numbers by layer, as {"1": 8, "default": 16}',
  },
  residual_before_ln: fixed(
    true,
    "the adapter adds to the sublayer's output and not to its norm",
    (config) => config["is_parallel"] === true || config["original_ln_before"] !== true,
  ),
  scaling: {
    ...{ initial: 1, ledger: "used", why: "what the adapter gives is multiplied by it", float: true },
    ...{ is: (value) => Number.isFinite(value), expected: "a number (learned scales are not built)" },
  },
  shared_W_phm: fixed(false, "fast matrices that all adapters share", dense),
  shared_phm_rule: flagOf(true, "one slow rule for all adapters"),
  stochastic_depth: { ...fixed(0, "adapters left out at random while they are tuned"), float: true },
  use_gating: fixed(false, "a gate beside each adapter"),
};

/** Every key beside the adapter's own config: what it was made for, and what is made of that. */
const around: Readonly<Record<string, string>> = {
  config: "the adapter's own",
  config_id: "names the config in older versions",
  hidden_size: "held against the model's",
  model_class: "kept; the names of the tensors decide where they belong",
  model_name: "kept",
  model_type: "kept; the names of the tensors decide where they belong",
  name: "part of the names of the tensors",
  type: "of older versions, where it says nothing of what is computed",
  version: "decides what some activations are called",
};

/** Keys of older versions: followed at nothing but these values. */
const older: Readonly<Record<string, readonly unknown[]>> = { architecture: [null], invertible_adapter: [null, false] };

/** Names that AdapterHub has besides those of transformers; without a version, "gelu" was the approximation. */
const aliases: Readonly<Record<string, string>> = { leakyrelu: "leaky_relu" };
const unversioned: Readonly<Record<string, string>> = { gelu: "gelu_new", gelu_orig: "gelu" };

/**
 * Translate `adapter_config.json`, knowing the activations that are built.
 * @throws {TuneError} `adapterhub-bad-adapter` with every key that is unknown or has a value that is not followed.
 */
export function settingsOf(json: JsonObject, at: string, activations: readonly string[]): AdapterHubSettings {
  const problems: Problem[] = [];
  const bad = (what: string, fix = "use an adapter of another configuration"): void => {
    problems.push({ code: "adapterhub-bad-adapter", what, fix });
  };
  const config = isJsonObject(json["config"]) ? json["config"] : {};
  const { architecture } = config;
  if (architecture !== undefined && architecture !== null) {
    bad(
      `architecture = ${JSON.stringify(architecture)}: of AdapterHub's methods, bottleneck adapters alone are built.`,
    );
    throwProblems(problems, at);
  }
  for (const [key, value] of Object.entries(json)) {
    if (!Object.hasOwn(around, key)) bad(`${key} = ${JSON.stringify(value)} is not known here.`);
  }
  const known = Object.keys(adapterHubFields);
  for (const [key, value] of Object.entries(config)) {
    if (Object.hasOwn(adapterHubFields, key) || older[key]?.includes(value)) continue;
    const [near] = nearest(key, known, 1);
    bad(`${key} = ${JSON.stringify(value)} is not known here${near === undefined ? "" : ` (nearest: ${near})`}.`);
  }
  const of = (key: string): unknown => config[key] ?? adapterHubFields[key]?.initial;
  for (const [key, { ledger, why, is, expected, initial, idle }] of Object.entries(adapterHubFields)) {
    const value = of(key);
    const follows = ledger === "fixed" ? idle?.(config) === true || value === initial : is?.(value) !== false;
    if (ledger === "inert" || follows) continue;
    bad(`${key} = ${JSON.stringify(value)} is not supported here (expected ${expected}): ${why}.`);
  }
  const named = String(of("non_linearity")).toLowerCase();
  const activation = (json["version"] === undefined ? unversioned[named] : undefined) ?? aliases[named] ?? named;
  if (!activations.includes(activation)) {
    bad(
      `non_linearity = ${JSON.stringify(of("non_linearity"))} is not supported here (expected ${activations.join(", ")}).`,
    );
  }
  const factor = of("reduction_factor");
  const { default: otherwise, ...byLayer } = isJsonObject(factor) ? factor : { default: factor };
  const settings: AdapterHubSettings = {
    kind: of("phm_layer") === true ? "phm" : "dense",
    sharedRule: of("phm_layer") === true && of("shared_phm_rule") === true,
    factorised: of("phm_layer") === true && of("factorized_phm_W") === true,
    frozenRule: of("phm_layer") === true && of("learn_phm") === false,
    terms: Number(of("phm_dim")),
    fastRank: Number(of("phm_rank")),
    attention: of("mh_adapter") === true,
    crossAttention: of("cross_adapter") === true,
    feedForward: of("output_adapter") === true,
    leftOut: [...new Set((of("leave_out") as readonly number[] | undefined) ?? [])],
    reduction: Number(otherwise ?? Object.values(byLayer)[0]),
    reductions: byLayer as Readonly<Record<number, number>>, // checked above
    reads: of("is_parallel") === true ? "parallel" : of("original_ln_before") === true ? "residual" : "sublayer",
    activation,
    scaling: Number(of("scaling")),
    dropout: Number(of("dropout")),
  };
  if (!settings.attention && !settings.feedForward) {
    bad("mh_adapter and output_adapter are false: adapters behind neither attention nor feed-forward are not built.");
  }
  throwProblems(problems, at);
  return settings;
}

/** Whether layers have reductions of their own and no other is given for the rest. */
export function missesDefault(json: JsonObject): boolean {
  const config = isJsonObject(json["config"]) ? json["config"] : {};
  const factor = config["reduction_factor"];
  return isJsonObject(factor) && !Object.hasOwn(factor, "default");
}

/** The config that AdapterHub would have saved for these settings, with what `kept` says where it decides nothing. */
export function configOf(settings: AdapterHubSettings, kept: JsonObject = {}): JsonObject {
  const phm = settings.kind === "phm";
  const said: JsonObject = {
    cross_adapter: settings.crossAttention,
    dropout: settings.dropout,
    is_parallel: settings.reads === "parallel",
    leave_out: settings.leftOut,
    mh_adapter: settings.attention,
    non_linearity: settings.activation,
    original_ln_before: settings.reads === "residual",
    output_adapter: settings.feedForward,
    phm_layer: phm,
    ...(phm
      ? {
          factorized_phm_W: settings.factorised,
          learn_phm: !settings.frozenRule,
          phm_dim: settings.terms,
          phm_rank: settings.fastRank,
          shared_phm_rule: settings.sharedRule,
        }
      : {}),
    reduction_factor:
      Object.keys(settings.reductions).length > 0
        ? { ...settings.reductions, default: settings.reduction }
        : settings.reduction,
    scaling: settings.scaling,
  };
  return Object.fromEntries(
    Object.entries(adapterHubFields).map(([key, { initial, ledger, float }]) => {
      const value = said[key] ?? (ledger === "inert" ? kept[key] : undefined) ?? initial;
      return [key, float && Number.isInteger(value) ? new ExactNumber(`${value}.0`) : value];
    }),
  );
}
