import { TuneError } from "../errors.ts";
import {
  type DType,
  type Graph,
  graph,
  type LazyTensor,
  sizeOf,
  sliceRows,
  type Tensor,
  type Value,
  type WeightValue,
  weight,
} from "../graph/index.ts";
import { castTensor, toFloat32 } from "../io/convert.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type CodeType, cast, dequantise, gather, reshape, reshapeTo } from "../ops/index.ts";
import { holdWeights } from "../transforms/index.ts";
import { type BlockCodes, blockSize, toBlockCodes } from "./block-codes.ts";

/** A frozen weight as a program holds it. */
export interface HeldWeight {
  /**
   * All of it in float32, in its own shape. Called once for each node that reads it, and made anew each time: what is
   * decoded is gone when that node has run.
   */
  readonly whole: () => Value;
  /** The rows that `indices` ask for, in float32. */
  readonly rows: (indices: Value) => Value;
  /** Its rows in pieces, in order, where decoding all at once would take more than {@link pieceBytes}. */
  readonly pieces?: readonly { readonly rows: number; readonly whole: () => Value }[] | undefined;
}

/** A large weight (a vocabulary's, mostly) is decoded this much at a time: as much as a layer's largest matrix takes. */
const pieceBytes = 2 ** 26;

/** How programs that train hold pretrained weights that stay frozen. Gradients are float32 whatever the choice. */
export interface BaseWeights {
  /** Whether weights stored in a file as `stored` compute exactly what they do in float32. */
  readonly keeps: (stored: DType) => boolean;
  /** How a weight is held; undefined leaves it in float32. */
  readonly hold: (value: WeightValue) => HeldWeight | undefined;
  /** Bits that an element of a matrix takes, scales included. */
  readonly bits: number;
  /** The execution providers that compute with it; all unless given. */
  readonly providers?: readonly string[];
  readonly summary: string;
}

/** Every way to hold them. Adding one is adding a record here. */
export const baseWeights: Readonly<Record<"f32" | "f16" | "bf16" | "q8" | "q4", BaseWeights>> = {
  f32: {
    keeps: () => true,
    hold: () => undefined,
    bits: 32,
    summary: "in float32, whatever the file holds",
  },
  f16: {
    keeps: (stored) => stored === "float16",
    hold: (value) => inHalf(value, "float16"),
    bits: 16,
    summary: "in float16, widened for each product: half the memory, exact where the file is float16",
  },
  bf16: {
    keeps: (stored) => stored === "bfloat16",
    hold: (value) => inHalf(value, "bfloat16"),
    bits: 16,
    providers: ["cpu"],
    summary: "in bfloat16, likewise: exact where the file is bfloat16; on the CPU alone",
  },
  q8: {
    keeps: () => false,
    hold: (value) => inBlocks(value, "int8"),
    bits: 8 + 32 / blockSize,
    summary:
      "in 8 bits with a scale for every 64 of a row: a quarter of the memory, rounded by at most 1/254 of the block's largest",
  },
  q4: {
    keeps: () => false,
    hold: (value) => inBlocks(value, "int4"),
    bits: 4 + 32 / blockSize,
    summary: "in 4 bits, likewise: a seventh of the memory (QLoRA's place); rows that are looked up are kept in 8",
  },
};

/** Name of a way. */
export type BaseWeightsName = keyof typeof baseWeights;

/** Bytes of a model's weights as graphs read them. */
export function weightBytes({ weights }: Pick<PretrainedModel, "weights">): number {
  return [...weights.values()].reduce((sum, { source }) => sum + source.sizeBytes, 0);
}

/** Bytes saved from which weights are held as their file holds them: below it, float32 takes less time. */
const worthHolding = 5e8;

/**
 * How frozen weights are held unless told otherwise: as their file holds them where that is exact and saves 500 MB or more,
 * else in float32.
 */
export function defaultBaseWeights(
  { storedAs, weights }: Pick<PretrainedModel, "storedAs" | "weights">,
  provider: string,
): BaseWeightsName {
  const wide = weightBytes({ weights });
  const exact = Object.entries(baseWeights).find(
    ([, { keeps, bits, providers }]) =>
      bits < 32 &&
      wide * (1 - bits / 32) >= worthHolding &&
      (providers?.includes(provider) ?? true) &&
      [...storedAs].every(keeps),
  );
  return exact ? (exact[0] as BaseWeightsName) : "f32"; // the records' own names
}

/** @throws {TuneError} `bad-option` where a provider does not compute with weights that are held so. */
export function checkBaseWeights(name: BaseWeightsName | undefined, provider: string): void {
  const { providers } = baseWeights[name ?? "f32"];
  if (providers?.includes(provider) ?? true) return;
  const others = Object.entries(baseWeights).filter(([, other]) => other.providers?.includes(provider) ?? true);
  throw new TuneError("bad-option", `baseWeights is "${name}", which ${provider} does not compute with.`, {
    at: "baseWeights",
    fix: `use one of ${others.map(([other]) => other).join(", ")} there, or run on ${providers?.join(" or ")}`,
  });
}

