import { constant, input, inScope, type Value } from "../graph/index.ts";
import { add, cast, div, lessOrEqual, max, mul, pow, reduceMax, reshape, where } from "../ops/index.ts";
import type { ConfigJson, ConfigReader } from "./config.ts";

/** Frequencies of rotary positions, for a batch of positions. */
export interface Rope {
  /** 1 / base^(2i/headDim) after scaling: [headDim/2], or computed from the positions. */
  readonly inverseFrequencies: (positionIds: Value) => Value;
  /** Factor on cos and sin. */
  readonly scale: number;
  /** The frequencies themselves, where positions do not change them. */
  readonly frequencies?: readonly number[];
  /** `rope_type`, and what it was made of. */
  readonly type: string;
  readonly theta: number;
  readonly settings: ConfigJson;
}

/** The frequencies as numbers; undefined where they depend on the positions. */
export function fixedFrequencies(rope: Rope): readonly number[] | undefined {
  const value = rope.inverseFrequencies(input("position_ids", "int64", [1, 1]));
  return value.kind === "constant" ? Array.from(value.tensor.data, Number) : undefined;
}

interface RopeContext {
  readonly theta: number;
  readonly headDim: number;
  readonly contextLength: number;
  readonly number: (key: string, otherwise?: number) => number;
  /** As many numbers as there are frequencies. */
  readonly list: (key: string) => readonly number[];
}

type Frequencies = Pick<Rope, "inverseFrequencies" | "scale" | "frequencies">;

type Variant = (context: RopeContext) => Frequencies;

function plain({ theta, headDim }: RopeContext): number[] {
  return Array.from({ length: headDim / 2 }, (_, i) => 1 / theta ** ((2 * i) / headDim));
}

function fixed(frequencies: readonly number[], scale = 1): Frequencies {
  return { inverseFrequencies: () => constant(frequencies), scale, frequencies };
}

