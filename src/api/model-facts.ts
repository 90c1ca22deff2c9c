import { chatTemplateFile, tokenizerCompanions } from "../export/index.ts";
import { hashFile } from "../io/content-hash.ts";
import { joinPath } from "../io/storage.ts";
import { sentenceFiles } from "../models/index.ts";
import { type Facts, hashWeights, modelFacts } from "../train/fingerprint.ts";
import type { LoadedModel } from "./load-model.ts";

/** The files of a tokenizer by their content. */
export async function tokenizerFacts({ folder, platform: { storage } }: LoadedModel): Promise<Facts> {
  const there = new Set(await storage.list(folder));
  const files = [...tokenizerCompanions, chatTemplateFile, "chat_template.json", "vocab.json", "merges.txt"];
  const hashes: Record<string, string> = {};
  const sentence = await sentenceFiles(storage, folder); // how embeddings are pooled, and what follows
  for (const file of [...files.filter((name) => there.has(name)), ...sentence])
    hashes[file] = await hashFile(storage, joinPath(folder, file));
  return { tokenizer: hashes };
}

/** Everything of a model that results depend on: its weights, configuration and tokenizer, by their content. */
export async function factsOfModel(model: LoadedModel): Promise<Facts> {
  const { pretrained } = model;
  return { ...modelFacts(pretrained), ...(await tokenizerFacts(model)), weights: await hashWeights(pretrained) };
}
