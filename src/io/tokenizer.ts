import { Tokenizer } from "@huggingface/tokenizers";
import { TuneError } from "../errors.ts";
import { slowShape } from "../regexp-shape.ts";
import { type ChatTemplate, compileChatTemplate } from "./chat-template.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "./json.ts";
import { joinPath, type Storage } from "./storage.ts";
import { readText } from "./text.ts";

/** Text to token ids and back, with the special tokens and chat templates that a model was published with. */
export interface TextTokenizer {
  /** One more than the largest token id. The model's embedding may be larger (padded), never smaller. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  /** The token that ends a text, appended to completions in training. */
  readonly eosId: number | undefined;
  /** Every token that ends generation: `eosId` first, then those of generation_config.json. */
  readonly eosIds: readonly number[];
  readonly padId: number | undefined;
  /** Special tokens by role, as templates name them: `bos_token` -> `<s>`. */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Chat templates by name; the usual one is `default`. Empty when the model has none. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /**
   * The token ids of a text. `addSpecialTokens` (default true) puts around it what the model expects, usually BOS.
   * @throws {TuneError} `text-not-encodable` when the vocabulary lacks a piece and has no unknown token.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /** The token ids of a text, or of two, with what the model expects around them, and which text each belongs to. */
  encodeTyped(text: string, second?: string): { readonly ids: number[]; readonly typeIds: number[] };
  /** The text of token ids; ids outside the vocabulary are dropped. `skipSpecialTokens` is false by default. */
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecialTokens?: boolean }): string;
  /** A token as the vocabulary spells it; undefined for an id that it lacks. */
  tokenOf(id: number): string | undefined;
  /** The id of a token as the vocabulary spells it; undefined for one that it lacks. */
  idOf(token: string): number | undefined;
}

/** The parsed files that make a tokenizer; everything but `tokenizer` may be absent. */
export interface TokenizerFiles {
  /** tokenizer.json */
  readonly tokenizer: JsonObject;
  /** tokenizer_config.json */
  readonly config?: JsonObject;
  /** Chat templates by name, from files of their own; they win over those in `config`. */
  readonly chatTemplates?: ReadonlyMap<string, string>;
  /** Where `bos_token_id`, `eos_token_id` and `pad_token_id` may stand: generation_config.json, then config.json. */
  readonly idSources?: readonly JsonObject[];
}

