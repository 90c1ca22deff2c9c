import type { JsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";

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

/** Write JSON as people read it. */
export async function writeJson(storage: Storage, path: string, value: JsonObject): Promise<void> {
  await storage.write(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** `config.json` of weights that are now float32, whatever they were. */
export function float32Config(json: JsonObject, className: string): JsonObject {
  const { quantization_config: _quantization, torch_dtype: _torchDtype, preprocessor: _preprocessor, ...rest } = json;
  return { ...rest, architectures: rest["architectures"] ?? [className], dtype: "float32" };
}
