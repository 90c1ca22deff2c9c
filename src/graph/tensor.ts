import { assert } from "../errors.ts";

/**
 * Element types, spelt as in ONNX. `float16`, `bfloat16` and the floats of 8 bits, which files alone hold, are their bit
 * patterns; `int4`, which only frozen weights have, lies two to a byte, the first in the low half.
 */
export type DType =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "float8e4m3fn"
  | "float8e5m2"
  | "float8e8m0"
  | "int64"
  | "int32"
  | "int16"
  | "int8"
  | "int4"
  | "uint64"
  | "uint32"
  | "uint16"
  | "uint8"
  | "bool";

interface Arrays {
  float32: Float32Array;
  float64: Float64Array;
  float16: Uint16Array;
  bfloat16: Uint16Array;
  float8e4m3fn: Uint8Array;
  float8e5m2: Uint8Array;
  float8e8m0: Uint8Array;
  int64: BigInt64Array;
  int32: Int32Array;
  int16: Int16Array;
  int8: Int8Array;
  int4: Uint8Array;
  uint64: BigUint64Array;
  uint32: Uint32Array;
  uint16: Uint16Array;
  uint8: Uint8Array;
  bool: Uint8Array;
}

const arrays = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  bfloat16: Uint16Array,
  float8e4m3fn: Uint8Array,
  float8e5m2: Uint8Array,
  float8e8m0: Uint8Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  int4: Uint8Array,
  uint64: BigUint64Array,
  uint32: Uint32Array,
  uint16: Uint16Array,
  uint8: Uint8Array,
  bool: Uint8Array,
} as const satisfies Record<DType, unknown>;

/** The typed array that holds elements of dtype `D`. */
export type DataOf<D extends DType = DType> = Arrays[D];

/** A dense row-major array in memory. `data.length` is the product of `shape`. */
export interface Tensor<D extends DType = DType> {
  readonly dtype: D;
  readonly shape: readonly number[];
  readonly data: DataOf<D>;
}

/** A tensor that has not been read yet: stages over it move no bytes. */
export interface LazyTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Bytes in memory once read in `dtype`. */
  readonly sizeBytes: number;
  /** Read the whole tensor, into memory that is the caller's own. */
  read(): Promise<Tensor>;
  /**
   * Read the elements from `start` to `end` (not included) in row-major order, where that takes less than reading all.
   * Memory that is handed over as `into` may be used for them, and the result may lie there: a loop over parts then touches
   * no new memory.
   */
  readPart?(start: number, end: number, into?: ArrayBuffer): Promise<DataOf>;
  /** Where its bytes lie on this machine's disk, if they do. */
  readonly file?: FileRange;
  /** What the file holds, where this tensor is that one in a wider dtype. */
  readonly stored?: LazyTensor;
  /** What its file holds, where it is in one. */
  readonly content?: TensorContent;
  /** What it is computed from, where it is kept as integer codes with shared scales. */
  readonly scaled?: ScaledCodes;
}

/** The bytes of a tensor in a file on a disk: row-major, little-endian, nothing between them. */
export interface FileRange {
  /** Absolute, with symbolic links resolved. */
  readonly path: string;
  readonly offset: number;
  readonly length: number;
  /** What reading the tensor would find wrong. @throws {TuneError} `file-changed`, `not-finite-weight`, … */
  check(): Promise<void>;
}

/** A tensor's bytes in its file, known by a hash. */
export interface TensorContent {
  /** Hash what is read from now on, so that it need not be read again for its hash. */
  hashWhenRead(): void;
  /** The hash of its bytes and dtype. */
  hash(): Promise<string>;
}

/**
 * A matrix [rows, columns] as integer codes and the scales that groups of them share:
 * w[row, column] = Σ_p scales[p, ⌊row/rowGroup⌋, g(column)]·codes[p, row, column].
 * Rows are outputs of the linear map, whichever way the tensor itself is stored.
 */
export interface ScaledCodes {
  /** int8 or int16 [planes, rows, columns]. */
  readonly codes: LazyTensor;
  /** float32 [planes, row groups, column groups]. */
  readonly scales: LazyTensor;
  /** How many values a code can take: the largest less the least of a group, plus one. */
  readonly levels: number;
  readonly rowGroup: number;
  /** Columns that share a scale; the last group may have fewer. */
  readonly columnGroup: number;
  /** Whether the columns of a group follow one another. */
  readonly inOrder: boolean;
  /** int64 [columns], g of each column; absent where every column has a scale of its own, or all share one. */
  readonly columnGroups: LazyTensor | undefined;
}

