import { expect, it } from "vitest";
import { crc32c, maskedCrc, tfRecord } from "./tfevents.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

it("CRC-32C has the check values of RFC 3720, appendix B.4", () => {
  expect(crc32c(bytes("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
});

it("an event is a record as the format has it, byte by byte", () => {
  const record = tfRecord({ step: 3, wallTime: 1.5, scalars: { "train/loss": 0.25 } });
  const view = new DataView(record.buffer);
  const data = record.subarray(12, record.length - 4);
  expect(view.getBigUint64(0, true)).toBe(BigInt(data.length));
  expect(view.getUint32(8, true)).toBe(maskedCrc(record.subarray(0, 8)));
  expect(view.getUint32(record.length - 4, true)).toBe(maskedCrc(data));
  const value = [0x0a, 10, ...bytes("train/loss"), 0x15, 0, 0, 0x80, 0x3e];
  expect([...data]).toEqual([
    ...[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f], // wall_time = 1.5
    ...[0x10, 3], // step
    ...[0x2a, value.length + 2, 0x0a, value.length, ...value], // summary { value { tag, simple_value } }
  ]);
});
