import { deflateSync } from "node:zlib";

/** A PNG of its chunks, with their checksums. */
export function png(...chunks: readonly (readonly [type: string, content: Uint8Array])[]): Uint8Array {
  const parts = chunks.map(([type, content]) => {
    const chunk = Buffer.concat([Buffer.alloc(4), Buffer.from(type, "latin1"), content, Buffer.alloc(4)]);
    chunk.writeUInt32BE(content.length, 0);
    chunk.writeUInt32BE(crc(chunk.subarray(4, -4)), chunk.length - 4);
    return chunk;
  });
  return new Uint8Array(Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), ...parts]));
}

function crc(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}

/** The header chunk of a PNG. */
export function ihdr(width: number, height: number, depth: number, colourType: number): [string, Uint8Array] {
  const content = Buffer.alloc(13);
  content.writeUInt32BE(width, 0);
  content.writeUInt32BE(height, 4);
  content.set([depth, colourType], 8);
  return ["IHDR", content];
}

/** Samples, compressed. */
export function idat(samples: Uint8Array): [string, Uint8Array] {
  return ["IDAT", deflateSync(samples)];
}

/** The chunk that ends a PNG. */
export const iend: [string, Uint8Array] = ["IEND", new Uint8Array()];
