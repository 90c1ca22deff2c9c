import type { ChatMessage, ChatTemplate } from "../../../io/chat-template.ts";
import { parseExactJson } from "../../../io/exact-json.ts";
import { isJsonObject, type JsonObject } from "../../../io/json.ts";
import { chatTemplateOf } from "../../../io/tokenizer.ts";
import { type EncodeContext, type EncodedRow, encodeConversation } from "../encode.ts";
import { kindOf } from "./format.ts";

/** Messages and tools as templates take them, from what data makes of them, and which of the messages are trained. */
export interface Conversation {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly unknown[];
  /** The first message that may be trained; 0 unless given. */
  readonly first?: number;
}

/** What is wrong with a list of messages; `needsAnswer` unless it is a prompt. */
export function checkMessages(list: unknown, name = "messages", needsAnswer = true): string | undefined {
  if (!Array.isArray(list)) return `"${name}" is ${kindOf(list)}, not a list`;
  if (list.length === 0) return `"${name}" is empty`;
  for (const [i, message] of list.entries()) {
    const problem = checkMessage(message, `${name}[${i}]`);
    if (problem !== undefined) return problem;
  }
  if (!needsAnswer) return undefined;
  const answers = list.filter(
    (message): message is JsonObject => isJsonObject(message) && message["role"] === "assistant",
  );
  if (answers.length === 0) return 'no message has the role "assistant", so there is nothing to learn';
  const said = answers.filter((message) => !isEmpty(message));
  if (said.length === 0) return `${name}[${list.indexOf(answers[0])}].content is empty`;
  return said.some(isTrained) ? undefined : "every assistant turn has weight 0, so there is nothing to learn";
}

function checkMessage(message: unknown, at: string): string | undefined {
  if (!isJsonObject(message)) return `${at} is ${kindOf(message)}, not an object`;
  const { role, content } = message;
  if (typeof role !== "string" || role === "") return `${at} has no "role"`;
  const marks = checkMarks(message, at);
  if (marks !== undefined) return marks;
  const calls = message["tool_calls"];
  if (calls !== undefined && calls !== null && !Array.isArray(calls))
    return `${at}.tool_calls is ${kindOf(calls)}, not a list`;
  if (Array.isArray(content)) return checkParts(content, at);
  if (typeof content === "string") return undefined;
  const missing = content === undefined || content === null;
  return missing && hasCalls(message) ? undefined : `${at}.content is ${kindOf(content)}, not text`;
}

/** `weight` is OpenAI's: 0 or 1. `train` is axolotl's: true or false. */
function checkMarks(message: JsonObject, at: string): string | undefined {
  const { role, weight, train } = message;
  const number = weight === undefined || weight === null ? undefined : Number(weight);
  if (
    number !== undefined &&
    (typeof weight === "string" || typeof weight === "boolean" || (number !== 0 && number !== 1))
  )
    return `${at}.weight is ${JSON.stringify(weight)}; it must be 0 or 1`;
  if (train !== undefined && train !== null && typeof train !== "boolean")
    return `${at}.train is ${JSON.stringify(train)}; it must be true or false`;
  if (number !== undefined && typeof train === "boolean" && (number === 1) !== train)
    return `${at} has weight ${number} and train ${train}, which contradict each other`;
  if (role !== "assistant" && (number === 1 || train === true))
    return `${at} is to be trained, but only turns of the assistant are`;
  return undefined;
}

function checkParts(parts: readonly unknown[], at: string): string | undefined {
  for (const [i, part] of parts.entries()) {
    if (!isJsonObject(part))
      return `${at}.content[${i}] is ${kindOf(part)}, not a part such as {"type": "text", "text": "…"}`;
    const { type } = part;
    if (type !== "text")
      return `${at}.content[${i}] is of type ${JSON.stringify(type ?? null)}, but models here read text alone`;
    if (typeof part["text"] !== "string") return `${at}.content[${i}].text is ${kindOf(part["text"])}, not text`;
  }
  return undefined;
}

/** What is wrong with tools: a list of schemas, or one written as JSON. */
export function checkTools(tools: unknown): string | undefined {
  if (tools === undefined || tools === null || Array.isArray(tools)) return undefined;
  if (typeof tools !== "string") return `"tools" is ${kindOf(tools)}, not a list`;
  if (tools.trim() === "") return undefined; // how tables write that there are none
  return Array.isArray(parsed(tools)) ? undefined : '"tools" is text that is no JSON list';
}

