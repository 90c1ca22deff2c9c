import { assert, TuneError } from "../errors.ts";
import {
  allocate,
  type DataOf,
  type DType,
  isFloat,
  isPattern,
  type LazyTensor,
  sizeOf,
  type Tensor,
} from "../graph/index.ts";
import { float8Table } from "./float8.ts";

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

let widened: Float32Array | undefined;

/** Every float16, by its 16-bit pattern. 256 KiB, made at the first use. */
function float16Table(): Float32Array {
  if (widened !== undefined) return widened;
  const table = new Float32Array(65536);
  const patterns = new Uint32Array(table.buffer);
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0) table[half] = (sign === 0 ? 1 : -1) * fraction * 2 ** -24;
    else if (exponent === 31) patterns[half] = sign | 0x7f800000 | (fraction << 13);
    else patterns[half] = sign | ((exponent + 112) << 23) | (fraction << 13);
  }
  widened = table;
  return table;
}

/** float16 patterns -> float32, exactly, into `result` where one is given. */
export function float16ToFloat32(
  halves: Uint16Array,
  result: Float32Array = new Float32Array(halves.length),
): Float32Array {
  const table = float16Table();
  for (let i = 0; i < halves.length; i++) result[i] = table[halves[i] ?? 0] ?? 0;
  return result;
}

/** bfloat16 patterns -> float32, exactly, into `result` where one is given: a bfloat16 is the upper half of a float32. */
export function bfloat16ToFloat32(
  halves: Uint16Array,
  result: Float32Array = new Float32Array(halves.length),
): Float32Array {
  const patterns = new Uint32Array(result.buffer, result.byteOffset, halves.length);
  // Two at a time where they lie so, which takes half as long.
  const pairs = halves.byteOffset % 4 === 0 ? halves.length >> 1 : 0;
  const both = new Uint32Array(halves.buffer, pairs === 0 ? 0 : halves.byteOffset, pairs);
  for (let i = 0, at = 0; i < pairs; i++, at += 2) {
    const pair = both[i] ?? 0;
    patterns[at] = pair << 16;
    patterns[at + 1] = pair & 0xffff0000;
  }
  for (let i = 2 * pairs; i < halves.length; i++) patterns[i] = (halves[i] ?? 0) << 16;
  return result;
}

/**
 * float32 -> float16 patterns, to nearest, ties to even, into `result` where one is given; NaN becomes the quiet NaN 0x7e00 with
 * its sign, as in PyTorch.
 */
export function float32ToFloat16(
  values: Float32Array,
  result: Uint16Array = new Uint16Array(values.length),
): Uint16Array {
  const patterns = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < patterns.length; i++) {
    const pattern = patterns[i] ?? 0;
    const sign = (pattern >>> 16) & 0x8000;
    const magnitude = pattern & 0x7fffffff;
    // Half the lowest kept bit, or just under it when that bit is even; a carry runs into the exponent, up to infinity.
    if (magnitude >= 0x38800000 && magnitude < 0x47800000)
      result[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    else if (magnitude > 0x7f800000) result[i] = sign | 0x7e00;
    else if (magnitude >= 0x47800000)
      result[i] = sign | 0x7c00; // 65536 and more
    else {
      // Subnormal: in [0.5, 1) a float32 counts in steps of 2^-24, as a subnormal float16 does, so the sum rounds right.
      bits[0] = magnitude;
      float[0] = (float[0] ?? 0) + 0.5;
      result[i] = sign | ((bits[0] ?? 0) - 0x3f000000);
    }
  }
  return result;
}