/** The scalings that transformers knows by `rope_type`, each with its source. */
const variants = {
  default: (context) => fixed(plain(context)),
  /** Positions divided by `factor`. Chen et al. 2023 (arXiv 2306.15595). */
  linear: (context) => {
    const factor = context.number("factor");
    return fixed(plain(context).map((f) => f / factor));
  },
  /** Llama 3.1: long waves divided by `factor`, short ones kept, a ramp between (transformers `rope_type` "llama3"). */
  llama3: (context) => {
    const factor = context.number("factor");
    const low = context.number("low_freq_factor");
    const high = context.number("high_freq_factor");
    const original = context.number("original_max_position_embeddings", context.contextLength);
    return fixed(
      plain(context).map((f) => {
        const wavelength = (2 * Math.PI) / f;
        if (wavelength < original / high) return f;
        if (wavelength > original / low) return f / factor;
        const ramp = (original / wavelength - low) / (high - low);
        return (1 - ramp) * (f / factor) + ramp * f;
      }),
    );
  },
  /** NTK-aware base that grows with the sequence: base·((factor·n/L) − (factor − 1))^(d/(d−2)) for n > L. */
  dynamic: (context) => {
    const { theta, headDim } = context;
    const factor = context.number("factor");
    const original = context.number("original_max_position_embeddings", context.contextLength);
    return {
      scale: 1,
      inverseFrequencies: (positionIds) => {
        const length = max(add(cast(reduceMax(cast(positionIds, "int64"), [0, 1]), "float32"), 1), original);
        const growth = pow(add(mul(div(length, original), factor), 1 - factor), headDim / (headDim - 2));
        const exponents = Array.from({ length: headDim / 2 }, (_, i) => (-2 * i) / headDim);
        return pow(mul(reshape(growth, [1]), theta), constant(exponents));
      },
    };
  },
  /** YaRN: interpolated and kept frequencies blended by a ramp over dimensions. Peng et al. 2023 (arXiv 2309.00071), §3.2. */
  yarn: (context) => {
    const { theta, headDim } = context;
    const original = context.number("original_max_position_embeddings", context.contextLength);
    const factor = context.number("factor", context.contextLength / original);
    const magnitude = (scale: number, m = 1): number => (scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1);
    const mscale = context.number("mscale", 0);
    const mscaleAll = context.number("mscale_all_dim", 0);
    const inferred = mscale && mscaleAll ? magnitude(factor, mscale) / magnitude(factor, mscaleAll) : magnitude(factor);
    const dimensionOf = (rotations: number): number =>
      (headDim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
    const low = Math.max(Math.floor(dimensionOf(context.number("beta_fast", 32))), 0);
    const high = Math.min(Math.ceil(dimensionOf(context.number("beta_slow", 1))), headDim - 1);
    const width = low === high ? 0.001 : high - low;
    const blended = plain(context).map((f, i) => {
      const interpolated = Math.min(Math.max((i - low) / width, 0), 1);
      return (f / factor) * interpolated + f * (1 - interpolated);
    });
    return fixed(blended, context.number("attention_factor", inferred));
  },
  /** Frequencies of their own for sequences beyond the original length. Ding et al. 2024 (arXiv 2402.13753), §3. */
  longrope: (context) => {
    const original = context.number("original_max_position_embeddings", context.contextLength);
    const factor = context.number("factor", context.contextLength / original);
    const scaled = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
    const [short, long] = (["short_factor", "long_factor"] as const).map((key) => {
      const factors = context.list(key);
      return constant(plain(context).map((f, i) => f / (factors[i] ?? 1)));
    }) as [Value, Value]; // two keys
    return {
      scale: context.number("attention_factor", scaled),
      inverseFrequencies: (positionIds) => {
        const length = add(cast(reduceMax(cast(positionIds, "int64"), [0, 1]), "float32"), 1);
        return where(lessOrEqual(reshape(length, [1]), constant(original)), short, long);
      },
    };
  },
} satisfies Record<string, Variant>;

/** Read `rope_parameters` (transformers 5) or `rope_scaling` with `rope_theta` (earlier). `rotaryDim` is what is rotated. */
export function readRope(
  json: ConfigJson,
  reader: Pick<ConfigReader, "problem">,
  rotaryDim: number,
  contextLength: number,
): Rope {
  const scaling = ropeParameters(json);
  const type = scaling["rope_type"] ?? scaling["type"] ?? "default";
  const variant = Object.entries(variants).find(([name]) => name === type)?.[1];
  const number = (key: string, otherwise?: number): number => {
    const value = scaling[key] ?? otherwise;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    reader.problem(`rope scaling "${String(type)}" needs the number "${key}"`);
    return 1;
  };
  const list = (key: string): readonly number[] => {
    const value = scaling[key];
    if (Array.isArray(value) && value.length === rotaryDim / 2 && value.every(Number.isFinite)) return value;
    reader.problem(`rope scaling "${String(type)}" needs ${rotaryDim / 2} numbers in "${key}"`);
    return [];
  };
  if (variant === undefined) {
    reader.problem(
      `rope_type ${JSON.stringify(type)} is not supported; supported: ${Object.keys(variants).join(", ")}`,
    );
  }
  const theta = number("rope_theta", typeof json["rope_theta"] === "number" ? json["rope_theta"] : 10000);
  const rope = (variant ?? variants.default)({ theta, headDim: rotaryDim, contextLength, number, list });
  return {
    ...rope,
    type: String(type),
    theta,
    settings: scaling,
    inverseFrequencies: (positionIds) => inScope("rotary", () => rope.inverseFrequencies(positionIds)),
  };
}

/** The object that says how positions are rotated, whichever version of transformers wrote it. */
export function ropeParameters(json: ConfigJson): ConfigJson {
  const found = [json["rope_parameters"], json["rope_scaling"]].find(
    (value) => typeof value === "object" && value !== null,
  );
  const outer = json["original_max_position_embeddings"];
  return {
    ...(outer === undefined ? {} : { original_max_position_embeddings: outer }),
    ...(found as ConfigJson | undefined),
  };
}
