import { assert } from "../errors.ts";
import {
  type Attributes,
  type Dim,
  type DType,
  makeNode,
  type Node,
  type ResultValue,
  showShape,
  type Value,
  type ValueType,
} from "../graph/index.ts";
import { noteSizes } from "./sizes.ts";

/** A tensor of the float64 reference interpreter. Integers and booleans are held as doubles too (exact to 2⁵³). */
export interface Reference {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/** What a gradient rule may read. `dy` is the gradient of the loss with respect to the first output. */
export interface GradientContext {
  readonly inputs: readonly (Value | undefined)[];
  readonly outputs: readonly ResultValue[];
  readonly attributes: Attributes;
  readonly dy: Value;
  /** One gradient an output; undefined where nothing flows back through it. */
  readonly dys: readonly (Value | undefined)[];
  /** Which inputs need a gradient: a rule may leave the others out. */
  readonly needs: readonly boolean[];
  /** An input that is always present. */
  x(index: number): Value;
}

/** Gradients of the inputs, in order; undefined where none flows. Broadcasting need not be undone: the walk does it. */
export type GradientRule = (context: GradientContext) => readonly (Value | undefined)[];

/** One case that the conformance suite runs: forward, gradient, and in ONNX Runtime. */
export interface Sample {
  readonly inputs: readonly (Reference | undefined)[];
  readonly attributes?: Attributes;
  /** Inputs that must be constants when the node is made (shapes, axes). */
  readonly constant?: readonly number[];
  /** Relative float32 tolerance in ONNX Runtime when the default 1e-5 is too tight, with the reason. */
  readonly tolerance?: { readonly relative: number; readonly reason: string };
}

/** A product with a weight: what adapters attach to. */
export interface LinearSite {
  /** [tokens, in] or [..., in]. */
  readonly x: Value;
  readonly weight: Value;
  /** [out]: what the product adds, if anything. */
  readonly bias: Value | undefined;
  /** `out,in` as in torch.nn.Linear, or `in,out` as in GPT-2's Conv1D (PEFT's fan_in_fan_out). */
  readonly layout: "out,in" | "in,out";
  readonly inFeatures: number;
  readonly outFeatures: number;
}

/** How an operator is written in others. */
export interface Composite {
  /** How its formula is found where a graph has it written out; absent for operators that models name themselves. */
  readonly found?: {
    /** The operator that ends the formula. */
    readonly root: string;
    /** What the formula that ends in a node is a function of, when it is this operator's. */
    readonly recognise: (
      node: Node,
    ) => { readonly inputs: readonly Value[]; readonly attributes: Attributes } | undefined;
  };
  /** The formula of every output, in operators that every runtime has; undefined for a use that has none. */
  readonly expand: (inputs: readonly (Value | undefined)[], attributes: Attributes) => readonly Value[] | undefined;
}

/** Everything Scion knows of one ONNX operator. Adding an operator is adding such a record. */
export interface Op {
  /** The ONNX operator name; equal to the name the record is exported under. */
  readonly name: string;
  /** "" (the standard set) when absent. */
  readonly domain?: string;
  /** The opset version whose meaning the record implements. */
  readonly since: number;
  /** Types of the outputs. @throws when the inputs do not fit. */
  readonly infer: (inputs: readonly (Value | undefined)[], attributes: Attributes) => readonly ValueType[];
  /** Float64 reference semantics. */
  readonly evaluate: (inputs: readonly (Reference | undefined)[], attributes: Attributes) => readonly Reference[];
  /** The rule; `nondifferentiable` when no gradient flows; `unsupported` when one should but is not written. */
  readonly grad: GradientRule | "nondifferentiable" | "unsupported";
  /** Whether recomputing it costs arithmetic (`compute`) or only moves data (`memory`). */
  readonly cost: "compute" | "memory";
  readonly samples: readonly Sample[];
  /** For int64 vectors of sizes: the (possibly symbolic) elements of the first output. */
  readonly sizes?: (context: {
    readonly inputs: readonly (Value | undefined)[];
    readonly attributes: Attributes;
    readonly sizesOf: (value: Value | undefined) => readonly Dim[] | undefined;
  }) => readonly Dim[] | undefined;
  /**
   * Where every row of the output (index on its first axis) is made of the same rows of some inputs: which inputs these
   * are. The others are read whole. Undefined where rows mix.
   */
  readonly rows?: (node: Node) => readonly number[] | undefined;
  /** For matrix products: the length of the sums that every element of the output is. */
  readonly contraction?: (node: Node) => Dim;
  /** For an operator that is a formula of others, which runtimes may or may not have a kernel for. */
  readonly composite?: Composite;
  /** The same of a float32 input from operators that every provider rounds well, for those whose own kernel is rough. */
  readonly precise?: (x: Value) => Value;
  /** Whether the output is the first input's memory, seen otherwise: it takes neither time nor space. */
  readonly view?: true;
  /** How the node uses a weight as a linear map, if it does. */
  readonly linear?: (node: Node) => LinearSite | undefined;
}

/** Declare an operator. */
export function defineOp(op: Op): Op {
  return Object.freeze(op);
}

/** Make a node of `op` and return all of its outputs. */
export function applyAll(
  op: Op,
  inputs: readonly (Value | undefined)[],
  attributes: Attributes = {},
): readonly ResultValue[] {
  const outputs = op.infer(inputs, attributes);
  const node = makeNode({ op: op.name, domain: op.domain ?? "", inputs, attributes, outputs });
  noteSizes(op, node, inputs, attributes);
  return node.outputs;
}

/** Make a node of `op` and return its first output. */
export function apply(op: Op, inputs: readonly (Value | undefined)[], attributes: Attributes = {}): ResultValue {
  const [first] = applyAll(op, inputs, attributes);
  assert(first !== undefined, `${op.name} has no output`);
  return first;
}

/** The input at `index`, which the operator always has. */
export function required<T>(inputs: readonly (T | undefined)[], index: number, op: string): T {
  const value = inputs[index];
  assert(value !== undefined, `${op} needs input ${index}`);
  return value;
}

/** An axis counted from the front. */
export function normalAxis(axis: number, rank: number, op: string): number {
  const normal = axis < 0 ? axis + rank : axis;
  assert(normal >= 0 && normal < Math.max(rank, 1), `${op}: axis ${axis} is outside a rank ${rank} tensor`);
  return normal;
}

/** The inputs of an elementwise operator that are not broadcast along the first axis; see {@link Op.rows}. */
export function elementwiseRows({ inputs, outputs: [y] }: Node): readonly number[] | undefined {
  if (y === undefined || y.shape.length === 0) return undefined;
  const carries = inputs.map((x) => x?.shape.length === y.shape.length && x.shape[0] === y.shape[0]);
  return carries.flatMap((carried, i) => (carried ? [i] : []));
}

/** Describe values for an error message. */
export function describe(...values: readonly (ValueType | undefined)[]): string {
  return values.map((value) => (value ? `${value.dtype}${showShape(value.shape)}` : "none")).join(" and ");
}
