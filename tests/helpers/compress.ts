import { gzipSync } from "node:zlib";
import { createXxh64 } from "../../src/train/data/xxh64.ts";

/** A frame of Zstandard of raw blocks (RFC 8878, §3.1.1), with a checksum. */
export function zstdFrame(content: Uint8Array): Uint8Array {
  const parts: Uint8Array[] = [Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x04, (20 - 10) << 3)];
  for (let at = 0; at === 0 || at < content.length; at += 2 ** 17) {
    const part = content.subarray(at, at + 2 ** 17);
    const head = (part.length << 3) | Number(at + 2 ** 17 >= content.length);
    parts.push(Uint8Array.of(head & 255, (head >> 8) & 255, head >> 16), part);
  }
  const hash = createXxh64();
  hash.update(content);
  parts.push(new Uint8Array(Int32Array.of(hash.low()).buffer));
  return new Uint8Array(Buffer.concat(parts));
}

/** How a file is written in each of the compressions that are read, by ending. */
export const compressors: Readonly<Record<string, (content: Uint8Array) => Uint8Array>> = {
  gz: (content) => new Uint8Array(gzipSync(content)),
  zst: zstdFrame,
};
