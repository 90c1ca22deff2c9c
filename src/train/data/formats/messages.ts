import {
  asMessages,
  asTools,
  checkMessages,
  checkTools,
  conversationEncoder,
  trainedOf,
  untrainedNotes,
} from "./conversation.ts";
import type { DataFormat } from "./format.ts";

/** Conversations as OpenAI, TRL and transformers write them. */
export const messages: DataFormat = {
  name: "messages",
  keys: ["messages"],
  optionalKeys: ["tools"],
  example: '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
  check: (row) => checkMessages(row["messages"]) ?? checkTools(row["tools"]),
  encoder: (context) => {
    const encode = conversationEncoder(context);
    return ({ messages: list, tools }) => {
      const given = asTools(tools);
      const row = encode({ messages: asMessages(list), ...(given ? { tools: given } : {}) }, trainedOf(list));
      return { ...row, notes: [...row.notes, ...untrainedNotes(list)] };
    };
  },
};
