import { readFileSync } from "node:fs";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { parquetWriteBuffer } from "hyparquet-writer";
import { expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { readDataset, streamDataset } from "../src/train/data/index.ts";
import { piecesOf } from "../src/train/data/pieces.ts";
import { createXxh64 } from "../src/train/data/xxh64.ts";
import { byteLevelTokenizer } from "./fixtures/byte-level-tokenizer.ts";
import { zstdFrame } from "./helpers/compress.ts";

/*
 * Data files that are small and claim, or unfold to, more than a machine holds: each ends in a coded error, soon and in
 * bounded memory, whether it is read whole or in pieces.
 */

const magic = [0x28, 0xb5, 0x2f, 0xfd];
/** A block of Zstandard that stands for `size` times a line break. */
const repeated = (size: number, last = false): number[] => {
  const head = (size << 3) | 2 | Number(last);
  return [head & 255, (head >> 8) & 255, head >> 16, 10];
};
const windowOf = (exponent: number): number => (exponent - 10) << 3;
const times = (count: number, bytes: readonly number[]): Uint8Array =>
  Uint8Array.from({ length: count * bytes.length }, (_, i) => bytes[i % bytes.length] ?? 0);
const joined = (...parts: readonly ArrayLike<number>[]): Uint8Array => {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};
const frame = (blocks: ArrayLike<number>, window = windowOf(20)): Uint8Array =>
  joined([...magic, 0x00, window], blocks, repeated(1, true));
const folded = gzipSync(Buffer.alloc(2 ** 26, 10));
/** Rows without end, as many as may unfold of so small a file. */
const many = (row: string): Uint8Array => new Uint8Array(gzipSync(row.repeat(21e6 / row.length)));

const compressed: Readonly<Record<string, [name: string, bytes: Uint8Array, code: string]>> = {
  "gzip of line breaks": ["d.jsonl.gz", joined(folded, folded, folded, folded), "file-too-large"],
  "gzip of line breaks in CSV": ["d.csv.gz", joined(folded, folded), "file-too-large"],
  "gzip of no JSON": ["d.jsonl.gz", many("x\n"), "malformed-data"],
  "gzip of rows that do not fit their header": ["d.csv.gz", many("a,b\nc\n"), "malformed-data"],
  "zstd of line breaks": ["d.jsonl.zst", frame(times(100_000, repeated(2 ** 17))), "file-too-large"],
  "zstd, a block that claims two megabytes": ["d.jsonl.zst", frame(repeated(2 ** 21 - 1)), "malformed-data"],
  "zstd, a window of two gigabytes": ["d.jsonl.zst", frame(repeated(1), windowOf(31)), "malformed-data"],
  "zstd, many windows of 128 megabytes": [
    "d.jsonl.zst",
    times(1000, [...frame(repeated(1), windowOf(27))]),
    "malformed-data",
  ],
  "zstd, small blocks in a wide window": [
    "d.jsonl.zst",
    frame(times(100_000, repeated(1)), windowOf(26)),
    "malformed-data",
  ],
  "zstd, a frame that claims more than a number holds": [
    "d.jsonl.zst",
    joined([...magic, 0xe0], times(8, [255]), repeated(1, true)),
    "malformed-data",
  ],
  "zstd, a frame that holds less than it claims": [
    "d.jsonl.zst",
    joined([...magic, 0x20, 9], repeated(1, true)),
    "malformed-data",
  ],
  "zstd, skipped without end": [
    "d.jsonl.zst",
    Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 1),
    "malformed-data",
  ],
  "zstd with a dictionary": [
    "d.jsonl.zst",
    joined([...magic, 0x01, windowOf(20), 7], repeated(1, true)),
    "malformed-data",
  ],
};

/** Megabytes of one page of Parquet. */
const text = "a line that says the same as every other. ".repeat(2 ** 15);
type Codec = "SNAPPY" | "GZIP" | "BROTLI" | "ZSTD" | "LZ4" | "LZ4_RAW";
const parquet = (codec: Codec, compress?: (page: Uint8Array) => Uint8Array): Uint8Array =>
  new Uint8Array(
    parquetWriteBuffer({
      columnData: [{ name: "text", data: [text], type: "STRING", encoding: "PLAIN" }],
      codec,
      statistics: false,
      ...(compress ? { compressors: { [codec]: compress } } : {}),
    }),
  );

