import {
  type Node,
  numberAttribute,
  type ParameterValue,
  type ResultValue,
  topologicalOrder,
  type Value,
  withScope,
} from "../graph/index.ts";
import {
  add,
  apply,
  ConstantOfShape,
  cast,
  concat,
  detach,
  equal,
  expandLike,
  graft,
  matmul,
  mul,
  opOf,
  reduceSum,
  required,
  reshape,
  reshapeTo,
  scale,
  scatterNd,
  sizeVector,
  squeeze,
  transpose,
  transposeLast,
  unsqueeze,
} from "../ops/index.ts";
import { carried, copiesOf, isBroadcast, noPerExample } from "./copies.ts";
import { differentiate, pullBack } from "./differentiate.ts";
import {
  byExample,
  type ExampleLayout,
  type ExampleRows,
  exampleFacts,
  exampleNumbers,
  rowsByExample,
} from "./example-rows.ts";
import { rebuild, rewrite } from "./rewrite.ts";

/**
 * What one use of a trained matrix [m, n] adds to every example's gradient of it: scale·leftᵀ·right, over the example's
 * rows. Where `ids` stand for the left side, it is one-hot, and these are the places of the ones (of an embedding).
 */
export interface Factors {
  readonly left: { readonly values: Value } | { readonly ids: Value };
  readonly right: Value;
  /** The example of each row, where values are [rows, …]; undefined where they are [examples, rows, …]. */
  readonly owners: Value | undefined;
  readonly scale: number;
}

/** The gradients of one trained tensor for every example: as they are, [examples, ...shape], or in factors. */
export type ExampleGradients = { readonly each: Value } | { readonly factors: readonly Factors[] };

/** The outputs that were given, and every example's gradient of the first for each trained tensor, in their order. */
export interface PerExample {
  readonly outputs: readonly Value[];
  readonly gradients: readonly ExampleGradients[];
}

/** A node where what is trained, or what is made of it, meets the rows of examples. */
interface Meeting {
  readonly node: Node;
  /** The node's inputs as they are now. */
  readonly inputs: readonly (Value | undefined)[];
  readonly output: Value;
  /** Where the gradient of the output arrives. */
  readonly probe: Value;
  readonly rows: ExampleRows;
}

/** A matrix whose shorter side is longer has its gradients in factors, which are then smaller. */
const longestSide = 64;

/**
 * The gradients of a loss for every example of a batch, in one backward pass. The loss is a sum of what each example gives
 * alone. The backward pass goes as far as the outputs of nodes that read what is trained; there, an example's gradient is
 * made of the example's own rows. Matrices that are large beside those rows get factors instead of products, for the
 * norms of Li et al. 2022 (arXiv 2110.05679), §4, eq. (2), and the sums of Bu et al. 2023 (arXiv 2210.00038), §3.
 * Values of the forward pass are computed as before.
 * @throws {TuneError} `no-per-example` naming a module where gradients cannot be told apart by example.
 */
export function perExample(
  given: readonly [loss: Value, ...Value[]],
  trained: readonly ParameterValue[],
  layout: ExampleLayout,
  { longest = longestSide }: { readonly longest?: number } = {},
): PerExample {
  const facts = exampleFacts(given, new Set(trained), layout);
  const meetings: Meeting[] = [];
  const chained = new Set<Value>(); // read by something that no example is in
  const outputs = rewrite(given, {
    node: (node, inputs) => {
      const own = node.inputs.filter((value) => value !== undefined && facts.ofParameters(value));
      const [output] = node.outputs;
      if (own.length === 0 || output === undefined || node.op === "Shape" || node.op === "Detach") return undefined;
      const rows = facts.rowsOf(output);
      if (rows.kind === "none") {
        for (const value of own) if (value) chained.add(value);
        return undefined;
      }
      if (rows.kind === "mixed") throw noPerExample(node, "reads rows of which nobody can say whose they are");
      const unchanged = inputs.every((value, i) => value === node.inputs[i]);
      const y = unchanged ? output : required(rebuild(node, inputs), 0, node.op);
      const probe = detach(y);
      meetings.push({ node, inputs, output: y, probe, rows });
      return [graft(y, probe)];
    },
  });
  const slopes = differentiate(
    required(outputs, 0, "a loss"),
    meetings.map(({ probe }) => probe),
  );

  const factored = new Map<Value, Factors[]>();
  const made = new Map<Value, Value>(); // by what was read, trained or made of what is trained
  for (const [i, meeting] of meetings.entries()) {
    const slope = slopes[i] as Value; // one a probe
    withScope(`${meeting.node.scope}/grad`, () => {
      for (const [at, value] of meeting.node.inputs.entries()) {
        if (!value || !facts.ofParameters(value)) continue;
        if (isFactored(value)) {
          factored.set(value, [...(factored.get(value) ?? []), factorsOf(meeting, slope, layout)]);
          continue;
        }
        const gradient = gradientAt(meeting, at, slope, layout);
        const known = made.get(value);
        made.set(value, known ? add(known, gradient) : gradient);
      }
    });
  }
  const pulled = throughParameters(made, trained, layout);
  return {
    outputs,
    gradients: trained.map((value) => {
      const factors = factored.get(value);
      if (factors) return { factors };
      const parts = [made.get(value), pulled.get(value)].flatMap((part) => part ?? []);
      const [first, second] = parts;
      if (!first) return { each: zerosFor(value, layout) };
      return { each: second ? add(first, second) : first };
    }),
  };

  /** Whether a trained matrix is large, and read only where its gradient has factors. */
  function isFactored(value: Value): boolean {
    if (value.kind !== "parameter" || value.shape.length !== 2 || chained.has(value)) return false;
    if (Math.min(...value.shape.map(Number)) <= longest) return false;
    return meetings.every((meeting) => {
      const places = meeting.node.inputs.flatMap((other, at) => (other === value ? [at] : []));
      return places.length === 0 || (places.length === 1 && hasFactors(meeting, places[0] as number));
    });
  }
}

