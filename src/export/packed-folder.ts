import { TuneError } from "../errors.ts";
import { assertFinite } from "../io/convert.ts";
import type { JsonObject } from "../io/json.ts";
import { writeFolder } from "../io/outputs/index.ts";
import {
  keptAs,
  openPacked,
  type PackedEntry,
  type PackedFile,
  type PackedToWrite,
  packedFileName,
  packedVersion,
  scaleValues,
  withScales,
  writePacked,
} from "../io/packed/index.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type Adapter, chooseMethod, parameterName } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { cardFiles, titleOf } from "./model-card.ts";
import { copyCompanions, writeFiles, writeJson } from "./model-files.ts";

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
  await writeFolder(storage, folder, "packed", async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    await writePacked(storage, joinPath(staging, packedFileName), { info, matrices, tensors });
    const { torch_dtype: _torchDtype, dtype: _dtype, preprocessor: _preprocessor, ...rest } = model.json;
    const config = {
      ...rest,
      architectures: rest["architectures"] ?? [model.architecture.className],
      quantization_config: { quant_method: "scion", version: packedVersion, file: packedFileName },
    };
    await writeJson(storage, joinPath(staging, "config.json"), config, joinPath(model.folder, "config.json"));
    const about = { title: titleOf(folder), baseModel, library: "scionwood" };
    await writeFiles(storage, staging, await cardFiles(storage, model.folder, about));
  });
  return openPacked(storage, joinPath(folder, packedFileName));
}

/** The method whose adapters are scales of packed weights. */
const method = "alpha";
const scalesFile = "scales.safetensors";

/**
 * The matrices of a packed model with the scales that an adapter has tuned, rounded as they are stored.
 * @throws {TuneError} `no-adapter-form` when the adapter holds no scales, or the model is not packed.
 */
export async function withTunedScales(model: PretrainedModel, adapter: Adapter): Promise<readonly PackedToWrite[]> {
  const packed = packedOf(model, adapter);
  const results: PackedToWrite[] = [];
  for (const [name, entry] of packed.matrices) {
    const scales = adapter.parameters.get(parameterName(moduleOf(name), method, "scales"));
    const matrix = await entry.read();
    results.push({
      name,
      stored: entry.stored,
      matrix: scales ? withScales(matrix, scales.data as Float32Array) : matrix,
    }); // as attached
  }
  return results;
}

/** Write the packed model with the scales of an adapter in place of its own. */
export async function writePackedWithScales(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  adapter: Adapter,
  { baseModel }: { readonly baseModel: string },
): Promise<void> {
  const { info } = packedOf(model, adapter);
  const matrices = await withTunedScales(model, adapter);
  await writePackedModel(storage, folder, model, { baseModel, matrices, info, keepAs: "float16" });
}

/**
 * Write the scales of an adapter alone, rounded as the packed model stores its own, to be used with that model:
 * `scales.safetensors`, a tensor [planes, row groups, column groups] a module.
 */
export async function writeScales(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  adapter: Adapter,
  { baseModel }: { readonly baseModel: string },
): Promise<void> {
  packedOf(model, adapter);
  const entries = (await withTunedScales(model, adapter)).flatMap(({ name, matrix }) => {
    const parameter = adapter.parameters.get(parameterName(moduleOf(name), method, "scales"));
    if (parameter === undefined) return [];
    const data = scaleValues(matrix.scaleKind, matrix.scales);
    return [{ name: moduleOf(name), tensor: { dtype: "float32", shape: parameter.shape, data } as const }];
  });
  await writeFolder(storage, folder, "scales", (staging) =>
    writeSafetensors(storage, joinPath(staging, scalesFile), entries, {
      format: "scion-scales",
      base_model: baseModel,
    }),
  );
}

/** Whether a folder holds scales. */
export async function isScales(storage: Storage, folder: string): Promise<boolean> {
  return (await storage.list(folder)).includes(scalesFile);
}

/** Read scales that {@link writeScales} wrote; whether they fit a model is for whoever attaches them to check. */
export async function readScales(storage: Storage, folder: string): Promise<Adapter> {
  const path = joinPath(folder, scalesFile);
  const { tensors } = await openSafetensors(storage, path);
  const parameters = new Map();
  for (const [module, lazy] of tensors) {
    const values = await lazy.read();
    assertFinite(module, values);
    parameters.set(parameterName(module, method, "scales"), values);
  }
  return { choice: chooseMethod(method), targets: [...tensors.keys()], parameters };
}

function packedOf(model: PretrainedModel, adapter: Adapter): PackedFile {
  if (model.packed && adapter.choice.method.name === method) return model.packed;
  throw new TuneError("no-adapter-form", "Only tuned scales of a packed model can be written so.", {
    at: model.folder,
    fix: `tune a packed model with the method ${method}, or choose another form`,
  });
}

function moduleOf(weight: string): string {
  return weight.replace(/\.weight$/, "");
}
