import { TuneError } from "../../errors.ts";
import {
  type Attribute,
  type Attributes,
  bytesPerElement,
  type DType,
  sizeOf,
  type Tensor,
  tensor,
  viewAs,
} from "../../graph/index.ts";
import { dirname, insideFolder, type Storage } from "../storage.ts";
import { dataTypes } from "./data-types.ts";
import {
  bytesIn,
  doublesIn,
  type Field,
  floatsIn,
  integerIn,
  integersIn,
  malformed,
  readFields,
  textIn,
} from "./fields.ts";

/** A tensor of an ONNX file; its elements are read when asked for. */
export interface OnnxTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The file beside the model that holds it; undefined when the model itself does. */
  readonly external: string | undefined;
  /** Its elements; a view of the model file where they lie in it. */
  read(): Promise<Tensor>;
}

/** One operator application, by names. An optional input that is left out is "". */
export interface OnnxNode {
  readonly op: string;
  readonly domain: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Attributes;
}

/** A declared input or output. A size is a number, a symbol, or undefined when the file leaves it open. */
export interface OnnxValueInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string | undefined)[];
}

/** What an ONNX file holds. */
export interface OnnxModel {
  /** The file it was read from. */
  readonly path: string;
  readonly irVersion: number;
  readonly producer: string;
  /** Version of each operator set, by domain; the standard one is "". */
  readonly opsets: ReadonlyMap<string, number>;
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: ReadonlyMap<string, OnnxTensor>;
  /** Inputs that are fed; those with an initializer are left out. */
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
}

/**
 * Read an ONNX file. Tensors stay where they are until read: inside the model as views, or in files beside it (files over
 * 2 GB included). Everything is checked first: sizes against payloads, external ranges against their files' sizes, paths
 * against the model's folder. Source: onnx.proto of ONNX 1.20.
 * @throws {TuneError} `onnx-malformed`, `onnx-unsupported`, `path-outside-folder`, `file-not-found`.
 */
export async function openOnnx(storage: Storage, path: string): Promise<OnnxModel> {
  const bytes = await storage.read(path);
  const sizes = new Map<string, number>();
  const external: ExternalFile = {
    check: (location, end) => {
      sizes.set(location, Math.max(sizes.get(location) ?? 0, end));
    },
    read: (location, start, end) => storage.read(insideFolder(dirname(path), location), { start, end }),
  };
  const model = parseModel(bytes, path, external);
  for (const [location, end] of sizes) {
    const file = insideFolder(dirname(path), location);
    const sizeBytes = await storage.sizeBytes(file);
    if (sizeBytes === undefined) {
      throw new TuneError("file-not-found", `The model keeps weights in ${location}, which is not beside it.`, {
        at: path,
        fix: `put ${location} into the model's folder`,
      });
    }
    if (end > sizeBytes)
      throw malformed(`its weights reach to byte ${end} of ${location}, which has ${sizeBytes}`, path);
  }
  return model;
}

/** A serialised TensorProto, as the files of operator tests hold them. */
export async function readTensorProto(
  bytes: Uint8Array,
  at: string,
): Promise<{ readonly name: string; readonly tensor: Tensor }> {
  const parsed = parseTensor(bytes, at, noExternal(at));
  return { name: parsed.name, tensor: await parsed.read() };
}

/** How tensors outside the model file are reached. */
interface ExternalFile {
  /** Note that a file must exist and have at least `end` bytes. */
  check(location: string, end: number): void;
  read(location: string, start: number, end: number): Promise<Uint8Array>;
}

function noExternal(at: string): ExternalFile {
  const refuse = (): never => {
    throw malformed("a tensor without a folder names a file", at);
  };
  return { check: refuse, read: refuse };
}

function parseModel(bytes: Uint8Array, path: string, external: ExternalFile): OnnxModel {
  let irVersion = 0;
  let producer = "";
  let graph: Uint8Array | undefined;
  const opsets = new Map<string, number>();
  for (const field of readFields(bytes, path)) {
    if (field.field === 1) irVersion = integerIn(field, path);
    else if (field.field === 2) producer = textIn(field, path);
    else if (field.field === 7) graph = bytesIn(field, path);
    else if (field.field === 8) {
      const [domain, version] = parseOpset(bytesIn(field, path), path);
      opsets.set(domain, version);
    } else if (field.field === 25) throw unsupported("functions of its own", path);
  }
  if (graph === undefined || irVersion < 3 || opsets.size === 0) {
    throw malformed("it has no graph, no operator set, or no version of the format", path);
  }
  return { path, irVersion, producer, opsets, ...parseGraph(graph, path, external) };
}

function parseOpset(bytes: Uint8Array, at: string): [domain: string, version: number] {
  let domain = "";
  let version = 1;
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) domain = textIn(field, at);
    else if (field.field === 2) version = integerIn(field, at);
  }
  return [domain === "ai.onnx" ? "" : domain, version];
}

