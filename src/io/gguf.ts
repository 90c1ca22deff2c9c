import { assert } from "../errors.ts";
import { bytesOf, sizeOf } from "../graph/index.ts";
import { float32ToFloat16 } from "./convert.ts";
import type { Storage } from "./storage.ts";

/*
 * GGUF, the file of llama.cpp and of what is built on it: a header, metadata by name, a table of tensors, and their
 * bytes. ggml-org/ggml, docs/gguf.md, version 3. Little-endian.
 */

/** A value of the metadata. */
export type GgufValue =
  | { readonly type: "uint32" | "int32" | "float32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "int32s" | "float32s"; readonly value: readonly number[] };

/** Metadata by name, in the order it is written. */
export type GgufMetadata = Readonly<Record<string, GgufValue>>;

/** A whole number that is not negative. */
export const uint32 = (value: number): GgufValue => ({ type: "uint32", value });
/** A float32. */
export const float32 = (value: number): GgufValue => ({ type: "float32", value });
/** A truth value. */
export const bool = (value: boolean): GgufValue => ({ type: "bool", value });
/** A text. */
export const text = (value: string): GgufValue => ({ type: "string", value });

/** How a tensor's elements are held: the number of the type, and how values become bytes. */
interface GgufType {
  readonly code: number;
  /** Elements that are encoded together; rows are whole numbers of such blocks. */
  readonly block: number;
  readonly blockBytes: number;
  /** Into memory of so many bytes, where it is given; what is given back may lie there. */
  readonly encode: (values: Float32Array, into: ArrayBuffer) => Uint8Array;
}

/** The types that tensors are written in. */
export const ggufTypes: Readonly<Record<"f32" | "f16" | "q8_0", GgufType>> = {
  f32: { code: 0, block: 1, blockBytes: 4, encode: (values) => bytesOf(values) },
  f16: {
    code: 1,
    block: 1,
    blockBytes: 2,
    encode: (values, into) => bytesOf(float32ToFloat16(values, new Uint16Array(into, 0, values.length))),
  },
  q8_0: { code: 8, block: 32, blockBytes: 34, encode: encodeQ8 },
};

/** Name of a type. */
export type GgufTypeName = keyof typeof ggufTypes;

/** A tensor to be written, read a part at a time when its turn comes. */
export interface GgufTensor {
  readonly name: string;
  /** Row-major, as everywhere here; the file lists the innermost size first. */
  readonly shape: readonly number[];
  readonly type: GgufTypeName;
  /** Its values in order, at most {@link ggufPartElements} or one row at a time; each part is gone when the next is asked for. */
  readonly parts: () => AsyncIterable<Float32Array> | Iterable<Float32Array>;
}

/** Elements of a tensor that are read, encoded and written together: they fit a processor's cache. */
export const ggufPartElements: number = 2 ** 20;

/** Tensors start at multiples of this many bytes. */
const alignment = 32;

/** Write a GGUF file, a part of a tensor in memory at a time; it appears whole or not at all. */
export async function writeGguf(
  storage: Storage,
  path: string,
  { metadata, tensors }: { readonly metadata: GgufMetadata; readonly tensors: readonly GgufTensor[] },
): Promise<void> {
  await storage.write(path, ggufFile(metadata, tensors));
}

async function* ggufFile(metadata: GgufMetadata, tensors: readonly GgufTensor[]): AsyncGenerator<Uint8Array> {
  let end = 0;
  const offsets = tensors.map((tensor) => {
    const offset = aligned(end);
    end = offset + sizeBytes(tensor);
    return offset;
  });
  const header = joined([
    new TextEncoder().encode("GGUF"),
    word(3),
    long(tensors.length),
    long(Object.keys(metadata).length),
    ...Object.entries(metadata).flatMap(([name, value]) => [counted(name), ...valueBytes(value)]),
    ...tensors.flatMap(({ name, shape, type }, i) => [
      counted(name),
      word(shape.length),
      ...shape.toReversed().map(long),
      word(ggufTypes[type].code),
      long(offsets[i] ?? 0),
    ]),
  ]);
  yield header;
  yield new Uint8Array(aligned(header.length) - header.length);
  let memory = new ArrayBuffer(0);
  for (const tensor of tensors) {
    const { encode, block, blockBytes } = ggufTypes[tensor.type];
    let written = 0;
    for await (const part of tensor.parts()) {
      const needed = (part.length / block) * blockBytes;
      assert(Number.isInteger(needed), () => `${tensor.name} is read in whole blocks`);
      if (memory.byteLength < needed) memory = new ArrayBuffer(needed);
      yield encode(part, memory);
      written += needed;
    }
    assert(written === sizeBytes(tensor), () => `${tensor.name} takes the bytes of its type`);
    yield new Uint8Array(aligned(written) - written);
  }
}

function sizeBytes({ shape, type }: GgufTensor): number {
  const { block, blockBytes } = ggufTypes[type];
  return (sizeOf(shape) / block) * blockBytes;
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / alignment) * alignment;
}

