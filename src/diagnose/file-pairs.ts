import { TuneError } from "../errors.ts";
import type { LazyTensor } from "../graph/index.ts";
import { partToFloat32, toFloat32 } from "../io/convert.ts";
import type { Matrix } from "../linalg/index.ts";
import { type MatrixPair, refuseDifferences, refuseNotFinite } from "./pairs.ts";
import type { WeightMemory } from "./weight-memory.ts";

const floating: ReadonlySet<string> = new Set(["float32", "float16", "bfloat16", "float64"]);

/**
 * The matrices of two files whose model nobody knows: every tensor of floats with two axes, by its name, as [out, in].
 * `at` is the tuned file.
 * @throws {TuneError} `models-differ` listing every matrix that only one of the files has, or with other sizes, and where
 * there is none at all.
 */
export function filePairs(
  base: ReadonlyMap<string, LazyTensor>,
  tuned: ReadonlyMap<string, LazyTensor>,
  at: string,
): readonly MatrixPair[] {
  const [before, after] = [matricesOf(base), matricesOf(tuned)];
  refuseDifferences(shapesOf(before), shapesOf(after), at, "The files do not hold the same matrices");
  if (before.size === 0) {
    throw new TuneError("models-differ", "The files hold no matrix: no tensor of floats with two axes.", {
      at,
      fix: "give files of weights, or the folders of models",
    });
  }
  return [...before].map(([name, tensor]): MatrixPair => {
    const [rows = 0, cols = 0] = tensor.shape;
    const read = async (source: LazyTensor, file: string, memory?: WeightMemory): Promise<Matrix<Float32Array>> => {
      const { readPart } = source;
      const size = rows * cols;
      const data =
        memory && readPart
          ? await partToFloat32({ ...source, readPart }, 0, size, memory.take(size).buffer)
          : (await toFloat32(source)).data;
      return refuseNotFinite({ rows, cols, data }, `${name} of the ${file}`);
    };
    return {
      name,
      module: name,
      rows,
      cols,
      part: undefined,
      base: (memory) => read(tensor, "base", memory),
      tuned: () => read(after.get(name) ?? tensor, "tuned file"), // the same names, as was checked
    };
  });
}

function matricesOf(tensors: ReadonlyMap<string, LazyTensor>): ReadonlyMap<string, LazyTensor> {
  return new Map([...tensors].filter(([, { dtype, shape }]) => shape.length === 2 && floating.has(dtype)));
}

function shapesOf(tensors: ReadonlyMap<string, LazyTensor>): ReadonlyMap<string, readonly number[]> {
  return new Map([...tensors].map(([name, { shape }]) => [name, shape]));
}
