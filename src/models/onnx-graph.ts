import { TuneError } from "../errors.ts";
import {
  type Attributes,
  bytesPerElement,
  constant,
  constantOf,
  type Dim,
  type Graph,
  graph,
  type InputValue,
  input,
  isFloat,
  type LazyTensor,
  sizeOf,
  type Tensor,
  type Value,
  weight,
  withScope,
} from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import type { OnnxModel, OnnxNode, OnnxTensor, OnnxValueInfo } from "../io/onnx/read.ts";
import { applyAll, findOp, type Op } from "../ops/index.ts";
import { upgrade } from "./onnx-upgrade.ts";

/** Integer initializers up to this many elements become constants, whose elements shapes may depend on. */
const literalElements = 64;

/**
 * The graph of an ONNX model: types are inferred anew, nodes of older operator sets put into today's words, initializers
 * become weights (small integer ones constants), and a node's module is the path in its name.
 * `fixed` gives inputs that are to be constants, by name.
 * @throws {TuneError} `onnx-unsupported` naming every operator that is not known, `onnx-malformed` when nodes and values
 * do not fit together.
 */
export async function importOnnx(model: OnnxModel, fixed: ReadonlyMap<string, Tensor> = new Map()): Promise<Graph> {
  refuseUnknown(model);
  const values = new Map<string, Value>();
  for (const initializer of model.initializers.values()) values.set(initializer.name, await leafOf(initializer));
  const inputs: InputValue[] = [];
  for (const info of model.inputs) {
    const literal = fixed.get(info.name);
    if (literal === undefined)
      inputs.push(
        input(
          info.name,
          info.dtype,
          info.shape.map((dim, axis) => sizeAt(info, dim, axis)),
        ),
      );
    values.set(info.name, literal === undefined ? (inputs.at(-1) as Value) : constantOf(literal)); // pushed just now
  }
  for (const node of model.nodes) addNode(model, node, values);
  const outputs = new Map(model.outputs.map(({ name }) => [name, read(model, values, name, "the graph's outputs")]));
  for (const [name, value] of outputs) {
    if (value.kind !== "result" && value.kind !== "constant" && value.name === name) {
      throw new TuneError("onnx-unsupported", `Output ${name} is an input or a weight as it stands.`, {
        at: model.path,
      });
    }
  }
  return graph({ name: model.name, inputs, outputs });
}

function refuseUnknown(model: OnnxModel): void {
  const unknown = new Set(
    model.nodes
      .filter(({ op, domain }) => op !== "Constant" && op !== "Dropout" && findOp(domain, op) === undefined)
      .map(({ op, domain }) => (domain === "" ? op : `${domain}.${op}`)),
  );
  const opset = model.opsets.get("") ?? 0;
  if (unknown.size === 0 && opset >= 7) return;
  const what = unknown.size === 0 ? `opset ${opset}` : `operators without a record: ${[...unknown].sort().join(", ")}`;
  throw new TuneError("onnx-unsupported", `The model uses ${what}.`, {
    at: model.path,
    fix: "export it with standard operators of opset 13 or later",
  });
}

async function leafOf(initializer: OnnxTensor): Promise<Value> {
  const { name, dtype, shape } = initializer;
  const elements = sizeOf(shape);
  if (!isFloat(dtype) && elements <= literalElements) return constantOf(await initializer.read());
  const source: LazyTensor = {
    dtype,
    shape,
    sizeBytes: elements * bytesPerElement(dtype),
    read: () =>
      isFloat(dtype) ? toFloat32({ dtype, shape, sizeBytes: 0, read: initializer.read }) : initializer.read(),
  };
  return weight(name, source);
}

/** Sizes that a file leaves open get a symbol of their own; symbols lose what is no letter, digit or underscore. */
function sizeAt(info: OnnxValueInfo, dim: number | string | undefined, axis: number): Dim {
  if (typeof dim === "number") return dim;
  return (dim ?? `${info.name}_dim${axis}`).replace(/\W+/g, "_").replace(/^(?=\d)/, "_");
}

function addNode(model: OnnxModel, node: OnnxNode, values: Map<string, Value>): void {
  const at = `${model.path}, node ${node.name || node.outputs.join(", ")}`;
  const inputs = node.inputs.map((name) => (name === "" ? undefined : read(model, values, name, at)));
  const opset = model.opsets.get(node.domain) ?? 1;
  const results = node.op === "Constant" ? [literalOf(node.attributes, at)] : apply(node, inputs, opset, at);
  node.outputs.forEach((name, i) => {
    if (name === "") return;
    const value = results[i];
    if (value === undefined) {
      throw new TuneError("onnx-unsupported", `Output ${i} of ${node.op} is not supported.`, { at });
    }
    if (values.has(name)) throw misfit(`two values are called ${name}`, at);
    values.set(name, value);
  });
}

function apply(node: OnnxNode, inputs: readonly (Value | undefined)[], opset: number, at: string): readonly Value[] {
  const call = upgrade({ op: node.op, inputs, attributes: node.attributes, outputs: node.outputs.length }, opset, at);
  const op = findOp(node.domain, call.op) as Op; // unknown ones were refused at the start
  try {
    return withScope(moduleOf(node.name), () => applyAll(op, call.inputs, call.attributes));
  } catch (error) {
    if (error instanceof TuneError) throw error;
    throw misfit(`${node.op} does not fit its inputs: ${error instanceof Error ? error.message : String(error)}`, at);
  }
}

/** `/distilbert/layer.0/attention/MatMul` lies in `distilbert.layer.0.attention`. */
function moduleOf(name: string): string {
  return name
    .split("/")
    .filter((part) => part !== "")
    .slice(0, -1)
    .join(".");
}

function literalOf(attributes: Attributes, at: string): Value {
  const [attribute] = Object.values(attributes);
  switch (attribute?.type) {
    case "tensor":
      return constantOf(attribute.value);
    case "int":
      return constant(attribute.value, "int64");
    case "ints":
      return constant(attribute.value, "int64");
    case "float":
      return constant(attribute.value);
    case "floats":
      return constant(attribute.value);
    default:
      throw new TuneError("onnx-unsupported", "A constant is neither a number nor a tensor.", { at });
  }
}

function read(model: OnnxModel, values: ReadonlyMap<string, Value>, name: string, at: string): Value {
  const value = values.get(name);
  if (value === undefined)
    throw misfit(`nothing computes ${name} before it is read in ${model.name || "the graph"}`, at);
  return value;
}

function misfit(what: string, at: string): TuneError {
  return new TuneError("onnx-malformed", `The graph is not sound: ${what}.`, {
    at,
    fix: "check the file with onnx.checker, and export it again",
  });
}
