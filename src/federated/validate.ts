import { assert, TuneError } from "../errors.ts";
import type { Piece, Pieces } from "./factors.ts";

/** What a tensor is said to be, before a byte of it is read. */
export interface LayerType {
  readonly name: string;
  readonly dtype: "float32";
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** The types of some pieces, in their order. */
export function typesOf(pieces: Pieces): readonly LayerType[] {
  return [...pieces].map(([name, { shape }]) => ({
    name,
    dtype: "float32",
    shape: [...shape],
    bytes: 4 * shape.reduce((product, size) => product * size, 1),
  }));
}

/** Bytes of all of them. */
export function bytesOfTypes(types: readonly LayerType[]): number {
  return types.reduce((sum, { bytes }) => sum + bytes, 0);
}

/**
 * Hold what an upload says of itself against what it must be: every name and no other, in any order, dtype, shape, bytes.
 * Nothing of the upload but its description is looked at, and no memory is taken.
 * @param declared whatever came in the message.
 * @throws {TuneError} `bad-upload` listing every problem.
 */
export function checkDeclared(declared: unknown, expected: readonly LayerType[], at: string): void {
  if (!Array.isArray(declared)) throw badUpload(["It does not say what tensors it has."], at);
  if (declared.length > 2 * expected.length + 16) {
    throw badUpload([`It has ${declared.length} tensors, not ${expected.length}.`], at);
  }
  const problems: string[] = [];
  const known = new Map(expected.map((type) => [type.name, type]));
  const seen = new Set<string>();
  for (const entry of declared as readonly unknown[]) {
    const said = (typeof entry === "object" && entry !== null ? entry : {}) as Readonly<Record<string, unknown>>; // read key by key
    const name = typeof said["name"] === "string" ? said["name"] : "";
    const type = known.get(name);
    if (type === undefined) {
      problems.push(`${JSON.stringify(name).slice(0, 200)} is no tensor of this federation.`);
      continue;
    }
    if (seen.has(name)) problems.push(`${name} is there twice.`);
    seen.add(name);
    for (const key of ["dtype", "shape", "bytes"] as const) {
      const [is, must] = [JSON.stringify(said[key]) ?? "missing", JSON.stringify(type[key])];
      if (is !== must) problems.push(`${key} of ${name} is ${is.slice(0, 100)}, not ${must}.`);
    }
  }
  for (const { name } of expected) if (!seen.has(name)) problems.push(`${name} is missing.`);
  if (problems.length > 0) throw badUpload(problems.slice(0, 20), at);
}

/**
 * The tensors in the bytes of an upload, laid end to end in the order of `types`: float32, little-endian. All must be finite.
 * @throws {TuneError} `bad-upload` for another number of bytes, and for NaN or infinity.
 */
export function readPieces(bytes: Uint8Array, types: readonly LayerType[], at: string): Pieces {
  const needed = bytesOfTypes(types);
  if (bytes.byteLength !== needed) throw badUpload([`It has ${bytes.byteLength} bytes, not ${needed}.`], at);
  const problems: string[] = [];
  const pieces = new Map<string, Piece>();
  let from = 0;
  for (const { name, shape, bytes: length } of types) {
    const data = floatsIn(bytes.subarray(from, from + length));
    from += length;
    const bad = firstNotFinite(data);
    if (bad >= 0) problems.push(`${name} has ${data[bad]} at ${bad}.`);
    pieces.set(name, { shape, data });
  }
  if (problems.length > 0) throw badUpload(problems.slice(0, 20), at);
  return pieces;
}

/** Where a number is NaN or infinite; −1 where none is. */
function firstNotFinite(data: Float32Array): number {
  // What is not finite times zero is NaN, and stays: one sum says whether there is any.
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += 0 * (data[i] ?? 0);
  return sum === 0 ? -1 : data.findIndex((value) => !Number.isFinite(value));
}

/** Pieces end to end in their order: float32, little-endian. */
export function writePieces(pieces: Pieces): Uint8Array {
  const all = [...pieces.values()];
  const bytes = new Uint8Array(4 * all.reduce((sum, { data }) => sum + data.length, 0));
  let from = 0;
  for (const { data } of all) {
    if (littleEndian) bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), from);
    else {
      const view = new DataView(bytes.buffer, from);
      for (const [i, value] of data.entries()) view.setFloat32(4 * i, value, true);
    }
    from += data.byteLength;
  }
  return bytes;
}

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function floatsIn(bytes: Uint8Array): Float32Array {
  const copy = bytes.slice();
  if (littleEndian) return new Float32Array(copy.buffer);
  const view = new DataView(copy.buffer);
  return Float32Array.from({ length: copy.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** What one round of training may do to what is trained. */
export interface NormBoundOptions {
  readonly learningRate: number;
  /** Updates in a round. */
  readonly steps: number;
  /** Gradients are clipped to this length: those of an example with noise, of a batch without. */
  readonly clip: number;
  /** With noise: its multiplier, the expected batch, and how many numbers are trained. */
  readonly noise?: { readonly multiplier: number; readonly expectedBatch: number; readonly parameters: number };
}

/**
 * How far honest training by plain gradient descent moves what is trained, as one Euclidean length over all tensors. With
 * noise, batches are taken to be up to twice as large as expected, and the noise to be 5 standard deviations above its mean
 * length.
 */
export function normBound({ learningRate, steps, clip, noise }: NormBoundOptions): number {
  if (noise === undefined) return learningRate * steps * clip;
  const { multiplier, expectedBatch, parameters } = noise;
  assert(expectedBatch > 0, "a batch is expected to have examples");
  // A batch of few is more often twice as large: never less than what a handful of examples more make.
  const drawn = 2 * Math.max(expectedBatch, 5);
  return learningRate * steps * clip * ((drawn + multiplier * (Math.sqrt(parameters) + 5)) / expectedBatch);
}

/** How many times an honest length is still taken. */
export const boundTolerance = 3;

/**
 * @throws {TuneError} `bad-upload` for a change that is longer than {@link boundTolerance} times the bound.
 */
export function checkNorm(delta: Pieces, bound: number, at: string): void {
  const length = lengthOf(delta);
  if (length <= boundTolerance * bound) return;
  throw badUpload(
    [`It moves the factors by ${length.toPrecision(3)}, and honest training by ${bound.toPrecision(3)} at most.`],
    at,
  );
}

/** The Euclidean length of all numbers of some pieces. */
export function lengthOf(pieces: Pieces): number {
  let sum = 0;
  for (const { data } of pieces.values()) for (let i = 0; i < data.length; i++) sum += (data[i] ?? 0) ** 2;
  return Math.sqrt(sum);
}

function badUpload(problems: readonly string[], at: string): TuneError {
  return new TuneError("bad-upload", problems, {
    at,
    fix: "the client sends what it trained in this round, as it was told to; the others go on without it",
  });
}
