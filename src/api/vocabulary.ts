import { readAdapterVocabulary, tokenizerFiles } from "../export/index.ts";
import { addTokens } from "../io/added-tokens.ts";
import { compileChatTemplate } from "../io/chat-template.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "../io/json.ts";
import { checkTemplate, chooseTemplate } from "../io/named-templates.ts";
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

/** What is asked of a model's vocabulary. */
interface VocabularyOptions {
  readonly newTokens: readonly string[];
  readonly adapters: readonly string[];
  /** A chat template in place of the model's: a name, or its text. */
  readonly chatTemplate?: string;
}

/**
 * The vocabulary of a model in `folder`: its own; or that of an adapter which brings a tokenizer, or embeddings of more
 * tokens; and with the new tokens that are asked for.
 */
export async function chooseVocabulary(
  storage: Storage,
  folder: string,
  { chatTemplate, ...options }: VocabularyOptions,
): Promise<Vocabulary> {
  const vocabulary = await tokensOf(storage, folder, options);
  if (chatTemplate === undefined) return vocabulary;
  return { ...vocabulary, storage: await withTemplate(vocabulary.storage, folder, chatTemplate) };
}

/**
 * The storage of a model whose tokenizer's files have another chat template, and whose answers end as it ends them; what is
 * exported has them too.
 */
async function withTemplate(storage: Storage, folder: string, given: string): Promise<Storage> {
  const template = chooseTemplate(given);
  const tokenizer = await loadTokenizer(storage, folder);
  checkTemplate(template, tokenizer);
  compileChatTemplate(template.source, tokenizer.specialTokens, template.name ?? "chat template"); // says what is wrong with it
  const present = await storage.list(folder);
  const json = async (name: string): Promise<JsonObject> =>
    present.includes(name) ? readJsonObject(storage, joinPath(folder, name)) : {};
  const { end, source } = template;
  const endId = end === undefined ? undefined : tokenizer.idOf(end);
  const files: Record<string, unknown> = {
    "tokenizer_config.json": {
      ...(await json("tokenizer_config.json")),
      chat_template: source,
      ...(end === undefined ? {} : { eos_token: end }),
    },
  };
  if (endId !== undefined) {
    const ends = [...new Set([endId, ...tokenizer.eosIds])];
    files["generation_config.json"] = { ...(await json("generation_config.json")), eos_token_id: ends };
  }
  // Files of their own win over the configuration, so they say the same.
  if (present.includes("chat_template.jinja")) files["chat_template.jinja"] = source;
  if (present.includes("chat_template.json")) files["chat_template.json"] = { chat_template: source };
  const others = present.includes("additional_chat_templates/")
    ? await storage.list(joinPath(folder, "additional_chat_templates"))
    : [];
  for (const name of others) files[`additional_chat_templates/${name}`] = source;
  return withOtherFiles(storage, inFolder(folder, files));
}

async function tokensOf(
  storage: Storage,
  folder: string,
  { newTokens, adapters }: Omit<VocabularyOptions, "chatTemplate">,
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
