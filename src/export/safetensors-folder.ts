import { writeModelWeights } from "../io/model-weights.ts";
import { writeFolder } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type CardOptions, cardFiles, titleOf } from "./model-card.ts";
import { copyCompanions, float32Config, writeFiles, writeJson } from "./model-files.ts";

/** How a model folder is written. */
export interface SafetensorsOptions extends CardOptions {
  /** Files larger than this are split; 5 GB unless given, as on the hub. */
  readonly maxShardBytes?: number;
}

/**
 * Write a model as a Hugging Face folder: safetensors in float32, `config.json`, tokenizer, model card. The folder
 * appears whole or not at all.
 */
export async function writeSafetensorsFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  options: SafetensorsOptions,
): Promise<void> {
  const { maxShardBytes } = options;
  await writeFolder(storage, folder, "safetensors", async (staging) => {
    await copyCompanions(storage, model.folder, staging);
    const config = float32Config(model.json, model.architecture.className);
    await writeJson(storage, joinPath(staging, "config.json"), config, joinPath(model.folder, "config.json"));
    const stored = model.architecture.storedName ?? ((name: string): string => name);
    const entries = [...model.weights].map(([name, { source }]) => ({ name: stored(name), tensor: source }));
    await writeModelWeights(storage, staging, entries, maxShardBytes === undefined ? {} : { maxShardBytes });
    const about = { ...options, title: titleOf(folder), library: "transformers", task: model.task };
    await writeFiles(storage, staging, await cardFiles(storage, model.folder, about));
  });
}