type GraphParts = Pick<OnnxModel, "name" | "nodes" | "initializers" | "inputs" | "outputs">;

function parseGraph(bytes: Uint8Array, at: string, external: ExternalFile): GraphParts {
  let name = "";
  const nodes: OnnxNode[] = [];
  const initializers = new Map<string, OnnxTensor>();
  const inputs: OnnxValueInfo[] = [];
  const outputs: OnnxValueInfo[] = [];
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) nodes.push(parseNode(bytesIn(field, at), at));
    else if (field.field === 2) name = textIn(field, at);
    else if (field.field === 5) {
      const parsed = parseTensor(bytesIn(field, at), at, external);
      if (initializers.has(parsed.name)) throw malformed(`two initializers are called ${parsed.name}`, at);
      initializers.set(parsed.name, parsed);
    } else if (field.field === 11) inputs.push(parseValueInfo(bytesIn(field, at), at));
    else if (field.field === 12) outputs.push(parseValueInfo(bytesIn(field, at), at));
    else if (field.field === 15) throw unsupported("sparse initializers", at);
  }
  return { name, nodes, initializers, inputs: inputs.filter((input) => !initializers.has(input.name)), outputs };
}

function parseNode(bytes: Uint8Array, at: string): OnnxNode {
  const inputs: string[] = [];
  const outputs: string[] = [];
  const attributes: Record<string, Attribute> = {};
  let op = "";
  let domain = "";
  let name = "";
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) inputs.push(textIn(field, at));
    else if (field.field === 2) outputs.push(textIn(field, at));
    else if (field.field === 3) name = textIn(field, at);
    else if (field.field === 4) op = textIn(field, at);
    else if (field.field === 7) domain = textIn(field, at);
    else if (field.field === 5) {
      const [key, attribute] = parseAttribute(bytesIn(field, at), `${at}, node ${name || op || nodes(outputs)}`);
      Object.defineProperty(attributes, key, { value: attribute, enumerable: true });
    }
  }
  if (op === "") throw malformed("a node has no operator", at);
  return { op, domain: domain === "ai.onnx" ? "" : domain, name, inputs, outputs, attributes };
}

const nodes = (outputs: readonly string[]): string => outputs.join(", ");

function parseAttribute(bytes: Uint8Array, at: string): [name: string, attribute: Attribute] {
  let name = "";
  let type = 0;
  let float = 0;
  let int = 0;
  let text = "";
  let literal: Tensor | undefined;
  const floats: number[] = [];
  const ints: number[] = [];
  const strings: string[] = [];
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) name = textIn(field, at);
    else if (field.field === 20) type = integerIn(field, at);
    else if (field.field === 2) float = floatsIn(field, at)[0] ?? 0;
    else if (field.field === 3) int = integerIn(field, at);
    else if (field.field === 4) text = textIn(field, at);
    else if (field.field === 5) literal = inlineTensor(bytesIn(field, at), at).tensor;
    else if (field.field === 7) floats.push(...floatsIn(field, at));
    else if (field.field === 8) ints.push(...integersIn(field, at));
    else if (field.field === 9) strings.push(textIn(field, at));
    else if (field.field === 6 || field.field === 11) throw unsupported(`a graph inside a node (${name})`, at);
  }
  const attribute = ((): Attribute | undefined => {
    if (type === 1) return { type: "float", value: float };
    if (type === 2) return { type: "int", value: int };
    if (type === 3) return { type: "string", value: text };
    if (type === 4 && literal) return { type: "tensor", value: literal };
    if (type === 6) return { type: "floats", value: floats };
    if (type === 7) return { type: "ints", value: ints };
    if (type === 8) return { type: "strings", value: strings };
    return undefined;
  })();
  if (attribute === undefined) throw unsupported(`attribute ${name} of type ${type}`, at);
  return [name, attribute];
}

/** int4 is ours to write, for weights that we pack; what others wrote in it is not computed with. */
const dtypeOf = new Map(
  Object.entries(dataTypes).flatMap(([dtype, code]) => (dtype === "int4" ? [] : [[code, dtype as DType] as const])),
);

interface TensorParts {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly raw: Uint8Array | undefined;
  readonly typed: readonly number[];
  readonly location: ReadonlyMap<string, string> | undefined;
}

