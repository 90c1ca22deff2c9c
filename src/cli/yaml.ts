/** Far more than options take: characters, words and marks, and how deep lists and names may nest. */
const [longest, mostTokens, deepest] = [2 ** 20, 2 ** 13, 64];

/** What opens and closes a list or an object in brackets. */
const [opening, closing]: readonly ReadonlySet<string>[] = [
  new Set(["flow-seq-start", "flow-map-start"]),
  new Set(["flow-seq-end", "flow-map-end"]),
] as const;

/** What may open a list or an object on a line of its own. */
const indicators: ReadonlySet<string> = new Set(["seq-item-ind", "explicit-key-ind", "map-value-ind"]);

/**
 * Parse YAML (and so JSON) of a person's file, within bounds: yaml 2.9 takes minutes for
 * many keys or anchors, can end the process by brackets that stay open, and its aliases of aliases grow without end.
 * @throws {Error} saying what is wrong.
 */
export async function parseYaml(text: string): Promise<unknown> {
  if (text.length > longest) throw new Error(`it is longer than ${longest} characters`);
  const { CST, Lexer, parse } = await import("yaml");
  let [tokens, open, inLine, scalar] = [0, 0, 0, false];
  for (const source of new Lexer().lex(text)) {
    if (++tokens > mostTokens) throw new Error(`it has more than ${mostTokens} words and marks`);
    const kind = scalar ? "scalar" : (CST.tokenType(source) ?? "");
    scalar = source === CST.SCALAR;
    if (opening?.has(kind)) open++;
    else if (closing?.has(kind)) open = Math.max(0, open - 1);
    else if (kind === "newline") inLine = 0;
    else if (open > 0) continue;
    else if (indicators.has(kind)) inLine++;
    else if (kind === "space" && inLine === 0) inLine = source.length / 2; // an indentation; levels take two or more
    if (open > deepest || inLine > deepest) throw new Error(`it nests deeper than ${deepest} levels`);
  }
  return parse(text, { maxAliasCount: 100 });
}
