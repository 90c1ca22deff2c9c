import { TuneError } from "../../errors.ts";
import {
  bytesPerElement,
  type DType,
  type LazyTensor,
  type ScaledCodes,
  sizeOf,
  type Tensor,
  tensor,
} from "../../graph/index.ts";
import { assertFinite, castTensor, toFloat32 } from "../convert.ts";
import { isJsonObject, type JsonObject, parseJsonObject } from "../json.ts";
import { type Problem, throwProblems } from "../problems.ts";
import { byteLengthOf, type NamedTensor, openSafetensors, writeSafetensors } from "../safetensors.ts";
import type { Storage } from "../storage.ts";
import {
  assertPacked,
  type Coding,
  columnGroupOfInputs,
  dequantise,
  groupsOf,
  type PackedMatrix,
  type PackedShape,
  type ScaleKind,
  scalesShape,
  scaleValues,
  signedCodes,
  zerosBytes,
} from "./matrix.ts";
import { planesShape } from "./planes.ts";
import { maxTerms } from "./powers.ts";

/** The file of a packed model's folder that holds its weights. */
export const packedFileName = "packed.safetensors";

/** The version of the format that is written, and the only one that is read. */
export const packedVersion = 1;

/** How the model stores a weight: as [outputs, inputs], or transposed (GPT-2's Conv1D). */
export type StoredLayout = "out,in" | "in,out";

/** A packed weight of a file whose header has been checked; its bytes are still on the disk. */
export interface PackedEntry {
  /** The weight's name in the model, such as `model.layers.0.self_attn.q_proj.weight`. */
  readonly name: string;
  readonly shape: PackedShape;
  readonly stored: StoredLayout;
  /** Bytes that it takes in the file. */
  readonly sizeBytes: number;
  /** Its tensors as they stand in the file. */
  readonly parts: readonly NamedTensor[];
  /**
   * Read planes and scales, without unpacking them.
   * @throws {TuneError} `packed-malformed` when the order of columns is no permutation, `not-finite-weight`.
   */
  read(): Promise<PackedMatrix>;
}

/** A packed model's file: packed matrices, and the tensors that stay as they are. */
export interface PackedFile {
  /** What made it: method, variant, calibration, and what was measured. For people; nothing computes with it. */
  readonly info: JsonObject;
  readonly matrices: ReadonlyMap<string, PackedEntry>;
  /** Embeddings, norms, biases, in float32, float16 or bfloat16. */
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  readonly sizeBytes: number;
}

/** A matrix to write. */
export interface PackedToWrite {
  readonly name: string;
  readonly stored: StoredLayout;
  readonly matrix: PackedMatrix;
}

const parts = ["planes", "scales", "zeros", "order"] as const;
const scaleDtypes: Readonly<Record<ScaleKind, DType>> = { powers: "uint16", float16: "float16", float32: "float32" };
const again = "quantise the model again; the file is damaged or was made by something else";

/**
 * Open a packed model's file: read and check its header and nothing else. The format is in `docs/packed-format.md`.
 * @throws {TuneError} `packed-unknown-version`, `packed-malformed` listing every matrix whose tensors are missing or
 * not of the sizes that its entry asks for, and what {@link openSafetensors} throws.
 */
