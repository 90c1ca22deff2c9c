import { writeExactJson } from "../../../io/exact-json.ts";
import type { JsonObject } from "../../../io/json.ts";
import { type EncodeContext, type EncodedRow, encodePair } from "../encode.ts";
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
    if (prompt !== undefined && prompt !== null && typeof prompt !== "string")
      return `"prompt" is ${kindOf(prompt)}, but "chosen" is ${kindOf(chosen)}`;
    return checkText(row, "chosen") ?? checkText(row, "rejected");
  },
  encoder: (context) => {
    const encode = conversationEncoder(context);
    return (row) => (Array.isArray(row["chosen"]) ? encodeConversations(row, encode) : encodeTexts(row, context));
  },
};

function checkConversations({ prompt, chosen, rejected, tools }: JsonObject): string | undefined {
  if (prompt !== undefined && prompt !== null && typeof prompt !== "string") {
    if (!Array.isArray(prompt)) return `"prompt" is ${kindOf(prompt)}, but "chosen" is a list`;
    const what = checkMessages(prompt, "prompt", false);
    if (what !== undefined) return what;
  }
  return checkTools(tools) ?? checkMessages(chosen, "chosen") ?? checkMessages(rejected, "rejected");
}

function encodeTexts({ prompt, chosen, rejected }: JsonObject, context: EncodeContext): EncodedRow {
  const [good, bad] = [String(chosen), String(rejected)];
  if (good === bad) return nothing;
  const none = prompt === undefined || prompt === null;
  const start = none ? sharedStart(good, bad) : 0;
  const given = none ? good.slice(0, start) : String(prompt);
  const encoded = [good, bad].map((answer) => encodePair({ prompt: given, completion: answer.slice(start) }, context));
  return pairOf(encoded as [EncodedRow, EncodedRow]); // two of them
}

/** Where two texts begin to differ; a space before that belongs to what differs, as tokens do. */
function sharedStart(a: string, b: string): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length > 0 && a[length - 1] === " " ? length - 1 : length;
}

function encodeConversations(row: JsonObject, encode: ReturnType<typeof conversationEncoder>): EncodedRow {
  const { prompt, chosen, rejected } = row as {
    prompt?: string | readonly JsonObject[] | null;
    chosen: readonly JsonObject[];
    rejected: readonly JsonObject[];
  }; // as `check` has found
  const tools = asTools(row["tools"]);
  const same = (a: unknown, b: unknown): boolean => writeExactJson(a) === writeExactJson(b);
  if (same(chosen, rejected)) return nothing;
  let shared = 0;
  while (shared < Math.min(chosen.length, rejected.length) && same(chosen[shared], rejected[shared])) shared++;
  const given: readonly JsonObject[] =
    typeof prompt !== "string"
      ? (prompt ?? [])
      : chosen.slice(0, shared).some(({ content }) => content === prompt) // they begin with it already
        ? []
        : [{ role: "user", content: prompt }];
  const encoded = [chosen, rejected].map((answer): EncodedRow => {
    const list = [...given, ...answer];
    const first = given.length + shared;
    const row = encode({ messages: asMessages(list), first, ...(tools ? { tools } : {}) }, trainedOf(list));
    return { ...row, notes: [...row.notes, ...untrainedNotes(list.slice(first))] };
  });
  return pairOf(encoded as [EncodedRow, EncodedRow]); // two of them
}

const nothing: EncodedRow = { ids: [], trained: new Uint8Array(), notes: ["no-preference"] };

function pairOf([chosen, rejected]: readonly [EncodedRow, EncodedRow]): EncodedRow {
  return { ...chosen, notes: [...new Set([...chosen.notes, ...rejected.notes])], against: [rejected] };
}
