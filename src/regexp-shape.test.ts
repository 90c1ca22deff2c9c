import { describe, expect, it } from "vitest";
import { slowShape } from "./regexp-shape.ts";

/** What tokenizers of published models split texts by, as the library spells it for JavaScript. */
const published: Readonly<Record<string, string>> = {
  "GPT-2, RoBERTa, Whisper": `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`,
  "Llama 3, Qwen 2, GLM 4": `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  "GPT-4o, Phi-4, Mistral's Tekken": `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?:'[sS]|'[tT])?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  "DeepSeek 3": `[!"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_\`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  "OLMo 2, digits from the right": `\\d{1,3}(?=(?:\\d{3})*\\b)`,
  "SmolLM 3, digits from the right": `(?=(\\d{3})+(?!\\d))`,
  CLIP: `<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+`,
  "Falcon, XLNet": `[0-9][0-9][0-9]| {2,}`,
  "rounds that begin with a mark": `(?:\\.\\w+)*`,
  "rounds that end with one": `(?:\\d+,)*x`,
};

describe("shapes of regular expressions", () => {
  it.each(Object.entries(published))("%s cannot take long", (_name, source) => {
    expect(slowShape(new RegExp(source, "gu"))).toBeUndefined();
  });

  it.each([
    ...["(a+)+$", "(\\s|  )*x", ".*.*.*x", "(a|a)*b", "(?=(a+)+b)x", "(\\w+\\s?)*z", "(a|aa)+$", "(x?){50}x{50}y"],
    ...["(?:a{0,30}){0,30}b", "(a{1,5})*(a{1,5})*b", `${"a?".repeat(25)}a{25}`, "(\\p{L}|\\p{Lu})+[0-9]", "(?:.*)*x"],
    ...["a*a*b", "(\\p{L}+)*\\d", "(a*)\\1*b", "\\w*\\d*\\w*!", "(?:\\w*|x)+!", "(?:a(?!b)|\\w)*c", "(?:a{1,9})*b"],
    ...["([a-z]+)*(?=\\d)", "(?:(?:a|b)+)+c", `${"(".repeat(60)}a${")".repeat(60)}`],
  ])("%s might", (source) => {
    expect(slowShape(new RegExp(source, "gu"))).toBeTypeOf("string");
  });
});
