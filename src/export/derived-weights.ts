import {
  bytesPerElement,
  type DType,
  type LazyTensor,
  sizeOf,
  type Tensor,
  type WeightValue,
  weight,
} from "../graph/index.ts";
import type { LinearSite } from "../ops/index.ts";

/** A product with a weight. */
export interface WeightSite extends Pick<LinearSite, "layout" | "inFeatures" | "outFeatures"> {
  readonly weight: WeightValue;
}

/**
 * What is added to a value times the inverse of its scale before that is cut to its whole part: a half, and enough to make up for
 * the inverse's rounding in ties. That is less than 2^-40 of a code, and quotients of two float32 that are no ties are further from
 * one than 2^-30. So codes are those of a division, which takes several times as long.
 */
export const toNearest: number = 0.5 + 2 ** -30;

/** Weights that are made of another when they are written; the same ones for the same weight. */
const made = new WeakMap<WeightValue, Map<string, WeightValue>>();

/** The weight `<name>_<key>`, computed from `value` when it is read. */
export function derived(
  value: WeightValue,
  key: string,
  {
    dtype,
    shape,
    read,
  }: { readonly dtype: DType; readonly shape: readonly number[]; readonly read: () => Promise<Tensor["data"]> },
): WeightValue {
  const own = made.get(value) ?? new Map<string, WeightValue>();
  made.set(value, own);
  const source: LazyTensor = {
    dtype,
    shape,
    sizeBytes: bytesPerElement(dtype) * sizeOf(shape),
    read: async () => ({ dtype, shape, data: await read() }) as Tensor, // the caller's array is that of the dtype
  };
  const found = own.get(key) ?? weight(`${value.name}_${key}`, source, dtype);
  own.set(key, found);
  return found;
}

/** A tensor that is made of a weight. */
export interface Made {
  /** What is put behind the weight's name. */
  readonly key: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/**
 * Codes and their scales, which one pass over the weight makes. Whoever wants the codes wants the scales next, which are small:
 * they are kept until they are asked for.
 */
export function derivedCodes(
  value: WeightValue,
  made: { readonly codes: Made; readonly scales: Made },
  encode: () => Promise<{ readonly codes: Uint8Array; readonly scales: Float32Array }>,
): { readonly codes: WeightValue; readonly scales: WeightValue } {
  let kept: Float32Array | undefined;
  const { codes: coded, scales: scaled } = made;
  const codes = derived(value, coded.key, {
    ...coded,
    read: async () => {
      const both = await encode();
      kept = both.scales;
      return both.codes;
    },
  });
  const scales = derived(value, scaled.key, {
    ...scaled,
    read: async () => {
      const own = kept ?? (await encode()).scales;
      kept = undefined;
      return own;
    },
  });
  return { codes, scales };
}
