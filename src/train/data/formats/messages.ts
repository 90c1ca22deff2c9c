import type { ChatMessage, ChatTemplate } from "../../../io/chat-template.ts";
import { isJsonObject } from "../../../io/json.ts";
import { chatTemplateOf } from "../../../io/tokenizer.ts";
import { encodeConversation } from "../encode.ts";
import { type DataFormat, kindOf } from "./format.ts";

/** Conversations as OpenAI, TRL and transformers write them. */
export const messages: DataFormat = {
  name: "messages",
  keys: ["messages"],
  optionalKeys: ["tools"],
  example: '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
  check: (row) => checkMessages(row["messages"]) ?? checkTools(row["tools"]),
  encoder: (context) => {
    const plain = chatTemplateOf(context.tokenizer);
    let withTools: ChatTemplate | undefined;
    return (row) => {
      // `check` has found these to be lists of messages and of schemas.
      const conversation = row as { messages: ChatMessage[]; tools?: unknown[] | null };
      const { tools } = conversation;
      if (tools == null) return encodeConversation({ messages: conversation.messages }, plain, context);
      withTools ??= chatTemplateOf(context.tokenizer, { tools: true });
      return encodeConversation({ messages: conversation.messages, tools }, withTools, context);
    };
  },
};

/** What is wrong with a list of messages. */
export function checkMessages(list: unknown): string | undefined {
  if (!Array.isArray(list)) return `"messages" is ${kindOf(list)}, not a list`;
  if (list.length === 0) return '"messages" is empty';
  for (const [i, message] of list.entries()) {
    const at = `messages[${i}]`;
    if (!isJsonObject(message)) return `${at} is ${kindOf(message)}, not an object`;
    const { role, content, tool_calls } = message;
    if (typeof role !== "string" || role === "") return `${at} has no "role"`;
    const calls = Array.isArray(tool_calls) && tool_calls.length > 0;
    if (calls && (content === undefined || content === null)) continue;
    if (typeof content !== "string") return `${at}.content is ${kindOf(content)}, not text`;
    if (role === "assistant" && content.trim() === "" && !calls) return `${at}.content is empty`;
  }
  const answered = list.some((message: unknown) => isJsonObject(message) && message["role"] === "assistant");
  return answered ? undefined : 'no message has the role "assistant", so there is nothing to learn';
}

function checkTools(tools: unknown): string | undefined {
  return tools === undefined || tools === null || Array.isArray(tools)
    ? undefined
    : `"tools" is ${kindOf(tools)}, not a list`;
}
