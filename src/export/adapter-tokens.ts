import { type JsonObject, readJsonObject } from "../io/json.ts";
import { openSafetensors } from "../io/safetensors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import { chatTemplateFile, tokenizerCompanions } from "./model-files.ts";

/** A tokenizer's files in a folder, as TRL, Unsloth and Scion leave them beside an adapter. */
export async function tokenizerFiles(
  storage: Storage,
  folder: string,
): Promise<Readonly<Record<string, JsonObject | string>>> {
  const present = await storage.list(folder);
  const files: Record<string, JsonObject | string> = {};
  for (const name of tokenizerCompanions.filter((file) => present.includes(file)))
    files[name] = await readJsonObject(storage, joinPath(folder, name));
  if (present.includes(chatTemplateFile))
    files[chatTemplateFile] = await readText(storage, joinPath(folder, chatTemplateFile));
  return files;
}

/** Embeddings and output layers in an adapter's file, which a grown vocabulary makes longer than the model's. */
const vocabularyTensor = /\.(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings|shared)(\.\w+)*\.weight$/;

/** What an adapter asks of the vocabulary: tokenizer files in place of the model's, and rows of its embeddings. */
export interface AdapterVocabulary {
  readonly files: Readonly<Record<string, JsonObject | string>>;
  /** How many rows the embeddings have that it holds; 0 when it holds none. */
  readonly rows: number;
}

/** Look at what stands beside an adapter, and at the shapes of its tensors; nothing is there for most. */
export async function readAdapterVocabulary(storage: Storage, folder: string): Promise<AdapterVocabulary> {
  const present = await storage.list(folder);
  const weights = "adapter_model.safetensors";
  const tensors = present.includes(weights) ? (await openSafetensors(storage, joinPath(folder, weights))).tensors : [];
  const rows = [...tensors].map(([name, { shape }]) => (vocabularyTensor.test(name) ? Number(shape[0]) : 0));
  return {
    files: present.includes("tokenizer.json") ? await tokenizerFiles(storage, folder) : {},
    rows: Math.max(0, ...rows),
  };
}