export async function openPacked(storage: Storage, path: string): Promise<PackedFile> {
  const { metadata, tensors } = await openSafetensors(storage, path);
  const text = metadata["scion_packed"];
  if (text === undefined) {
    throw new TuneError("packed-malformed", "These safetensors do not describe a packed model.", {
      at: path,
      fix: "name a folder that `scion quantize` wrote",
    });
  }
  const header = parseJsonObject(new TextEncoder().encode(text), "packed-malformed", path);
  if (header["version"] !== packedVersion) {
    throw new TuneError(
      "packed-unknown-version",
      `The packed model has version ${JSON.stringify(header["version"])}; this Scion reads ${packedVersion}.`,
      { at: path, fix: "quantise the model again, or use the version of Scion that wrote it" },
    );
  }
  const described = isJsonObject(header["matrices"]) ? header["matrices"] : {};
  const problems: Problem[] = [];
  const matrices = new Map<string, PackedEntry>();
  const rest = new Map(tensors);
  for (const [name, entry] of Object.entries(described)) {
    const own = Object.fromEntries(parts.map((part) => [part, tensors.get(`${name}.${part}`)]));
    for (const part of parts) rest.delete(`${name}.${part}`);
    const shape = readShape(name, entry, problems);
    if (shape === undefined) continue;
    const stored = isJsonObject(entry) && entry["stored"] === "in,out" ? "in,out" : "out,in";
    if (!checkTensors(name, shape, own, problems)) continue;
    const sizeBytes = Object.values(own).reduce((sum, part) => sum + (part?.sizeBytes ?? 0), 0);
    const named = parts.flatMap((part) => {
      const found = own[part];
      return found ? [{ name: `${name}.${part}`, tensor: found }] : [];
    });
    matrices.set(name, {
      name,
      shape,
      stored,
      sizeBytes,
      parts: named,
      read: () => readMatrix(name, shape, own, path),
    });
  }
  for (const [name, { dtype }] of rest) {
    if (dtype === "float32" || dtype === "float16" || dtype === "bfloat16") continue;
    problems.push({
      code: "packed-malformed",
      what: `${name} is ${dtype}, and no matrix that is described.`,
      fix: again,
    });
  }
  throwProblems(problems, path);
  const { version: _version, matrices: _matrices, ...info } = header;
  return { info, matrices, tensors: rest, sizeBytes: (await storage.sizeBytes(path)) ?? 0 };
}

/** The entry of a packed weight as a tensor of the model: dequantised, one matrix at a time, when it is read. */
export function dequantised(entry: PackedEntry): LazyTensor {
  const { shape, stored, read } = entry;
  const sizes = stored === "out,in" ? [shape.rows, shape.columns] : [shape.columns, shape.rows];
  return {
    dtype: "float32",
    shape: sizes,
    sizeBytes: 4 * sizeOf(sizes),
    read: async () => {
      const weights = dequantise(await read());
      const data = stored === "out,in" ? weights : transposed(weights, shape.rows, shape.columns);
      return { dtype: "float32", shape: sizes, data };
    },
    scaled: scaledCodes(entry),
  };
}

/** The codes and scales of an entry, unpacked when they are read: what training the scales needs. */
function scaledCodes({ shape, parts: stored, read }: PackedEntry): ScaledCodes {
  const { rows, columns, bits, coding, rowGroup, columnGroup } = shape;
  const { rowGroups, columnGroups } = groupsOf(shape);
  const planes = coding === "binary" ? bits : 1;
  const lazy = <D extends DType>(
    dtype: D,
    sizes: readonly number[],
    values: (matrix: PackedMatrix) => ArrayLike<number>,
  ) => ({
    dtype,
    shape: sizes,
    sizeBytes: sizeOf(sizes) * bytesPerElement(dtype),
    read: async () => tensor(dtype, sizes, values(await read())),
  });
  const grouped = columnGroups > 1 && columnGroup > 1;
  return {
    levels: coding === "uniform" ? 2 ** bits : 2,
    rowGroup,
    columnGroup,
    inOrder: !stored.some(({ name }) => name.endsWith(".order")),
    codes: lazy(coding === "uniform" && bits > 7 ? "int16" : "int8", [planes, rows, columns], signedCodes),
    scales: lazy("float32", [planes, rowGroups, columnGroups], ({ scaleKind, scales }) =>
      scaleValues(scaleKind, scales),
    ),
    columnGroups: grouped ? lazy("int64", [columns], columnGroupOfInputs) : undefined,
  };
}

/** [rows, columns] -> [columns, rows]. */
export function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result[column * rows + row] = values[row * columns + column] ?? 0;
    }
  }
  return result;
}

