/**
 * Writing the protobuf wire format (protobuf.dev/programming-guides/encoding): a message is a list of tagged fields.
 * Messages are built inside out as lists of byte chunks, so large payloads are never copied on the way.
 */
export interface Message {
  readonly chunks: readonly Uint8Array[];
  readonly sizeBytes: number;
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

/** A string field. */
export function stringField(field: number, value: string): Message {
  return bytesField(field, text.encode(value));
}

/** A field that holds a message. */
export function messageField(field: number, fields: readonly Message[]): Message {
  return nested(field, message(fields));
}

/** One buffer with all of a message's bytes. */
export function serialise({ chunks, sizeBytes }: Message): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  let at = 0;
  for (const chunk of chunks) {
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
