import { readAdapterVocabulary, tokenizerFiles } from "../export/index.ts";
import { addTokens } from "../io/added-tokens.ts";
import { isJsonObject } from "../io/json.ts";
import { withOtherFiles } from "../io/other-files.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { loadTokenizer } from "../io/tokenizer.ts";

/** The vocabulary that a model is opened with. */
export interface Vocabulary {
  /** The storage of the model's files, with those of the tokenizer that it has now. */
  readonly storage: Storage;
  /** Tokens that the model needs rows for; it may have more. */
  readonly size: number;
  /** The ids of the tokens asked for. */
  readonly newTokens: readonly number[];
}

/**
 * The vocabulary of a model in `folder`: its own; or that of an adapter which brings a tokenizer, or embeddings of more
 * tokens; and with the new tokens that are asked for.
 */
export async function chooseVocabulary(
  storage: Storage,
  folder: string,
  { newTokens, adapters }: { readonly newTokens: readonly string[]; readonly adapters: readonly string[] },
): Promise<Vocabulary> {
  const all = await Promise.all(adapters.map((adapter) => readAdapterVocabulary(storage, adapter)));
  const files = all.find((brought) => Object.keys(brought.files).length > 0)?.files ?? {};
  const own = Object.keys(files).length === 0 ? storage : withOtherFiles(storage, inFolder(folder, files));
  const rows = Math.max(0, ...all.map((brought) => brought.rows));
  if (newTokens.length === 0) {
    const size = own === storage ? 0 : (await loadTokenizer(own, folder)).vocabSize;
    return { storage: own, size: Math.max(rows, size), newTokens: [] };
  }
  const known = await loadTokenizer(own, folder);
  const { "tokenizer.json": tokenizer, "tokenizer_config.json": config = {} } = await tokenizerFiles(own, folder);
  if (!isJsonObject(tokenizer) || !isJsonObject(config)) throw new Error("a tokenizer's files are JSON");
  const grown = addTokens({ tokenizer, config }, known, newTokens);
  const changed = { ...files, "tokenizer.json": grown.tokenizer, "tokenizer_config.json": grown.config };
  const size = Math.max(rows, known.vocabSize, ...grown.ids.map((id) => id + 1));
  return { storage: withOtherFiles(storage, inFolder(folder, changed)), size, newTokens: grown.ids };
}

function inFolder(folder: string, files: Readonly<Record<string, unknown>>): ReadonlyMap<string, string> {
  return new Map(
    Object.entries(files).map(([name, content]) => [
      joinPath(folder, name),
      typeof content === "string" ? content : JSON.stringify(content),
    ]),
  );
}