/** The tensors of a matrix, by name, as they are written. */
export function packedTensors({ name, matrix }: Pick<PackedToWrite, "name" | "matrix">): readonly NamedTensor[] {
  assertPacked(matrix);
  const entries: NamedTensor[] = [
    { name: `${name}.planes`, tensor: { dtype: "uint8", shape: planesShape(matrix), data: matrix.planes } },
    {
      name: `${name}.scales`,
      tensor: { dtype: scaleDtypes[matrix.scaleKind], shape: scalesShape(matrix), data: matrix.scales } as Tensor, // the array that the dtype is held in
    },
  ];
  if (matrix.zeros) {
    const data = packBits(matrix.zeros, matrix.bits);
    entries.push({ name: `${name}.zeros`, tensor: { dtype: "uint8", shape: [data.length], data } });
  }
  if (matrix.order) {
    entries.push({ name: `${name}.order`, tensor: tensor("uint32", [matrix.columns], matrix.order) });
  }
  return entries;
}

/** How the header describes a matrix. */
export function describeMatrix(shape: PackedShape, stored: StoredLayout): JsonObject {
  const { rows, columns, bits, coding, rowGroup, columnGroup, scaleKind, terms } = shape;
  const described = { rows, columns, bits, coding, rowGroup, columnGroup, scaleKind };
  return { ...described, ...(terms === undefined ? {} : { terms }), stored };
}

/**
 * Write a packed model's file; it takes its name when it is whole.
 * @throws {TuneError} what {@link writeSafetensors} throws.
 */
export async function writePacked(
  storage: Storage,
  path: string,
  options: {
    readonly info: JsonObject;
    /** In memory, or still in another packed file. */
    readonly matrices: readonly (PackedToWrite | PackedEntry)[];
    readonly tensors: readonly NamedTensor[];
  },
): Promise<void> {
  const described = options.matrices.map((entry) => [
    entry.name,
    describeMatrix("matrix" in entry ? entry.matrix : entry.shape, entry.stored),
  ]);
  const header = { version: packedVersion, ...options.info, matrices: Object.fromEntries(described) };
  const packed = options.matrices.flatMap((entry) => ("matrix" in entry ? packedTensors(entry) : entry.parts));
  await writeSafetensors(storage, path, [...packed, ...options.tensors], {
    format: "scion-packed",
    scion_packed: JSON.stringify(header),
  });
}

/** Bytes of the tensors of a matrix. */
export function packedBytes(matrix: PackedMatrix): number {
  return packedTensors({ name: "", matrix }).reduce((sum, { tensor: part }) => sum + byteLengthOf(part), 0);
}

function readShape(name: string, entry: unknown, problems: Problem[]): PackedShape | undefined {
  const wrong: string[] = [];
  const fields = isJsonObject(entry) ? entry : {};
  const whole = (key: string, least: number, most: number): number => {
    const value = fields[key];
    if (Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most) return Number(value);
    wrong.push(`${key} is ${JSON.stringify(value)}, not a whole number from ${least} to ${most}`);
    return least;
  };
  const choice = <T extends string>(key: string, choices: readonly T[]): T | undefined => {
    const found = choices.find((candidate) => candidate === fields[key]);
    if (found === undefined) wrong.push(`${key} is ${JSON.stringify(fields[key])}, not ${choices.join(" or ")}`);
    return found;
  };
  const largest = 2 ** 31;
  const rows = whole("rows", 1, largest);
  const columns = whole("columns", 1, largest);
  const bits = whole("bits", 1, 8);
  const rowGroup = whole("rowGroup", 1, Math.max(1, rows));
  const columnGroup = whole("columnGroup", 1, Math.max(1, columns));
  const coding = choice<Coding>("coding", ["binary", "uniform"]);
  const scaleKind = choice<ScaleKind>("scaleKind", ["powers", "float16", "float32"]);
  const terms = scaleKind === "powers" ? whole("terms", 1, maxTerms) : undefined;
  choice<StoredLayout>("stored", ["out,in", "in,out"]);
  if (coding === "uniform" && scaleKind === "powers") wrong.push("uniform codes have float scales");
  for (const what of wrong) problems.push({ code: "packed-malformed", what: `${name}: ${what}.`, fix: again });
  if (wrong.length > 0 || coding === undefined || scaleKind === undefined) return undefined;
  const shape = { rows, columns, bits, coding, rowGroup, columnGroup, scaleKind };
  return terms === undefined ? shape : { ...shape, terms };
}

type Part = (typeof parts)[number];