/**
 * Float32 values that are computed when they are read. Made anew rather than from the tensor that they replace: nothing of how
 * that one is kept (its file, its codes) holds for them.
 */
export function computedTensor(shape: readonly number[], compute: () => Promise<Float32Array>): LazyTensor {
  return {
    dtype: "float32",
    shape,
    sizeBytes: 4 * sizeOf(shape),
    read: async () => ({ dtype: "float32", shape, data: await compute() }),
  };
}

/**
 * Rows of a tensor, from `start` to `end` (not included), as a tensor of their own. They are read alone where that can be
 * done, and lie in the same file.
 */
export function sliceRows(source: LazyTensor, start: number, end: number): LazyTensor {
  const { dtype, file, readPart, stored } = source;
  const [rows = 0, ...rest] = source.shape;
  const width = sizeOf(rest);
  const shape = [end - start, ...rest];
  const bytes = source.sizeBytes / rows;
  assert(start >= 0 && start < end && end <= rows, `there are no rows ${start} to ${end} of ${rows}`);
  return {
    dtype,
    shape,
    sizeBytes: bytes * (end - start),
    read: async () => {
      if (readPart) return { dtype, shape, data: await readPart(start * width, end * width) };
      const { data } = await source.read();
      const per = data.length / rows;
      return { dtype, shape, data: data.slice(start * per, end * per) };
    },
    ...(readPart ? { readPart: (from, to, into) => readPart(start * width + from, start * width + to, into) } : {}),
    ...(file ? { file: { ...file, offset: file.offset + start * bytes, length: bytes * (end - start) } } : {}),
    ...(stored ? { stored: sliceRows(stored, start, end) } : {}),
  };
}

/** Whether a word from outside names an element type. */
export function isDType(word: string): word is DType {
  return Object.hasOwn(arrays, word);
}

/** Bytes one element of `dtype` takes. */
export function bytesPerElement(dtype: DType): number {
  return dtype === "int4" ? 0.5 : arrays[dtype].BYTES_PER_ELEMENT;
}

/** Whether `dtype` holds real numbers (gradients flow through these only). */
export function isFloat(dtype: DType): boolean {
  return dtype.startsWith("float") || dtype === "bfloat16";
}

/** Whether `dtype` holds real numbers as bit patterns, in arrays of whole numbers. */
export function isPattern(dtype: DType): boolean {
  return isFloat(dtype) && dtype !== "float32" && dtype !== "float64";
}

/** Number of elements of a concrete shape; 1 for a scalar. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** A zero-filled typed array of `length` elements. */
export function allocate<D extends DType>(dtype: D, length: number): DataOf<D> {
  // The table above pairs each dtype with its array; TypeScript cannot follow the index through `new`.
  return new arrays[dtype](length) as DataOf<D>;
}

/** View bytes as elements of `dtype`, copying only when the offset is not aligned. Little-endian. */
export function viewAs<D extends DType>(dtype: D, bytes: Uint8Array): DataOf<D> {
  const width = arrays[dtype].BYTES_PER_ELEMENT;
  assert(bytes.byteLength % width === 0, `${bytes.byteLength} bytes are not a whole number of ${dtype}`);
  const aligned = bytes.byteOffset % width === 0 ? bytes : new Uint8Array(bytes); // Buffer's slice would not copy
  const length = aligned.byteLength / width;
  return new arrays[dtype](aligned.buffer as ArrayBuffer, aligned.byteOffset, length) as DataOf<D>; // as in `allocate`
}

/** The bytes behind a typed array, without a copy. */
export function bytesOf(data: DataOf): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * Make a tensor from numbers, converting to `dtype`.
 * @throws when the number of values is not the product of `shape`.
 */
export function tensor<D extends DType>(
  dtype: D,
  shape: readonly number[],
  values: ArrayLike<number | bigint> | number,
): Tensor<D> {
  const size = sizeOf(shape);
  const data = allocate(dtype, size);
  const wide = data instanceof BigInt64Array || data instanceof BigUint64Array;
  if (typeof values === "number") {
    if (wide) data.fill(BigInt(values));
    else (data as Float64Array).fill(values); // every non-bigint array shares this signature
  } else {
    assert(values.length === size, `${values.length} values do not fill [${shape.join(", ")}]`);
    for (let i = 0; i < size; i++) {
      const value = values[i] ?? 0;
      if (wide) data[i] = BigInt(value);
      else (data as Float64Array)[i] = Number(value); // as above
    }
  }
  return { dtype, shape: [...shape], data };
}
