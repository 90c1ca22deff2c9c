import { TuneError } from "../errors.ts";

/** A piece of graph text: a bare word, a quoted string (already unquoted), a mark such as `(` or `::`, or the end. */
export interface Token {
  readonly kind: "word" | "string" | "mark" | "end";
  readonly text: string;
  readonly start: number;
}

/** A cursor over the pieces of a text. */
export interface Tokens {
  /** The piece ahead, left where it is. */
  peek(): Token;
  next(): Token;
  /** Step over a mark if it is ahead. */
  take(mark: string): boolean;
  /** Step over a bare word if it is ahead. */
  takeWord(word: string): boolean;
  /** Step over a mark or word that must be ahead. */
  expect(text: string): void;
  /** Read `open item, item close`, calling `item` at the start of each. */
  list(open: string, close: string, item: () => void): void;
  /** Check that nothing is left. */
  end(): void;
  /** An error that names the line of a piece. */
  error(token: Token, what: string, fix?: string): TuneError;
  /** Throw that error. */
  fail(token: Token, what: string): never;
}

// White space and `#` comments, then one piece. A string ends on its own line.
const piece = /(?:\s|#[^\n]*)*(?:([\w./+*-]+)|("(?:[^"\\\n]|\\.)*")|(::|[()[\]{}:,=@]))?/y;

/** Cut graph text into pieces, one at a time. @throws {TuneError} `graph-text` at a character no piece begins with. */
export function tokenise(text: string): Tokens {
  let at = 0;
  const error = (token: Token, what: string, fix?: string): TuneError =>
    new TuneError("graph-text", what, {
      at: `line ${text.slice(0, token.start).split("\n").length}`,
      ...(fix !== undefined && { fix }),
    });
  const fail = (token: Token, what: string): never => {
    throw error(token, what);
  };
  const scan = (): Token => {
    piece.lastIndex = at;
    const [all = "", word, string, mark] = piece.exec(text) ?? [];
    at += all.length;
    if (word !== undefined) return { kind: "word", text: word, start: at - word.length };
    if (mark !== undefined) return { kind: "mark", text: mark, start: at - mark.length };
    if (string !== undefined) return unquote(string, at - string.length);
    const end: Token = { kind: "end", text: text.charAt(at), start: at };
    return at < text.length ? fail(end, `${JSON.stringify(end.text)} does not belong here.`) : end;
  };
  const unquote = (string: string, start: number): Token => {
    try {
      return { kind: "string", text: String(JSON.parse(string)), start };
    } catch {
      return fail({ kind: "string", text: string, start }, `${string} is not a string as JSON writes it.`);
    }
  };

  let ahead = scan();
  const next = (): Token => {
    const token = ahead;
    if (token.kind !== "end") ahead = scan();
    return token;
  };
  const takeIf = (kind: Token["kind"], wanted: string): boolean => {
    if (ahead.kind !== kind || ahead.text !== wanted) return false;
    next();
    return true;
  };
  const expect = (wanted: string): void => {
    if (takeIf("mark", wanted) || takeIf("word", wanted)) return;
    fail(ahead, `expected "${wanted}", found ${ahead.kind === "end" ? "the end" : JSON.stringify(ahead.text)}.`);
  };
  return {
    peek: () => ahead,
    next,
    take: (mark) => takeIf("mark", mark),
    takeWord: (word) => takeIf("word", word),
    expect,
    list: (open, close, item) => {
      expect(open);
      if (takeIf("mark", close)) return;
      do item();
      while (takeIf("mark", ","));
      expect(close);
    },
    end: () => {
      if (ahead.kind !== "end") fail(ahead, `${JSON.stringify(ahead.text)} comes after the end of the graph.`);
    },
    error,
    fail,
  };
}
