import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { TuneError } from "../errors.ts";
import { allocate, bytesOf, bytesPerElement, type DType, sizeOf, type Tensor, tensor, viewAs } from "../graph/index.ts";
import { castTensor } from "./convert.ts";
import { memoryStorage } from "./memory-storage.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";

const golden = new Uint8Array(
  readFileSync(new URL("../../tests/golden/safetensors-dtypes.safetensors", import.meta.url)),
);

/** A file with this header text and data, whatever they say. */
function file(header: string | Uint8Array, dataBytes = 0, claimed?: bigint): Uint8Array {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, claimed ?? BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

async function readAll(bytes: Uint8Array): Promise<NamedTensor[]> {
  const { tensors } = await openSafetensors(memoryStorage({ f: bytes }), "f");
  return Promise.all([...tensors].map(async ([name, lazy]) => ({ name, tensor: await lazy.read() })));
}

async function written(entries: Iterable<NamedTensor>, metadata?: Record<string, string>): Promise<Uint8Array> {
  const storage = memoryStorage();
  await writeSafetensors(storage, "f", entries, metadata);
  return storage.read("f");
}

describe("the official writer's file", () => {
  it("holds what the script put there", async () => {
    const storage = memoryStorage({ f: golden });
    const { metadata, tensors } = await openSafetensors(storage, "f");
    expect(metadata).toEqual({ format: "pt" });
    expect(tensors.size).toBe(20);
    const of = async (name: string): Promise<Tensor | undefined> => tensors.get(name)?.read();
    const integers = { int64: 63n, int32: 31n, int16: 15n, int8: 7n, uint64: 64n, uint32: 32n, uint16: 16n, uint8: 8n };
    for (const [name, bits] of Object.entries(integers)) {
      const low = name.startsWith("u") ? 0n : -(2n ** bits);
      const read = await of(name);
      expect(read).toMatchObject({ dtype: name, shape: [2, 3] });
      expect([...(read?.data ?? [])].map(BigInt)).toEqual([low, 0n, 1n, 2n, 3n, 2n ** bits - 1n]);
    }
    const limits = {
      float64: [0.1, Number.MAX_VALUE, 2 ** -1022],
      float32: [Math.fround(0.1), (2 - 2 ** -23) * 2 ** 127, 2 ** -126],
      bfloat16: [0.10009765625, (2 - 2 ** -7) * 2 ** 127, 2 ** -126],
      float16: [0.0999755859375, 65504, 2 ** -14],
    } as const;
    for (const [name, [tenth, max, tiny]] of Object.entries(limits)) {
      const read = await of(name);
      expect(read?.dtype).toBe(name);
      if (read === undefined) continue;
      expect([...castTensor(read, "float64").data]).toEqual([tenth, -0, -2.5, max, tiny, Infinity]);
    }
    expect(await of("bool")).toEqual(tensor("bool", [3], [1, 0, 1]));
    expect(await of("scalar")).toEqual(tensor("float32", [], 3.5));
    expect(await of("empty")).toEqual(tensor("float32", [0, 4], []));
    expect(await of("\u{1f331}")).toEqual(tensor("int8", [1], [3]));
  });

  it("is what our writer makes of the same tensors, byte for byte", async () => {
    expect(await written((await readAll(golden)).reverse())).toEqual(golden);
  });
});

const dtypes: DType[] = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8"];
const unsigned: DType[] = ["uint64", "uint32", "uint16", "uint8", "bool"];

const anyTensor: fc.Arbitrary<Tensor> = fc
  .tuple(fc.constantFrom(...dtypes, ...unsigned), fc.array(fc.nat(3), { maxLength: 3 }))
  .chain(([dtype, shape]) => {
    const sizeBytes = sizeOf(shape) * bytesPerElement(dtype);
    return fc
      .uint8Array({ minLength: sizeBytes, maxLength: sizeBytes })
      .map((bytes): Tensor => ({ dtype, shape, data: viewAs(dtype, bytes) }));
  });

const anyEntries: fc.Arbitrary<NamedTensor[]> = fc.uniqueArray(
  fc.record({ name: fc.string({ unit: "binary" }).filter((name) => name !== "__metadata__"), tensor: anyTensor }),
  { selector: ({ name }) => name, maxLength: 6 },
);

/** Tensors as text, so that NaN patterns and element types compare exactly. */
function exactly(entries: readonly NamedTensor[]): string[] {
  return entries
    .map(({ name, tensor }) => {
      const bytes = "data" in tensor ? [...bytesOf(tensor.data)] : [];
      return JSON.stringify([name, tensor.dtype, tensor.shape, bytes]);
    })
    .sort();
}

describe("write then read", () => {
  it("gives back every tensor and the metadata", async () => {
    await fc.assert(
      fc.asyncProperty(anyEntries, fc.dictionary(fc.string(), fc.string()), async (entries, metadata) => {
        const bytes = await written(entries, metadata);
        expect(exactly(await readAll(bytes))).toEqual(exactly(entries));
        const opened = await openSafetensors(memoryStorage({ f: bytes }), "f");
        expect(Object.entries(opened.metadata).sort()).toEqual(Object.entries(metadata).sort());
        expect(new DataView(bytes.buffer).getBigUint64(0, true) % 8n).toBe(0n);
      }),
      { seed: 3, numRuns: 100 },
    );
  });

  it("copies lazily, even onto the file it reads from", async () => {
    const storage = memoryStorage({ f: golden });
    const { tensors } = await openSafetensors(storage, "f");
    const entries = [...tensors].map(([name, lazy]) => ({ name, tensor: lazy }));
    await writeSafetensors(storage, "f", entries);
    expect(await storage.read("f")).toEqual(golden);
  });

  it("refuses two tensors of one name, and the metadata's", async () => {
    const one = { name: "a", tensor: tensor("int8", [1], [1]) };
    await expect(written([one, one])).rejects.toMatchObject({ code: "tensor-name-taken" });
    await expect(written([{ ...one, name: "__metadata__" }])).rejects.toMatchObject({ code: "tensor-name-taken" });
  });
});

describe("reading", () => {
  it("touches the header only, then one tensor at a time", async () => {
    const inner = memoryStorage({ f: golden });
    const ranges: (number | undefined)[] = [];
    const storage: typeof inner = {
      ...inner,
      read: (path, range) => {
        ranges.push(range && range.end - range.start);
        return inner.read(path, range);
      },
    };
    const { tensors } = await openSafetensors(storage, "f");
    const headerBytes = Number(new DataView(golden.buffer).getBigUint64(0, true));
    expect(ranges).toEqual([8, headerBytes]);
    await tensors.get("float64")?.read();
    expect(ranges).toEqual([8, headerBytes, 48]);
  });

  const F32 = (start: number, end: number, shape = `[${(end - start) / 4}]`): string =>
    `{"dtype":"F32","shape":${shape},"data_offsets":[${start},${end}]}`;

  it.each<[string, Uint8Array, string, string]>([
    ["an empty file", new Uint8Array(), "safetensors-truncated", "0 bytes"],
    ["half a length", Uint8Array.of(1, 0, 0), "safetensors-truncated", "3 bytes"],
    ["a header cut short", file("{}", 0, 40n), "safetensors-truncated", "40 bytes"],
    ["an absurd header", file("{}", 0, 2n ** 63n), "safetensors-bad-header", "9223372036854775808"],
    ["a header over the limit", file("{}", 0, 100_000_001n), "safetensors-bad-header", "100000001"],
    ["no JSON", file("nonsense"), "safetensors-bad-header", "not valid JSON"],
    ["no header", file(""), "safetensors-bad-header", "not valid JSON"],
    ["bad UTF-8", file(Uint8Array.of(0x7b, 0xff, 0x7d)), "safetensors-bad-header", "UTF-8"],
    ["a list", file("[]"), "safetensors-bad-header", "not an object"],
    ["null", file("null"), "safetensors-bad-header", "not an object"],
    ["deep nesting", file("[".repeat(100_000)), "safetensors-bad-header", "not valid JSON"],
    ["a tensor twice", file(`{"a":${F32(0, 4)},"\\u0061":${F32(0, 4)}}`, 4), "safetensors-bad-header", 'once: "a"'],
    ["a field twice", file(`{"a":{"dtype":"F32",${F32(0, 4).slice(1)}}`, 4), "safetensors-bad-header", '"dtype"'],
    ["metadata of numbers", file(`{"__metadata__":{"a":1}}`), "safetensors-bad-header", "__metadata__"],
    ["an entry that is null", file(`{"a":null}`), "safetensors-bad-header", "a: "],
    ["no dtype", file(`{"a":{"shape":[],"data_offsets":[0,4]}}`, 4), "safetensors-bad-header", "a: it names no dtype"],
    ["a foreign dtype", file(`{"a":${F32(0, 4).replace("F32", "toString")}}`, 4), "safetensors-unknown-dtype", "a: "],
    [
      "float8",
      file(`{"a":${F32(0, 4).replace("F32", "F8_E4M3FNUZ")}}`, 4),
      "safetensors-unsupported-dtype",
      "F8_E4M3FNUZ",
    ],
    ["a negative size", file(`{"a":${F32(0, 4, "[-1]")}}`, 4), "safetensors-bad-header", "a: its shape"],
    ["a size of -0", file(`{"a":${F32(0, 0, "[-0]")}}`), "safetensors-bad-header", "a: its shape"],
    ["half a size", file(`{"a":${F32(0, 4, "[0.5]")}}`, 4), "safetensors-bad-header", "a: its shape"],
    ["a size as text", file(`{"a":${F32(0, 4, '["1"]')}}`, 4), "safetensors-bad-header", "a: its shape"],
    ["an unsafe size", file(`{"a":${F32(0, 4, "[9007199254740993]")}}`, 4), "safetensors-bad-header", "a: its shape"],
    [
      "an overflowing shape",
      file(`{"a":${F32(0, 4, "[4294967296,4294967296]")}}`, 4),
      "safetensors-bad-layout",
      "large",
    ],
    [
      "one offset",
      file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0]}}`),
      "safetensors-bad-header",
      "a: its data",
    ],
    ["offsets backwards", file(`{"a":${F32(4, 0, "[1]")}}`, 4), "safetensors-bad-layout", "a: it ends at byte 0"],
    ["a wrong size", file(`{"a":${F32(0, 8, "[3]")}}`, 8), "safetensors-bad-layout", "a: F32 [3] takes 12 bytes"],
    ["an overlap", file(`{"a":${F32(0, 8)},"b":${F32(4, 12)}}`, 12), "safetensors-bad-layout", "those of a"],
    ["a hole", file(`{"a":${F32(0, 4)},"b":${F32(8, 12)}}`, 12), "safetensors-bad-layout", "b: bytes 4 to 8"],
    ["bytes left over", file(`{"a":${F32(0, 4)}}`, 5), "safetensors-bad-layout", "last 1 bytes"],
    ["data cut short", file(`{"a":${F32(0, 4)},"b":${F32(4, 12)}}`, 8), "safetensors-truncated", "up to b"],
  ])("refuses %s", async (_, bytes, code, naming) => {
    const error = await openSafetensors(
      memoryStorage({ "dir/model.safetensors": bytes }),
      "dir/model.safetensors",
    ).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(TuneError);
    expect(error).toMatchObject({
      code,
      at: "dir/model.safetensors",
      fix: expect.any(String),
      message: expect.stringContaining(naming),
    });
  });

  it("lists every problem of a file at once", async () => {
    const header = `{"a":null,"b":${F32(0, 4, "[2]")},"c":${F32(4, 8).replace("F32", "F4")},"__metadata__":[]}`;
    const opening = openSafetensors(memoryStorage({ f: file(header, 8) }), "f");
    await expect(opening).rejects.toThrow(/4 problems:\n- a: .*\n- b: .*\n- c: .*\n- __metadata__/);
  });

  it("names a file that is not there", async () => {
    await expect(openSafetensors(memoryStorage(), "nowhere")).rejects.toMatchObject({ code: "file-not-found" });
  });

  it("allows what the format allows: any order, spaces, null metadata, empty tensors between others", async () => {
    const empty = `{"dtype":"F32","shape":[0],"data_offsets":[4,4]}`;
    const bytes = file(` {"b":${F32(4, 8)}, "e":${empty}, "__metadata__":null, "a":${F32(0, 4)} } \n`, 8);
    expect((await readAll(bytes)).map(({ name }) => name)).toEqual(["a", "e", "b"]);
  });
});

describe("a damaged file", () => {
  const small = [
    { name: "w", tensor: tensor("float32", [2, 3], [1, 2, 3, 4, 5, 6]) },
    { name: "b", tensor: tensor("int8", [3], [7, 8, 9]) },
    { name: "z", tensor: { dtype: "bfloat16", shape: [2], data: allocate("bfloat16", 2) } as const },
  ];
  const pick = fc.nat();
  const mutation = fc.oneof(
    fc.record({ kind: fc.constant("byte" as const), at: pick, value: fc.integer({ min: 0, max: 255 }) }),
    fc.record({ kind: fc.constant("digit" as const), at: pick, value: fc.constantFrom(...'0123456789-.e"[]{},:') }),
    fc.record({ kind: fc.constant("cut" as const), at: pick, length: fc.nat(12) }),
    fc.record({ kind: fc.constant("copy" as const), at: pick, from: pick, length: fc.nat(40) }),
    fc.record({ kind: fc.constant("end" as const), at: pick }),
    fc.record({ kind: fc.constant("length" as const), value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) }),
  );

  type Change = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

  function mutate(bytes: Uint8Array, change: Change): Uint8Array {
    const result = [...bytes];
    const headerEnd = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
    // Most damage goes to the header: that is where a reader can be led astray.
    const place = (seed: number): number => seed % Math.max(1, Math.min(headerEnd, result.length));
    if (change.kind === "byte") result[place(change.at)] = change.value;
    else if (change.kind === "digit") result[8 + place(change.at)] = change.value.charCodeAt(0);
    else if (change.kind === "cut") result.splice(place(change.at), change.length);
    else if (change.kind === "end") result.length = change.at % (result.length + 1);
    else if (change.kind === "copy") {
      const from = place(change.from);
      result.splice(place(change.at), 0, ...result.slice(from, from + change.length));
    } else {
      const prefix = new Uint8Array(8);
      new DataView(prefix.buffer).setBigUint64(0, change.value, true);
      result.splice(0, 8, ...prefix);
    }
    return Uint8Array.from(result);
  }

  /** The same file with its header's length put right, so that damage inside the JSON is reached. */
  function relabelled(bytes: Uint8Array, dataBytes: number): Uint8Array {
    if (bytes.length < 8 + dataBytes) return bytes;
    const copy = bytes.slice();
    new DataView(copy.buffer).setBigUint64(0, BigInt(bytes.length - 8 - dataBytes), true);
    return copy;
  }

  it("either loads as exactly what its header and bytes say, or is refused with a coded error", async () => {
    const base = await written(small);
    const dataBytes = small.reduce((total, { tensor }) => total + tensor.data.byteLength, 0);
    let loaded = 0;
    let refused = 0;
    const changes = fc.array(mutation, { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(changes, fc.boolean(), async (list, relabel) => {
        const damaged = list.reduce((bytes, change) => (bytes.length < 8 ? bytes : mutate(bytes, change)), base);
        const bytes = relabel ? relabelled(damaged, dataBytes) : damaged;
        let entries: NamedTensor[];
        try {
          entries = await readAll(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(TuneError);
          refused++;
          return;
        }
        loaded++;
        // An independent, naive reading of an accepted file must agree, and its tensors must tile the data.
        const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
        const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes)));
        delete header.__metadata__;
        expect(entries.map(({ name }) => name).sort()).toEqual(Object.keys(header).sort());
        let total = 0;
        for (const { name, tensor } of entries) {
          const { shape, data_offsets: offsets } = header[name];
          if (!("data" in tensor)) throw new Error("read tensors hold data");
          expect(tensor.shape).toEqual(shape);
          expect(tensor.data.length).toBe(sizeOf(shape));
          const data = bytes.subarray(8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1]);
          expect(bytesOf(tensor.data)).toEqual(data.slice());
          total += tensor.data.byteLength;
        }
        expect(8 + headerBytes + total).toBe(bytes.length);
      }),
      { seed: 4, numRuns: 800 },
    );
    // Both answers must occur, or the mutations miss their point.
    expect(loaded).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(300);
  });
});