function zerosFor({ shape }: ParameterValue, { examples, sources }: ExampleLayout): Value {
  return apply(ConstantOfShape, [sizeVector([examples, ...shape], sources)]);
}

/** Whether a use is a product of rows with a matrix, or looks rows of it up. */
function hasFactors({ node, rows }: Meeting, at: number): boolean {
  if (node.op === "Gather") return at === 0 && rows.kind === "aligned" && rows.axis === 0;
  return isProduct(node, at);
}

/** x·W or x·Wᵀ, of a matrix W and rows x. */
function isProduct({ op, inputs }: Node, at: number): boolean {
  return at === 1 && (op === "Gemm" || op === "MatMul") && inputs[1]?.shape.length === 2;
}

/** The rows that a product multiplies with its matrix. */
function rowsOf({ node, inputs }: Meeting): Value {
  const x = required(inputs, 0, node.op);
  return flagOf(node, "transA") ? transpose(x, [1, 0]) : x;
}

function flagOf({ attributes }: Node, name: string): boolean {
  return numberAttribute(attributes, name, 0) === 1;
}

function ownersOf({ rows }: Meeting): Value | undefined {
  return rows.kind === "owned" ? rows.owners : undefined;
}

/** Left and right of a product's gradient, as its matrix is stored. */
function sidesOf(meeting: Meeting, slope: Value): readonly [left: Value, right: Value] {
  const x = rowsOf(meeting);
  return flagOf(meeting.node, "transB") ? [slope, x] : [x, slope];
}

function factorsOf(meeting: Meeting, slope: Value, layout: ExampleLayout): Factors {
  const { node, inputs } = meeting;
  const owners = ownersOf(meeting);
  if (node.op === "Gather")
    return { left: { ids: idsByExample(inputs, layout) }, right: rowsByExample(slope, layout), owners, scale: 1 };
  const group = (value: Value): Value => (owners ? value : rowsByExample(value, layout));
  const [left, right] = sidesOf(meeting, slope);
  const alpha = numberAttribute(node.attributes, "alpha", 1);
  return { left: { values: group(left) }, right: group(right), owners, scale: alpha };
}

/** The rows that a look-up reads, by example: int64 [examples, n]. */
function idsByExample(inputs: readonly (Value | undefined)[], layout: ExampleLayout): Value {
  const ids = required(inputs, 1, "Gather");
  const column = unsqueeze(ids, [ids.shape.length]); // one number a row
  return squeeze(rowsByExample(column, layout), [2]);
}

/** Every example's gradient of a node's input that all examples share: [examples, ...its shape]. */
function gradientAt(meeting: Meeting, at: number, slope: Value, layout: ExampleLayout): Value {
  const { node, inputs, output, rows } = meeting;
  const value = required(inputs, at, node.op);
  if (isProduct(node, at)) {
    const product = productGradient(sidesOf(meeting, slope), ownersOf(meeting), layout);
    return scale(product, numberAttribute(node.attributes, "alpha", 1));
  }
  if (node.op === "Gather" && at === 0 && rows.kind === "aligned") {
    const sideways = rows.axis === 1;
    const upright = sideways ? transpose(slope, [1, 0]) : slope;
    const [size, ...rest] = (sideways ? value.shape.toReversed() : value.shape).map(Number);
    const spread = scattered(idsByExample(inputs, layout), rowsByExample(upright, layout), size ?? 1, rest, layout);
    return sideways ? transposeLast(spread) : spread;
  }
  const rule = opOf(node).grad;
  if (!isBroadcast(node, at) || typeof rule !== "function")
    throw noPerExample(node, "reads a trained tensor beside the rows of examples");
  const [part] = [
    rule({
      inputs,
      outputs: [output as ResultValue], // of a node
      attributes: node.attributes,
      dy: slope,
      dys: [slope],
      needs: inputs.map((_, i) => i === at),
      x: (index) => required(inputs, index, node.op),
    })[at],
  ];
  if (part === undefined) throw noPerExample(node, "passes no gradient on to a trained tensor");
  return summedByExample(part, value, meeting, layout);
}

