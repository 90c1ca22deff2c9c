import { TuneError } from "../errors.ts";
import { isJsonObject, type JsonObject, parseJson, readJsonObject } from "../io/json.ts";
import { insideFolder, joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";

/** How the hidden states of a text's tokens become one embedding. */
export type Pooling = "cls" | "mean" | "max" | "mean_sqrt_len_tokens";

/** What sentence-transformers' files say of a model: modules.json and what it names. */
export interface SentenceModules {
  readonly pooling: Pooling;
  /** Longest text in tokens; the model's context unless given. */
  readonly maxLength?: number;
}

/** Spellings of sentence-transformers for each way of pooling, older and newer. */
const poolings: Readonly<Record<string, Pooling>> = {
  pooling_mode_cls_token: "cls",
  pooling_mode_mean_tokens: "mean",
  pooling_mode_max_tokens: "max",
  pooling_mode_mean_sqrt_len_tokens: "mean_sqrt_len_tokens",
  cls: "cls",
  mean: "mean",
  max: "max",
  mean_sqrt_len_tokens: "mean_sqrt_len_tokens",
};

/** Keys of a pooling's configuration that change nothing at these values. */
const inert: Readonly<Record<string, (value: unknown) => boolean>> = {
  word_embedding_dimension: () => true,
  embedding_dimension: () => true,
  include_prompt: (value) => value === true,
};

/**
 * Read what sentence-transformers says of a model in its folder; undefined when it says nothing. Embeddings are always
 * compared by their directions, so a Normalize module changes nothing.
 * @throws {TuneError} `unsupported-module` naming modules and ways of pooling that are not built.
 */
export async function readSentenceModules(storage: Storage, folder: string): Promise<SentenceModules | undefined> {
  const present = await storage.list(folder);
  if (!present.includes("modules.json")) return undefined;
  const at = joinPath(folder, "modules.json");
  const modules = parseList(await readText(storage, at), at);
  let pooling: Pooling | undefined;
  for (const { type, path } of modules) {
    const kind = typeof type === "string" ? (type.split(".").at(-1) ?? "") : "";
    if (kind === "Transformer" || kind === "Normalize") continue;
    if (kind !== "Pooling") throw unsupported(at, `the module ${kind || JSON.stringify(type ?? null)}`);
    const own = joinPath(insideFolder(folder, String(path)), "config.json");
    pooling = poolingOf(await readJsonObject(storage, own), own);
  }
  const bert = "sentence_bert_config.json";
  const said = present.includes(bert) ? await readJsonObject(storage, joinPath(folder, bert)) : {};
  if (said["do_lower_case"] === true)
    throw unsupported(joinPath(folder, bert), "do_lower_case besides the tokenizer's own");
  const longest = said["max_seq_length"];
  return {
    pooling: pooling ?? "mean",
    ...(typeof longest === "number" && Number.isSafeInteger(longest) && longest > 0 ? { maxLength: longest } : {}),
  };
}

/** Files of sentence-transformers in a model's folder, from it. */
export async function sentenceFiles(storage: Storage, folder: string): Promise<readonly string[]> {
  const present = await storage.list(folder);
  if (!present.includes("modules.json")) return [];
  const named = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
  const at = joinPath(folder, "modules.json");
  const inner = parseList(await readText(storage, at), at).flatMap(({ path }) =>
    typeof path === "string" && path !== "" ? [`${path}/config.json`] : [],
  );
  const there = await Promise.all(
    inner.map(async (file) => (await storage.sizeBytes(insideFolder(folder, file))) !== undefined),
  );
  return [...named.filter((file) => present.includes(file)), ...inner.filter((_, i) => there[i])];
}

function poolingOf(json: JsonObject, at: string): Pooling {
  const chosen: Pooling[] = [];
  for (const [key, value] of Object.entries(json)) {
    if (inert[key]?.(value)) continue;
    if (key === "pooling_mode") {
      const way = typeof value === "string" ? poolings[value] : undefined;
      if (way === undefined) throw unsupported(at, `pooling_mode ${JSON.stringify(value)}`);
      chosen.push(way);
    } else if (value === true || Object.hasOwn(inert, key)) {
      const way = poolings[key];
      if (way === undefined) throw unsupported(at, `${key} ${JSON.stringify(value)}`);
      chosen.push(way);
    } else if (value !== false) throw unsupported(at, `${key} ${JSON.stringify(value)}`);
  }
  const [first = "mean", ...others] = chosen;
  if (others.length > 0) throw unsupported(at, `several ways of pooling at once (${chosen.join(", ")})`);
  return first;
}

function parseList(text: string, at: string): readonly JsonObject[] {
  let list: unknown;
  try {
    list = parseJson(text);
  } catch (cause) {
    throw new TuneError(
      "malformed-json",
      `The file is not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}.`,
      { at, fix: "fetch it again", cause },
    );
  }
  if (Array.isArray(list) && list.every(isJsonObject)) return list;
  throw new TuneError("malformed-json", "The file does not hold a list of modules.", { at, fix: "fetch it again" });
}

function unsupported(at: string, what: string): TuneError {
  return new TuneError("unsupported-module", `The model's embeddings need ${what}, which is not built.`, {
    at,
    fix: "use a model that pools by its first token (cls), mean, max or mean_sqrt_len_tokens, without further modules",
  });
}