/** Messages as templates take them: parts of text joined, marks of training taken off. */
export function asMessages(list: unknown): readonly (ChatMessage & { readonly content?: unknown })[] {
  return (list as readonly ChatMessage[]).map(({ weight: _weight, train: _train, ...message }) =>
    Array.isArray(message.content)
      ? { ...message, role: message.role, content: joinParts(message.content) }
      : { ...message, role: message.role },
  ); // `checkMessages` has looked
}

/** Tools as templates take them; undefined when there are none. */
export function asTools(tools: unknown): readonly unknown[] | undefined {
  if (typeof tools !== "string") return (tools as readonly unknown[] | null | undefined) ?? undefined; // `checkTools` has looked
  return tools.trim() === "" ? undefined : (parsed(tools) as readonly unknown[]);
}

/** Which messages are trained: answers that say something, but for those of weight 0. */
export function trainedOf(list: unknown): readonly boolean[] {
  return (list as readonly JsonObject[]).map((message) => isTrained(message) && !isEmpty(message)); // checked
}

/** Whether some answers are left untrained, and why: `unweighted` by a mark, `empty` for they say nothing. */
export function untrainedNotes(list: unknown): EncodedRow["notes"] {
  const answers = (list as readonly JsonObject[]).filter(({ role }) => role === "assistant"); // checked
  return [
    ...(answers.some((message) => !isTrained(message)) ? (["weight-zero"] as const) : []),
    ...(answers.some(isEmpty) ? (["empty-turns"] as const) : []),
  ];
}

/**
 * Get ready to encode conversations in the model's template, or in the one for tools where there are some. Arguments of
 * calls that are written as JSON are given to the template as what they say, as transformers asks for; to a template that
 * cannot take that, as they stand.
 */
export function conversationEncoder(
  context: EncodeContext,
): (conversation: Conversation, trained: readonly boolean[]) => EncodedRow {
  let [plain, withTools]: (ChatTemplate | undefined)[] = [];
  return (conversation, trained) => {
    if (conversation.tools === undefined) plain ??= chatTemplateOf(context.tokenizer);
    else withTools ??= chatTemplateOf(context.tokenizer, { tools: true });
    const template = (conversation.tools === undefined ? plain : withTools) as ChatTemplate; // made above
    const { messages } = conversation;
    const decoded = messages.map(withDecodedArguments);
    if (decoded.every((message, i) => message === messages[i]))
      return encodeConversation({ ...conversation, trained }, template, context);
    try {
      return encodeConversation({ ...conversation, messages: decoded, trained }, template, context);
    } catch (error) {
      try {
        return encodeConversation({ ...conversation, trained }, template, context);
      } catch {
        throw error;
      }
    }
  };
}

function withDecodedArguments(message: ChatMessage): ChatMessage {
  const calls = message["tool_calls"];
  if (!Array.isArray(calls)) return message;
  const decoded = calls.map((call: unknown) => {
    if (!isJsonObject(call)) return call;
    const { function: called } = call;
    if (isJsonObject(called) && typeof called["arguments"] === "string") {
      const value = parsed(called["arguments"]);
      return isJsonObject(value) ? { ...call, function: { ...called, arguments: value } } : call;
    }
    const value = typeof call["arguments"] === "string" ? parsed(call["arguments"]) : undefined;
    return isJsonObject(value) ? { ...call, arguments: value } : call;
  });
  return decoded.every((call, i) => call === calls[i]) ? message : { ...message, tool_calls: decoded };
}

function isTrained({ role, weight, train }: JsonObject): boolean {
  return role === "assistant" && train !== false && (weight === undefined || weight === null || Number(weight) !== 0);
}

function isEmpty(message: JsonObject): boolean {
  if (hasCalls(message)) return false;
  const { content } = message;
  const said = Array.isArray(content) ? joinParts(content) : content;
  const thought = message["reasoning_content"];
  return typeof said === "string" && said.trim() === "" && !(typeof thought === "string" && thought.trim() !== "");
}

function hasCalls({ tool_calls: calls }: JsonObject): boolean {
  return Array.isArray(calls) && calls.length > 0;
}

function joinParts(parts: readonly unknown[]): string {
  return parts.map((part) => (isJsonObject(part) ? String(part["text"]) : "")).join("");
}

function parsed(text: string): unknown {
  try {
    return parseExactJson(text);
  } catch {
    return undefined;
  }
}