/** leftᵀ·right over the rows of each example: [examples, m, n]. Whatever is turned is the narrower side. */
function productGradient(
  [left, right]: readonly [Value, Value],
  owners: Value | undefined,
  layout: ExampleLayout,
): Value {
  const upright = Number(left.shape.at(-1)) <= Number(right.shape.at(-1));
  const [narrow, wide] = upright ? [left, right] : [right, left];
  const product = owners
    ? matmul(transposeLast(mul(narrow, ownRows(owners, layout))), wide)
    : matmul(transposeLast(rowsByExample(narrow, layout)), rowsByExample(wide, layout));
  return upright ? product : transposeLast(product);
}

/** 1 where a row is of an example and 0 elsewhere: float32 [examples, rows, 1]. */
function ownRows(owners: Value, layout: ExampleLayout): Value {
  return cast(equal(unsqueeze(exampleNumbers(layout), [1, 2]), unsqueeze(owners, [0, 2])), "float32");
}

/** Rows added up where ids say, for every example: ids [examples, n], rows [examples, n, …] -> [examples, size, …]. */
function scattered(ids: Value, rows: Value, size: number, rest: readonly number[], layout: ExampleLayout): Value {
  const { examples, sources } = layout;
  const zeros = apply(ConstantOfShape, [sizeVector([examples, size, ...rest], [rows, ...sources])]);
  const whose = expandLike(unsqueeze(exampleNumbers(layout), [1]), ids);
  const places = concat([unsqueeze(whose, [2]), unsqueeze(ids, [2])], 2);
  const shaped = rest.length === 1 ? rows : reshapeTo(rows, [examples, -1, ...rest], [rows, ...sources]);
  return scatterNd(zeros, places, shaped, "add");
}

/** Of a gradient that was not summed yet over what a value was broadcast along, each example's sum: [examples, ...shape]. */
function summedByExample(part: Value, value: Value, meeting: Meeting, layout: ExampleLayout): Value {
  const { node, output } = meeting;
  const owners = ownersOf(meeting);
  const shape = value.shape;
  const lead = part.shape.length - shape.length;
  if (part.shape[0] !== output.shape[0] || (lead === 0 && shape[0] !== 1))
    throw noPerExample(node, "reads a trained tensor that has a row for each of the batch");
  const inner = Array.from({ length: part.shape.length - 1 }, (_, i) => i + 1).filter(
    (axis) => axis < lead || (shape[axis - lead] === 1 && part.shape[axis] !== 1),
  );
  const narrow = reduceSum(part, inner); // rows are still there
  const missing = Array.from({ length: Math.max(0, lead - 1) }, (_, i) => i + 1);
  const dropped = missing.length > 0 ? squeeze(narrow, missing) : narrow; // [rows, ...shape, or all of it but its first axis]
  if (!owners) return withFront(reduceSum(byExample(dropped, layout), [1], { keep: false }));
  const sizes = dropped.shape.slice(1).map(Number);
  const flat = reshape(dropped, [-1, sizes.reduce((product, size) => product * size, 1)]);
  const sums = matmul(squeeze(ownRows(owners, layout), [2]), flat);
  return withFront(reshapeTo(sums, [layout.examples, ...sizes], layout.sources));

  function withFront(sum: Value): Value {
    return lead === 0 ? unsqueeze(sum, [1]) : sum; // its first axis has size 1
  }
}

/**
 * Gradients by example of what is made of trained tensors alone (a scaled factor, a sum of Kronecker products), taken back
 * to these tensors, example by example.
 */
function throughParameters(
  made: ReadonlyMap<Value, Value>,
  trained: readonly ParameterValue[],
  layout: ExampleLayout,
): ReadonlyMap<Value, Value> {
  const roots = [...made].filter(([value]) => value.kind === "result");
  if (roots.length === 0) return new Map();
  const copies = new Map<Value, Value>();
  const leaves = new Map<Value, Value>();
  for (const value of trained) leaves.set(value, copiesOf(value, layout));
  const copyOf = (value: Value): Value | undefined => leaves.get(value) ?? copies.get(value);
  for (const node of topologicalOrder(roots.map(([value]) => value))) {
    if (node.op === "Detach" || node.op === "Shape") continue;
    withScope(node.scope, () => {
      for (const [at, value] of node.inputs.entries()) {
        const own = value && copyOf(value);
        if (!own) continue;
        // Values are the shared ones: slopes are of one input at a time, where all others are what they are.
        const standing = leaves.has(value) ? own : graft(copiesOf(value, layout), own);
        carried(node, at, standing, layout).forEach((result, i) => {
          const output = node.outputs[i];
          if (!output) return;
          const known = copies.get(output);
          copies.set(output, known ? add(known, result) : result);
        });
      }
    });
  }
  const starts = roots.flatMap(([value, gradient]) => {
    const copy = copyOf(value);
    return copy ? [[copy, gradient] as const] : [];
  });
  const reached = trained.filter((value) => [...leaves.keys()].includes(value));
  const gradients = pullBack(
    starts,
    reached.map((value) => leaves.get(value) as Value), // of each
  );
  return new Map(reached.map((value, i) => [value, gradients[i] as Value])); // one each
}
