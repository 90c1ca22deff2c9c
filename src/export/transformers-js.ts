import { TuneError } from "../errors.ts";
import { type JsonObject, readJsonObject } from "../io/json.ts";
import { writeFolder } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type CardOptions, cardFiles, titleOf } from "./model-card.ts";
import { copyCompanions, float32Config, writeFiles, writeJson } from "./model-files.ts";
import type { OnnxDtypeName } from "./onnx-dtypes.ts";
import { writeOnnxFiles } from "./onnx-files.ts";

/** How the folder is written. */
export interface TransformersJsOptions extends CardOptions {
  /** A file for each; the first is the one that transformers.js takes unless told otherwise. */
  readonly dtypes: readonly OnnxDtypeName[];
  /**
   * Weights of more bytes than this go into files beside the graph; 500 MB unless given. One protobuf message ends at 2 GB, and a
   * page that reads weights out of the message holds them once more: 4.7 GB instead of 3.4 for a billion weights in 4 bits.
   */
  readonly externalDataBytes?: number;
  /** Bytes of each of those files at most; 1.9 GB unless given. */
  readonly maxDataBytes?: number;
}

/**
 * Write a folder that transformers.js loads: `pipeline("text-generation", folder)`, or the pipeline of what the model is
 * for. The graphs are those that say what the model says (for causal models the decoding graph with keys and values as
 * inputs and outputs); the chat template stands inside `tokenizer_config.json`. The folder appears whole or
 * not at all.
 * @throws {TuneError} `no-pipeline-form` for a family that transformers does not know.
 */
export async function writeTransformersJsFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  options: TransformersJsOptions,
): Promise<void> {
  const { dtypes, externalDataBytes = 5e8, maxDataBytes = 1.9e9 } = options;
  const { inTransformers = true, className } = model.architecture;
  if (!inTransformers) {
    throw new TuneError("no-pipeline-form", `transformers.js has no class for ${model.modelType} models.`, {
      at: folder,
      fix: "export the adapter (peft) or merged weights (safetensors) instead",
    });
  }
  if (model.sentence?.layers.some(({ kind }) => kind === "dense")) {
    throw new TuneError("unsupported-module", "transformers.js has no Dense module, and embeddings would lack it.", {
      at: folder,
      fix: "export merged weights (safetensors), which sentence-transformers reads whole",
    });
  }
  await writeFolder(storage, folder, "transformers.js", async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    await writeTokenizerConfig(storage, staging);
    await writePreprocessor(storage, staging, model);
    let external: Readonly<Record<string, number>> = {};
    for (const [name, open] of Object.entries(model.parts())) {
      const part = { name, open };
      const sizes = { externalDataBytes, maxDataBytes };
      const beside = await writeOnnxFiles(storage, joinPath(staging, "onnx"), part, { dtypes, ...sizes });
      external = { ...external, ...beside };
    }
    const config = {
      ...float32Config(model.json, className),
      // Without these transformers.js looks for a quantised file in a page, and misses the weights beside the graph.
      "transformers.js_config": {
        dtype: dtypes[0] ?? "fp32",
        ...(Object.keys(external).length > 0 ? { use_external_data_format: external } : {}),
      },
    };
    await writeJson(storage, joinPath(staging, "config.json"), config, joinPath(model.folder, "config.json"));
    const about = { ...options, title: titleOf(folder), library: "transformers.js", task: model.task };
    await writeFiles(storage, staging, await cardFiles(storage, model.folder, about));
  });
}

/** transformers.js reads the chat template from tokenizer_config.json, and tidies spaces unless told not to. */
async function writeTokenizerConfig(storage: Storage, folder: string): Promise<void> {
  const names = new Set(await storage.list(folder));
  if (!names.has("tokenizer.json")) return;
  const path = joinPath(folder, "tokenizer_config.json");
  const config: JsonObject = names.has("tokenizer_config.json") ? await readJsonObject(storage, path) : {};
  const template = names.has("chat_template.jinja")
    ? await readText(storage, joinPath(folder, "chat_template.jinja"))
    : undefined;
  await writeJson(storage, path, {
    clean_up_tokenization_spaces: false,
    ...config,
    ...(template === undefined ? {} : { chat_template: template }),
  });
}

/** A model that reads images needs to have said how they are scaled; what it was trained with here where no file says. */
async function writePreprocessor(storage: Storage, folder: string, { reads }: PretrainedModel): Promise<void> {
  const path = joinPath(folder, "preprocessor_config.json");
  if (reads.imageSize === 0 || (await storage.sizeBytes(path)) !== undefined) return;
  await writeJson(storage, path, {
    image_processor_type: "ViTImageProcessor",
    do_resize: true,
    size: { height: reads.imageSize, width: reads.imageSize },
    resample: 2,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.5, 0.5, 0.5],
  });
}
