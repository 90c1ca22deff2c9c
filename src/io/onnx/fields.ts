import { TuneError } from "../../errors.ts";

/** One field of a protobuf message: a number (varint or fixed width) or a view of bytes. */
export type Field =
  | { readonly field: number; readonly kind: "varint"; readonly value: bigint }
  | { readonly field: number; readonly kind: "fixed32" | "fixed64" | "bytes"; readonly value: Uint8Array };

/**
 * The fields of a protobuf message, in the order of the file. Bytes are views, never copies.
 * @throws {TuneError} `onnx-malformed` when a field runs past the end or is of no known wire type.
 */
export function* readFields(bytes: Uint8Array, at: string): Generator<Field> {
  let position = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[position++];
      if (byte === undefined) throw malformed("it ends within a number", at);
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asUintN(64, value);
    }
    throw malformed("a number is longer than ten bytes", at);
  };
  const take = (length: number): Uint8Array => {
    if (length > bytes.byteLength - position) {
      throw malformed(`a field of ${length} bytes runs past the end`, at);
    }
    position += length;
    return bytes.subarray(position - length, position);
  };
  while (position < bytes.byteLength) {
    const tag = varint();
    const field = Number(tag >> 3n);
    if (field === 0 || field > 536870911) throw malformed(`${field} is no field number`, at);
    const wireType = Number(tag & 7n);
    if (wireType === 0) yield { field, kind: "varint", value: varint() };
    else if (wireType === 1) yield { field, kind: "fixed64", value: take(8) };
    else if (wireType === 2) yield { field, kind: "bytes", value: take(Number(varint())) };
    else if (wireType === 5) yield { field, kind: "fixed32", value: take(4) };
    else throw malformed(`wire type ${wireType} is not used by ONNX`, at);
  }
}

/** A damaged or foreign file. */
export function malformed(what: string, at: string): TuneError {
  return new TuneError("onnx-malformed", `This is not a whole ONNX file: ${what}.`, {
    at,
    fix: "export or download the file again",
  });
}

/** The bytes of a length-delimited field. */
export function bytesIn(field: Field, at: string): Uint8Array {
  if (field.kind !== "bytes") throw malformed(`field ${field.field} should hold bytes`, at);
  return field.value;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** The text of a string field. */
export function textIn(field: Field, at: string): string {
  try {
    return utf8.decode(bytesIn(field, at));
  } catch (error) {
    if (error instanceof TuneError) throw error;
    throw malformed(`field ${field.field} is not UTF-8`, at);
  }
}

/** The signed integers of a field: one varint, or several packed. */
export function integersIn(field: Field, at: string): number[] {
  if (field.kind === "varint") return [signed(field.value)];
  const values: number[] = [];
  const bytes = bytesIn(field, at);
  let value = 0n;
  let shift = 0n;
  for (const byte of bytes) {
    value |= BigInt(byte & 127) << shift;
    shift += 7n;
    if (shift > 70n) throw malformed("a number is longer than ten bytes", at);
    if (byte < 128) {
      values.push(signed(value));
      value = 0n;
      shift = 0n;
    }
  }
  if (shift !== 0n) throw malformed("it ends within a number", at);
  return values;
}

/** The single integer of a field. */
export function integerIn(field: Field, at: string): number {
  if (field.kind !== "varint") throw malformed(`field ${field.field} should hold a number`, at);
  return signed(field.value);
}

/** The 32-bit floats of a field: one, or several packed. */
export function floatsIn(field: Field, at: string): number[] {
  return realsIn(field, 4, at);
}

/** The 64-bit floats of a field: one, or several packed. */
export function doublesIn(field: Field, at: string): number[] {
  return realsIn(field, 8, at);
}

function realsIn(field: Field, width: 4 | 8, at: string): number[] {
  if (field.kind === "varint" || field.value.byteLength % width !== 0) {
    throw malformed(`field ${field.field} should hold floats`, at);
  }
  const { value } = field;
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  return Array.from({ length: value.byteLength / width }, (_, i) =>
    width === 4 ? view.getFloat32(i * 4, true) : view.getFloat64(i * 8, true),
  );
}

/** Integers beyond 2⁵³ lose digits here; ONNX uses them as "until the end" only, where the size suffices. */
function signed(value: bigint): number {
  return Number(BigInt.asIntN(64, value));
}
