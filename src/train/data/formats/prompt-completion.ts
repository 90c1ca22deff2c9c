import { encodePair } from "../encode.ts";
import {
  asMessages,
  asTools,
  checkMessages,
  checkTools,
  conversationEncoder,
  trainedOf,
  untrainedNotes,
} from "./conversation.ts";
import { checkText, type DataFormat, kindOf } from "./format.ts";

/**
 * A prompt and what follows it: texts, joined as they are; or, as in TRL, lists of messages, of which those of the
 * completion are trained.
 */
function pairFormat(prompt: string, completion: string): DataFormat {
  return {
    name: `${prompt}/${completion}`,
    keys: [prompt, completion],
    optionalKeys: ["tools"],
    example: `{"${prompt}": "…", "${completion}": "… (or two lists of messages)"}`,
    check: (row) => {
      const [given, wanted] = [row[prompt], row[completion]];
      if (Array.isArray(given) !== Array.isArray(wanted))
        return `"${prompt}" is ${kindOf(given)}, but "${completion}" is ${kindOf(wanted)}`;
      if (!Array.isArray(given)) {
        if (row["tools"] !== undefined && row["tools"] !== null)
          return `"tools" go with lists of messages, not with texts`;
        return checkText(row, prompt) ?? checkText(row, completion);
      }
      return checkMessages(given, prompt, false) ?? checkMessages(wanted, completion) ?? checkTools(row["tools"]);
    },
    encoder: (context) => {
      const encode = conversationEncoder(context);
      return (row) => {
        const [given, wanted] = [row[prompt], row[completion]];
        if (!Array.isArray(given) || !Array.isArray(wanted))
          return encodePair({ prompt: String(given), completion: String(wanted) }, context);
        const tools = asTools(row["tools"]);
        const both = [...given, ...wanted];
        const encoded = encode(
          { messages: asMessages(both), first: given.length, ...(tools ? { tools } : {}) },
          trainedOf(both),
        );
        return { ...encoded, notes: [...encoded.notes, ...untrainedNotes(wanted)] };
      };
    },
  };
}

/** The names that TRL has. */
export const promptCompletion: DataFormat = pairFormat("prompt", "completion");

/** GSM8K's names. */
export const questionAnswer: DataFormat = pairFormat("question", "answer");
