import { type LazyTensor, sizeOf } from "../graph/index.ts";
import { groupsOf, type PackedFile, packedSize, scalesShape, termsOf } from "../io/packed/index.ts";
import { type Energy, matrixEnergy } from "../quant/index.ts";

/** What a packed model takes, and what each part of it is. */
export interface PackedReport {
  /** Weights that are packed. */
  readonly packedWeights: number;
  /** Weights that are kept as floats: embeddings, the output layer, norms, biases. */
  readonly keptWeights: number;
  /** Bits a packed weight, scales and zero points counted, padding not. */
  readonly bitsPerWeight: number;
  /** Planes a packed weight, on average. */
  readonly averageBits: number;
  readonly fileBytes: number;
  readonly planesBytes: number;
  /** Scales, zero points and orders of columns. */
  readonly scalesBytes: number;
  readonly keptBytes: number;
  /** What the whole model takes in float16. */
  readonly float16Bytes: number;
  /** What the packed weights alone take, and what they take in float16. */
  readonly packedBytes: number;
  readonly packedFloat16Bytes: number;
  /** How many scales have no, one, two and three powers of two; absent where scales are floats. */
  readonly terms?: readonly number[];
  /** Picojoules a token of all products with weights, modelled: packed, and in float16. */
  readonly energy: { readonly packed: Energy; readonly float16: Energy };
}

/**
 * Add up what a packed model takes. `outputWeights` is the size of the output layer, which is read for every token
 * (an embedding is not).
 */
export async function reportPacked(
  { matrices, tensors, sizeBytes }: PackedFile,
  output: { readonly rows: number; readonly columns: number },
): Promise<PackedReport> {
  let [weights, bits, planes, planesBytes, scalesBytes, packedBytes] = [0, 0, 0, 0, 0, 0];
  const terms = [0, 0, 0, 0];
  let powers = false;
  const head = { operations: 0, traffic: 0 };
  add(head, matrixEnergy({ ...output, bytes: 2 * output.rows * output.columns }));
  const [packed, float16] = [{ ...head }, { ...head }];
  for (const { shape, sizeBytes: bytes, read } of matrices.values()) {
    const count = shape.rows * shape.columns;
    const size = packedSize(shape);
    weights += count;
    bits += size.bitsPerWeight * count;
    planes += shape.bits * count;
    planesBytes += size.planesBytes;
    scalesBytes += bytes - size.planesBytes;
    packedBytes += bytes;
    const scales = sizeOf(scalesShape(shape));
    const usedTerms = shape.scaleKind === "powers" ? (shape.terms ?? 3) : 0;
    const energyBits = { bits: shape.bits, scales: scaleUses(shape, scales), terms: usedTerms };
    add(packed, matrixEnergy({ rows: shape.rows, columns: shape.columns, bytes, packed: energyBits }));
    add(float16, matrixEnergy({ rows: shape.rows, columns: shape.columns, bytes: 2 * count }));
    if (shape.scaleKind !== "powers") continue;
    powers = true;
    for (const code of (await read()).scales) terms[termsOf(code)] = (terms[termsOf(code)] ?? 0) + 1;
  }
  const kept = [...tensors.values()];
  const keptWeights = kept.reduce((sum, { shape }: LazyTensor) => sum + sizeOf(shape), 0);
  return {
    packedWeights: weights,
    keptWeights,
    bitsPerWeight: bits / Math.max(1, weights),
    averageBits: planes / Math.max(1, weights),
    fileBytes: sizeBytes,
    planesBytes,
    scalesBytes,
    keptBytes: kept.reduce((sum, tensor) => sum + tensor.sizeBytes, 0),
    float16Bytes: 2 * (weights + keptWeights),
    packedBytes,
    packedFloat16Bytes: 2 * weights,
    ...(powers ? { terms } : {}),
    energy: { packed, float16 },
  };
}

/** How often scales act on something for one token: down a column on activations, along a row on sums of each group. */
function scaleUses(shape: Parameters<typeof groupsOf>[0], scales: number): number {
  const { rowGroups, columnGroups } = groupsOf(shape);
  // A scale that one column shares acts on its activation once; one that several share acts on each row's sum.
  return shape.columnGroup === 1 ? scales : (scales / (rowGroups * columnGroups)) * shape.rows * columnGroups;
}

function add(sum: { operations: number; traffic: number }, { operations, traffic }: Energy): void {
  sum.operations += operations;
  sum.traffic += traffic;
}
