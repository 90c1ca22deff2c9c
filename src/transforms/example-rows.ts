import {
  constant,
  type Dim,
  divDims,
  int,
  type Node,
  numberAttribute,
  tensor,
  topologicalOrder,
  type Value,
} from "../graph/index.ts";
import {
  add,
  apply,
  applyAll,
  ConstantOfShape,
  gather,
  opOf,
  Range,
  reshapeTo,
  Shape,
  Split,
  sizeVector,
  squeeze,
  transpose,
  unsqueeze,
} from "../ops/index.ts";

/** How the examples of a batch lie in its rows. */
export interface ExampleLayout {
  /** The size of the axis of rows, such as `"batch"`. */
  readonly rows: Dim;
  /** How many examples these are: as many, or half as many where an example is two rows. */
  readonly examples: Dim;
  /** Where an example is two rows: half a batch apart, or next to each other. */
  readonly pairs?: "halves" | "neighbours";
  /** Values with axes of these sizes. */
  readonly sources: readonly Value[];
}

/**
 * Which examples the rows of a value are of. `none`: it is the same for every example. `aligned`: along `axis`, each
 * example has as many rows, all in one place. `owned`: on the first axis, `owners` says the example of each, int64 [rows].
 * `mixed`: nobody can tell.
 */
export type ExampleRows =
  | { readonly kind: "none" }
  | { readonly kind: "aligned"; readonly axis: 0 | 1 }
  | { readonly kind: "owned"; readonly owners: Value }
  | { readonly kind: "mixed" };

/** What is known of a graph: whose rows its values have, and which depend on nothing but what is trained. */
export interface ExampleFacts {
  readonly rowsOf: (value: Value) => ExampleRows;
  /** Whether a value is the same for every example and changes with what is trained. */
  readonly ofParameters: (value: Value) => boolean;
}

const none: ExampleRows = { kind: "none" };
const mixed: ExampleRows = { kind: "mixed" };

/** Walk forwards from inputs and parameters and find out whose rows every value has. */
export function exampleFacts(
  outputs: readonly Value[],
  trained: ReadonlySet<Value>,
  layout: ExampleLayout,
): ExampleFacts {
  const rows = new Map<Value, ExampleRows>();
  const own = new Set<Value>(trained);
  const rowsOf = (value: Value): ExampleRows => {
    const known = rows.get(value);
    if (known) return known;
    if (value.kind !== "input") return none;
    if (alongRows(value.shape[0], layout)) return { kind: "aligned", axis: 0 };
    return value.shape.every((size) => typeof size === "number") ? none : mixed; // one element a target, say
  };
  for (const node of topologicalOrder(outputs)) {
    const found = rowsOfResults(node, rowsOf, layout);
    const changes = node.inputs.some((value) => value && own.has(value)) && node.op !== "Detach" && node.op !== "Shape";
    node.outputs.forEach((output, i) => {
      rows.set(output, found[i] ?? mixed);
      if (changes && found[i]?.kind === "none") own.add(output);
    });
  }
  return { rowsOf, ofParameters: (value) => own.has(value) };
}

function alongRows(size: Dim | undefined, { rows }: ExampleLayout): boolean {
  return typeof size === "string" && divDims(size, rows) !== undefined;
}

