import { assert } from "../errors.ts";
import type { Shape } from "./dims.ts";
import { type DType, isFloat, type LazyTensor, type Tensor, tensor } from "./tensor.ts";

/** What is known of a value before it is computed. */
export interface ValueType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** Fed anew on every run: token ids, labels, the learning rate. */
export interface InputValue extends ValueType {
  readonly kind: "input";
  readonly name: string;
}

/** A frozen pretrained tensor. Compiled into the program, never changed by it. */
export interface WeightValue extends ValueType {
  readonly kind: "weight";
  readonly name: string;
  readonly source: LazyTensor;
}

/** A tensor that training changes between runs; it lives on the device and is fed from there. */
export interface ParameterValue extends ValueType {
  readonly kind: "parameter";
  readonly name: string;
}

/** A small literal. */
export interface ConstantValue extends ValueType {
  readonly kind: "constant";
  readonly shape: readonly number[];
  readonly tensor: Tensor;
}

/** One output of a node. */
export interface ResultValue extends ValueType {
  readonly kind: "result";
  readonly node: Node;
  readonly index: number;
  /** The name it had in the model it came from; used again when it is free. */
  readonly hint: string | undefined;
}

/** Anything a node can read. Values are immutable and compared by identity. */
export type Value = InputValue | WeightValue | ParameterValue | ConstantValue | ResultValue;

/** Node attributes, tagged as ONNX tags them. */
export type Attribute =
  | { readonly type: "int"; readonly value: number }
  | { readonly type: "float"; readonly value: number }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "tensor"; readonly value: Tensor }
  | { readonly type: "ints"; readonly value: readonly number[] }
  | { readonly type: "floats"; readonly value: readonly number[] }
  | { readonly type: "strings"; readonly value: readonly string[] };

export type Attributes = Readonly<Record<string, Attribute>>;

/** One application of an operator. `domain` is "" for the standard ONNX set. */
export interface Node {
  readonly op: string;
  readonly domain: string;
  /** The module it belongs to, such as `model.layers.0.self_attn.q_proj`; errors and target modules speak in it. */
  readonly scope: string;
  /** An optional input that is left out is undefined. */
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes: Attributes;
  readonly outputs: readonly ResultValue[];
}

/** Declare a value that is fed on every run. */
export function input(name: string, dtype: DType, shape: Shape): InputValue {
  return Object.freeze({ kind: "input", name, dtype, shape });
}

/** Declare a frozen pretrained tensor, computed in `dtype` (float32 unless it holds integers). */
export function weight(
  name: string,
  source: LazyTensor,
  dtype: DType = isFloat(source.dtype) ? "float32" : source.dtype,
): WeightValue {
  return Object.freeze({ kind: "weight", name, dtype, shape: source.shape, source });
}

/** Declare a tensor that training changes. */
export function parameter(name: string, dtype: DType, shape: readonly number[]): ParameterValue {
  return Object.freeze({ kind: "parameter", name, dtype, shape });
}

/** A literal tensor. */
export function constantOf(literal: Tensor): ConstantValue {
  return Object.freeze({ kind: "constant", dtype: literal.dtype, shape: literal.shape, tensor: literal });
}

/** A literal: a number (scalar) or a flat list (1-D unless `shape` is given). float32 unless `dtype` is given. */
export function constant(
  values: number | readonly number[],
  dtype: DType = "float32",
  shape: readonly number[] = typeof values === "number" ? [] : [values.length],
): ConstantValue {
  return constantOf(tensor(dtype, shape, values));
}

/** Create a node. `ops/` wraps this with shape inference; only importers and parsers that know the types call it directly. */
export function makeNode(options: {
  readonly op: string;
  readonly domain?: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes?: Attributes;
  readonly outputs: readonly ValueType[];
  readonly hints?: readonly (string | undefined)[];
  readonly scope?: string;
}): Node {
  const outputs: ResultValue[] = [];
  const node: Node = {
    op: options.op,
    domain: options.domain ?? "",
    scope: options.scope ?? currentScope(),
    inputs: Object.freeze([...options.inputs]),
    attributes: Object.freeze({ ...options.attributes }),
    outputs,
  };
  options.outputs.forEach(({ dtype, shape }, index) => {
    outputs.push(Object.freeze({ kind: "result", node, index, dtype, shape, hint: options.hints?.[index] }));
  });
  Object.freeze(outputs);
  return Object.freeze(node);
}

// The scope is ambient so that formulas stay formulas (`add(x, y)`, not `add(builder, x, y)`).
// It is set and restored synchronously around a callback, so no stage can see another's.
let scope = "";

/** The module that nodes made now belong to. */
export function currentScope(): string {
  return scope;
}

/** Run `build` with `name` as the module of the nodes it makes; nested scopes join with a dot. */
export function inScope<T>(name: string, build: () => T): T {
  return withScope(scope === "" || name === "" ? scope + name : `${scope}.${name}`, build);
}

/** Run `build` with exactly `name` as the scope (for passes that rebuild or derive nodes of another scope). */
export function withScope<T>(name: string, build: () => T): T {
  const outer = scope;
  scope = name;
  try {
    const made = build();
    assert(!(made instanceof Promise), "a scope cannot wrap asynchronous code");
    return made;
  } finally {
    scope = outer;
  }
}