/**
 * Blocks of 32 values as a float16 scale d = max|x|/127 and round(x/d), each an int8. As `quantize_row_q8_0_ref` in
 * ggml: the values are divided by the scale before it is rounded to float16, and halves round away from zero.
 */
function encodeQ8(values: Float32Array, into: ArrayBuffer): Uint8Array {
  const { block, blockBytes } = ggufTypes.q8_0;
  const count = values.length / block;
  const scales = new Float32Array(count);
  const bytes = new Uint8Array(into, 0, count * blockBytes);
  const levels = new Int8Array(into, 0, count * blockBytes);
  for (let b = 0; b < count; b++) {
    const from = b * block;
    let largest = 0;
    for (let i = from; i < from + block; i++) largest = Math.max(largest, Math.abs(values[i] ?? 0));
    const scale = Math.fround(largest / 127);
    scales[b] = scale;
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    for (let i = from, at = b * blockBytes + 2; i < from + block; i++, at++) {
      const raised = Math.fround((values[i] ?? 0) * inverse) + 128.5;
      const level = raised | 0; // no branch that half of all values take: a processor guesses those wrong
      levels[at] = (level === raised && level < 129 ? level - 1 : level) - 128; // halves away from zero
    }
  }
  const halves = bytesOf(float32ToFloat16(scales));
  for (let b = 0, at = 0; b < count; b++, at += blockBytes) {
    bytes[at] = halves[2 * b] ?? 0;
    bytes[at + 1] = halves[2 * b + 1] ?? 0;
  }
  return bytes;
}

const valueTypes = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8 } as const;
const arrayType = 9;

function valueBytes(given: GgufValue): Uint8Array[] {
  switch (given.type) {
    case "uint32":
    case "int32":
    case "float32":
      return [word(valueTypes[given.type]), number(given.type, given.value)];
    case "bool":
      return [word(valueTypes.bool), Uint8Array.of(Number(given.value))];
    case "string":
      return [word(valueTypes.string), counted(given.value)];
    case "strings":
      return [word(arrayType), word(valueTypes.string), long(given.value.length), ...given.value.map(counted)];
    case "int32s":
    case "float32s": {
      const element = given.type === "int32s" ? "int32" : "float32";
      const values = element === "int32" ? Int32Array.from(given.value) : Float32Array.from(given.value);
      return [word(arrayType), word(valueTypes[element]), long(values.length), bytesOf(values)];
    }
  }
}

function number(type: "uint32" | "int32" | "float32", value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  const view = new DataView(bytes.buffer);
  if (type === "float32") view.setFloat32(0, value, true);
  else if (type === "int32") view.setInt32(0, value, true);
  else view.setUint32(0, value, true);
  return bytes;
}

function word(value: number): Uint8Array {
  return number("uint32", value);
}

function long(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

/** A text with its length in bytes before it. */
function counted(value: string): Uint8Array {
  const bytes = new TextEncoder().encode(value);
  return joined([long(bytes.length), bytes]);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
