import type { DType } from "../graph/index.ts";
import { dataTypes } from "../io/onnx/data-types.ts";
import { message, messageField, serialise, stringField, varintField } from "../io/onnx/wire.ts";

/**
 * The ONNX model y = Identity(x) for tensors of any shape: what moves a tensor between a device and this side.
 * Spelt in fields of onnx.proto because no `Graph` can leave the rank of a value open.
 */
export function identityModel(dtype: DType): Uint8Array {
  const tensorOfAnyShape = [messageField(1, [varintField(1, dataTypes[dtype])])]; // TypeProto.tensor_type.elem_type
  const value = (name: string) => [stringField(1, name), messageField(2, tensorOfAnyShape)]; // ValueInfoProto
  const graph = [
    messageField(1, [stringField(1, "x"), stringField(2, "y"), stringField(4, "Identity")]), // NodeProto
    stringField(2, "identity"),
    messageField(11, value("x")),
    messageField(12, value("y")),
  ];
  const opset = [varintField(2, 14)];
  return serialise(message([varintField(1, 8), messageField(7, graph), messageField(8, opset)])); // ModelProto
}
