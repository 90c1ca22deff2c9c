import { type JsonObject, readJsonObject } from "../io/json.ts";
import { joinPath, type Storage, writeFolder } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type CardOptions, copyCompanions, float32Config, modelCard, writeJson } from "./model-files.ts";
import type { OnnxDtypeName } from "./onnx-dtypes.ts";
import { writeOnnxFiles } from "./onnx-files.ts";

/** How the folder is written. */
export interface TransformersJsOptions extends CardOptions {
  /** A file for each; the first is the one that transformers.js takes unless told otherwise. */
  readonly dtypes: readonly OnnxDtypeName[];
  /** Weights of more bytes than this go into a file beside the graph: one protobuf message ends at 2 GB. */
  readonly externalDataBytes?: number;
}

const gibibyte = 2 ** 30;

/**
 * Write a folder that transformers.js loads: `pipeline("text-generation", folder)`. The graph is the decoding graph
 * with keys and values as inputs and outputs; the chat template stands inside `tokenizer_config.json`.
 * The folder appears whole or not at all.
 */
export async function writeTransformersJsFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  options: TransformersJsOptions,
): Promise<void> {
  const { dtypes, externalDataBytes = 1.5 * gibibyte } = options;
  await writeFolder(storage, folder, async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    await writeTokenizerConfig(storage, staging);
    const decode = { name: "model", open: model.decode({ logits: "all" }) };
    const external = await writeOnnxFiles(storage, joinPath(staging, "onnx"), decode, { dtypes, externalDataBytes });
    await writeJson(storage, joinPath(staging, "config.json"), {
      ...float32Config(model.json, model.architecture.className),
      // Without these transformers.js looks for a quantised file in a page, and misses the weights beside the graph.
      "transformers.js_config": {
        dtype: dtypes[0] ?? "fp32",
        ...(Object.keys(external).length > 0 ? { use_external_data_format: external } : {}),
      },
    });
    const title = folder.split("/").at(-1) ?? folder;
    const card = modelCard({ ...options, title, library: "transformers.js" });
    await storage.write(joinPath(staging, "README.md"), card);
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
