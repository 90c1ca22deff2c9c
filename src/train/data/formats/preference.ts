import type { ChatMessage, ChatTemplate } from "../../../io/chat-template.ts";
import type { JsonObject } from "../../../io/json.ts";
import { chatTemplateOf } from "../../../io/tokenizer.ts";
import { type EncodeContext, type EncodedRow, encodeConversation, encodePair } from "../encode.ts";
import { checkText, type DataFormat, kindOf } from "./format.ts";
import { checkMessages } from "./messages.ts";

/**
 * A prompt with a chosen and a rejected answer, as TRL takes them: all three text, or all three lists of messages. A
 * prompt that is not given is what both answers begin with. Rows with conversations and the prompt as text, as in
 * UltraFeedback, are taken too.
 */
export const preference: DataFormat = {
  name: "preference",
  kind: "pair",
  keys: ["chosen", "rejected"],
  optionalKeys: ["prompt", "tools"],
  example: '{"prompt": "…", "chosen": "…", "rejected": "… (or three lists of messages)"}',
  check: (row) => {
    const { prompt, chosen, rejected } = row;
    const [list, other] = [Array.isArray(chosen), Array.isArray(rejected)];
    if (list !== other) return `"chosen" is ${kindOf(chosen)}, but "rejected" is ${kindOf(rejected)}`;
    if (list) return checkConversations(row);
    if (prompt !== undefined && typeof prompt !== "string")
      return `"prompt" is ${kindOf(prompt)}, but "chosen" is ${kindOf(chosen)}`;
    return checkText(row, "chosen") ?? checkText(row, "rejected");
  },
  encoder: (context) => {
    let [plain, withTools]: (ChatTemplate | undefined)[] = [];
    return (row) => {
      if (!Array.isArray(row["chosen"])) return encodeTexts(row, context);
      const tools = row["tools"] as unknown[] | null | undefined; // handed on to the template
      if (tools == null) plain ??= chatTemplateOf(context.tokenizer);
      else withTools ??= chatTemplateOf(context.tokenizer, { tools: true });
      return encodeConversations(row, (tools == null ? plain : withTools) as ChatTemplate, context); // made above
    };
  },
};

function checkConversations({ prompt, chosen, rejected, tools }: JsonObject): string | undefined {
  const listed = (key: string, list: unknown): string | undefined => checkMessages(list)?.replaceAll("messages", key);
  if (prompt !== undefined && typeof prompt !== "string") {
    if (!Array.isArray(prompt)) return `"prompt" is ${kindOf(prompt)}, but "chosen" is a list`;
    // A prompt need not hold an answer: it is checked as if one followed.
    const what = listed("prompt", [...prompt, { role: "assistant", content: "…" }]);
    if (what !== undefined) return what;
  }
  if (tools !== undefined && tools !== null && !Array.isArray(tools)) return `"tools" is ${kindOf(tools)}, not a list`;
  return listed("chosen", chosen) ?? listed("rejected", rejected);
}

function encodeTexts({ prompt, chosen, rejected }: JsonObject, context: EncodeContext): EncodedRow {
  const [good, bad] = [String(chosen), String(rejected)];
  if (good === bad) return nothing;
  const start = prompt === undefined ? sharedStart(good, bad) : 0;
  const given = prompt === undefined ? good.slice(0, start) : String(prompt);
  const encoded = [good, bad].map((answer) => encodePair({ prompt: given, completion: answer.slice(start) }, context));
  return pairOf(encoded as [EncodedRow, EncodedRow]); // two of them
}

/** Where two texts begin to differ; a space before that belongs to what differs, as tokens do. */
function sharedStart(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length > 0 && a[length - 1] === " " ? length - 1 : length;
}

function encodeConversations(row: JsonObject, template: ChatTemplate, context: EncodeContext): EncodedRow {
  const { prompt, chosen, rejected, tools } = row as {
    prompt?: string | readonly ChatMessage[];
    chosen: readonly ChatMessage[];
    rejected: readonly ChatMessage[];
    tools?: readonly unknown[] | null;
  }; // as `check` has found
  const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
  if (same(chosen, rejected)) return nothing;
  let shared = 0;
  while (shared < Math.min(chosen.length, rejected.length) && same(chosen[shared], rejected[shared])) shared++;
  const given: readonly ChatMessage[] =
    typeof prompt !== "string"
      ? (prompt ?? [])
      : chosen.slice(0, shared).some(({ content }) => content === prompt) // they begin with it already
        ? []
        : [{ role: "user", content: prompt }];
  const encoded = [chosen, rejected].map((answer) =>
    encodeConversation(
      { messages: [...given, ...answer], first: given.length + shared, ...(tools == null ? {} : { tools }) },
      template,
      context,
    ),
  );
  return pairOf(encoded as [EncodedRow, EncodedRow]); // two of them
}

const nothing: EncodedRow = { ids: [], trained: new Uint8Array(), notes: ["no-preference"] };

function pairOf([chosen, rejected]: readonly [EncodedRow, EncodedRow]): EncodedRow {
  return { ...chosen, notes: [...new Set([...chosen.notes, ...rejected.notes])], against: [rejected] };
}
