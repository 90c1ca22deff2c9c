import type { DType } from "../graph/index.ts";

/** TensorProto.DataType of onnx.proto. */
const onnxTypes: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  bfloat16: 16,
};

/**
 * The ONNX model y = Identity(x) for tensors of any shape: what moves a tensor between a device and this side.
 * Written by hand because no {@link Graph} can leave the rank of a value open.
 */
export function identityModel(dtype: DType): Uint8Array {
  const value = (name: string): number[] => [
    ...text(1, name), // ValueInfoProto.name
    ...field(2, field(1, varint(1, onnxTypes[dtype]))), // .type.tensor_type.elem_type, no shape
  ];
  const node = [...text(1, "x"), ...text(2, "y"), ...text(4, "Identity")]; // NodeProto.input, .output, .op_type
  const graph = [
    ...field(1, node),
    ...text(2, "identity"), // GraphProto.node, .name
    ...field(11, value("x")),
    ...field(12, value("y")), // .input, .output
  ];
  const opset = varint(2, 14); // OperatorSetIdProto.version
  return Uint8Array.from([...varint(1, 8), ...field(7, graph), ...field(8, opset)]); // ModelProto.ir_version, .graph, .opset_import
}

// Protobuf: a key is (field << 3 | wire type). Every number and length here is below 128, so one byte holds it.
const varint = (key: number, number: number): number[] => [key << 3, number];
const field = (key: number, bytes: readonly number[]): number[] => [(key << 3) | 2, bytes.length, ...bytes];
const text = (key: number, characters: string): number[] => field(key, [...new TextEncoder().encode(characters)]);
