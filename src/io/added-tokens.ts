import { TuneError } from "../errors.ts";
import { isJsonObject, type JsonObject } from "./json.ts";
import type { TextTokenizer } from "./tokenizer.ts";

/** The two files of a tokenizer that list its added tokens. */
export interface TokenizerJson {
  /** tokenizer.json */
  readonly tokenizer: JsonObject;
  /** tokenizer_config.json */
  readonly config: JsonObject;
}

/**
 * Add tokens to a tokenizer as transformers' `add_tokens` does: each is one token wherever it stands in a text. Those it
 * has already stay as they are. `known` is the tokenizer as it was.
 * @returns the files, and the ids of the tokens asked for.
 * @throws {TuneError} `bad-option` for tokens that are empty or named twice.
 */
export function addTokens(
  { tokenizer, config }: TokenizerJson,
  known: TextTokenizer,
  tokens: readonly string[],
): TokenizerJson & { readonly ids: readonly number[] } {
  if (tokens.some((token) => token.trim() === "") || new Set(tokens).size !== tokens.length) {
    throw new TuneError("bad-option", "A new token is empty, or named twice.", {
      at: `new tokens: ${tokens.join(", ")}`,
      fix: "name each once, such as <think>,</think>",
    });
  }
  let next = known.vocabSize;
  const ids = tokens.map((token) => known.idOf(token) ?? next++);
  const added = tokens.flatMap((content, i) => ((ids[i] ?? 0) < known.vocabSize ? [] : [{ id: ids[i], content }]));
  const how = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
  const before = Array.isArray(tokenizer["added_tokens"]) ? tokenizer["added_tokens"] : [];
  const decoder = config["added_tokens_decoder"];
  return {
    ids,
    tokenizer: { ...tokenizer, added_tokens: [...before, ...added.map((token) => ({ ...token, ...how }))] },
    config: isJsonObject(decoder)
      ? {
          ...config,
          added_tokens_decoder: {
            ...decoder,
            ...Object.fromEntries(added.map(({ id, content }) => [String(id), { content, ...how }])),
          },
        }
      : config,
  };
}