/** The part of the library used here: its declarations do not resolve under Node's module rules. */
interface LibraryTokenizer {
  readonly model: { readonly vocab: readonly (string | undefined)[] };
  encode(
    text: string,
    options: { add_special_tokens: boolean; text_pair?: string; return_token_type_ids?: boolean },
  ): { ids: (number | undefined)[]; tokens: string[]; token_type_ids?: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
}

/**
 * Read the tokenizer in a model's folder: tokenizer.json, tokenizer_config.json, generation_config.json, config.json
 * and the chat templates (chat_template.jinja, additional_chat_templates/, chat_template.json, or in the config).
 * @throws {TuneError} `tokenizer-not-found`, `malformed-json`, `malformed-tokenizer`, `malformed-chat-template`, and
 *   what the storage throws.
 */
export async function loadTokenizer(storage: Storage, folder: string): Promise<TextTokenizer> {
  const names = await storage.list(folder);
  const optional = async (name: string): Promise<JsonObject | undefined> =>
    names.includes(name) ? readJsonObject(storage, joinPath(folder, name)) : undefined;

  if (!names.includes("tokenizer.json")) {
    throw new TuneError("tokenizer-not-found", "The folder has no tokenizer.json.", {
      at: folder,
      fix: 'write one with transformers: AutoTokenizer.from_pretrained("…").save_pretrained("…")',
    });
  }
  const tokenizer = await readJsonObject(storage, joinPath(folder, "tokenizer.json"));
  const config = await optional("tokenizer_config.json");
  const idSources = [await optional("generation_config.json"), await optional("config.json")];
  const chatTemplates = new Map<string, string>();
  const legacy = await optional("chat_template.json");
  for (const [name, text] of templatesIn(legacy, joinPath(folder, "chat_template.json"))) chatTemplates.set(name, text);
  if (names.includes("additional_chat_templates/")) {
    const inner = joinPath(folder, "additional_chat_templates");
    for (const file of await storage.list(inner)) {
      if (!file.endsWith(".jinja")) continue;
      chatTemplates.set(file.slice(0, -".jinja".length), await readText(storage, joinPath(inner, file)));
    }
  }
  if (names.includes("chat_template.jinja")) {
    chatTemplates.set("default", await readText(storage, joinPath(folder, "chat_template.jinja")));
  }
  const files: TokenizerFiles = {
    tokenizer,
    chatTemplates,
    idSources: idSources.filter((source) => source !== undefined),
    ...(config === undefined ? {} : { config }),
  };
  return createTokenizer(files, folder);
}

/**
 * Make a tokenizer from parsed files.
 * @throws {TuneError} `malformed-tokenizer` with the reason, `malformed-chat-template`.
 */
export function createTokenizer(files: TokenizerFiles, at = "tokenizer"): TextTokenizer {
  const config = files.config ?? {};
  const library = makeLibraryTokenizer(files.tokenizer, config, at);
  const specialTokens = specialTokensIn(config);

  const idFor = (role: string): number | undefined => {
    const token = specialTokens[`${role}_token`];
    return token === undefined ? undefined : library.token_to_id(token);
  };
  const listedIds = (role: string): number[] => {
    const listed = files.idSources?.map((source) => source[`${role}_token_id`]).find((value) => value != null);
    return [listed].flat().filter((id): id is number => typeof id === "number" && Number.isInteger(id) && id >= 0);
  };
  const eosId = idFor("eos") ?? listedIds("eos")[0];
  // Models that name a special token only by id still let their template write it.
  for (const role of ["bos", "eos", "pad"]) {
    const id = listedIds(role)[0];
    const token = id === undefined ? undefined : library.id_to_token(id);
    if (token !== undefined) specialTokens[`${role}_token`] ??= token;
  }

  // transformers 5 joins "word ." to "word." only where the config says so; the library would do it by default.
  const cleanUp = config["clean_up_tokenization_spaces"] === true;
  const vocabSize = library.model.vocab.length;

  const known = ({ ids, tokens }: { ids: (number | undefined)[]; tokens: string[] }): number[] =>
    ids.map((id, i) => {
      if (Number.isSafeInteger(id)) return Number(id);
      if (id !== undefined) throw malformedTokenizer(at, `it numbers a token ${String(id)}`);
      throw new TuneError("text-not-encodable", `The vocabulary has no token for "${tokens[i]}".`, {
        at,
        fix: "remove it from the text, or use a model whose tokenizer has an unknown token or byte fallback",
      });
    });

  return {
    vocabSize,
    bosId: idFor("bos") ?? listedIds("bos")[0],
    eosId,
    eosIds: [...new Set([...(eosId === undefined ? [] : [eosId]), ...listedIds("eos")])],
    padId: idFor("pad") ?? listedIds("pad")[0],
    specialTokens,
    chatTemplates: new Map([
      ...templatesIn(config, joinPath(at, "tokenizer_config.json")),
      ...(files.chatTemplates ?? new Map<string, string>()),
    ]),
    encode: (text, options = {}) =>
      known(library.encode(text, { add_special_tokens: options.addSpecialTokens ?? true })),
    encodeTyped: (text, second) => {
      const pair = second === undefined ? {} : { text_pair: second };
      const encoded = library.encode(text, { add_special_tokens: true, return_token_type_ids: true, ...pair });
      return { ids: known(encoded), typeIds: encoded.token_type_ids ?? encoded.ids.map(() => 0) };
    },
    decode: (ids, options = {}) => {
      const known = Array.from(ids).filter((id) => library.id_to_token(id) !== undefined);
      if (known.length === 0) return "";
      return library.decode(known, {
        skip_special_tokens: options.skipSpecialTokens ?? false,
        clean_up_tokenization_spaces: cleanUp,
      });
    },
    tokenOf: (id) => library.id_to_token(id),
    idOf: (token) => library.token_to_id(token),
  };
}

/**
 * The tokenizer's chat template, parsed: `tool_use` when there are tools and the model has one, else `default`.
 * @throws {TuneError} `no-chat-template` when the model came without one, `malformed-chat-template`.
 */
export function chatTemplateOf(tokenizer: TextTokenizer, options: { readonly tools?: boolean } = {}): ChatTemplate {
  const { chatTemplates } = tokenizer;
  const source = (options.tools === true ? chatTemplates.get("tool_use") : undefined) ?? chatTemplates.get("default");
  if (source !== undefined) return compileChatTemplate(source, tokenizer.specialTokens);
  const others = [...chatTemplates.keys()];
  throw new TuneError(
    "no-chat-template",
    others.length > 0
      ? `The model has no default chat template, only ${others.join(", ")}.`
      : "The model has no chat template, so conversations have no agreed spelling.",
    {
      fix:
        "put a chat_template.jinja beside tokenizer.json (one from a model of the same family), " +
        "or use prompt/completion rows, which need none",
    },
  );
}

function makeLibraryTokenizer(tokenizer: JsonObject, config: JsonObject, at: string): LibraryTokenizer {
  const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  try {
    // Unset parts may be left out of the file; the library wants them named.
    const library: LibraryTokenizer = new Tokenizer({ ...parts, ...tokenizer }, config);
    checkExpressions(library, new Set());
    library.encode("a", { add_special_tokens: true }); // a malformed part may only show when it runs
    return library;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw malformedTokenizer(at, reason, cause);
  }
}

/**
 * Check every regular expression that the library has made of tokenizer.json: it will match them by trying.
 * @throws {Error} for one whose shape may take very long.
 */
function checkExpressions(value: unknown, seen: Set<unknown>): void {
  const holds = (typeof value === "object" && value !== null) || typeof value === "function"; // its parts can be called
  if (!holds || seen.has(value) || value instanceof Map) return;
  seen.add(value);
  if (value instanceof RegExp) {
    const slow = slowShape(value);
    if (slow !== undefined)
      throw new Error(`its expression ${value.source.slice(0, 200)} might take very long: ${slow}`);
    return;
  }
  // Vocabularies are lists of texts: there is nothing in them.
  const inner = Array.isArray(value) ? (typeof value[0] === "string" ? [] : value) : Object.values(value);
  for (const part of inner) checkExpressions(part, seen);
}

/** Special tokens stand in the config as text, or as `{ "content": text }`. */
function specialTokensIn(config: JsonObject): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [name, value] of Object.entries(config)) {
    if (!name.endsWith("_token")) continue;
    const content = isJsonObject(value) ? value["content"] : value;
    if (typeof content === "string") tokens[name] = content;
  }
  return tokens;
}

/** The `chat_template` of a file: one text, or a list of named ones. */
function templatesIn(file: JsonObject | undefined, at: string): [name: string, template: string][] {
  const field = file?.["chat_template"];
  if (field === undefined || field === null) return [];
  if (typeof field === "string") return [["default", field]];
  if (Array.isArray(field)) {
    const named = field.map((entry: unknown): [string, string] | undefined => {
      const { name, template } = isJsonObject(entry) ? entry : {};
      return typeof name === "string" && typeof template === "string" ? [name, template] : undefined;
    });
    if (named.every((entry) => entry !== undefined)) return named;
  }
  throw new TuneError("malformed-chat-template", '"chat_template" is neither text nor a list of named templates.', {
    at,
    fix: 'write it as text, or as [{ "name": "default", "template": "…" }]',
  });
}

function malformedTokenizer(at: string, reason: string, cause?: unknown): TuneError {
  return new TuneError("malformed-tokenizer", `The tokenizer cannot be built: ${reason}`, {
    at,
    fix: "fetch tokenizer.json again, or write it anew with a current version of transformers",
    ...(cause === undefined ? {} : { cause }),
  });
}
