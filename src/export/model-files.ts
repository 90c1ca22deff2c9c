import { parseExactJson, spelledAs, writeExactJson } from "../io/exact-json.ts";
import type { JsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import { sentenceFiles } from "../models/index.ts";

/** The files of a tokenizer, in JSON. */
export const tokenizerCompanions: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
];

/** The file of a chat template. */
export const chatTemplateFile = "chat_template.jinja";

/** Files beside the weights that a model needs to be used, taken along as they are when they are there. */
const companions = [
  ...tokenizerCompanions,
  "vocab.json",
  "merges.txt",
  "generation_config.json",
  chatTemplateFile,
  "chat_template.json",
  "preprocessor_config.json",
  "LICENSE",
  "LICENSE.txt",
  "LICENSE.md",
];

/** Copy the tokenizer, generation settings and licence of a model folder. */
export async function copyCompanions(storage: Storage, from: string, to: string): Promise<void> {
  const present = new Set(await storage.list(from));
  for (const name of companions.filter((file) => present.has(file))) {
    await storage.write(joinPath(to, name), await storage.read(joinPath(from, name)));
  }
  // What sentence-transformers needs to pool as the model was tuned.
  for (const name of await sentenceFiles(storage, from))
    await storage.write(joinPath(to, name), await storage.read(joinPath(from, name)));
}

/** Write small files by name. */
export async function writeFiles(
  storage: Storage,
  folder: string,
  files: Readonly<Record<string, string>>,
): Promise<void> {
  for (const [name, content] of Object.entries(files)) await storage.write(joinPath(folder, name), content);
}

/** Copy the licence of a model folder. */
export async function copyLicence(storage: Storage, from: string, to: string): Promise<void> {
  for (const name of (await storage.list(from)).filter((file) => /^LICENSE(\.txt|\.md)?$/.test(file))) {
    await storage.write(joinPath(to, name), await storage.read(joinPath(from, name)));
  }
}

/**
 * Write JSON as people read it. Numbers are spelt as the file `like` spells them, where there is such a file and they are
 * the same at the same place: transformers refuses `30` where it wants `30.0`.
 */
export async function writeJson(storage: Storage, path: string, value: JsonObject, like: string = path): Promise<void> {
  const there = (await storage.sizeBytes(like)) !== undefined;
  const spelled = there ? spelledAs(value, parseExactJson(await readText(storage, like))) : value;
  await storage.write(path, `${writeExactJson(spelled, 2)}\n`);
}

/** `config.json` of weights that are now float32, whatever they were. */
export function float32Config(json: JsonObject, className: string): JsonObject {
  const { quantization_config: _quantization, torch_dtype: _torchDtype, preprocessor: _preprocessor, ...rest } = json;
  return { ...rest, architectures: rest["architectures"] ?? [className], dtype: "float32" };
}
