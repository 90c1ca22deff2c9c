import type * as Ort from "onnxruntime-common";
import type { Tensor as OrtTensor } from "onnxruntime-common";
import { assert, TuneError } from "../errors.ts";
import type { DataOf, DType, Tensor } from "../graph/index.ts";

/** The part of onnxruntime-common that onnxruntime-node and onnxruntime-web share, and all that we use. */
export type OrtApi = Pick<typeof Ort, "InferenceSession" | "Tensor">;

/** How ONNX Runtime's JavaScript API spells our dtypes; bfloat16 has no spelling. */
const ortTypes = {
  float32: "float32",
  float64: "float64",
  float16: "float16",
  int64: "int64",
  int32: "int32",
  int16: "int16",
  int8: "int8",
  uint64: "uint64",
  uint32: "uint32",
  uint16: "uint16",
  uint8: "uint8",
  bool: "bool",
} as const satisfies Partial<Record<DType, OrtTensor.Type>>;

/**
 * See a tensor as ONNX Runtime does, without a copy.
 * @throws {TuneError} `dtype-unsupported` for bfloat16.
 */
export function toOrt(ort: OrtApi, { dtype, shape, data }: Tensor): OrtTensor {
  if (!hasOrtType(dtype)) {
    throw new TuneError("dtype-unsupported", `ONNX Runtime's JavaScript API has no ${dtype} tensors.`, {
      fix: "convert the tensor to float32",
    });
  }
  // `Tensor` pairs each dtype with its array; the constructor's overloads cannot see the pairing.
  return new ort.Tensor(ortTypes[dtype], data as never, shape);
}

/** See a tensor of ONNX Runtime's that lies in this side's memory as ours, without a copy. */
export function fromOrt(value: OrtTensor): Tensor {
  const { type, dims, data } = value;
  assert(hasOrtType(type), `ONNX Runtime gave back a ${type} tensor`);
  assert(!Array.isArray(data), "a numeric tensor lies in a typed array");
  // Engines that know Float16Array get one from ONNX Runtime; here float16 is always held as bits.
  const bits = type === "float16" ? new Uint16Array(data.buffer, data.byteOffset, data.length) : data;
  return { dtype: type, shape: [...dims], data: bits as DataOf }; // the API's own table of arrays is the same as ours
}

/** Whether a tensor of a dtype can be fed to a program: bfloat16 and int4 can only be compiled into one. */
export function canBeInput(dtype: DType): boolean {
  return hasOrtType(dtype);
}

function hasOrtType(type: string): type is keyof typeof ortTypes {
  return type in ortTypes;
}
