/** A piece of a template: text between tags, a tag's border, or a word within one. */
export interface Token {
  readonly kind:
    | "text"
    | "open"
    | "close"
    | "print"
    | "endprint"
    | "name"
    | "string"
    | "integer"
    | "float"
    | "operator"
    | "end";
  readonly value: string;
  /** 1-based. */
  readonly line: number;
}

/** What Python's `\s` and `strip()` take for white space. */
export const whitespace = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/** What Python's `splitlines()` cuts at. */
export const lineBreak = "\\r\\n|[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]";
const space = new RegExp(`[${whitespace}]`);
const blank = new RegExp(`^[${whitespace}]*$`);

const tagStart =
  /\{%(?<raw>[-+]?[\s]*raw\s*(?:-%\}\s*|%\}))|\{%(?<block>[-+]?)|\{#(?<comment>[-+]?)|\{\{(?<print>[-+]?)/g;
const commentEnd = /\+#\}|-#\}\s*|#\}\n?/g;
const rawEnd = /\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}\s*|%\}\n?)/g;
const closers = { open: /(?:\+%\}|-%\}\s*|%\}\n?)/y, print: /(?:-\}\}\s*|\}\})/y } as const;

const words: readonly (readonly [Token["kind"], RegExp])[] = [
  ["float", /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/y],
  ["integer", /0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\da-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*/y],
  ["name", /[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*/uy],
  ["string", /'(?:[^'\\]|\\[\s\S])*'|"(?:[^"\\]|\\[\s\S])*"/y],
  ["operator", /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,]/y],
];

/** A text without the white space at its end, by as many steps as there is of it. */
function trimmed(text: string): string {
  let end = text.length;
  while (end > 0 && space.test(text[end - 1] ?? "")) end--;
  return text.slice(0, end);
}

const brackets: Readonly<Record<string, string>> = { ")": "(", "]": "[", "}": "{" };

/**
 * Cut a template into tokens as Jinja 3.1 does with `trim_blocks` and `lstrip_blocks`, which is how transformers sets it up.
 * @throws {SyntaxError} naming the line.
 */
export function lex(template: string): readonly Token[] {
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let [at, line, lineStarts] = [0, 1, true];
  const push = (kind: Token["kind"], value: string): void => void tokens.push({ kind, value, line });
  const pass = (end: number): void => {
    for (let i = at; i < end; i++) if (source[i] === "\n") line++;
    if (end > at) lineStarts = source[end - 1] === "\n";
    at = end;
  };
  const text = (end: number, sign: string, printed: boolean): void => {
    let kept = source.slice(at, end);
    if (sign === "-") kept = trimmed(kept);
    else if (sign !== "+" && !printed) {
      const start = kept.lastIndexOf("\n") + 1;
      if ((start > 0 || lineStarts) && blank.test(kept.slice(start))) kept = kept.slice(0, start);
    }
    if (kept !== "") push("text", kept);
    pass(end);
  };
  const find = (pattern: RegExp, what: string): RegExpExecArray => {
    pattern.lastIndex = at;
    const found = pattern.exec(source);
    if (found === null) throw new SyntaxError(`line ${line}: missing end of ${what}`);
    return found;
  };

  while (at < source.length) {
    tagStart.lastIndex = at;
    const found = tagStart.exec(source);
    if (found === null) {
      text(source.length, "+", false);
      break;
    }
    const { raw, block, comment, print } = found.groups ?? {};
    const sign = (raw ?? block ?? comment ?? print ?? "").slice(0, 1);
    text(found.index, /[-+]/.test(sign) ? sign : "", print !== undefined);
    pass(found.index + found[0].length);
    if (comment !== undefined) {
      const end = find(commentEnd, "comment");
      pass(end.index + end[0].length);
    } else if (raw !== undefined) {
      const end = find(rawEnd, "raw");
      text(end.index, end[1] ?? "", false);
      pass(end.index + end[0].length);
    } else {
      const kind = print === undefined ? "open" : "print";
      push(kind, kind);
      inside(kind);
    }
  }
  push("end", "");
  return tokens;

  function inside(kind: "open" | "print"): void {
    const open: string[] = [];
    for (;;) {
      const closer = closers[kind];
      closer.lastIndex = at;
      const closed = open.length === 0 ? closer.exec(source) : null;
      if (closed) {
        push(kind === "open" ? "close" : "endprint", closed[0]);
        pass(at + closed[0].length);
        return;
      }
      if (at >= source.length) throw new SyntaxError(`line ${line}: a tag is not closed`);
      if (/\s/.test(source[at] ?? "")) {
        pass(at + 1);
        continue;
      }
      word(open);
    }
  }

  function word(open: string[]): void {
    for (const [kind, pattern] of words) {
      if (kind === "float" && source[at - 1] === ".") continue;
      pattern.lastIndex = at;
      const [value] = pattern.exec(source) ?? [];
      if (value === undefined) continue;
      if (kind === "operator") {
        if ("([{".includes(value)) open.push(value);
        else if (brackets[value] !== undefined && open.pop() !== brackets[value])
          throw new SyntaxError(`line ${line}: unexpected "${value}"`);
      }
      push(kind, kind === "string" ? unescaped(value.slice(1, -1)) : value);
      pass(at + value.length);
      return;
    }
    throw new SyntaxError(`line ${line}: unexpected character ${JSON.stringify(source[at])}`);
  }
}

const escapes: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  b: "\b",
  f: "\f",
  v: "\v",
  a: "\x07",
  "'": "'",
  '"': '"',
  "\\": "\\",
  "\n": "",
};

/** Escapes of Python's strings; one that it does not know stays as it is. */
function unescaped(text: string): string {
  return text.replace(
    /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([\s\S]))/g,
    (all, octal, two, four, eight, other: string | undefined) => {
      if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
      const hex: string | undefined = two ?? four ?? eight;
      if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
      if (other === "N" || other === "x" || other === "u" || other === "U")
        throw new SyntaxError(`the escape ${all} is cut short, or not supported`);
      return escapes[other ?? ""] ?? all;
    },
  );
}