/** float32 -> bfloat16 patterns, to nearest, ties to even; NaN becomes the quiet NaN 0x7fc0, as in PyTorch. */
export function float32ToBfloat16(values: Float32Array): Uint16Array {
  const patterns = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const result = new Uint16Array(values.length);
  for (let i = 0; i < patterns.length; i++) {
    const pattern = patterns[i] ?? 0;
    result[i] = (pattern & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (pattern + 0x7fff + ((pattern >>> 16) & 1)) >>> 16;
  }
  return result;
}

/**
 * Convert to another dtype (the same tensor when it already has it). Floats are rounded to nearest, ties to even, in one step from any dtype.
 * Integers and bool only take values they can hold; nothing is cast to floats of 8 bits.
 * @throws {TuneError} `cast-out-of-range` when an integer or bool target cannot hold a value exactly.
 */
export function castTensor<D extends DType>(tensor: Tensor, dtype: D): Tensor<D> {
  if (isDType(tensor, dtype)) return tensor;
  // Each branch makes the array that the tables in `graph/tensor.ts` pair with `dtype`; TypeScript cannot follow that.
  return { dtype, shape: tensor.shape, data: castData(numbersOf(tensor), dtype) as DataOf<D> };
}

/** Elements of a tensor that are converted or looked at together: what is read fits a processor's cache. */
const partElements = 2 ** 20;

/** Memory for parts that nobody uses just now: the first touch of new memory takes longer than reading a file into it. */
const spare: ArrayBuffer[] = [];

/** A tensor on the disk that can be read in parts. */
type InParts = LazyTensor & Required<Pick<LazyTensor, "readPart">>;

/** Read the elements from `start` to `end` (not included) in parts, in order; each is gone once `visit` is through with it. */
async function eachPart(
  { dtype, readPart }: InParts,
  [start, end]: readonly [number, number],
  visit: (part: Tensor, at: number) => void,
): Promise<void> {
  await withMemory(async (memory) => {
    for (let at = start; at < end; at += partElements) {
      const length = Math.min(partElements, end - at);
      visit({ dtype, shape: [length], data: await readPart(at, at + length, memory) }, at);
    }
  });
}

/** Lend memory for a part of at most {@link partElements} elements. */
async function withMemory(work: (memory: ArrayBuffer) => Promise<void>): Promise<void> {
  const memory = spare.pop() ?? new ArrayBuffer(partElements * 8);
  try {
    await work(memory);
  } finally {
    spare.push(memory);
  }
}

/**
 * Read a tensor, lazy or not, as float32. What is stored in another dtype is read in parts: no second copy is made.
 * @param into holds the result where the tensor is converted and there is room.
 */
export async function toFloat32(source: Tensor | LazyTensor, into?: ArrayBuffer): Promise<Tensor<"float32">> {
  if ("data" in source) return castTensor(source, "float32");
  const { dtype, shape, readPart } = source;
  if (dtype === "float32" || !readPart) return castTensor(await source.read(), "float32");
  return { dtype: "float32", shape, data: await partToFloat32({ ...source, readPart }, 0, sizeOf(shape), into) };
}

/** Read the elements from `start` to `end` (not included) as float32, into the memory handed over where there is some. */
export async function partToFloat32(
  source: InParts,
  start: number,
  end: number,
  into?: ArrayBuffer,
): Promise<Float32Array> {
  const { dtype } = source;
  const length = end - start;
  if (dtype === "float32")
    return castTensor({ dtype, shape: [length], data: await source.readPart(start, end, into) }, dtype).data;
  const data = into && into.byteLength >= 4 * length ? new Float32Array(into, 0, length) : new Float32Array(length);
  const widen = dtype === "bfloat16" ? bfloat16ToFloat32 : dtype === "float16" ? float16ToFloat32 : undefined;
  await eachPart(source, [start, end], (part, at) => {
    // In place: a part of its own would be as much memory again over the whole tensor.
    if (widen && part.data instanceof Uint16Array)
      widen(part.data, data.subarray(at - start, at - start + part.data.length));
    else data.set(castTensor(part, "float32").data, at - start);
  });
  return data;
}

/** Whether two tensors hold the same numbers, whatever they are stored in; read in parts where both can be. */
export async function sameValues(a: LazyTensor, b: LazyTensor): Promise<boolean> {
  if (a.shape.join() !== b.shape.join()) return false;
  const size = sizeOf(a.shape);
  const step = a.readPart && b.readPart ? partElements : size;
  for (let start = 0; start < size; start += step) {
    const end = Math.min(size, start + step);
    const [left, right] = await Promise.all(
      [a, b].map(async ({ dtype, readPart, read }): Promise<Tensor> => {
        const data = step < size && readPart ? await readPart(start, end) : (await read()).data;
        return { dtype, shape: [data.length], data };
      }),
    );
    if (left === undefined || right === undefined) return false;
    // The same codes are the same numbers; other codes may be.
    const coded = a.dtype === b.dtype && allEqual(left.data, right.data);
    if (!coded && !allEqual(castTensor(left, "float32").data, castTensor(right, "float32").data)) return false;
  }
  return true;
}

function allEqual(a: Tensor["data"], b: Tensor["data"]): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return a.length === b.length;
}

