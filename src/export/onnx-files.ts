import { graph, type Tensor, type Value } from "../graph/index.ts";
import { layOutWeights, weightBytes, weightFile, writeOnnx } from "../io/onnx/write.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { OpenGraph } from "../models/index.ts";
import { fold } from "../transforms/index.ts";
import { inDtype, type OnnxDtypeName, onnxDtypes } from "./onnx-dtypes.ts";

/** Files whose weights lie beside them, by name: what transformers.js has to be told. */
export type ExternalFiles = Readonly<Record<string, number>>;

/**
 * Write a graph once for each dtype, as `<name><suffix>.onnx`. Weights of more than `externalDataBytes` lie beside the
 * file as `<file>_data`: one protobuf message ends at 2 GB.
 */
export async function writeOnnxFiles(
  storage: Storage,
  folder: string,
  { name, open }: { readonly name: string; readonly open: OpenGraph },
  { dtypes, externalDataBytes }: { readonly dtypes: readonly OnnxDtypeName[]; readonly externalDataBytes: number },
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
      external[file] = 1;
      const { place } = layOutWeights(closed, `${file}_data`);
      await storage.write(`${path}_data`, weightFile(closed, place));
      await storage.write(path, writeOnnx(closed, { place }));
    } else {
      const tensors = new Map<string, Tensor>();
      for (const weight of closed.weights) tensors.set(weight.name, await weight.source.read());
      await storage.write(path, writeOnnx(closed, { place: (weight) => tensors.get(weight.name) as Tensor })); // read just now
    }
  }
  return external;
}
