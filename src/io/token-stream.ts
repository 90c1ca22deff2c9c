import type { TextTokenizer } from "./tokenizer.ts";

/** Turns tokens into text as they arrive, holding back whatever may still change. */
export interface TokenStream {
  /** Add a token; returns the text that is now complete, often "". */
  push(id: number): string;
  /** The rest, once no token will follow: incomplete characters come out as U+FFFD. */
  end(): string;
}

/**
 * Start a stream of text from tokens. Special tokens are left out.
 * The pieces joined are what decoding all tokens at once gives. Where the tokenizer tidies spaces across tokens
 * (`clean_up_tokenization_spaces`) or a model writes broken UTF-8, a piece already given is not taken back.
 */
export function createTokenStream(tokenizer: TextTokenizer): TokenStream {
  // Decoding depends on what stands before (a leading space is stripped), so each piece is the difference
  // between the recent tokens with and without the new ones; recent ones start with those of the piece before.
  let recent: number[] = [];
  let given = 0;
  const decode = (count: number): string => tokenizer.decode(recent.slice(0, count), { skipSpecialTokens: true });

  const take = (unfinished: boolean): string => {
    const before = decode(given);
    const text = decode(recent.length);
    if (text.length <= before.length || (unfinished && text.endsWith("\uFFFD"))) return "";
    recent = recent.slice(given);
    given = recent.length;
    return text.slice(before.length);
  };

  return {
    push: (id) => {
      recent.push(id);
      return take(true);
    },
    end: () => take(false),
  };
}
