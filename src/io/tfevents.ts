import { floatField, type Message, message, messageField, serialise, stringField, varintField } from "./onnx/wire.ts";

/** Something that happened at a step, for TensorBoard. */
export interface TfEvent {
  readonly step: number;
  /** Seconds since 1970. */
  readonly wallTime: number;
  /** Values by tag, such as `train/loss`. */
  readonly scalars?: Readonly<Record<string, number>>;
  /** The first event of a file says its version. */
  readonly fileVersion?: "brain.Event:2";
  /** A run starts (anew) here: what earlier files say of later steps no longer holds. */
  readonly starts?: true;
}

/**
 * An event as TensorBoard reads it: a record of TensorFlow's format (length uint64, its masked CRC-32C, the data, its
 * masked CRC-32C; tensorflow/core/lib/io/record_writer.h) that holds an `Event` (tensorflow/core/util/event.proto).
 */
export function tfRecord(event: TfEvent): Uint8Array {
  const { step, wallTime, scalars, fileVersion, starts } = event;
  const values = Object.entries(scalars ?? {}).map(([tag, value]) =>
    messageField(1, [stringField(1, tag), floatField(2, value)]),
  );
  const data = serialise(
    message([
      double(1, wallTime),
      varintField(2, step),
      ...(fileVersion === undefined ? [] : [stringField(3, fileVersion)]),
      ...(values.length === 0 ? [] : [messageField(5, values)]),
      ...(starts === undefined ? [] : [messageField(7, [varintField(1, 1)])]), // SessionLog with the status START
    ]),
  );
  const record = new Uint8Array(16 + data.length);
  const view = new DataView(record.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, maskedCrc(record.subarray(0, 8)), true);
  record.set(data, 12);
  view.setUint32(12 + data.length, maskedCrc(data), true);
  return record;
}

/** TensorFlow's masking of a checksum, so that a file of checksums has not those of its parts: rotate right by 15, add. */
export function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** CRC-32C (Castagnoli), RFC 3720 appendix B.4. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (crcTable[(crc ^ byte) & 0xff] as number); // a table of 256
  return (crc ^ 0xffffffff) >>> 0;
}

const crcTable: Uint32Array = Uint32Array.from({ length: 256 }, (_, i) => {
  let crc = i;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

function double(field: number, value: number): Message {
  return fixed((field << 3) | 1, new Uint8Array(Float64Array.of(value).buffer));
}

function fixed(tag: number, bytes: Uint8Array): Message {
  return { chunks: [Uint8Array.of(tag), bytes], sizeBytes: 1 + bytes.length };
}
