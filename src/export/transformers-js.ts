import { type Graph, graph, type Tensor, type Value } from "../graph/index.ts";
import { type JsonObject, readJsonObject } from "../io/json.ts";
import { layOutWeights, weightBytes, weightFile, writeOnnx } from "../io/onnx/write.ts";
import { joinPath, type Storage, writeFolder } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import type { PretrainedModel } from "../models/index.ts";
import { fold } from "../transforms/index.ts";
import { type CardOptions, copyCompanions, float32Config, modelCard, writeJson } from "./model-files.ts";

/** How the folder is written. */
export interface TransformersJsOptions extends CardOptions {
  /** Weights of more bytes than this go into a file beside the graph: one protobuf message ends at 2 GB. */
  readonly externalDataBytes?: number;
}

const gibibyte = 2 ** 30;

/**
 * Write a folder that transformers.js loads: `pipeline("text-generation", folder)`. The graph is the decoding graph
 * with keys and values as inputs and outputs, in float32; the chat template stands inside `tokenizer_config.json`.
 * The folder appears whole or not at all.
 */
export async function writeTransformersJsFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  options: TransformersJsOptions,
): Promise<void> {
  const { baseModel, adapter, externalDataBytes = 1.5 * gibibyte } = options;
  const decode = closeDecode(model);
  const total = decode.weights.reduce((sum, weight) => sum + weightBytes(weight), 0);
  const external = total > externalDataBytes;
  await writeFolder(storage, folder, async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    await writeTokenizerConfig(storage, staging);
    await writeJson(storage, joinPath(staging, "config.json"), {
      ...float32Config(model.json, model.architecture.className),
      // Without these transformers.js looks for a quantised file in a page, and misses the weights beside the graph.
      "transformers.js_config": {
        dtype: "fp32",
        ...(external ? { use_external_data_format: { "model.onnx": 1 } } : {}),
      },
    });
    const path = joinPath(staging, "onnx/model.onnx");
    if (external) {
      const { place } = layOutWeights(decode, "model.onnx_data");
      await storage.write(`${path}_data`, weightFile(decode, place));
      await storage.write(path, writeOnnx(decode, { place }));
    } else {
      const tensors = new Map<string, Tensor>();
      for (const weight of decode.weights) tensors.set(weight.name, await weight.source.read());
      await storage.write(path, writeOnnx(decode, { place: ({ name }) => tensors.get(name) as Tensor })); // read just now
    }
    const title = folder.split("/").at(-1) ?? folder;
    const card = modelCard({ ...options, title, library: "transformers.js" });
    await storage.write(joinPath(staging, "README.md"), card);
  });
}

function closeDecode(model: PretrainedModel): Graph {
  const { inputs, outputs } = model.decode({ logits: "all" });
  const folded = fold(Object.values(outputs));
  const named = Object.keys(outputs).map((name, i): [string, Value] => [name, folded[i] as Value]); // one value a name
  return graph({ name: model.modelType, inputs, outputs: new Map(named) });
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
