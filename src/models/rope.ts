import { constant, input, inScope, type Value } from "../graph/index.ts";
import { add, cast, div, lessOrEqual, max, mul, pow, reduceMax, reshape, where } from "../ops/index.ts";
import type { ConfigJson } from "./config.ts";
import {
  type ConfigReader,
  flag,
  type LedgerOf,
  only,
  optionalInteger,
  optionalList,
  optionalObject,
  optionalReal,
  optionalText,
  type Used,
} from "./ledger.ts";

/** Frequencies of rotary positions, for a batch of positions. */
export interface Rope {
  /** 1 / base^(2i/headDim) after scaling: [rotaryDim/2], or computed from the positions. */
  readonly inverseFrequencies: (positionIds: Value) => Value;
  /** Factor on cos and sin. */
  readonly scale: number;
  /** The frequencies themselves, where positions do not change them. */
  readonly frequencies?: readonly number[];
  /** `rope_type`, and what it was made of. */
  readonly type: string;
  readonly theta: number;
  /** How many elements of a head are rotated, from the first: an even number. */
  readonly rotaryDim: number;
  /** The length first trained for. */
  readonly original: number;
  readonly settings: RopeSettings;
}

/** The frequencies as numbers; undefined where they depend on the positions. */
export function fixedFrequencies(rope: Rope): readonly number[] | undefined {
  const value = rope.inverseFrequencies(input("position_ids", "int64", [1, 1]));
  // biome-ignore lint/plugin: half a head's size
  return value.kind === "constant" ? Array.from(value.tensor.data, Number) : undefined;
}

/** The length up to which what is cached holds, where frequencies depend on the length and change within the context. */
export function cacheHoldsTo(ropes: readonly (Rope | undefined)[]): { readonly cacheHoldsTo?: number } {
  const changing = ropes.flatMap((rope) => (rope && !rope.frequencies ? [rope.original] : []));
  return changing.length > 0 ? { cacheHoldsTo: Math.min(...changing) } : {};
}

/** What `rope_parameters` says besides its type, as far as the type asks for it. */
export interface RopeSettings {
  readonly factor?: number | undefined;
  readonly original_max_position_embeddings?: number | undefined;
  readonly attention_factor?: number | undefined;
  readonly beta_fast?: number | undefined;
  readonly beta_slow?: number | undefined;
  readonly mscale?: number | undefined;
  readonly mscale_all_dim?: number | undefined;
  readonly truncate?: boolean;
  readonly low_freq_factor?: number | undefined;
  readonly high_freq_factor?: number | undefined;
  readonly short_factor?: readonly number[] | undefined;
  readonly long_factor?: readonly number[] | undefined;
}

interface RopeContext {
  readonly theta: number;
  /** What is rotated; where it is odd, the last pair is half beyond it. */
  readonly dim: number;
  readonly contextLength: number;
  /** The length that the model was first trained for. */
  readonly original: number;
  readonly settings: RopeSettings;
  /** A number that the type needs. */
  readonly needed: (key: "factor" | "low_freq_factor" | "high_freq_factor") => number;
  /** As many numbers as there are frequencies. */
  readonly list: (key: "short_factor" | "long_factor") => readonly number[];
}

type Frequencies = Pick<Rope, "inverseFrequencies" | "scale" | "frequencies">;

/** A type of rotary positions: the keys of its own, and its formula. */
interface Variant {
  readonly keys: { readonly [Key in keyof RopeSettings]?: Used<RopeSettings[Key]> };
  /** Whether it has a formula for an odd number of elements. */
  readonly odd: boolean;
  readonly make: (context: RopeContext) => Frequencies;
}

function plain({ theta, dim }: RopeContext): number[] {
  return Array.from({ length: Math.ceil(dim / 2) }, (_, i) => 1 / theta ** ((2 * i) / dim));
}

function fixed(frequencies: readonly number[], scale = 1): Frequencies {
  return { inverseFrequencies: () => constant(frequencies), scale, frequencies };
}

