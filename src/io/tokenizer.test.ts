import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { byteLevelFile, byteLevelTokenizer } from "../../tests/fixtures/byte-level-tokenizer.ts";
import { TuneError } from "../errors.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { memoryStorage } from "./memory-storage.ts";
import { createTokenStream } from "./token-stream.ts";
import { chatTemplateOf, createTokenizer, loadTokenizer, type TextTokenizer } from "./tokenizer.ts";

const shared = fileURLToPath(new URL("../../../shared/models", import.meta.url));

const failure = async (run: () => unknown): Promise<TuneError> => {
  try {
    await run();
  } catch (error) {
    if (error instanceof TuneError) return error;
    throw error;
  }
  throw new Error("expected a TuneError");
};

const streamed = (tokenizer: TextTokenizer, ids: number[]): string[] => {
  const stream = createTokenStream(tokenizer);
  return [...ids.map((id) => stream.push(id)), stream.end()];
};

describe("a byte-level tokenizer", () => {
  test("encodes, decodes and knows its special tokens", () => {
    const tokenizer = byteLevelTokenizer({ eos_token: { content: "<|im_end|>" }, pad_token: "<|endoftext|>" });
    expect(tokenizer.vocabSize).toBe(262);
    expect(tokenizer.encode("hello w<|im_end|>")).toEqual([258, 111, 259, 261]);
    expect(tokenizer.decode([258, 111, 259, 261])).toBe("hello w<|im_end|>");
    expect(tokenizer.decode([258, 111, 259, 261], { skipSpecialTokens: true })).toBe("hello w");
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([5000, 258])).toBe("hell");
    expect(tokenizer.decode(tokenizer.encode("a , b . é😀"))).toBe("a , b . é😀");
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId]).toEqual([undefined, 261, 260]);
    expect(tokenizer.tokenOf(258)).toBe("hell");
    expect(tokenizer.tokenOf(5000)).toBeUndefined();
  });

  test("takes the tokens that end generation from the first file that lists them", () => {
    const config = { eos_token: "<|im_end|>" };
    const idSources = [{ eos_token_id: [261, 260] }, { eos_token_id: 7, bos_token_id: 260 }];
    const tokenizer = byteLevelTokenizer(config, { idSources });
    expect(tokenizer.eosIds).toEqual([261, 260]);
    expect(tokenizer.bosId).toBe(260);
    expect(tokenizer.specialTokens).toEqual({ eos_token: "<|im_end|>", bos_token: "<|endoftext|>" });
    expect(byteLevelTokenizer({}, { idSources }).eosId).toBe(261);
    expect(byteLevelTokenizer().eosIds).toEqual([]);
  });

  test("tidies spaces only where the config says so", () => {
    const ids = byteLevelTokenizer().encode("a , b .");
    expect(byteLevelTokenizer({ clean_up_tokenization_spaces: true }).decode(ids)).toBe("a, b.");
    expect(byteLevelTokenizer().decode(ids)).toBe("a , b .");
  });

  test("streams whole characters only", () => {
    const tokenizer = byteLevelTokenizer();
    const ids = tokenizer.encode("hé 😀!");
    expect(ids).toHaveLength(9);
    expect(streamed(tokenizer, ids)).toEqual(["h", "", "é", " ", "", "", "", "😀", "!", ""]);
    expect(streamed(tokenizer, ids.slice(0, 6)).join("")).toBe("hé \uFFFD");
    expect(streamed(tokenizer, [258, 260, 259])).toEqual(["hell", "", " w", ""]);
  });

  test("says which piece the vocabulary lacks", async () => {
    const file = byteLevelFile();
    const model = { type: "BPE", vocab: { a: 0 }, merges: [], unk_token: "<unk>", ignore_merges: false };
    const tokenizer = createTokenizer({ tokenizer: { ...file, model, pre_tokenizer: null } });
    const error = await failure(() => tokenizer.encode("ab"));
    expect(error.code).toBe("text-not-encodable");
    expect(error.message).toContain('"<unk>"');
  });
});

