import { assert } from "../../errors.ts";

/**
 * Writing the protobuf wire format (protobuf.dev/programming-guides/encoding): a message is a list of tagged fields.
 * Messages are built inside out as lists of byte chunks, so large payloads are never copied on the way.
 */
export interface Message {
  readonly chunks: readonly (Uint8Array | LaterBytes)[];
  readonly sizeBytes: number;
}

/** Bytes that are read when they are written, in pieces; each is gone when the next is asked for. */
export interface LaterBytes {
  readonly sizeBytes: number;
  readonly pieces: () => AsyncIterable<Uint8Array>;
}

const text = new TextEncoder();

/** A message from its fields, in order. */
export function message(fields: readonly Message[]): Message {
  return { chunks: fields.flatMap(({ chunks }) => chunks), sizeBytes: fields.reduce((sum, f) => sum + f.sizeBytes, 0) };
}

/** A varint field: int32, int64, bool or enum. Negative numbers take ten bytes, as the format has it. */
export function varintField(field: number, value: number | bigint): Message {
  return raw([...varint(BigInt(field) << 3n), ...varint(BigInt.asUintN(64, BigInt(value)))]);
}

/** A 32-bit float field. */
export function floatField(field: number, value: number): Message {
  return raw([...varint((BigInt(field) << 3n) | 5n), ...new Uint8Array(Float32Array.of(value).buffer)]);
}

/** A length-delimited field of bytes. */
export function bytesField(field: number, bytes: Uint8Array): Message {
  return nested(field, { chunks: [bytes], sizeBytes: bytes.byteLength });
}

/** A field of bytes that are read when they are written. */
export function laterField(field: number, later: LaterBytes): Message {
  return nested(field, { chunks: [later], sizeBytes: later.sizeBytes });
}

/** A string field. */
export function stringField(field: number, value: string): Message {
  return bytesField(field, text.encode(value));
}

/** A field that holds a message. */
export function messageField(field: number, fields: readonly Message[]): Message {
  return nested(field, message(fields));
}

/** A message's bytes, piece by piece: those that are here together, between those that are read now. */
export async function* streamed({ chunks }: Message): AsyncGenerator<Uint8Array> {
  let here: Uint8Array[] = [];
  const together = (): Uint8Array => {
    const sizeBytes = here.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const bytes = serialise({ chunks: here, sizeBytes });
    here = [];
    return bytes;
  };
  for (const chunk of chunks) {
    if (chunk instanceof Uint8Array) here.push(chunk);
    else {
      yield together();
      yield* chunk.pieces();
    }
  }
  yield together();
}

/** One buffer with all of a message's bytes, of which none is to be read later. */
export function serialise({ chunks, sizeBytes }: Message): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  let at = 0;
  for (const chunk of chunks) {
    assert(chunk instanceof Uint8Array, "bytes that are read later are streamed");
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
  return bytes;
}

function nested(field: number, inner: Message): Message {
  const head = Uint8Array.from([...varint((BigInt(field) << 3n) | 2n), ...varint(BigInt(inner.sizeBytes))]);
  return { chunks: [head, ...inner.chunks], sizeBytes: head.byteLength + inner.sizeBytes };
}

function raw(bytes: readonly number[]): Message {
  return { chunks: [Uint8Array.from(bytes)], sizeBytes: bytes.length };
}

function varint(value: bigint): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest === 0n ? low : low | 128);
  } while (rest !== 0n);
  return bytes;
}