function checkTensors(
  name: string,
  shape: PackedShape,
  own: Readonly<Record<string, LazyTensor | undefined>>,
  problems: Problem[],
): boolean {
  const before = problems.length;
  const bad = (what: string): void => {
    problems.push({ code: "packed-malformed", what, fix: again });
  };
  const expect = (part: Part, dtype: DType, sizes: readonly number[]): void => {
    const found = own[part];
    const wanted = `${dtype} [${sizes.join(", ")}]`;
    if (found === undefined) bad(`${name}.${part} ${wanted} is missing.`);
    else if (found.dtype !== dtype || found.shape.join() !== sizes.join()) {
      bad(`${name}.${part} is ${found.dtype} [${found.shape.join(", ")}], not ${wanted}.`);
    }
  };
  expect("planes", "uint8", planesShape(shape));
  expect("scales", scaleDtypes[shape.scaleKind], scalesShape(shape));
  if (shape.coding === "uniform") expect("zeros", "uint8", [zerosBytes(shape)]);
  else if (own["zeros"]) bad(`${name}.zeros: binary codes have no zero points.`);
  if (own["order"]) expect("order", "uint32", [shape.columns]);
  return problems.length === before;
}

async function readMatrix(
  name: string,
  shape: PackedShape,
  own: Readonly<Record<string, LazyTensor | undefined>>,
  path: string,
): Promise<PackedMatrix> {
  const read = async (part: Part): Promise<Tensor | undefined> => own[part]?.read();
  const [planes, scales, zeros, order] = [
    await read("planes"),
    await read("scales"),
    await read("zeros"),
    await read("order"),
  ];
  if (shape.scaleKind !== "powers" && scales) assertFinite(`${name}.scales`, scales);
  const groups = scalesShape(shape).reduce((product, size) => product * size, 1);
  if (order && !isPermutation(order.data as Uint32Array)) {
    throw new TuneError("packed-malformed", `${name}.order does not name every column once.`, { at: path, fix: again });
  }
  // `checkTensors` has seen that each part is there and of its dtype.
  return {
    ...shape,
    planes: planes?.data as Uint8Array,
    scales: scales?.data as Uint16Array | Float32Array,
    ...(zeros ? { zeros: unpackBits(zeros.data as Uint8Array, shape.bits, groups) } : {}),
    ...(order ? { order: order.data as Uint32Array } : {}),
  };
}

function isPermutation(order: Uint32Array): boolean {
  const seen = new Uint8Array(order.length);
  for (const column of order) {
    if (column >= order.length || seen[column] === 1) return false;
    seen[column] = 1;
  }
  return true;
}

/** Numbers of `bits` bits one after the other, the lowest bit first. */
function packBits(values: Uint8Array, bits: number): Uint8Array {
  const packed = new Uint8Array(Math.ceil((values.length * bits) / 8));
  for (let i = 0; i < values.length * bits; i++) {
    const bit = ((values[Math.floor(i / bits)] ?? 0) >> (i % bits)) & 1;
    packed[i >> 3] = (packed[i >> 3] ?? 0) | (bit << (i & 7));
  }
  return packed;
}

function unpackBits(packed: Uint8Array, bits: number, count: number): Uint8Array {
  const values = new Uint8Array(count);
  for (let i = 0; i < count * bits; i++) {
    const bit = ((packed[i >> 3] ?? 0) >> (i & 7)) & 1;
    const at = Math.floor(i / bits);
    values[at] = (values[at] ?? 0) | (bit << (i % bits));
  }
  return values;
}

/** A tensor that stays as it is, in the dtype asked for (`float16` halves an embedding), converted when it is read. */
export function keptAs(source: LazyTensor, dtype: "float16" | "float32"): LazyTensor {
  const { shape, readPart } = source;
  return {
    dtype,
    shape,
    sizeBytes: (dtype === "float16" ? 2 : 4) * sizeOf(shape),
    read: async () => castTensor(await toFloat32(source), dtype),
    ...(readPart && {
      readPart: async (start, end) => {
        const part: Tensor = { dtype: source.dtype, shape: [end - start], data: await readPart(start, end) };
        return castTensor(castTensor(part, "float32"), dtype).data;
      },
    }),
  };
}
