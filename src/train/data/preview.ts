import type { TextTokenizer } from "../../io/tokenizer.ts";
import type { TokenizedExample } from "./tokenize.ts";

/** What stands around the trained parts of a preview. */
export interface PreviewMarks {
  readonly open: string;
  readonly close: string;
}

/**
 * An example as text with its trained parts between marks, special tokens included: `<s> 2+2=⟦4</s>⟧`.
 * Where a border falls inside a character, the mark stands before that character.
 */
export function previewExample(
  { inputIds, trained }: Pick<TokenizedExample, "inputIds" | "trained">,
  tokenizer: TextTokenizer,
  { open, close }: PreviewMarks = { open: "⟦", close: "⟧" },
): string {
  const text = tokenizer.decode(inputIds);
  let marked = "";
  let written = 0;
  for (let i = 0; i <= inputIds.length; i++) {
    const before = i > 0 && trained[i - 1] === 1;
    const here = i < inputIds.length && trained[i] === 1;
    if (before === here) continue;
    const end = sharedLength(tokenizer.decode(inputIds.subarray(0, i)), text);
    marked += text.slice(written, end) + (here ? open : close);
    written = end;
  }
  return marked + text.slice(written);
}

function sharedLength(prefix: string, text: string): number {
  let length = 0;
  while (length < prefix.length && prefix[length] === text[length]) length++;
  return length;
}