describe("loading a folder", () => {
  const tokenizerJson = JSON.stringify(byteLevelFile());

  test("finds templates in the config, as text or by name, and in files of their own", async () => {
    const templatesOf = async (files: Record<string, string>): Promise<[string, string][]> => {
      const inFolder = Object.entries(files).map(([name, text]) => [`m/${name}`, text]);
      const storage = memoryStorage({ "m/tokenizer.json": tokenizerJson, ...Object.fromEntries(inFolder) });
      return [...(await loadTokenizer(storage, "m")).chatTemplates].sort();
    };
    const config = (chat_template: unknown): Record<string, string> => ({
      "tokenizer_config.json": JSON.stringify({ chat_template }),
    });
    expect(await templatesOf({})).toEqual([]);
    expect(await templatesOf(config("A"))).toEqual([["default", "A"]]);
    const named = [
      { name: "default", template: "A" },
      { name: "tool_use", template: "B" },
    ];
    expect(await templatesOf(config(named))).toEqual([
      ["default", "A"],
      ["tool_use", "B"],
    ]);
    expect(await templatesOf({ "chat_template.json": '{"chat_template": "C"}' })).toEqual([["default", "C"]]);
    const files = { ...config("A"), "chat_template.jinja": "D", "additional_chat_templates/rag.jinja": "E" };
    expect(await templatesOf(files)).toEqual([
      ["default", "D"],
      ["rag", "E"],
    ]);
  });

  test("chooses the template for tools, and says what to do without one", async () => {
    const chat_template = [
      { name: "default", template: "plain" },
      { name: "tool_use", template: "tools" },
    ];
    const text = (tokenizer: TextTokenizer, tools: boolean): string =>
      chatTemplateOf(tokenizer, { tools }).render([], { addGenerationPrompt: true });
    expect(text(byteLevelTokenizer({ chat_template }), false)).toBe("plain");
    expect(text(byteLevelTokenizer({ chat_template }), true)).toBe("tools");
    const none = await failure(() => chatTemplateOf(byteLevelTokenizer()));
    expect(none.code).toBe("no-chat-template");
    expect(none.message).toContain("chat_template.jinja");
    const other = await failure(() =>
      chatTemplateOf(byteLevelTokenizer({ chat_template: [{ name: "rag", template: "" }] })),
    );
    expect(other.message).toContain("only rag");
  });

  test("refuses what it cannot use, with a code", async () => {
    const code = async (files: Record<string, string>): Promise<string> =>
      (await failure(() => loadTokenizer(memoryStorage(files), "m"))).code;
    expect(await code({ "m/config.json": "{}" })).toBe("tokenizer-not-found");
    expect(await code({ "m/tokenizer.json": "{" })).toBe("malformed-json");
    expect(await code({ "m/tokenizer.json": "{}" })).toBe("malformed-tokenizer");
    expect(await code({ "m/tokenizer.json": '{"model": {"type": "Novel"}}' })).toBe("malformed-tokenizer");
    const good = { "m/tokenizer.json": tokenizerJson };
    expect(await code({ ...good, "m/tokenizer_config.json": "[]" })).toBe("malformed-json");
    expect(await code({ ...good, "m/tokenizer_config.json": '{"chat_template": 7}' })).toBe("malformed-chat-template");
  });
});

// Ids and texts are those of Hugging Face's tokenizers (Rust) for the same files.
describe.skipIf(!existsSync(shared))("real tokenizers (skipped where ../shared is absent)", () => {
  const emoji = "Tom said: é 😀\nOk </s>";

  test("stories260k: BPE with byte fallback", async () => {
    const tokenizer = await loadTokenizer(nodeStorage, `${shared}/stories260k`);
    expect([tokenizer.vocabSize, tokenizer.bosId, tokenizer.eosId, tokenizer.eosIds]).toEqual([512, 1, 2, [2]]);
    expect(tokenizer.encode("Once upon a time")).toEqual([1, 403, 407, 261, 378]);
    const ids = [1, 274, 287, 336, 467, 410, 485, 410, 243, 162, 155, 131, 13, 441, 433, 2];
    expect(tokenizer.encode(emoji)).toEqual(ids);
    expect(tokenizer.encode("  two  spaces ")).toEqual([1, 259, 424, 414, 262, 427, 412, 331, 419]);
    expect(tokenizer.encode("Once upon a time", { addSpecialTokens: false })).toEqual([403, 407, 261, 378]);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("Tom said: é 😀\nOk");
    const pieces = streamed(tokenizer, ids);
    expect(pieces.join("")).toBe("Tom said: é 😀\nOk");
    expect(pieces.slice(0, 3)).toEqual(["", "T", "om"]);
    expect(pieces.join("|")).toContain("||||😀|\n|");
  });

  test("babyllama-tok105: characters, no newline", async () => {
    const tokenizer = await loadTokenizer(nodeStorage, `${shared}/babyllama-tok105`);
    const ids = [1, 3, 27, 7, 16, 3, 12, 5, 10, 11, 60, 3, 78, 3, 0, 34, 26, 2];
    expect(tokenizer.vocabSize).toBe(105);
    expect(tokenizer.encode(emoji)).toEqual(ids);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("Tom said: é Ok");
    expect(streamed(tokenizer, ids).join("")).toBe("Tom said: é Ok");
  });
});