const brotli = (page: Uint8Array): Uint8Array =>
  brotliCompressSync(page, { params: { [constants.BROTLI_PARAM_QUALITY]: 3 } });

/** The same file, whose page claims 128 MB: field 2 of its header, after the page's type. */
function claiming(file: Uint8Array): Uint8Array {
  const claims = file.slice();
  const at = 4;
  expect([file[at], file[at + 2]]).toEqual([0x15, 0x15]);
  claims.set([0xfe, 0xff, 0xff, 0x7f], at + 3); // four bytes, as they were
  expect((file[at + 5] ?? 0) > 127 && (file[at + 6] ?? 255) < 128).toBe(true);
  return claims;
}

const pages: Readonly<Record<string, Uint8Array>> = {
  "Snappy, a page that claims too much": claiming(parquet("SNAPPY")),
  "gzip, a page that claims too much": claiming(parquet("GZIP", (page) => gzipSync(page))),
  "Brotli, a page that claims too much": claiming(parquet("BROTLI", (page) => brotli(page))),
  "Zstandard, a page that claims too much": claiming(parquet("ZSTD", zstdFrame)),
  "Zstandard, a page that unfolds to more than it claims": parquet("ZSTD", () => frame(times(5000, repeated(2 ** 17)))),
  "Zstandard, a page of many frames that claim as much": parquet("ZSTD", () =>
    times(2000, [...magic, 0xa0, 0, 0, 0, 8, ...repeated(1, true)]),
  ),
  "LZ4, a part of negative length": parquet("LZ4", () => joined([0, 0, 0, 0, 255, 255, 255, 248], new Uint8Array(32))),
  "LZ4, a part that claims too much": parquet("LZ4", () => joined([127, 255, 255, 255, 0, 0, 0, 8], new Uint8Array(8))),
  "LZ4, a match that leads out of the page": parquet("LZ4_RAW", () => Uint8Array.of(0x1f, 1, 9, 0, 255, 255, 255, 0)),
};

/** What a file may take to be refused twice, whole and in pieces: seconds of a processor, and bytes. */
const [seconds, mostBytes] = [20, 600e6];

async function refused(name: string, bytes: Uint8Array): Promise<readonly string[]> {
  const storage = memoryStorage({ [name]: bytes });
  const before = process.resourceUsage().maxRSS;
  const start = process.cpuUsage();
  const codes: string[] = [];
  const streamed = async (): Promise<void> => {
    for await (const _ of piecesOf(storage, { path: name }) ?? []);
  };
  for (const read of [() => readDataset(storage, name), streamed]) {
    const error = await read().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    codes.push(error instanceof TuneError ? error.code : String(error));
  }
  const { user, system } = process.cpuUsage(start); // the machine may have other things to do
  expect((user + system) / 1e6).toBeLessThan(seconds);
  expect(1024 * (process.resourceUsage().maxRSS - before)).toBeLessThan(mostBytes);
  return codes;
}

it.each(Object.entries(compressed))(
  "%s",
  async (_, [name, bytes, code]) => {
    expect(bytes.length).toBeLessThan(2 ** 20);
    expect(await refused(name, bytes)).toEqual([code, code]);
  },
  120_000,
);

it.each(Object.entries(pages))(
  "Parquet: %s",
  async (_, bytes) => {
    expect(await refused("d.parquet", bytes)).toEqual(["malformed-data", "malformed-data"]);
  },
  120_000,
);

it("Parquet of every codec is read", async () => {
  const whole = {
    SNAPPY: parquet("SNAPPY"),
    GZIP: parquet("GZIP", (page) => gzipSync(page)),
    BROTLI: parquet("BROTLI", (page) => brotli(page)),
    ZSTD: parquet("ZSTD", zstdFrame),
  };
  for (const bytes of Object.values(whole)) {
    const { rows } = await readDataset(memoryStorage({ "d.parquet": bytes }), "d.parquet");
    expect(rows.map(({ value }) => value["text"])).toEqual([text]);
  }
});