function rowsOfResults(
  node: Node,
  rowsOf: (value: Value) => ExampleRows,
  layout: ExampleLayout,
): readonly ExampleRows[] {
  if (node.op === "Shape") return node.outputs.map(() => none);
  const inputs = node.inputs.map((value) => (value ? rowsOf(value) : none));
  const [data, indices] = inputs;
  const axis = numberAttribute(node.attributes, "axis", 0);
  // Rows that are picked: by number, whatever these numbers are of.
  if (node.op === "Gather" && axis === 0 && data?.kind === "aligned" && indices?.kind !== "aligned") {
    const picks = node.inputs[1] as Value; // Gather has two inputs
    const ids = examplesOfRows(node.inputs[0] as Value, layout); // likewise
    return [picks.shape.length === 1 ? { kind: "owned", owners: gather(ids, picks) } : mixed];
  }
  if (node.op === "Gather" && axis === 1 && data?.kind === "none" && indices?.kind === "aligned")
    return [{ kind: "aligned", axis: 1 }];
  const carriers = opOf(node).rows?.(node);
  const owners = inputs.flatMap((of, i) => (of.kind === "owned" && carriers?.includes(i) ? [of] : []));
  if (owners[0] && inputs.every(({ kind }, i) => kind !== "mixed" || carriers?.includes(i) !== true))
    return node.outputs.map(() => owners[0] ?? mixed);
  if (node.op === "Split" && data?.kind === "owned" && axis === 0) {
    const [, sizes] = node.inputs;
    const parts = applyAll(Split, sizes ? [data.owners, sizes] : [data.owners], node.attributes);
    return parts.map((part) => ({ kind: "owned", owners: part }));
  }
  if (inputs.some(({ kind }) => kind === "mixed" || kind === "owned")) return node.outputs.map(() => mixed);
  const turned = node.op === "Gemm" && numberAttribute(node.attributes, "transA", 0) === 1;
  const sideways = inputs.some((of) => of.kind === "aligned" && of.axis === 1);
  const counts = inputs.some(({ kind }) => kind === "aligned");
  return node.outputs.map(({ shape }) => {
    if (alongRows(shape[0], layout)) return !sideways || turned ? { kind: "aligned", axis: 0 } : mixed;
    return counts ? mixed : none;
  });
}

/** 0, 1, … for the examples of a batch: int64 [examples]. */
export function exampleNumbers({ examples, sources }: ExampleLayout): Value {
  const count = squeeze(sizeVector([examples], sources), [0]);
  return apply(Range, [constant(0, "int64"), count, constant(1, "int64")]);
}

/** A value of rows [n, ...] by examples: [examples, n/examples, ...]. */
export function byExample(value: Value, { examples, pairs, sources }: ExampleLayout): Value {
  const [size, ...rest] = value.shape;
  if (size === examples) return unsqueeze(value, [1]);
  const all = [value, ...sources];
  if (pairs !== "halves") return reshapeTo(value, [examples, -1, ...rest], all);
  const halves = reshapeTo(value, [2, examples, -1, ...rest], all);
  const turned = transpose(halves, [1, 0, ...Array.from({ length: rest.length + 1 }, (_, i) => i + 2)]);
  return reshapeTo(turned, [examples, -1, ...rest], all);
}

/** A value of rows [n, ..., width] by examples, all axes between in one: [examples, rows, width]. */
export function rowsByExample(value: Value, layout: ExampleLayout): Value {
  const width = value.shape.at(-1) ?? 1;
  const grouped = layout.pairs === "halves" ? byExample(value, layout) : value;
  return reshapeTo(grouped, [layout.examples, -1, width], [value, ...layout.sources]);
}

/** The rows of a value that is laid out by examples [examples, n, ...], as they lie in a batch: [examples·n, ...]. */
export function toRows(value: Value, { examples, pairs, sources }: ExampleLayout): Value {
  const [, , ...rest] = value.shape;
  const all = [value, ...sources];
  if (pairs !== "halves") return reshapeTo(value, [-1, ...rest], all);
  const halves = reshapeTo(value, [examples, 2, -1, ...rest], all);
  const turned = transpose(halves, [1, 0, ...Array.from({ length: rest.length + 1 }, (_, i) => i + 2)]);
  return reshapeTo(turned, [-1, ...rest], all);
}

/** Which example each row of a value is of: int64 [rows]. */
export function examplesOfRows(value: Value, layout: ExampleLayout): Value {
  const count = apply(Shape, [value], { start: int(0), end: int(1) });
  const zeros = apply(ConstantOfShape, [count], { value: { type: "tensor", value: tensor("int64", [1], [0]) } });
  const numbers = unsqueeze(exampleNumbers(layout), [1]);
  return toRows(add(byExample(zeros, layout), numbers), layout);
}