/**
 * The graph of a program that does not train, its weights held in one of the ways; {@link holdWeights} says what of it is
 * decoded, and when.
 */
export function heldGraph(
  held: BaseWeightsName | undefined,
  {
    name,
    inputs,
    outputs,
  }: Pick<Parameters<typeof graph>[0], "name" | "inputs"> & { outputs: Readonly<Record<string, Value>> },
): Graph {
  const { values, decoded } = holdWeights(Object.values(outputs), baseWeights[held ?? "f32"].hold);
  const named = Object.keys(outputs).map((key, i): [string, Value] => [key, values[i] as Value]); // one value a name
  return graph({
    ...(name === undefined ? {} : { name }),
    ...(inputs ? { inputs } : {}),
    outputs: new Map(named),
    first: decoded,
  });
}

/** A large matrix as pieces that are held by themselves. */
function piecesOf(
  { name, shape, source }: WeightValue,
  hold: (piece: WeightValue) => HeldWeight | undefined,
): HeldWeight["pieces"] {
  const [rows = 0, columns = 0] = source.shape;
  const each = Math.floor(pieceBytes / (4 * columns));
  if (shape.length !== 2 || each < 1 || rows <= 2 * each) return undefined;
  const starts = Array.from({ length: Math.ceil(rows / each) }, (_, i) => i * each);
  return starts.map((start) => {
    const end = Math.min(rows, start + each);
    const held = hold(weight(`${name}[${start}:${end}]`, sliceRows(source, start, end)));
    if (!held) throw new Error(`${name} is held, and its rows are not`);
    return { rows: end - start, whole: held.whole };
  });
}

/** Matrices as codes and scales; vectors are left as they are. */
function inBlocks(value: WeightValue, dtype: CodeType): HeldWeight | undefined {
  if (value.shape.length !== 2) return undefined;
  const { codes, scales } = blocksOf(value, dtype);
  // ONNX Runtime does not gather what lies two to a byte.
  let looked: ReturnType<typeof blocksOf> | undefined;
  const rows = (): ReturnType<typeof blocksOf> => {
    looked ??= dtype === "int8" ? { codes, scales } : blocksOf(value, "int8");
    return looked;
  };
  return {
    whole: () => dequantise(codes, scales, blockSize),
    pieces: piecesOf(value, (piece) => inBlocks(piece, dtype)),
    rows: (indices) => {
      const flat = reshape(indices, [-1]);
      const [own, factors] = [gather(rows().codes, flat), gather(rows().scales, flat)];
      const width = Number(value.shape[1]);
      return reshapeTo(dequantise(own, factors, blockSize), [...indices.shape, width], [indices]);
    },
  };
}

/** The codes and scales of a weight, rounded once for both. */
function blocksOf({ name, source }: WeightValue, dtype: CodeType): { readonly codes: Value; readonly scales: Value } {
  let packed: Promise<BlockCodes> | undefined;
  const taken = new Set<string>();
  const take = (part: keyof BlockCodes) => async (): Promise<Tensor> => {
    if (taken.has(part)) packed = undefined; // whoever took it may have given its memory away
    packed ??= toBlockCodes(source, dtype);
    const own = (await packed)[part];
    taken.add(part);
    if (taken.size === 2) {
      packed = undefined;
      taken.clear();
    }
    return own;
  };
  const [rows = 0, columns = 0] = source.shape;
  const blocks = [rows, Math.ceil(columns / blockSize)];
  const bytes = (dtype === "int8" ? 1 : 0.5) * rows * columns;
  const codes = { dtype, shape: source.shape, sizeBytes: Math.ceil(bytes), read: take("codes") };
  const scales = { dtype: "float32", shape: blocks, sizeBytes: 4 * sizeOf(blocks), read: take("scales") } as const;
  return {
    codes: weight(`${name}#${dtype}`, codes, dtype),
    scales: weight(`${name}#${dtype}.scales`, scales),
  };
}

/** Matrices in a 16-bit dtype. Vectors (norms, biases) are left as they are: they are small, and what they do is not. */
function inHalf(value: WeightValue, dtype: "float16" | "bfloat16"): HeldWeight | undefined {
  if (value.shape.length < 2) return undefined;
  const { source } = value;
  const narrow: LazyTensor =
    source.stored?.dtype === dtype
      ? source.stored
      : {
          dtype,
          shape: source.shape,
          sizeBytes: 2 * sizeOf(source.shape),
          read: async () => narrowed(value.name, await toFloat32(source), dtype),
        };
  const held = weight(value.name, narrow, dtype);
  return {
    whole: () => cast(held, "float32"),
    pieces: piecesOf(value, (piece) => inHalf(piece, dtype)),
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