/**
 * Visit the rows of a matrix [rows, columns] in float32, from the first to the last, a multiple of `together` at a time (the
 * last time what is left): `part` holds whole rows, begins with row `first`, and is gone after the visit. All of it is read at
 * once only where it cannot be read in parts.
 */
export async function eachRows(
  source: LazyTensor,
  visit: (part: Float32Array, first: number) => void,
  together = 1,
): Promise<void> {
  const [rows = 0, columns = 0] = source.shape;
  const { readPart } = source;
  if (!readPart) return visit((await toFloat32(source)).data, 0);
  const inParts = { ...source, readPart };
  const step = Math.max(1, Math.floor(partElements / columns / together)) * together;
  await withMemory(async (memory) => {
    for (let first = 0; first < rows; first += step) {
      const last = Math.min(rows, first + step);
      visit(await partToFloat32(inParts, first * columns, last * columns, memory), first);
    }
  });
}

/**
 * Refuse a tensor that holds NaN or infinity; integers always pass.
 * @throws {TuneError} `not-finite-weight` with the number of such values and the place of the first.
 */
export function assertFinite(name: string, tensor: Tensor): void {
  refuseNotFinite(name, tensor.shape, findNotFinite(tensor, 0));
}

/**
 * {@link assertFinite} of a tensor on the disk, in parts.
 * @throws {TuneError} `not-finite-weight`, and what reading the tensor throws.
 */
export async function scanFinite(name: string, source: LazyTensor): Promise<void> {
  const { dtype, shape } = source;
  if (!isFloat(dtype)) return;
  const { readPart } = source;
  if (!readPart) return assertFinite(name, await source.read());
  let [count, first] = [0, -1];
  await eachPart({ ...source, readPart }, [0, sizeOf(shape)], (part, at) => {
    const found = findNotFinite(part, at);
    if (count === 0) first = found.first;
    count += found.count;
  });
  refuseNotFinite(name, shape, { count, first });
}

interface NotFinite {
  readonly count: number;
  /** The place of the first, or -1. */
  readonly first: number;
}

/** The values of a tensor that are NaN or infinite, counted from `offset`: those whose exponent bits are all set. */
function findNotFinite({ dtype, data }: Tensor, offset: number): NotFinite {
  if (data instanceof Float64Array) return countWhere(data, (value) => !Number.isFinite(value), offset);
  if (data instanceof Uint16Array) {
    const infinite = dtype === "float16" ? 0x7c00 : 0x7f80;
    // Most tensors have none, which two values at a time tell as well as one.
    const paired = data.byteOffset % 4 === 0 && data.length % 2 === 0;
    if (paired && allFinite16(new Uint32Array(data.buffer, data.byteOffset, data.length >> 1), infinite))
      return { count: 0, first: -1 };
    return countWhere(data, (value) => (value & infinite) === infinite, offset);
  }
  const narrow = float8Table(dtype);
  if (narrow && data instanceof Uint8Array) return countWhere(data, (code) => !Number.isFinite(narrow[code]), offset);
  if (!(data instanceof Float32Array)) return { count: 0, first: -1 };
  if (allFinite(data)) return { count: 0, first: -1 };
  const patterns = new Uint32Array(data.buffer, data.byteOffset, data.length);
  return countWhere(patterns, (pattern) => (pattern & 0x7f800000) === 0x7f800000, offset);
}

/** Whether no value is NaN or infinite. */
export function allFinite(values: Float32Array): boolean {
  const patterns = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let carried = 0;
  // Exponent bits that are all set, and no others, carry into the sign.
  for (let i = 0; i < patterns.length; i++) carried |= ((patterns[i] ?? 0) & 0x7f800000) + 0x00800000;
  return carried >= 0;
}

/** The same of 16-bit patterns whose exponent bits are `infinite`, two in each of `pairs`. */
function allFinite16(pairs: Uint32Array, infinite: number): boolean {
  const lowest = infinite & -infinite; // of the exponent's bits
  const [both, one] = [infinite * 0x10001, lowest * 0x10001];
  let carried = 0;
  for (let i = 0; i < pairs.length; i++) carried |= ((pairs[i] ?? 0) & both) + one;
  return (carried & 0x80008000) === 0;
}

