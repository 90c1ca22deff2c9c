import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { type ChatMessage, compileChatTemplate } from "../../io/chat-template.ts";
import { loadTokenizer, type TextTokenizer } from "../../io/tokenizer.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { encodeConversation } from "./encode.ts";

/*
 * What `{% generation %}` marks becomes the same tokens as in transformers 5.18 (`return_assistant_tokens_mask`), whose masks
 * tests/golden/make_generation_masks.py writes down.
 */

interface Golden {
  readonly templates: Readonly<Record<string, string>>;
  readonly conversations: readonly (readonly ChatMessage[])[];
  readonly rows: readonly {
    readonly template: string;
    readonly conversation: number;
    readonly ids: readonly number[];
    readonly mask: readonly number[];
  }[];
}
const path = fileURLToPath(new URL("../../../tests/golden/generation-masks.json", import.meta.url));
const golden = JSON.parse(readFileSync(path, "utf8")) as Golden; // a golden

let tokenizer: TextTokenizer;
beforeAll(async () => {
  const folder = fileURLToPath(new URL("../../../assets/quickstart/model", import.meta.url));
  tokenizer = await loadTokenizer(nodeStorage, folder);
});

/** Whether tokens end within a character. */
const isPart = (ids: readonly number[]): boolean => tokenizer.decode(ids).endsWith("\uFFFD");

describe.each(Object.entries(golden.templates))("a template that marks: %s", (name, source) => {
  it.each(golden.rows.filter(({ template }) => template === name))("conversation $conversation", (row) => {
    const template = compileChatTemplate(source, tokenizer.specialTokens);
    const messages = golden.conversations[row.conversation] ?? [];
    expect(row.mask).toContain(1);
    const { ids, trained } = encodeConversation({ messages }, template, { tokenizer, appendEos: true });
    expect(ids).toEqual(row.ids);
    const mask = [0, ...row.mask.slice(1)]; // nothing stands before the first to learn it from
    // Of a last character of several tokens transformers marks the first alone; the rest are as much of the answer.
    for (let i = 1; i < mask.length; i++)
      if (mask[i - 1] === 1 && isPart(ids.slice(0, i)) && !isPart(ids.slice(0, i + 1))) mask[i] = 1;
    expect([...trained]).toEqual(mask);
  });
});

it("every template and conversation has its masks", () => {
  expect(golden.rows).toHaveLength(Object.keys(golden.templates).length * golden.conversations.length);
});
