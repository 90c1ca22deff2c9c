import { memoryStorage } from "../../src/io/memory-storage.ts";
import type { Storage } from "../../src/io/storage.ts";
import { streamDataset } from "../../src/train/data/index.ts";
import { letterTokenizer } from "../fixtures/letter-tokenizer.ts";

/*
 * Stream a file of a quarter of a gigabyte that is made up as it is read, and print how much memory that took. What is written
 * is counted and forgotten.
 */
const rowBytes = 2 ** 16;
const rows = 4096;
const filler = "lorem ipsum ".repeat(rowBytes / 12 + 1);
const row = (i: number): string => {
  const start = `{"text": "${i} `;
  return `${start}${filler.slice(0, rowBytes - start.length - 3)}"}\n`;
};
const storage: Storage = {
  ...memoryStorage(),
  sizeBytes: async () => rows * rowBytes,
  read: async (_path, { start, end } = { start: 0, end: 0 }) => {
    if (end - start < 4096) return new Uint8Array(end - start); // of the cache
    const first = Math.floor(start / rowBytes);
    const last = Math.ceil(end / rowBytes);
    const text = Array.from({ length: last - first }, (_, i) => row(first + i)).join("");
    return new TextEncoder().encode(text).subarray(start - first * rowBytes, end - first * rowBytes);
  },
  write: async (_path, content) => {
    for await (const _chunk of content as AsyncIterable<Uint8Array>);
  },
};
const before = process.resourceUsage().maxRSS;
const { store } = await streamDataset(storage, [{ path: "large.jsonl" }], {
  tokenizer: letterTokenizer(64),
  maxLength: 64,
  validation: 0,
  seed: 0,
  cache: "cache",
});
const grownBytes = 1024 * (process.resourceUsage().maxRSS - before);
console.log(JSON.stringify({ fileBytes: rows * rowBytes, examples: store.count, grownBytes }));
