import { TuneError } from "../errors.ts";
import {
  type ConstantValue,
  constant,
  type Dim,
  int,
  intsAttribute,
  type Node,
  numberAttribute,
  sizeOf,
  type Value,
} from "../graph/index.ts";
import {
  add,
  apply,
  applyAll,
  Concat,
  Expand,
  elementwiseRows,
  LayerNormalization,
  matmul,
  mul,
  normalAxis,
  opOf,
  reshapeTo,
  sizeVector,
  transpose,
  transposeLast,
  unsqueeze,
} from "../ops/index.ts";
import type { ExampleLayout } from "./example-rows.ts";

/** A copy of a value for every example: [examples, ...]. */
export function copiesOf(value: Value, { examples, sources }: ExampleLayout): Value {
  return apply(Expand, [value, sizeVector([examples, ...value.shape], [value, ...sources])]);
}

/**
 * What a node gives for every example where one of its inputs, number `at`, has a copy for each: all its outputs with one
 * axis more in front. The other inputs are the same for all.
 * @throws {TuneError} `no-per-example` naming the operator that this is not known of.
 */
export function carried(node: Node, at: number, copies: Value, layout: ExampleLayout): readonly Value[] {
  const { inputs, attributes, outputs } = node;
  const { examples, sources } = layout;
  const [y] = outputs;
  const op = opOf(node);
  const into = (shape: readonly Dim[]): Value =>
    reshapeTo(copies, [examples, ...shape], [copies, ...inputs.flatMap((value) => value ?? []), ...sources]);
  const rank = copies.shape.length - 1;
  const axisOf = (initial: number): number => normalAxis(numberAttribute(attributes, "axis", initial), rank, node.op);
  const withInput = (value: Value): readonly (Value | undefined)[] =>
    inputs.map((other, i) => (i === at ? value : other));
  if (y === undefined) return [];
  if (op.rows === elementwiseRows) {
    const missing = y.shape.length - rank;
    const wide =
      missing > 0
        ? unsqueeze(
            copies,
            Array.from({ length: missing }, (_, i) => i + 1),
          )
        : copies;
    return applyAll(op, withInput(wide), attributes);
  }
  switch (node.op) {
    case "Reshape":
    case "Unsqueeze":
    case "Squeeze":
    case "Flatten":
      return [into(y.shape)];
    case "Identity":
      return [copies];
    case "Transpose": {
      const perm = intsAttribute(attributes, "perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
      return [transpose(copies, [0, ...perm.map((axis) => axis + 1)])];
    }
    case "Expand":
      if (at !== 0) break;
      return [
        apply(Expand, [
          rank < y.shape.length
            ? unsqueeze(
                copies,
                Array.from({ length: y.shape.length - rank }, (_, i) => i + 1),
              )
            : copies,
          sizeVector([examples, ...y.shape], [y, ...sources]),
        ]),
      ];
    case "MatMul": {
      const other = inputs[1 - at];
      if (!other || other.shape.length < 2 || rank < 2) break;
      const missing = y.shape.length - rank;
      const wide =
        missing > 0
          ? unsqueeze(
              copies,
              Array.from({ length: missing }, (_, i) => i + 1),
            )
          : copies;
      return [at === 0 ? matmul(wide, other) : matmul(other, wide)];
    }
    case "Gemm": {
      const [a, b, c] = inputs;
      const flag = (name: string): boolean => numberAttribute(attributes, name, 0) === 1;
      const beta = numberAttribute(attributes, "beta", 1);
      const alpha = numberAttribute(attributes, "alpha", 1);
      if (!a || !b) break;
      if (c && at === 2) {
        const missing = 2 - rank;
        const wide =
          missing > 0
            ? unsqueeze(
                copies,
                Array.from({ length: missing }, (_, i) => i + 1),
              )
            : copies;
        return [
          apply(Expand, [beta === 1 ? wide : mul(wide, beta), sizeVector([examples, ...y.shape], [y, ...sources])]),
        ];
      }
      const [left, right] = [at === 0 ? copies : a, at === 1 ? copies : b];
      const product = matmul(
        flag("transA") ? transposeLast(left) : left,
        flag("transB") ? transposeLast(right) : right,
      );
      const scaled = alpha === 1 ? product : mul(product, alpha);
      return [c ? add(scaled, beta === 1 ? c : mul(c, beta)) : scaled];
    }
    case "Concat": {
      // Of the others as many copies: a slope is of one input at a time, and theirs are not read.
      const axis = normalAxis(numberAttribute(attributes, "axis", 0), rank, node.op);
      const all = inputs.map((other, i) => (i === at ? copies : copiesOf(other as Value, layout)));
      return [apply(Concat, all, { axis: int(axis + 1) })];
    }
    case "Split":
      return applyAll(op, withInput(copies), { ...attributes, axis: int(axisOf(0) + 1) });
    case "Gather":
      if (at !== 0) break;
      return [apply(op, withInput(copies), { axis: int(axisOf(0) + 1) })];
    case "Slice": {
      const [, starts, ends, axes, steps] = inputs;
      if (at !== 0 || axes?.kind !== "constant") break;
      const moved = constant(
        numbersOf(axes).map((axis) => normalAxis(axis, rank, node.op) + 1),
        "int64",
      );
      return [apply(op, [copies, starts, ends, moved, ...(steps ? [steps] : [])])];
    }
    case "ReduceSum":
    case "ReduceMean":
    case "ReduceMax":
    case "ReduceMin": {
      const axes = inputs[1];
      if (axes && axes.kind !== "constant") break;
      const own = axes
        ? numbersOf(axes).map((axis) => normalAxis(axis, rank, node.op))
        : Array.from({ length: rank }, (_, i) => i);
      return [
        apply(
          op,
          [
            copies,
            constant(
              own.map((axis) => axis + 1),
              "int64",
            ),
          ],
          attributes,
        ),
      ];
    }
    case "Softmax":
    case "LogSoftmax":
      return [apply(op, [copies], { axis: int(axisOf(-1) + 1) })];
    case "LayerNormalization": {
      const axis = normalAxis(numberAttribute(attributes, "axis", -1), y.shape.length, node.op);
      if (at > 0) {
        // Only slopes matter: a gain multiplies the normalised rows, and what is added is added.
        const wide = unsqueeze(
          copies,
          Array.from({ length: y.shape.length - rank }, (_, i) => i + 1),
        );
        const ones = constant(Array<number>(sizeOf(y.shape.slice(axis).map(Number))).fill(1), "float32", [
          ...y.shape.slice(axis).map(Number),
        ]);
        return [at === 1 ? mul(apply(LayerNormalization, [inputs[0], ones], attributes), wide) : add(y, wide)];
      }
      return [apply(LayerNormalization, withInput(copies), { ...attributes, axis: int(axis + 1) })];
    }
    default:
  }
  throw noPerExample(node, "is computed from what is trained before it meets an example");
}

function numbersOf({ tensor: { data } }: ConstantValue): readonly number[] {
  return Array.from(data, Number);
}

/**
 * Whether a node's input number `at` is broadcast over the rows of examples, so that its operator's rule gives the gradient
 * of it row by row.
 */
export function isBroadcast(node: Node, at: number): boolean {
  if (opOf(node).rows === elementwiseRows) return true;
  switch (node.op) {
    case "LayerNormalization":
      return at > 0;
    case "Expand":
      return at === 0;
    case "Gemm":
      return at === 2;
    case "MatMul":
      return true;
    case "Concat":
      return numberAttribute(node.attributes, "axis", 0) !== 0;
    default:
      return false;
  }
}

/** A part of a model whose gradients cannot be told apart by example. */
export function noPerExample({ op, scope }: Pick<Node, "op" | "scope">, why: string): TuneError {
  return new TuneError("no-per-example", `No gradient per example is known where ${op} ${why}.`, {
    at: scope === "" ? "the model" : scope,
    fix: "train other modules or use another method (lora works with every model), or tune without privacy",
  });
}
