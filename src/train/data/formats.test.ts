import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { loadTokenizer, type TextTokenizer } from "../../io/tokenizer.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import type { EncodedRow } from "./encode.ts";
import { dataFormats, inspectKeys } from "./formats.ts";

const folder = fileURLToPath(new URL("../../../assets/quickstart/model", import.meta.url));

describe("formats of other tools", () => {
  let tokenizer: TextTokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(nodeStorage, folder);
  });
  const encode = (value: Record<string, unknown>, with_: TextTokenizer = tokenizer): EncodedRow => {
    const { format, problems } = inspectKeys([{ line: 1, value: value as never }], dataFormats);
    expect(problems).toEqual([]);
    const problem = format?.check(value as never);
    if (problem !== undefined || !format) throw new Error(problem ?? "no format");
    return format.encoder({ tokenizer: with_, appendEos: true })(value as never);
  };
  const chat = (...turns: readonly [string, string][]): Record<string, unknown> => ({
    messages: turns.map(([role, content]) => ({ role, content })),
  });

  it("ShareGPT says what messages say", () => {
    const conversations = [
      { from: "system", value: "be kind" },
      { from: "human", value: "hi" },
      { from: "gpt", value: "hello" },
    ];
    const same = chat(["system", "be kind"], ["user", "hi"], ["assistant", "hello"]);
    expect(encode({ conversations })).toEqual(encode(same));
    expect(encode({ conversations: conversations.slice(1), system: "be kind", id: "7" })).toEqual(encode(same));
    expect(() => encode({ conversations: [{ from: "alien", value: "?" }] })).toThrow(
      /from "alien"; known: system, human/,
    );
    expect(() => encode({ conversations: [{ from: "human", value: "hi" }] })).toThrow("nothing to learn");
    expect(() => encode({ conversations: [{ from: "gpt", value: 3 }] })).toThrow(
      "conversations[0].content is a number",
    );
  });

  it("Alpaca is a conversation where the model has a chat template", () => {
    const row = { instruction: "add", input: "1 2", output: "3" };
    expect(encode(row)).toEqual(encode(chat(["user", "add\n1 2"], ["assistant", "3"])));
    expect(encode({ ...row, input: "", text: "all of it" })).toEqual(encode(chat(["user", "add"], ["assistant", "3"])));
    const long = { ...row, input: "", system: "count", history: [["one", "1"]] };
    const turns = chat(["system", "count"], ["user", "one"], ["assistant", "1"], ["user", "add"], ["assistant", "3"]);
    expect(encode(long)).toEqual(encode(turns));
    expect(() => encode({ ...row, history: ["one"] })).toThrow("pairs of a question and an answer");
    expect(() => encode({ ...row, output: " " })).toThrow('"output" is empty');
  });

  it("and Alpaca's own prompt where it has none", () => {
    const plain = { ...tokenizer, chatTemplates: new Map(), encode: tokenizer.encode.bind(tokenizer) } as TextTokenizer;
    const { ids, trained } = encode({ instruction: "add", input: "1 2", output: "3" }, plain);
    const text = tokenizer.decode(ids.filter((_, i) => trained[i] === 0));
    expect(text).toContain("paired with an input that provides further context.");
    expect(text).toMatch(/### Instruction:\nadd\n\n### Input:\n1 2\n\n### Response:/);
  });
});