it("frames of Zstandard are held against their checksum: no bit of a file differs in silence", async () => {
  const fixture = (name: string): Uint8Array =>
    new Uint8Array(readFileSync(new URL(`fixtures/${name}`, import.meta.url)));
  const expected = (await readDataset(memoryStorage({ "d.jsonl": fixture("rows.jsonl") }), "d.jsonl")).rows;
  const whole = fixture("rows.jsonl.zst"); // `zstd -19 --check` 1.5.4
  const read = async (bytes: Uint8Array): Promise<unknown> => {
    try {
      return (await readDataset(memoryStorage({ "d.jsonl.zst": bytes }), "d.jsonl.zst")).rows;
    } catch (error) {
      if (error instanceof TuneError && error.code === "malformed-data") return error.message;
      throw error;
    }
  };
  expect(await read(whole)).toEqual(expected);
  let byChecksum = 0;
  for (let bit = 0; bit < 8 * whole.length; bit++) {
    const damaged = whole.slice();
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    const got = await read(damaged);
    if (typeof got !== "string") expect(got, `bit ${bit}`).toEqual(expected);
    else if (got.includes("checksum")) byChecksum++;
    if (bit >= 8 * (whole.length - 4)) expect(got, `bit ${bit}`).toContain("checksum");
  }
  expect(byChecksum).toBeGreaterThan(whole.length);
}, 60_000);

it("frames of Zstandard without a checksum are refused where a match reaches back beyond what there is", async () => {
  const fixture = (name: string): Uint8Array =>
    new Uint8Array(readFileSync(new URL(`fixtures/${name}`, import.meta.url)));
  const sealed = fixture("rows.jsonl.zst");
  const bare = sealed.slice(0, -4);
  bare[4] = (bare[4] ?? 0) & ~4; // its header says that it has no checksum
  const refusals: string[] = [];
  const read = async (bytes: Uint8Array): Promise<string> => {
    try {
      const { rows } = await readDataset(memoryStorage({ "d.txt.zst": bytes }), "d.txt.zst");
      return JSON.stringify(rows.map(({ value }) => value["text"]));
    } catch (error) {
      if (!(error instanceof TuneError)) throw error;
      refusals.push(error.message);
      return "";
    }
  };
  expect(await read(bare)).toContain("prompt");
  for (let bit = 0; bit < 8 * bare.length; bit++) {
    const damaged = bare.slice();
    damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect((await read(damaged)).includes("\\u0000"), `bit ${bit}`).toBe(false);
  }
  // What Zstandard's own library refuses of these for their distances alone.
  expect(refusals.filter((message) => message.includes("bytes of zero")).length).toBeGreaterThan(400);
}, 60_000);

it.each([
  ["", "ef46db3751d8e999"],
  ["a", "d24ec4f1a98c6e5b"],
  ["abc", "44bc2cf5ad770999"],
])("xxh64 of %j is that of its own test vectors", (content, expected) => {
  const hash = createXxh64();
  hash.update(new TextEncoder().encode(content));
  expect(hash.hex()).toBe(expected);
});

it("a page of Parquet whose checksum differs is refused", async () => {
  const file = parquet("ZSTD", (page) => {
    const frame = zstdFrame(page);
    frame[100] = (frame[100] ?? 0) ^ 1;
    return frame;
  });
  await expect(readDataset(memoryStorage({ "d.parquet": file }), "d.parquet")).rejects.toMatchObject({
    code: "malformed-data",
    message: expect.stringContaining("checksum"),
  });
});

it("more problems than a call takes arguments are told, whole and streamed", async () => {
  const storage = memoryStorage({ "d.jsonl": `${"x\n".repeat(150_000)}{"text": "some text"}\n` });
  const options = { tokenizer: byteLevelTokenizer(), maxLength: 9, validation: 0, seed: 0, cache: "cache" };
  const { skipped } = await readDataset(storage, "d.jsonl", { skipBadRows: true });
  expect(skipped).toHaveLength(150_000);
  const streamed = await streamDataset(storage, [{ path: "d.jsonl" }], { ...options, skipBadRows: true });
  expect(streamed.skipped).toHaveLength(150_000);
  await expect(streamDataset(storage, [{ path: "d.jsonl" }], options)).rejects.toMatchObject({
    code: "malformed-data",
  });
});

it("more rows than are held at once are refused by name where a file is read whole", async () => {
  await expect(readDataset(memoryStorage({ "d.jsonl.gz": many("{}\n") }), "d.jsonl.gz")).rejects.toMatchObject({
    code: "file-too-large",
    message: expect.stringContaining("4194304 rows"),
  });
}, 120_000);