const factor = optionalReal("how much longer sequences are than those trained on");
const original = optionalInteger("the length that was first trained for; max_position_embeddings unless given");
const attention = optionalReal("factor on cosines and sines; inferred unless given");
const factors = (which: string): Used<readonly number[] | undefined> =>
  optionalList(`what each frequency is divided by in ${which} sequences`, "numbers", (item): item is number =>
    Number.isFinite(item),
  );

/** The types that transformers knows by `rope_type`, each with its source. */
const variants: Readonly<Record<string, Variant>> = {
  default: { keys: {}, odd: true, make: (context) => fixed(plain(context)) },
  /** Positions divided by `factor`. Chen et al. 2023 (arXiv 2306.15595). */
  linear: {
    keys: { factor },
    odd: true,
    make: (context) => {
      const by = context.needed("factor");
      return fixed(plain(context).map((f) => f / by));
    },
  },
  /** Llama 3.1: long waves divided by `factor`, short ones kept, a ramp between (transformers `rope_type` "llama3"). */
  llama3: {
    keys: {
      factor,
      original_max_position_embeddings: original,
      low_freq_factor: optionalReal("waves longer than the original length over this are divided"),
      high_freq_factor: optionalReal("waves shorter than the original length over this are kept"),
    },
    odd: true,
    make: (context) => {
      const by = context.needed("factor");
      const low = context.needed("low_freq_factor");
      const high = context.needed("high_freq_factor");
      const { original: length } = context;
      return fixed(
        plain(context).map((f) => {
          const wavelength = (2 * Math.PI) / f;
          if (wavelength < length / high) return f;
          if (wavelength > length / low) return f / by;
          const ramp = (length / wavelength - low) / (high - low);
          return (1 - ramp) * (f / by) + ramp * f;
        }),
      );
    },
  },
  /**
   * NTK-aware base that grows with the sequence: base·((factor·n/L) − (factor − 1))^(d/(d−2)) for n > L, where L is
   * `max_position_embeddings`: transformers reads no other length here.
   */
  dynamic: {
    keys: { factor },
    odd: true,
    make: (context) => {
      const { theta, dim, contextLength } = context;
      const by = context.needed("factor");
      return {
        scale: 1,
        inverseFrequencies: (positionIds) => {
          const length = max(add(cast(reduceMax(cast(positionIds, "int64"), [0, 1]), "float32"), 1), contextLength);
          const growth = pow(add(mul(div(length, contextLength), by), 1 - by), dim / (dim - 2));
          const exponents = Array.from({ length: Math.ceil(dim / 2) }, (_, i) => (-2 * i) / dim);
          return pow(mul(reshape(growth, [1]), theta), constant(exponents));
        },
      };
    },
  },
  /** YaRN: interpolated and kept frequencies blended by a ramp over dimensions. Peng et al. 2023 (arXiv 2309.00071), §3.2. */
  yarn: {
    keys: {
      factor,
      original_max_position_embeddings: original,
      attention_factor: attention,
      beta_fast: optionalReal("rotations above which a frequency is kept"),
      beta_slow: optionalReal("rotations below which a frequency is divided"),
      mscale: optionalReal("with mscale_all_dim: how the factor on cosines and sines is inferred"),
      mscale_all_dim: optionalReal("with mscale: how the factor on cosines and sines is inferred"),
      truncate: flag("whether the ramp begins and ends at whole dimensions", true),
    },
    odd: false,
    make: (context) => {
      const { theta, dim, settings, contextLength } = context;
      const by = settings.factor ?? contextLength / context.original;
      const magnitude = (scale: number, m = 1): number => (scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1);
      const { mscale, mscale_all_dim: mscaleAll } = settings;
      const inferred = mscale && mscaleAll ? magnitude(by, mscale) / magnitude(by, mscaleAll) : magnitude(by);
      const dimensionOf = (rotations: number): number =>
        (dim * Math.log(context.original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
      const whole = settings.truncate ?? true;
      const [from, to] = [dimensionOf(settings.beta_fast || 32), dimensionOf(settings.beta_slow || 1)];
      const low = Math.max(whole ? Math.floor(from) : from, 0);
      const high = Math.min(whole ? Math.ceil(to) : to, dim - 1);
      const width = low === high ? 0.001 : high - low;
      const blended = plain(context).map((f, i) => {
        const interpolated = Math.min(Math.max((i - low) / width, 0), 1);
        return (f / by) * interpolated + f * (1 - interpolated);
      });
      return fixed(blended, settings.attention_factor ?? inferred);
    },
  },
  /** Frequencies of their own for sequences beyond the original length. Ding et al. 2024 (arXiv 2402.13753), §3. */
  longrope: {
    keys: {
      factor,
      original_max_position_embeddings: original,
      attention_factor: attention,
      short_factor: factors("short"),
      long_factor: factors("long"),
    },
    odd: false,
    make: (context) => {
      const { settings, contextLength } = context;
      const by = settings.factor ?? contextLength / context.original;
      const scaled = by <= 1 ? 1 : Math.sqrt(1 + Math.log(by) / Math.log(context.original));
      const [short, long] = (["short_factor", "long_factor"] as const).map((key) => {
        const divisors = context.list(key);
        return constant(plain(context).map((f, i) => f / (divisors[i] ?? 1)));
      }) as [Value, Value]; // two keys
      return {
        scale: settings.attention_factor ?? scaled,
        inverseFrequencies: (positionIds) => {
          const length = add(cast(reduceMax(cast(positionIds, "int64"), [0, 1]), "float32"), 1);
          return where(lessOrEqual(reshape(length, [1]), constant(context.original)), short, long);
        },
      };
    },
  },
};

/** What every type takes. */
interface CommonSettings {
  readonly rope_type: string | undefined;
  readonly type: string | undefined;
  readonly rope_theta: number | undefined;
  readonly partial_rotary_factor: number | undefined;
}

const typeLedger: LedgerOf<Pick<CommonSettings, "rope_type" | "type">> = {
  rope_type: optionalText("the type of rotary positions"),
  type: optionalText("rope_type, as transformers 4 wrote it"),
};

const commonLedger: LedgerOf<CommonSettings> = {
  ...typeLedger,
  rope_theta: optionalReal("base of the wavelengths"),
  partial_rotary_factor: optionalReal("the share of a head that is rotated"),
  full_attention: only([], "positions of their own for each kind of layer are Gemma 3's"),
  sliding_attention: only([], "positions of their own for each kind of layer are Gemma 3's"),
};

/** The ledgers of all types, for the law that holds them against transformers'. */
export const ropeLedgers: Readonly<Record<string, LedgerOf<CommonSettings & RopeSettings>>> = Object.fromEntries(
  Object.entries(variants).map(([type, { keys }]) => [type, { ...commonLedger, ...keys }]),
) as Readonly<Record<string, LedgerOf<CommonSettings & RopeSettings>>>; // keys that a type lacks are optional

/** The keys of `config.json` that say how positions are rotated. */
export interface RotarySettings {
  readonly rope_parameters: ConfigJson | undefined;
  readonly rope_scaling: ConfigJson | undefined;
}

/** What families that rotate positions make of the keys about it. */
export const rotaryLedger: LedgerOf<RotarySettings> = {
  rope_parameters: optionalObject("how positions are rotated"),
  rope_scaling: optionalObject("rope_parameters, as transformers 4 wrote it; it comes first where both are given"),
};

/** The outer keys about positions, for families that read them. */
export const outerRotaryLedger: LedgerOf<OuterRotarySettings> = {
  rope_theta: optionalReal("base of the wavelengths, where rope_parameters does not say"),
  partial_rotary_factor: optionalReal("the share of a head that is rotated, where rope_parameters does not say"),
  original_max_position_embeddings: optionalInteger(
    "the length first trained for: comes before that of rope_parameters",
  ),
};

/** See {@link outerRotaryLedger}. */
export interface OuterRotarySettings {
  readonly rope_theta: number | undefined;
  readonly partial_rotary_factor: number | undefined;
  readonly original_max_position_embeddings: number | undefined;
}

/** The heads that are rotated, and what a family makes of it otherwise. */
export interface RopeShape {
  readonly headDim: number;
  readonly contextLength: number;
  /** Base of the wavelengths where `rope_parameters` names none. */
  readonly theta: number;
  /** Likewise the share of a head that is rotated. */
  readonly share: number;
  /** Whether the family can rotate a part of a head; else plain positions rotate all of it, whatever the file says. */
  readonly partial: boolean;
  /** The length first trained for, which comes before that of `rope_parameters`. */
  readonly original?: number | undefined;
  /** Types by names that the family has for them; all types by their own unless given. */
  readonly types?: Readonly<Record<string, string>>;
}

/** How a family rotates whole heads; `theta` is its base where the file names none. */
export function wholeHeads(
  settings: OuterRotarySettings,
  theta = 10_000,
): Omit<RopeShape, "headDim" | "contextLength"> {
  return {
    theta: settings.rope_theta ?? theta,
    share: settings.partial_rotary_factor ?? 1,
    partial: false,
    original: settings.original_max_position_embeddings,
  };
}

/** `rope_scaling`, or else `rope_parameters`, with its key: transformers takes the first that says anything. */
export function ropeObject({
  rope_parameters: now,
  rope_scaling: before,
}: RotarySettings): readonly [string, ConfigJson] {
  return before && Object.keys(before).length > 0 ? ["rope_scaling", before] : ["rope_parameters", now ?? {}];
}

/** Read an object of `rope_parameters`; `key` is its place in the file. */
export function readRope([key, json]: readonly [string, ConfigJson], reader: ConfigReader, shape: RopeShape): Rope {
  const { contextLength, types = Object.fromEntries(Object.keys(variants).map((name) => [name, name])) } = shape;
  const { rope_type: now, type: before } = reader.peek<Pick<CommonSettings, "rope_type" | "type">>(typeLedger, json);
  const named = now ?? before ?? "default";
  const type = Object.hasOwn(types, named) ? (types[named] ?? "default") : "default";
  const variant = variants[type] as Variant; // every name stands for one
  if (!Object.hasOwn(types, named)) {
    reader.problem(`"${key}.rope_type" is ${JSON.stringify(named)}; supported: ${Object.keys(types).join(", ")}`);
    return readRope([key, {}], reader, { ...shape, theta: 10000 });
  }
  const ledger = ropeLedgers[type] as LedgerOf<CommonSettings & RopeSettings>; // likewise
  const settings = reader.inner<CommonSettings & RopeSettings>(key, ledger, json);
  const { rope_theta: theta = shape.theta, partial_rotary_factor: share = shape.share } = settings;
  const asked = Math.floor(shape.headDim * share);
  const dim = shape.partial || type !== "default" ? asked : shape.headDim;
  const rotaryDim = 2 * Math.ceil(dim / 2);
  if (!shape.partial && dim !== shape.headDim) {
    reader.problem(`"partial_rotary_factor" (${share}) with ${type} positions: this family rotates whole heads`);
  } else if (!(dim >= 2 && rotaryDim <= shape.headDim && (dim % 2 === 0 || variant.odd))) {
    reader.problem(`${dim} of a head's ${shape.headDim} elements are to be rotated, which ${type} positions cannot do`);
  }
  const needed = (name: "factor" | "low_freq_factor" | "high_freq_factor"): number => {
    const value = settings[name];
    if (value === undefined) reader.problem(`${type} positions need the number "${key}.${name}"`);
    return value ?? 1;
  };
  const list = (name: "short_factor" | "long_factor"): readonly number[] => {
    const value = settings[name];
    if (value?.length !== Math.ceil(dim / 2))
      reader.problem(`${type} positions need ${dim / 2} numbers in "${key}.${name}"`);
    return value ?? [];
  };
  const length = shape.original ?? settings.original_max_position_embeddings ?? contextLength;
  const rope = variant.make({ theta, dim, contextLength, original: length, settings, needed, list });
  return {
    ...rope,
    type,
    theta,
    rotaryDim,
    original: length,
    settings,
    inverseFrequencies: (positionIds) => inScope("rotary", () => rope.inverseFrequencies(positionIds)),
  };
}
