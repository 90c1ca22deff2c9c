import { TuneError } from "../errors.ts";
import {
  type DType,
  type LazyTensor,
  sizeOf,
  type Tensor,
  type Value,
  type WeightValue,
  weight,
} from "../graph/index.ts";
import { castTensor, toFloat32 } from "../io/convert.ts";
import { cast, gather } from "../ops/index.ts";

/** A frozen weight as a program holds it. */
export interface HeldWeight {
  /**
   * All of it in float32, in its own shape. Called once for each node that reads it, and made anew each time: what is
   * decoded is gone when that node has run.
   */
  readonly whole: () => Value;
  /** The rows that `indices` ask for, in float32. */
  readonly rows: (indices: Value) => Value;
}

/** How programs that train hold pretrained weights that stay frozen. Gradients are float32 whatever the choice. */
export interface BaseWeights {
  /** Whether weights stored in a file as `stored` compute exactly what they do in float32. */
  readonly keeps: (stored: DType) => boolean;
  /** How a weight is held; undefined leaves it in float32. */
  readonly hold: (value: WeightValue) => HeldWeight | undefined;
  readonly summary: string;
}

/** Every way to hold them. Adding one is adding a record here. */
export const baseWeights: Readonly<Record<"f32" | "f16" | "bf16", BaseWeights>> = {
  f32: {
    keeps: () => true,
    hold: () => undefined,
    summary: "in float32, whatever the file holds",
  },
  f16: {
    keeps: (stored) => stored === "float16",
    hold: (value) => inHalf(value, "float16"),
    summary: "in float16, widened for each product: half the memory, exact where the file is float16",
  },
  bf16: {
    keeps: (stored) => stored === "bfloat16",
    hold: (value) => inHalf(value, "bfloat16"),
    summary: "in bfloat16, likewise: exact where the file is bfloat16; on the CPU alone",
  },
};

/** Name of a way. */
export type BaseWeightsName = keyof typeof baseWeights;

/** Matrices in a 16-bit dtype. Vectors (norms, biases) are left as they are: they are small, and what they do is not. */
function inHalf(value: WeightValue, dtype: "float16" | "bfloat16"): HeldWeight | undefined {
  if (value.shape.length < 2) return undefined;
  const { source } = value;
  const narrow: LazyTensor = {
    dtype,
    shape: source.shape,
    sizeBytes: 2 * sizeOf(source.shape),
    read: async () => narrowed(value.name, await toFloat32(source), dtype),
  };
  const held = weight(value.name, narrow, dtype);
  return {
    whole: () => cast(held, "float32"),
    rows: (indices) => cast(gather(held, indices), "float32"),
  };
}

/** A finite float32 tensor in 16 bits, rounded to nearest. */
function narrowed(name: string, tensor: Tensor<"float32">, dtype: "float16" | "bfloat16"): Tensor {
  const halves = castTensor(tensor, dtype);
  const infinite = dtype === "float16" ? 0x7c00 : 0x7f80; // what a value that is too large becomes, but for its sign
  const at = halves.data.findIndex((pattern) => (pattern & 0x7fff) === infinite);
  if (at < 0) return halves;
  throw new TuneError("cast-out-of-range", `${dtype} cannot hold ${tensor.data[at]} (element ${at}).`, {
    at: name,
    fix: `hold the base weights otherwise: ${Object.keys(baseWeights).join(", ")}`,
  });
}
