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
