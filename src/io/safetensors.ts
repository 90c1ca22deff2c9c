import { assert, TuneError } from "../errors.ts";
import {
  bytesOf,
  bytesPerElement,
  type DataOf,
  type DType,
  type LazyTensor,
  sizeOf,
  type Tensor,
  type TensorContent,
  viewAs,
} from "../graph/index.ts";
import { createContentHash } from "./content-hash.ts";
import { isJsonObject, parseJsonObject } from "./json.ts";
import { type Problem, throwProblems } from "./problems.ts";
import type { Storage } from "./storage.ts";

/** A safetensors file whose header has been read and checked; its tensors are still on the disk. */
export interface Safetensors {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of the file. */
  readonly tensors: ReadonlyMap<string, LazyTensor>;
}

/** A tensor to write, by name. */
export interface NamedTensor {
  readonly name: string;
  readonly tensor: Tensor | LazyTensor;
}

/** The official reader's limit on the header's length. */
const maxHeaderBytes = 100_000_000;

/** File spelling -> dtype, in the order in which the official writer lays tensors out (widest first). */
const dtypes: Readonly<Record<string, DType>> = {
  U64: "uint64",
  I64: "int64",
  F64: "float64",
  F32: "float32",
  U32: "uint32",
  I32: "int32",
  BF16: "bfloat16",
  F16: "float16",
  U16: "uint16",
  I16: "int16",
  F8_E8M0: "float8e8m0",
  F8_E4M3: "float8e4m3fn",
  F8_E5M2: "float8e5m2",
  I8: "int8",
  U8: "uint8",
  BOOL: "bool",
};
const spellings: readonly string[] = Object.keys(dtypes);
const spellingOf: ReadonlyMap<DType, string> = new Map(Object.entries(dtypes).map(([file, dtype]) => [dtype, file]));

/** Part of the format, but with no dtype here. */
const unsupported: ReadonlySet<string> = new Set("C64 F8_E4M3FNUZ F8_E5M2FNUZ F6_E2M3 F6_E3M2 F4".split(" "));

const damaged = "download or write the file again; it is damaged or was cut short";

/**
 * Open a safetensors file: read and check its header, and nothing else. Each tensor is read when asked for, in the
 * dtype it has in the file. Format: https://github.com/huggingface/safetensors#format, checked as strictly as the
 * official reader does (tensors must cover the data exactly), and duplicate keys are refused as well.
 * @throws {TuneError} `safetensors-truncated`, `safetensors-bad-header` (length, JSON, fields),
 * `safetensors-unknown-dtype`, `safetensors-unsupported-dtype` (types of AMD's float8, of 6 and of 4 bits, and complex numbers) or
 * `safetensors-bad-layout` (sizes, offsets, overlaps, holes), listing every problem of the file; `file-not-found`. Reading
 * a tensor throws `file-changed` when the file is no longer the one that was opened.
 */