function countWhere<A extends { readonly length: number; readonly [index: number]: number }>(
  values: A,
  found: (value: number) => boolean,
  offset: number,
): NotFinite {
  let [count, first] = [0, -1];
  for (let i = 0; i < values.length; i++) if (found(values[i] ?? 0) && count++ === 0) first = i + offset;
  return { count, first };
}

function refuseNotFinite(name: string, shape: readonly number[], { count, first }: NotFinite): void {
  if (count === 0) return;
  const position = placeOf(first, shape).join(", ");
  throw new TuneError(
    "not-finite-weight",
    `${name} holds ${count} values that are NaN or infinite, the first at [${position}].`,
    { at: name, fix: "use weights from before the training that broke them, or fetch the file again" },
  );
}

function isDType<D extends DType>(tensor: Tensor, dtype: D): tensor is Tensor<D> {
  return tensor.dtype === dtype;
}

type Numbers = Exclude<DataOf, BigInt64Array | BigUint64Array>;

/** The values themselves: patterns of 16 and 8 bits become the floats they stand for. */
function numbersOf(tensor: Tensor): DataOf {
  const { data } = tensor;
  if (!isPattern(tensor.dtype)) return data;
  const narrow = float8Table(tensor.dtype);
  if (narrow) return Float32Array.from(data as Uint8Array, (pattern) => narrow[pattern] ?? 0); // held in bytes
  assert(data instanceof Uint16Array, `${tensor.dtype} is held as 16-bit patterns`);
  return tensor.dtype === "float16" ? float16ToFloat32(data) : bfloat16ToFloat32(data);
}

function castData(source: DataOf, dtype: DType): DataOf {
  if (!isFloat(dtype)) return castToIntegers(source, dtype);
  const plain: Numbers =
    source instanceof BigInt64Array || source instanceof BigUint64Array ? roundedDoubles(source) : source;
  // A Float32Array here is the fresh copy that widening made: same dtypes never come this far.
  if (dtype === "float32") return plain instanceof Float32Array ? plain : new Float32Array(plain);
  if (dtype === "float64") return new Float64Array(plain);
  assert(dtype === "float16" || dtype === "bfloat16", () => `nothing is cast to ${dtype}`);
  const singles = plain instanceof Float32Array ? plain : oddSingles(plain);
  return dtype === "float16" ? float32ToFloat16(singles) : float32ToBfloat16(singles);
}

function roundedDoubles(source: BigInt64Array | BigUint64Array): Float64Array {
  const result = new Float64Array(source.length);
  for (let i = 0; i < source.length; i++) result[i] = Number(source[i]);
  return result;
}

/**
 * Wider numbers as float32, rounded to odd: what is cut off leaves a mark in the last bit, so that rounding once more
 * to 16 bits gives what rounding once would have given (Boldo & Melquiond 2008).
 */
function oddSingles(source: Numbers): Float32Array {
  const result = new Float32Array(source.length);
  for (let i = 0; i < source.length; i++) {
    const value = source[i] ?? 0;
    const rounded = Math.fround(value);
    float[0] = rounded;
    if (rounded !== value && !Number.isNaN(value)) {
      const truncated = (bits[0] ?? 0) - (Math.abs(rounded) > Math.abs(value) ? 1 : 0);
      bits[0] = truncated | 1;
    }
    result[i] = float[0];
  }
  return result;
}

function castToIntegers(source: DataOf, dtype: DType): DataOf {
  const result = allocate(dtype, source.length);
  const largest = dtype === "bool" ? 1 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < source.length; i++) {
    const value = source[i] ?? 0;
    const whole = typeof value === "bigint" || Number.isInteger(value);
    if (whole) {
      if (result instanceof BigInt64Array || result instanceof BigUint64Array) result[i] = BigInt(value);
      else result[i] = Number(value);
    }
    // `==` compares a bigint with a number by value, without rounding either.
    // biome-ignore lint/suspicious/noDoubleEquals: the reason above
    if (!whole || result[i] != value || value > largest) {
      throw new TuneError("cast-out-of-range", `${dtype} cannot hold ${value} (element ${i}).`, {
        fix: "cast to a float or to a wider integer",
      });
    }
  }
  return result;
}

function placeOf(index: number, shape: readonly number[]): number[] {
  let rest = index;
  return shape
    .map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1))
    .map((stride) => {
      const position = Math.floor(rest / stride);
      rest -= position * stride;
      return position;
    });
}
