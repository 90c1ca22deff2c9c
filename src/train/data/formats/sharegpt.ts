import type { ChatMessage } from "../../../io/chat-template.ts";
import { isJsonObject } from "../../../io/json.ts";
import { checkMessages, checkTools } from "./conversation.ts";
import { type DataFormat, kindOf } from "./format.ts";
import { messages } from "./messages.ts";

/** Who speaks, in the words of ShareGPT and of those who wrote data like it. */
const roles: Readonly<Record<string, string>> = {
  system: "system",
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  bing: "assistant",
  bard: "assistant",
  model: "assistant",
  assistant: "assistant",
  observation: "tool",
  function_response: "tool",
  tool: "tool",
};

/** Conversations in ShareGPT's keys. Turns of roles and contents, as others write under the same key, are taken too. */
export const shareGpt: DataFormat = {
  name: "sharegpt",
  keys: ["conversations"],
  optionalKeys: ["id", "system", "tools"],
  example: '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}',
  check: ({ conversations, system, tools }) => {
    if (!Array.isArray(conversations)) return `"conversations" is ${kindOf(conversations)}, not a list`;
    if (typeof system !== "string" && system !== undefined && system !== null)
      return `"system" is ${kindOf(system)}, not text`;
    for (const [i, turn] of conversations.entries()) {
      if (!isJsonObject(turn)) return `conversations[${i}] is ${kindOf(turn)}, not an object`;
      const { from, role = from } = turn;
      if (typeof role !== "string") return `conversations[${i}] does not say who speaks ("from")`;
      if (!Object.hasOwn(roles, role))
        return `conversations[${i}] is from "${role}"; known: ${Object.keys(roles).join(", ")}`;
    }
    return checkMessages(turnsOf(conversations, system), "conversations") ?? checkTools(tools);
  },
  encoder: (context) => {
    const encode = messages.encoder(context);
    return ({ conversations, system, tools }) =>
      encode({
        messages: turnsOf(conversations as readonly unknown[], system),
        ...(tools === undefined ? {} : { tools }),
      }); // checked
  },
};

function turnsOf(conversations: readonly unknown[], system: unknown): ChatMessage[] {
  // What else a turn says (axolotl's `train`, OpenAI's `weight`, calls of tools) stays.
  const turns = conversations.filter(isJsonObject).map(({ from, role = from, value, content = value, ...rest }) => ({
    ...rest,
    role: roles[String(role)] ?? String(role),
    content: content as string, // `checkMessages` looks
  }));
  return typeof system === "string" && system !== "" ? [{ role: "system", content: system }, ...turns] : turns;
}
