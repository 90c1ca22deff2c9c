import { graph, type Value } from "../graph/index.ts";
import { layOutWeights, streamOnnx, weightBytes, weightFile, writeOnnx } from "../io/onnx/write.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { OpenGraph, PretrainedModel } from "../models/index.ts";
import { fold } from "../transforms/index.ts";
import { inDtype, type OnnxDtypeName, onnxDtypes } from "./onnx-dtypes.ts";

/** Files whose weights lie beside them, by name: what transformers.js has to be told. */
export type ExternalFiles = Readonly<Record<string, number>>;

/** Bytes that a model's graphs take in a dtype, but for the graphs themselves. No weight is read. */
export function onnxBytes(model: PretrainedModel, dtype: OnnxDtypeName): number {
  const bytesIn = ({ inputs, outputs }: OpenGraph): number => {
    const values = inDtype(fold(Object.values(outputs)), dtype);
    const named = values.map((value, i): [string, Value] => [String(i), value]);
    return graph({ name: "sizes", inputs, outputs: new Map(named) }).weights.reduce(
      (sum, weight) => sum + weightBytes(weight),
      0,
    );
  };
  return Object.values(model.parts()).reduce((sum, open) => sum + bytesIn(open), 0);
}

/**
 * Write a graph once for each dtype, as `<name><suffix>.onnx`. Weights of more than `externalDataBytes` lie beside the
 * file as `<file>_data`, `<file>_data_1`, …: one protobuf message ends at 2 GB, and so does a buffer of some pages.
 */
export async function writeOnnxFiles(
  storage: Storage,
  folder: string,
  { name, open }: { readonly name: string; readonly open: OpenGraph },
  {
    dtypes,
    externalDataBytes,
    maxDataBytes,
  }: {
    readonly dtypes: readonly OnnxDtypeName[];
    readonly externalDataBytes: number;
    /** Bytes of a file of weights at most, where no single weight is larger. */
    readonly maxDataBytes: number;
  },
): Promise<ExternalFiles> {
  const { inputs, outputs } = open;
  const folded = fold(Object.values(outputs));
  const external: Record<string, number> = {};
  for (const dtype of dtypes) {
    const values = inDtype(folded, dtype);
    const named = Object.keys(outputs).map((key, i): [string, Value] => [key, values[i] as Value]); // one value a name
    const closed = graph({ name, inputs, outputs: new Map(named) });
    const file = `${name}${onnxDtypes[dtype].suffix}.onnx`;
    const path = joinPath(folder, file);
    if (closed.weights.reduce((sum, weight) => sum + weightBytes(weight), 0) > externalDataBytes) {
      // transformers.js names the files so, and is told how many there are.
      const nameOf = (piece: number): string => `${file}_data${piece === 0 ? "" : `_${piece}`}`;
      const { place, files } = layOutWeights(closed, nameOf, maxDataBytes);
      external[file] = files.length;
      for (const piece of files) await storage.write(joinPath(folder, piece.location), weightFile(piece, place));
      await storage.write(path, writeOnnx(closed, { place }));
    } else {
      await storage.write(path, streamOnnx(closed));
    }
  }
  return external;
}