export async function openSafetensors(storage: Storage, path: string): Promise<Safetensors> {
  const stamp = await storage.stamp(path);
  const sizeBytes = await storage.sizeBytes(path);
  if (sizeBytes === undefined) throw new TuneError("file-not-found", `no file ${path}.`, { fix: "check the path" });
  if (sizeBytes < 8) {
    throw new TuneError("safetensors-truncated", `the file has ${sizeBytes} bytes; its header alone needs more.`, {
      at: path,
      fix: damaged,
    });
  }
  const prefix = await storage.read(path, { start: 0, end: 8 });
  const headerBytes = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (headerBytes > maxHeaderBytes) {
    throw new TuneError(
      "safetensors-bad-header",
      `the header claims ${headerBytes} bytes; at most ${maxHeaderBytes} are allowed.`,
      { at: path, fix: "check that this is a safetensors file; if it is, fetch it again" },
    );
  }
  const dataStart = 8 + Number(headerBytes);
  if (dataStart > sizeBytes) {
    throw new TuneError(
      "safetensors-truncated",
      `the header claims ${headerBytes} bytes, but the file ends after ${sizeBytes}.`,
      { at: path, fix: damaged },
    );
  }
  const { __metadata__: metadata = null, ...entries } = parseJsonObject(
    await storage.read(path, { start: 8, end: dataStart }),
    "safetensors-bad-header",
    path,
  );
  const problems: Problem[] = [];
  const located: Located[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    const result = locate(name, entry);
    if ("code" in result) problems.push(result);
    else located.push(result);
  }
  if (metadata !== null && !isTextRecord(metadata)) {
    problems.push({
      code: "safetensors-bad-header",
      what: "__metadata__ is not a map from text to text.",
      fix: damaged,
    });
  }
  located.sort((a, b) => a.start - b.start || a.end - b.end);
  // A tensor that could not be placed would show up again as a hole.
  if (problems.length === 0) problems.push(...coverage(located, sizeBytes - dataStart));
  throwProblems(problems, path);

  const onDisk = await storage.diskPath?.(path);
  const unchanged = (): Promise<void> => checkUnchanged(storage, path, stamp);
  const tensors = new Map<string, LazyTensor>();
  for (const { name, dtype, shape, start, end } of located) {
    const [contentOf, content] = hashedContent({ dtype, start, end }, (from, to, into) => readBytes(from, to, into));
    const readBytes = async (from: number, to: number, into?: ArrayBuffer): Promise<DataOf> => {
      const range = { start: dataStart + from, end: dataStart + to };
      const bytes = await storage.read(path, range, into).catch(async (error) => {
        await unchanged();
        throw error;
      });
      await unchanged();
      contentOf(from, bytes);
      return viewAs(dtype, bytes);
    };
    const width = bytesPerElement(dtype);
    tensors.set(name, {
      dtype,
      shape,
      sizeBytes: end - start,
      read: async () => ({ dtype, shape, data: await readBytes(start, end) }),
      readPart: (first, last, into) => readBytes(start + width * first, start + width * last, into),
      content: {
        hashWhenRead: content.hashWhenRead,
        hash: async () => {
          await unchanged();
          return content.hash();
        },
      },
      ...(onDisk === undefined
        ? {}
        : { file: { path: onDisk, offset: dataStart + start, length: end - start, check: unchanged } }),
    });
  }
  return { metadata: isTextRecord(metadata) ? metadata : {}, tensors };
}

/** So much of a tensor is read at once for its hash alone. */
const hashedBytes = 2 ** 23;

/**
 * The hash of a tensor's bytes, taken from what is read anyway once it is asked for: `seen` is told of every read, and parts
 * count as long as they follow one another.
 */
function hashedContent(
  { dtype, start, end }: Pick<Located, "dtype" | "start" | "end">,
  read: (from: number, to: number, into: ArrayBuffer) => Promise<unknown>,
): readonly [seen: (from: number, bytes: Uint8Array) => void, content: TensorContent] {
  let [wanted, at] = [false, start];
  let hash = createContentHash();
  let done: string | undefined;
  const restart = (): void => {
    hash = createContentHash();
    hash.update(new TextEncoder().encode(dtype.padEnd(16))); // so that what follows stays aligned
    at = start;
  };
  restart();
  const seen = (from: number, bytes: Uint8Array): void => {
    if (!wanted || done !== undefined) return;
    if (from === start && at !== start) restart();
    if (from !== at) return;
    hash.update(bytes);
    at += bytes.length;
    if (at === end) done = hash.digest();
  };
  return [
    seen,
    {
      hashWhenRead: () => {
        wanted = true;
      },
      hash: async () => {
        wanted = true;
        const memory = new ArrayBuffer(done === undefined ? Math.min(end - at, hashedBytes) : 0);
        while (done === undefined) {
          if (at === end)
            done = hash.digest(); // empty
          else await read(at, Math.min(end, at + hashedBytes), memory);
        }
        return done;
      },
    },
  ];
}

