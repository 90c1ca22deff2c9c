import { copyCompanions, modelCard, writeJson } from "../export/index.ts";
import type { JsonObject } from "../io/json.ts";
import {
  keptAs,
  openPacked,
  type PackedEntry,
  type PackedFile,
  type PackedToWrite,
  packedFileName,
  packedVersion,
  writePacked,
} from "../io/packed/index.ts";
import { joinPath, type Storage, writeFolder } from "../io/storage.ts";
import type { PretrainedModel } from "../models/index.ts";

/** How a packed model is written. */
export interface WritePackedModelOptions {
  readonly baseModel: string;
  readonly matrices: readonly (PackedToWrite | PackedEntry)[];
  /** What made it, for people. */
  readonly info: JsonObject;
  /** What matrices that stay as they are (embeddings, the output layer) are kept in. Vectors stay in float32. */
  readonly keepAs: "float16" | "float32";
}

/**
 * Write a packed model's folder: `packed.safetensors`, `config.json`, tokenizer, licence and card. It appears whole or
 * not at all, and replaces what was there.
 */
export async function writePackedModel(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  { baseModel, matrices, info, keepAs }: WritePackedModelOptions,
): Promise<PackedFile> {
  const packed = new Set(matrices.map(({ name }) => name));
  const tensors = [...model.weights]
    .filter(([name]) => !packed.has(name))
    .map(([name, { source, shape }]) => ({ name, tensor: keptAs(source, shape.length > 1 ? keepAs : "float32") }));
  await writeFolder(storage, folder, async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    await writePacked(storage, joinPath(staging, packedFileName), { info, matrices, tensors });
    const { torch_dtype: _torchDtype, dtype: _dtype, ...config } = model.json;
    await writeJson(storage, joinPath(staging, "config.json"), {
      ...config,
      architectures: config["architectures"] ?? [model.architecture.className],
      quantization_config: { quant_method: "scion", version: packedVersion, file: packedFileName },
    });
    const title = folder.split("/").at(-1) ?? folder;
    const card = modelCard({ title, baseModel, library: "scionwood" });
    await storage.write(joinPath(staging, "README.md"), card);
  });
  return openPacked(storage, joinPath(folder, packedFileName));
}
