import { TuneError } from "../errors.ts";
import {
  constant,
  type Node,
  numberAttribute,
  type ParameterValue,
  type Tensor,
  type Value,
  type WeightValue,
  withScope,
} from "../graph/index.ts";
import {
  add,
  cast,
  equal,
  expandLike,
  gather,
  gemm,
  reshape,
  reshapeTo,
  scatterElements,
  sub,
  unsqueeze,
} from "../ops/index.ts";
import { linearOf } from "./linear.ts";

/**
 * Tokens whose rows in embeddings and output layers are trained, by the ends of the modules' paths: PEFT's
 * `trainable_token_indices`. Modules that share a weight train it as one.
 */
export type TokenRows = Readonly<Record<string, readonly number[]>>;

/** What a weight's trained rows are called beside its module. */
export const tokenRowsKey = "trainable_tokens";

/** Rows of a weight that are trained. */
export interface TrainedRows {
  /** [tokens, hidden]: the rows as they are now. */
  readonly value: ParameterValue;
  readonly module: string;
  readonly weight: WeightValue;
  readonly rows: readonly number[];
}

/** Rows of a weight [vocab, hidden]. */
export function rowsOf({ shape, data }: Tensor, rows: readonly number[]): Float32Array {
  const width = Number(shape[1]);
  const taken = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    for (let j = 0; j < width; j++) taken[i * width + j] = Number(data[row * width + j]);
  });
  return taken;
}

/** A copy of a weight [vocab, hidden] with other rows. */
export function withRows({ shape, data }: Tensor, rows: readonly number[], values: Tensor): Tensor {
  const width = Number(shape[1]);
  const changed = Float32Array.from(data as Float32Array); // weights are read as float32
  rows.forEach((row, i) => {
    changed.set((values.data as Float32Array).subarray(i * width, (i + 1) * width), row * width);
  });
  return { dtype: "float32", shape, data: changed };
}

/** The tokens named for a weight that some modules read; undefined when there are none. */
export function rowsFor(
  tokens: TokenRows,
  weight: WeightValue,
  readers: ReadonlySet<string>,
): readonly number[] | undefined {
  const named = Object.entries(tokens).filter(([end]) =>
    [...readers].some((module) => `.${module}`.endsWith(`.${end}`)),
  );
  const [first, ...others] = named.map(([, rows]) => rows);
  if (first === undefined) return undefined;
  const at = `tokens trained in ${named.map(([end]) => end).join(", ")}`;
  const refuse = (what: string, fix: string): never => {
    throw new TuneError("bad-option", what, { at, fix });
  };
  const vocabSize = Number(weight.shape[0]);
  if (weight.shape.length !== 2) refuse(`${weight.name} has no rows of tokens.`, "name embeddings or the output layer");
  const outside = first.filter((row) => !(Number.isInteger(row) && row >= 0 && row < vocabSize));
  if (outside.length > 0)
    refuse(
      `${weight.name} has rows for the tokens 0 to ${vocabSize - 1}; there is none for ${outside.slice(0, 5).join(", ")}.`,
      "name ids of the vocabulary, or add the tokens to it first",
    );
  if (new Set(first).size !== first.length) refuse("A token is named twice.", "name each token once");
  if (first.length === 0) refuse("No token is named.", "name one at least");
  if (others.some((rows) => rows.join() !== first.join()))
    refuse(
      `${named.map(([end]) => end).join(" and ")} share ${weight.name}, and other tokens are named for each.`,
      "name the same tokens, or one of the modules alone",
    );
  return first;
}

/**
 * What a node that reads a weight W [vocab, hidden] gives when rows of it are others: it gathers rows, or is a linear map
 * onto the vocabulary. With D = rows − W[tokens], only what is as small as D is computed, and differentiated, besides:
 *
 *   embedding  y + onehot(ids, tokens)·D
 *   output     y, and x·Dᵀ added to the columns of the tokens
 *
 * `inputs` are the node's as they are now, `y` what it gives of them.
 *
 * @throws {TuneError} `bad-option` for a node that does anything else with it.
 */
export function withTrainedRows(
  node: Node,
  inputs: readonly (Value | undefined)[],
  y: Value,
  { weight, value, rows: tokens }: TrainedRows,
): Value {
  return withScope(node.scope, () => {
    const difference = sub(value, gather(weight, constant(tokens, "int64")));
    const [first, indices] = inputs;
    if (node.op === "Gather" && numberAttribute(node.attributes, "axis", 0) === 0 && first === weight && indices) {
      const hot = cast(equal(unsqueeze(reshape(indices, [-1]), [1]), constant(tokens, "int64")), "float32");
      return add(y, reshapeTo(gemm(hot, difference), [...indices.shape, Number(weight.shape[1])], [indices]));
    }
    const linear = linearOf(node);
    if (linear?.weight === weight && linear.layout === "out,in" && first) {
      const logits = gemm(first, difference, { transB: true });
      const columns = expandLike(constant(tokens, "int64", [1, tokens.length]), logits);
      return scatterElements(y, columns, logits, 1, "add");
    }
    throw new TuneError(
      "bad-option",
      `${node.scope || node.op} reads ${weight.name} neither by token nor as an output layer.`,
      {
        at: "trained tokens",
        fix: "train the module whole instead (modules to save)",
      },
    );
  });
}
