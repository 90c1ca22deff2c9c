import { TuneError } from "../errors.ts";
import { type Attributes, constant, int, intsAttribute, isFloat, numberAttribute, type Value } from "../graph/index.ts";
import { cast } from "../ops/index.ts";

/** A node as its importer sees it: what it reads and how it is set. */
export interface Call {
  readonly op: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes: Attributes;
  /** How many outputs it has. */
  readonly outputs: number;
}

type Upgrade = (call: Call, opset: number, at: string) => Call;

/**
 * A node of an older operator set, in the words of the one that the operator records implement. Source: the changelog
 * of the ONNX operators (onnx 1.20, docs/Changelog.md).
 * @throws {TuneError} `onnx-unsupported` where an old meaning has no new spelling.
 */
export function upgrade(call: Call, opset: number, at: string): Call {
  return upgrades[call.op]?.(call, opset, at) ?? call;
}

/** A list that was an attribute before `version` became the input at `index`. */
function listInput(attribute: string, index: number, version: number): Upgrade {
  return (call, opset) => {
    const list = intsAttribute(call.attributes, attribute);
    return opset < version && list ? withInput(call, attribute, index, constant(list, "int64")) : call;
  };
}

function withInput(call: Call, attribute: string, index: number, value: Value): Call {
  const { [attribute]: _moved, ...attributes } = call.attributes;
  const inputs = [...call.inputs];
  while (inputs.length <= index) inputs.push(undefined);
  inputs[index] = value;
  return { ...call, inputs, attributes };
}

/** Before version 13 these normalised over every axis from `axis` (1 when not said) on, together. */
const flattening: Upgrade = (call, opset, at) => {
  if (opset >= 13) return call;
  const rank = call.inputs[0]?.shape.length ?? 0;
  const axis = numberAttribute(call.attributes, "axis", 1);
  if (axis !== -1 && axis !== rank - 1) {
    throw new TuneError("onnx-unsupported", `${call.op} of opset ${opset} spans several axes at once.`, {
      at,
      fix: "export the model with opset 13 or later",
    });
  }
  return { ...call, attributes: { ...call.attributes, axis: int(-1) } };
};

const bounds: Upgrade = (call, opset) => {
  if (opset >= 11) return call;
  const dtype = call.inputs[0]?.dtype ?? "float32";
  const min = constant(numberAttribute(call.attributes, "min", -3.4028234663852886e38), dtype);
  const max = constant(numberAttribute(call.attributes, "max", 3.4028234663852886e38), dtype);
  return { ...call, inputs: [call.inputs[0], min, max], attributes: {} };
};

const slicing: Upgrade = (call, opset) => {
  if (opset >= 10) return call;
  const lists = ["starts", "ends", "axes"].map((name) => intsAttribute(call.attributes, name));
  const inputs = [call.inputs[0], ...lists.map((list) => list && constant(list, "int64"))];
  return { ...call, inputs, attributes: {} };
};

/** Outside training it passes its input through. */
const dropout: Upgrade = (call) => ({ ...call, op: "Identity", inputs: call.inputs.slice(0, 1), attributes: {} });

const splitSizes = listInput("split", 1, 13);

/** Before version 18 the number of equal parts was that of the outputs. */
const splitting: Upgrade = (call, opset, at) => {
  const { inputs, attributes, outputs, ...rest } = splitSizes(call, opset, at);
  if (opset >= 18 || inputs[1] !== undefined) return { ...rest, inputs, attributes, outputs };
  return { ...rest, inputs, outputs, attributes: { ...attributes, num_outputs: int(outputs) } };
};

/** The records combine equal types; a real base takes its exponent as a real number. */
const power: Upgrade = (call) => {
  const [base, exponent] = call.inputs;
  if (!base || !exponent || !isFloat(base.dtype) || base.dtype === exponent.dtype) return call;
  return { ...call, inputs: [base, cast(exponent, base.dtype)] };
};

const upgrades: Readonly<Record<string, Upgrade>> = {
  Squeeze: listInput("axes", 1, 13),
  Unsqueeze: listInput("axes", 1, 13),
  ReduceSum: listInput("axes", 1, 13),
  ReduceMean: listInput("axes", 1, 18),
  ReduceMax: listInput("axes", 1, 18),
  ReduceMin: listInput("axes", 1, 18),
  ReduceSumSquare: listInput("axes", 1, 18),
  Split: splitting,
  Pow: power,
  Softmax: flattening,
  LogSoftmax: flattening,
  Clip: bounds,
  Slice: slicing,
  Dropout: dropout,
};