function tensorParts(bytes: Uint8Array, at: string): TensorParts {
  const shape: number[] = [];
  let code = 0;
  let name = "";
  let raw: Uint8Array | undefined;
  const typed: number[] = [];
  const location = new Map<string, string>();
  let isExternal = false;
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) shape.push(...integersIn(field, at));
    else if (field.field === 2) code = integerIn(field, at);
    else if (field.field === 8) name = textIn(field, at);
    else if (field.field === 9) raw = bytesIn(field, at);
    else if (field.field === 4) push(typed, floatsIn(field, at));
    else if (field.field === 10) push(typed, doublesIn(field, at));
    else if (field.field === 5 || field.field === 7 || field.field === 11) push(typed, integersIn(field, at));
    else if (field.field === 13) entry(field, location, at);
    else if (field.field === 14) isExternal = integerIn(field, at) === 1;
    else if (field.field === 3) throw unsupported("a tensor in segments", at);
    else if (field.field === 6) throw unsupported(`strings as tensor ${name}`, at);
  }
  const dtype = dtypeOf.get(code);
  if (dtype === undefined) throw unsupported(`element type ${code} of tensor ${name}`, at);
  if (shape.some((dim) => dim < 0) || !Number.isSafeInteger(sizeOf(shape))) {
    throw malformed(`tensor ${name} has the shape [${shape.join(", ")}]`, at);
  }
  return { name, dtype, shape, raw, typed, location: isExternal ? location : undefined };
}

function entry(field: Field, into: Map<string, string>, at: string): void {
  let key = "";
  let value = "";
  for (const part of readFields(bytesIn(field, at), at)) {
    if (part.field === 1) key = textIn(part, at);
    else if (part.field === 2) value = textIn(part, at);
  }
  into.set(key, value);
}

// Spreading a long list into a call overflows the stack.
function push(into: number[], values: readonly number[]): void {
  for (const value of values) into.push(value);
}

function inlineTensor(bytes: Uint8Array, at: string): { readonly parts: TensorParts; readonly tensor: Tensor } {
  const parts = tensorParts(bytes, at);
  const { name, dtype, shape, raw, typed, location } = parts;
  if (location !== undefined) throw malformed(`tensor ${name} is outside the file, where it must not be`, at);
  const count = raw === undefined ? typed.length : raw.byteLength / bytesPerElement(dtype);
  if (count !== sizeOf(shape))
    throw malformed(`tensor ${name} of shape [${shape.join(", ")}] holds ${count} elements`, at);
  return {
    parts,
    tensor: raw === undefined ? tensor(dtype, shape, typed) : { dtype, shape, data: viewAs(dtype, raw) },
  };
}

function parseTensor(bytes: Uint8Array, at: string, external: ExternalFile): OnnxTensor {
  const { name, dtype, shape, location } = tensorParts(bytes, at);
  if (location === undefined) {
    const { tensor } = inlineTensor(bytes, at);
    return { name, dtype, shape, external: undefined, read: async () => tensor };
  }
  const file = location.get("location") ?? "";
  const sizeBytes = sizeOf(shape) * bytesPerElement(dtype);
  const offset = Number(location.get("offset") ?? 0);
  const length = Number(location.get("length") ?? sizeBytes);
  if (!Number.isSafeInteger(offset) || offset < 0 || length !== sizeBytes) {
    throw malformed(`tensor ${name} of ${sizeBytes} bytes is said to have ${length} at ${offset} of ${file}`, at);
  }
  external.check(file, offset + length);
  return {
    name,
    dtype,
    shape,
    external: file,
    read: async () => ({ dtype, shape, data: viewAs(dtype, await external.read(file, offset, offset + length)) }),
  };
}

function parseValueInfo(bytes: Uint8Array, at: string): OnnxValueInfo {
  let name = "";
  let dtype: DType | undefined;
  const shape: (number | string | undefined)[] = [];
  for (const field of readFields(bytes, at)) {
    if (field.field === 1) name = textIn(field, at);
    if (field.field !== 2) continue;
    for (const type of readFields(bytesIn(field, at), at)) {
      if (type.field !== 1) throw unsupported(`${name}, which is not a tensor`, at);
      for (const part of readFields(bytesIn(type, at), at)) {
        if (part.field === 1) dtype = dtypeOf.get(integerIn(part, at));
        else if (part.field === 2) shape.push(...parseShape(bytesIn(part, at), at));
      }
    }
  }
  if (dtype === undefined) throw unsupported(`the type of ${name}`, at);
  return { name, dtype, shape };
}

function parseShape(bytes: Uint8Array, at: string): (number | string | undefined)[] {
  const shape: (number | string | undefined)[] = [];
  for (const dimension of readFields(bytes, at)) {
    if (dimension.field !== 1) continue;
    let size: number | string | undefined;
    for (const field of readFields(bytesIn(dimension, at), at)) {
      if (field.field === 1) size = integerIn(field, at);
      else if (field.field === 2) size = textIn(field, at) || undefined;
    }
    shape.push(typeof size === "number" && size < 0 ? undefined : size);
  }
  return shape;
}

function unsupported(what: string, at: string): TuneError {
  return new TuneError("onnx-unsupported", `The ONNX file uses ${what}, which Scion does not read.`, {
    at,
    fix: "export the model again without it",
  });
}
