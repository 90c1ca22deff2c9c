import { assert } from "../../errors.ts";
import {
  type Attribute,
  bytesOf,
  bytesPerElement,
  type DType,
  type Graph,
  type Node,
  nameOf,
  type Shape,
  sizeOf,
  type Tensor,
  type Value,
  type ValueType,
  type WeightValue,
} from "../../graph/index.ts";
import { dataTypes } from "./data-types.ts";
import {
  bytesField,
  floatField,
  laterField,
  type Message,
  message,
  messageField,
  serialise,
  streamed,
  stringField,
  varintField,
} from "./wire.ts";

/** Where an initializer's bytes are, outside the model file: a range of a file beside it. */
export interface ExternalRange {
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** How a graph is written. */
export interface OnnxOptions {
  /**
   * A weight's bytes: in the model itself (a tensor of the weight's dtype), in a file beside it, or nowhere: the weight is
   * an input then. What is "later" is read when its turn comes in {@link streamOnnx}.
   */
  readonly place: (weight: WeightValue) => Tensor | ExternalRange | "input" | "later";
  /** Version of the standard operator set; 21 when absent, which ONNX Runtime 1.17 and later run. */
  readonly opset?: number;
}

const irVersion = 10; // the first that knows opset 21

/**
 * A graph as a serialised ONNX ModelProto. Inputs come first, then parameters; weights and constants are initializers;
 * symbolic sizes are `dim_param`s. Weights that are inputs come last.
 */
export function writeOnnx(graph: Graph, options: OnnxOptions): Uint8Array {
  return serialise(modelMessage(graph, options));
}

/** The same, piece by piece, one weight or a part of it in memory at a time. */
export function streamOnnx(graph: Graph, options: Omit<OnnxOptions, "place"> = {}): AsyncIterable<Uint8Array> {
  return streamed(modelMessage(graph, { ...options, place: () => "later" }));
}

function modelMessage(graph: Graph, { place, opset = 21 }: OnnxOptions): Message {
  const placed = graph.weights.map((weight) => ({ weight, at: place(weight) }));
  const fed = placed.flatMap(({ weight, at }) => (at === "input" ? [weight] : []));
  const domains = new Set(graph.nodes.map(({ domain }) => domain).filter((domain) => domain !== ""));
  const fields = [
    ...graph.nodes.map((node) => messageField(1, nodeFields(graph, node))),
    stringField(2, graph.name),
    ...placed.flatMap(({ weight, at }) => (at === "input" ? [] : [messageField(5, initializer(weight, at))])),
    ...graph.constants.map((value) => messageField(5, tensorFields(nameOf(graph, value), value.tensor))),
    ...[...graph.inputs, ...graph.parameters, ...fed].map((value) => messageField(11, valueInfo(value.name, value))),
    ...[...graph.outputs].map(([name, value]) => messageField(12, valueInfo(name, value))),
    ...intermediates(graph).map((value) => messageField(13, valueInfo(nameOf(graph, value), ofItsLayer(value)))),
  ];
  return message([
    varintField(1, irVersion),
    stringField(2, "scion"),
    messageField(8, [stringField(1, ""), varintField(2, opset)]),
    ...[...domains].map((domain) => messageField(8, [stringField(1, domain), varintField(2, 1)])),
    messageField(7, fields),
  ]);
}

/**
 * Values between nodes. Their types could be inferred, but ONNX Runtime 1.30 gives every inferred size a name of its
 * own, and planning memory then compares each value with all that came before: minutes for a deep model's step.
 */
function intermediates(graph: Graph): readonly Value[] {
  const outputs = new Set(graph.outputs.values());
  return graph.nodes.flatMap((node) => node.outputs.filter((value) => !outputs.has(value)));
}

/**
 * A value that grows with the square of a size, with names of sizes that only its layer has, forward and backward apart. ONNX
 * Runtime plans to give a value the buffer of an earlier one whose sizes have the same names, and holds the buffer until then: a
 * block of scores in every layer, and from the forward pass to the backward pass.
 */
function ofItsLayer(value: Value): ValueType {
  const { dtype, shape } = value;
  if (value.kind !== "result" || !growsWithSquare(shape)) return value;
  const { scope } = value.node;
  const layer = /^\D*\d+/.exec(scope)?.[0] ?? scope.replace(/\/grad$/, "");
  const pass = scope.endsWith("/grad") ? "backward" : "forward";
  return { dtype, shape: shape.map((dim) => (typeof dim === "string" ? `${dim} of ${layer} ${pass}` : dim)) };
}

function growsWithSquare(shape: Shape): boolean {
  const symbols = shape.flatMap((dim) => [...new Set(String(dim).match(/[a-z_]\w*/gi))]);
  return symbols.length > new Set(symbols).size;
}

/** ONNX recommends starting external tensors on a page, so that they can be mapped. */
const pageBytes = 4096;

/** A file of weights beside a model. */
export interface WeightFile {
  readonly location: string;
  readonly weights: readonly WeightValue[];
  readonly sizeBytes: number;
}

/**
 * A layout of all of a graph's weights beside the model, one after the other, in as many files as keep each within `maxBytes`
 * (a weight that is larger has a file to itself). `nameOf` names the first, the second, …
 */
export function layOutWeights(
  graph: Graph,
  nameOf: (file: number) => string,
  maxBytes: number,
): { readonly place: (weight: WeightValue) => ExternalRange; readonly files: readonly WeightFile[] } {
  const ranges = new Map<WeightValue, ExternalRange>();
  const files: { location: string; weights: WeightValue[]; sizeBytes: number }[] = [];
  for (const weight of graph.weights) {
    const length = weightBytes(weight);
    let file = files.at(-1);
    let offset = Math.ceil((file?.sizeBytes ?? 0) / pageBytes) * pageBytes;
    if (file === undefined || offset + length > maxBytes) {
      file = { location: nameOf(files.length), weights: [], sizeBytes: 0 };
      files.push(file);
      offset = 0;
    }
    ranges.set(weight, { location: file.location, offset, length });
    file.weights.push(weight);
    file.sizeBytes = offset + length;
  }
  return {
    files,
    place: (weight) => {
      const range = ranges.get(weight);
      assert(range !== undefined, () => `${weight.name} is not a weight of this graph`);
      return range;
    },
  };
}

/** The bytes of such a file, one weight or a part of it in memory at a time; what is given is gone when the next is asked for. */
export async function* weightFile(
  { weights }: WeightFile,
  place: (weight: WeightValue) => ExternalRange,
): AsyncGenerator<Uint8Array> {
  let at = 0;
  const memory = new ArrayBuffer(partElements * 8);
  for (const weight of weights) {
    const { offset, length } = place(weight);
    if (offset > at) yield new Uint8Array(offset - at);
    yield* bytesInParts(weight, memory);
    at = offset + length;
  }
}

/** Elements of a weight that are read and written together, where it can be read in parts. */
const partElements = 2 ** 20;

/** All bytes of a weight, as many as were announced. */
async function* bytesInParts(weight: WeightValue, memory = new ArrayBuffer(0)): AsyncGenerator<Uint8Array> {
  const { shape, readPart, read } = weight.source;
  const size = sizeOf(shape);
  const announced = weightBytes(weight);
  let written = 0;
  const step = readPart ? partElements : size;
  for (let start = 0; start < size; start += step) {
    const data = readPart ? await readPart(start, Math.min(size, start + step), memory) : (await read()).data;
    written += data.byteLength;
    assert(written <= announced, () => `${weight.name} has more than ${announced} bytes`);
    yield bytesOf(data);
  }
  assert(written === announced, () => `${weight.name} has ${written} bytes, not ${announced}`);
}

/** Bytes of a weight in the dtype that the graph computes with. */
export function weightBytes({ dtype, source }: WeightValue): number {
  return Math.ceil(sizeOf(source.shape) * bytesPerElement(dtype));
}

function nodeFields(graph: Graph, node: Node): Message[] {
  const [first] = node.outputs;
  return [
    ...node.inputs.map((value) => stringField(1, value ? nameOf(graph, value) : "")),
    ...node.outputs.map((value) => stringField(2, nameOf(graph, value))),
    stringField(3, first ? nameOf(graph, first) : ""),
    stringField(4, node.op),
    ...Object.entries(node.attributes).map(([name, attribute]) => messageField(5, attributeFields(name, attribute))),
    ...(node.domain === "" ? [] : [stringField(7, node.domain)]),
  ];
}

/** AttributeProto: its name, its value in the field of its type, and the type itself. */
function attributeFields(name: string, attribute: Attribute): Message[] {
  const fields = ((): [Message[], number] => {
    switch (attribute.type) {
      case "float":
        return [[floatField(2, attribute.value)], 1];
      case "int":
        return [[varintField(3, attribute.value)], 2];
      case "string":
        return [[stringField(4, attribute.value)], 3];
      case "tensor":
        return [[messageField(5, tensorFields("", attribute.value))], 4];
      case "floats":
        return [attribute.value.map((value) => floatField(7, value)), 6];
      case "ints":
        return [attribute.value.map((value) => varintField(8, value)), 7];
      case "strings":
        return [attribute.value.map((value) => stringField(9, value)), 8];
    }
  })();
  return [stringField(1, name), ...fields[0], varintField(20, fields[1])];
}

function initializer(weight: WeightValue, placed: Tensor | ExternalRange | "later"): Message[] {
  if (placed === "later") {
    const { dtype, name, source } = weight;
    const content = laterField(9, { sizeBytes: weightBytes(weight), pieces: () => bytesInParts(weight) });
    return [...tensorHead(name, dtype, source.shape), content];
  }
  if (!("location" in placed)) return tensorFields(weight.name, placed);
  const { location, offset, length } = placed;
  const entry = (key: string, value: string): Message => messageField(13, [stringField(1, key), stringField(2, value)]);
  return [
    ...tensorHead(weight.name, weight.dtype, weight.source.shape),
    entry("location", location),
    entry("offset", String(offset)),
    entry("length", String(length)),
    varintField(14, 1), // DataLocation.EXTERNAL
  ];
}

function tensorFields(name: string, { dtype, shape, data }: Tensor): Message[] {
  return [...tensorHead(name, dtype, shape), bytesField(9, bytesOf(data))];
}

/** A TensorProto's sizes, element type and name. */
function tensorHead(name: string, dtype: DType, shape: readonly number[]): Message[] {
  return [
    ...shape.map((dim) => varintField(1, dim)),
    varintField(2, dataTypes[dtype]),
    ...(name === "" ? [] : [stringField(8, name)]),
  ];
}

function valueInfo(name: string, { dtype, shape }: ValueType): Message[] {
  return [
    stringField(1, name),
    messageField(2, [messageField(1, [varintField(1, dataTypes[dtype]), shapeField(shape)])]),
  ];
}

function shapeField(shape: Shape): Message {
  return messageField(
    2,
    shape.map((dim) => messageField(1, [typeof dim === "number" ? varintField(1, dim) : stringField(2, dim)])),
  );
}
