import type { Compressors } from "hyparquet";
import { unzstdWhole } from "./zstd.ts";

/**
 * What unfolds the pages of a Parquet file: hyparquet-compressors, but for two codecs that follow what a page says of itself
 * without end. Every one makes room for what the page's header claims, which `checkPages` has bounded, and no more.
 */
export async function pageCodecs(): Promise<Compressors> {
  const { compressors } = await import("hyparquet-compressors");
  const { Decompress } = await import("fzstd");
  const raw = compressors.LZ4_RAW;
  if (raw === undefined) throw new Error("hyparquet-compressors has LZ4_RAW");
  return {
    ...compressors,
    // Its own makes room for as much as every frame claims, and once more for each frame.
    ZSTD: (page, length) => unzstdWhole(Decompress, page, length),
    // Its own goes round and round where a part of Hadoop's framing has a negative length.
    LZ4: (page, length) => {
      const parts = hadoopParts(page, length);
      if (parts === undefined) return raw(page, length);
      const whole = new Uint8Array(length);
      let at = 0;
      for (const { folded, bytes } of parts) {
        whole.set(raw(folded, bytes), at);
        at += bytes;
      }
      return whole;
    },
  };
}

/** The parts of Hadoop's framing (two big-endian lengths before each); undefined for what is not framed so. */
function hadoopParts(
  page: Uint8Array,
  length: number,
): readonly { readonly folded: Uint8Array; readonly bytes: number }[] | undefined {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const parts: { folded: Uint8Array; bytes: number }[] = [];
  let left = length;
  for (let at = 0; at < page.length; ) {
    if (at + 8 > page.length) return undefined;
    const [bytes, folded] = [view.getUint32(at), view.getUint32(at + 4)];
    if (bytes > left || at + 8 + folded > page.length) return undefined;
    parts.push({ folded: page.subarray(at + 8, at + 8 + folded), bytes });
    left -= bytes;
    at += 8 + folded;
  }
  return left === 0 ? parts : undefined;
}