/**
 * Write a safetensors file, one tensor at a time, byte for byte as the official writer would: widest dtype first,
 * then by name; the header padded with spaces to 8 bytes.
 * @throws {TuneError} `tensor-name-taken` when two entries share a name or one is called `__metadata__`;
 * `write-failed`; whatever reading a lazy tensor throws (the file is then as it was before).
 */
export async function writeSafetensors(
  storage: Storage,
  path: string,
  entries: Iterable<NamedTensor>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const { text, sorted } = safetensorsLayout(entries, metadata, path);
  await storage.write(path, fileChunks(text, sorted));
}

/** The header that {@link writeSafetensors} would write, as text without its padding, and the tensors in their order. */
export function safetensorsLayout(
  entries: Iterable<NamedTensor>,
  metadata: Readonly<Record<string, string>>,
  path: string,
): { readonly text: string; readonly sorted: readonly NamedTensor[] } {
  const sorted = [...entries].sort(officialOrder);
  refuseTakenNames(sorted, path);
  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [["__metadata__", metadata]] : [];
  let offset = 0;
  for (const { name, tensor } of sorted) {
    const end = offset + byteLengthOf(tensor);
    const { dtype, shape } = tensor;
    assert(end - offset === sizeOf(shape) * bytesPerElement(dtype), () => `${name} does not fill its shape`);
    header.push([name, { dtype: spellingOf.get(dtype), shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  return { text: objectText(header), sorted };
}

/** Check that every tensor has a name of its own. @throws {TuneError} `tensor-name-taken`. */
export function refuseTakenNames(entries: Iterable<NamedTensor>, at: string): void {
  const taken = new Set(["__metadata__"]);
  for (const { name } of entries) {
    if (taken.has(name)) {
      throw new TuneError("tensor-name-taken", `the tensor name "${name}" is already taken.`, {
        at,
        fix: "give every tensor a name of its own",
      });
    }
    taken.add(name);
  }
}

/** Bytes a tensor takes in memory and in a file. */
export function byteLengthOf(tensor: Tensor | LazyTensor): number {
  return "data" in tensor ? tensor.data.byteLength : tensor.sizeBytes;
}

interface Located {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

/** One entry of the header, or what is wrong with it. */
function locate(name: string, entry: unknown): Located | Problem {
  const bad = (code: string, what: string, fix = damaged): Problem => ({ code, what: `${name}: ${what}`, fix });
  if (!isJsonObject(entry)) return bad("safetensors-bad-header", "its entry is not an object.");
  const { dtype: spelling, shape, data_offsets: offsets } = entry;
  if (typeof spelling !== "string") return bad("safetensors-bad-header", "it names no dtype.");
  const dtype = Object.hasOwn(dtypes, spelling) ? dtypes[spelling] : undefined;
  if (dtype === undefined) {
    return unsupported.has(spelling)
      ? bad(
          "safetensors-unsupported-dtype",
          `dtype ${spelling} is not supported.`,
          "convert the file to BF16, F16 or F32 with the tool that made it, which knows the scales that belong to the codes",
        )
      : bad("safetensors-unknown-dtype", `dtype "${spelling}" is unknown.`, `use one of ${spellings.join(", ")}`);
  }
  if (!isSizes(shape)) return bad("safetensors-bad-header", "its shape is not a list of whole numbers ≥ 0.");
  if (!isSizes(offsets) || offsets.length !== 2) {
    return bad("safetensors-bad-header", "its data_offsets are not two whole numbers ≥ 0.");
  }
  const [start = 0, end = 0] = offsets;
  if (end < start) return bad("safetensors-bad-layout", `it ends at byte ${end}, before its start at ${start}.`);
  let bytes = bytesPerElement(dtype);
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) return bad("safetensors-bad-layout", `shape [${shape.join(", ")}] is too large.`);
  }
  if (bytes !== end - start) {
    const claim = `${spelling} [${shape.join(", ")}] takes ${bytes} bytes`;
    return bad("safetensors-bad-layout", `${claim}, but its offsets span ${end - start}.`);
  }
  return { name, dtype, shape, start, end };
}

/** Whether tensors, sorted by offset, cover the data exactly: no overlap, no hole, nothing beyond the end. */
function coverage(located: readonly Located[], dataBytes: number): Problem[] {
  const problems: Problem[] = [];
  const bad = (what: string): void => {
    problems.push({ code: "safetensors-bad-layout", what, fix: damaged });
  };
  let covered = 0;
  let last = "the header";
  for (const { name, start, end } of located) {
    if (start < covered) bad(`${name}: bytes ${start} to ${end} overlap those of ${last}, which end at ${covered}.`);
    if (start > covered) bad(`${name}: bytes ${covered} to ${start}, before it, belong to no tensor.`);
    if (end >= covered) last = name;
    covered = Math.max(covered, end);
  }
  if (covered > dataBytes) {
    const what = `the tensors need ${covered} bytes, up to ${last}, but the file holds ${dataBytes}.`;
    problems.unshift({ code: "safetensors-truncated", what, fix: damaged });
  }
  if (covered < dataBytes) bad(`the last ${dataBytes - covered} bytes of the file belong to no tensor.`);
  return problems;
}

function isSizes(value: unknown): value is readonly number[] {
  // JSON's -0 would pass as an integer; the format's sizes are unsigned.
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0 && !Object.is(size, -0));
}

function isTextRecord(value: unknown): value is Readonly<Record<string, string>> {
  return isJsonObject(value) && Object.values(value).every((text) => typeof text === "string");
}

function officialOrder(a: NamedTensor, b: NamedTensor): number {
  const rank = ({ tensor }: NamedTensor): number => spellings.indexOf(spellingOf.get(tensor.dtype) ?? "");
  return rank(a) - rank(b) || compareUtf8(a.name, b.name);
}

/** Order of the UTF-8 bytes, which is the order of code points; `<` on strings compares UTF-16 units. */
function compareUtf8(a: string, b: string): number {
  const left = [...a];
  const right = [...b];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

/** JSON of an object in exactly this order: JavaScript would move keys that look like numbers to the front. */
function objectText(entries: readonly (readonly [string, unknown])[]): string {
  return `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`;
}

/** The first bytes of a file: the length of its header, and the header filled up with spaces. */
export function headerBytes(header: string): Uint8Array {
  const text = new TextEncoder().encode(header);
  const padded = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(padded.buffer).setBigUint64(0, BigInt(padded.length - 8), true);
  padded.set(text, 8);
  return padded;
}

/** Elements of a tensor that are read and written together, where it can be read in parts. */
const partElements = 2 ** 20;

async function* fileChunks(header: string, entries: readonly NamedTensor[]): AsyncGenerator<Uint8Array> {
  yield headerBytes(header);
  const memory = new ArrayBuffer(partElements * 8);
  for (const { name, tensor } of entries) {
    const size = sizeOf(tensor.shape);
    if ("readPart" in tensor && tensor.readPart && size > partElements) {
      for (let start = 0; start < size; start += partElements) {
        const end = Math.min(size, start + partElements);
        const data = await tensor.readPart(start, end, memory);
        if (data.length !== end - start || data.byteLength !== (end - start) * bytesPerElement(tensor.dtype)) {
          throw new TuneError("read-failed", `${name} changed while it was being written.`, { fix: "try again" });
        }
        yield bytesOf(data);
      }
      continue;
    }
    const { dtype, data } = "data" in tensor ? tensor : await tensor.read();
    if (dtype !== tensor.dtype || data.byteLength !== byteLengthOf(tensor)) {
      throw new TuneError("read-failed", `${name} changed while it was being written.`, { fix: "try again" });
    }
    yield bytesOf(data);
  }
}

/** Offsets are those of the header that was read: in another file they would be other numbers. */
async function checkUnchanged(storage: Storage, path: string, stamp: string | undefined): Promise<void> {
  if ((await storage.stamp(path)) === stamp) return;
  throw new TuneError("file-changed", "The file was changed while it was in use.", {
    at: path,
    fix: "leave a model's files alone while it is read or tuned, then start again (a run resumes from its checkpoint)",
  });
}
