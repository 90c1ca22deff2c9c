import { TuneError } from "../../errors.ts";
import { bytesOf, type LazyTensor } from "../../graph/index.ts";
import { castTensor } from "../convert.ts";

/**
 * Codes of some bits in words of 32, the lowest bits first. Word w of a row of codes is `words[start + w·stride]`; the
 * result is code `k` of that row.
 */
export type ReadCode = (words: Uint32Array, start: number, stride: number, k: number) => number;

/** Codes that follow one another without a gap, across the ends of words. */
export function streamed(bits: number): ReadCode {
  const mask = 2 ** bits - 1;
  return (words, start, stride, k) => {
    const bit = k * bits;
    const word = start + (bit >>> 5) * stride;
    const shift = bit & 31;
    const low = (words[word] ?? 0) >>> shift;
    return (shift + bits <= 32 ? low : low | ((words[word + stride] ?? 0) << (32 - shift))) & mask;
  };
}

/** As many whole codes as fit in each word; bits that are left over are not used. */
export function wholeInWords(bits: number): ReadCode {
  const mask = 2 ** bits - 1;
  const each = Math.floor(32 / bits);
  return (words, start, stride, k) =>
    ((words[start + Math.floor(k / each) * stride] ?? 0) >>> ((k % each) * bits)) & mask;
}

/** A tensor of whole numbers of 32 bits, whatever its sign, as the words it is stored in. */
export async function readWords(tensor: LazyTensor): Promise<Uint32Array> {
  const bytes = await readBytes(tensor);
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** The bytes that a tensor is stored in, whatever its dtype. */
export async function readBytes(tensor: LazyTensor): Promise<Uint8Array> {
  return bytesOf((await tensor.read()).data);
}

/** The numbers of a tensor, whatever its dtype: int8, int64, float8. */
export async function readNumbers(tensor: LazyTensor): Promise<Float32Array | Float64Array> {
  const held = await tensor.read();
  return castTensor(held, held.dtype === "int64" ? "float64" : "float32").data;
}

/**
 * The group of each input: in order, or as `index` says.
 * @throws {TuneError} `bad-quantised-weights` when it names a group that has no scale.
 */
export async function readGroups(
  index: LazyTensor | undefined,
  { columns, groupSize, groups }: Readonly<Record<"columns" | "groupSize" | "groups", number>>,
): Promise<Int32Array> {
  if (!index) return Int32Array.from({ length: columns }, (_, k) => Math.floor(k / groupSize));
  const named = Int32Array.from(await readNumbers(index));
  const outside = named.findIndex((group) => group < 0 || group >= groups);
  if (outside < 0) return named;
  const what = `Input ${outside} is of group ${named[outside]}, but there are scales for ${groups} groups.`;
  throw new TuneError("bad-quantised-weights", what, { fix: "fetch the file again, or quantise the model again" });
}
