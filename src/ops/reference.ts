import { type DType, isFloat, sizeOf, type Tensor, tensor } from "../graph/index.ts";
import type { Reference } from "./op.ts";

/** A reference tensor from numbers. */
export function reference(
  shape: readonly number[],
  data: ArrayLike<number> | number,
  dtype: DType = "float32",
): Reference {
  const size = sizeOf(shape);
  const values = typeof data === "number" ? new Float64Array(size).fill(data) : Float64Array.from(data);
  if (values.length !== size) throw new Error(`${values.length} values do not fill [${shape.join(", ")}]`);
  return { dtype, shape: [...shape], data: values };
}

/** A stored tensor as a reference one. */
export function toReference(literal: Tensor): Reference {
  if (literal.dtype === "float16" || literal.dtype === "bfloat16") {
    throw new Error(`convert ${literal.dtype} to float32 before evaluating it`);
  }
  return { dtype: literal.dtype, shape: literal.shape, data: Float64Array.from(literal.data, Number) };
}

/** A reference tensor rounded to its dtype. */
export function fromReference({ dtype, shape, data }: Reference): Tensor {
  return tensor(dtype, shape, isFloat(dtype) ? data : data.map(Math.trunc));
}

/** Row-major strides. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] ?? 1) * (shape[i + 1] ?? 1);
  return strides;
}

/** Call `visit(flat, coordinates)` for every element of a shape, in row-major order. The coordinates are reused. */
export function eachIndex(shape: readonly number[], visit: (flat: number, at: readonly number[]) => void): void {
  const size = sizeOf(shape);
  const at = new Array<number>(shape.length).fill(0);
  for (let flat = 0; flat < size; flat++) {
    visit(flat, at);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (at[axis] ?? 0) + 1;
      if (next < (shape[axis] ?? 1)) {
        at[axis] = next;
        break;
      }
      at[axis] = 0;
    }
  }
}

/** The flat offset in a tensor of `shape` that broadcasts to coordinates `at`. */
export function broadcastOffset(shape: readonly number[], strides: readonly number[], at: readonly number[]): number {
  let offset = 0;
  const lead = at.length - shape.length;
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] !== 1) offset += (at[lead + axis] ?? 0) * (strides[axis] ?? 0);
  }
  return offset;
}

/** Concrete broadcast shape of several. */
export function broadcastAll(shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, i) => {
    const dims = shapes.map((shape) => shape[shape.length - rank + i] ?? 1);
    const size = dims.find((dim) => dim !== 1) ?? 1;
    if (dims.some((dim) => dim !== 1 && dim !== size)) throw new Error(`cannot broadcast ${JSON.stringify(shapes)}`);
    return size;
  });
}

/** Apply `f` elementwise over broadcast tensors. */
export function zip(
  f: (...values: number[]) => number,
  tensors: readonly Reference[],
  dtype: DType = tensors[0]?.dtype ?? "float32",
): Reference {
  const shape = broadcastAll(tensors.map((t) => t.shape));
  const strides = tensors.map((t) => stridesOf(t.shape));
  const data = new Float64Array(sizeOf(shape));
  eachIndex(shape, (flat, at) => {
    data[flat] = f(...tensors.map((t, i) => t.data[broadcastOffset(t.shape, strides[i] ?? [], at)] ?? 0));
  });
  return { dtype, shape, data };
}

/** Deterministic sample values in (low, high), spread without repeats and away from round numbers. */
export function spread(shape: readonly number[], low = -2, high = 2, phase = 0.37): Reference {
  const golden = 0.6180339887498949;
  const data = Float64Array.from({ length: sizeOf(shape) }, (_, i) => {
    const unit = (phase + (i + 1) * golden) % 1;
    return Math.fround(low + (high - low) * unit);
  });
  return { dtype: "float32", shape, data };
}

/** An int64 sample. */
export function int64s(values: readonly number[], shape: readonly number[] = [values.length]): Reference {
  return reference(shape, values, "int64");
}
