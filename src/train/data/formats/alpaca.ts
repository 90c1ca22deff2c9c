import type { JsonObject } from "../../../io/json.ts";
import { chatTemplateOf } from "../../../io/tokenizer.ts";
import { encodeConversation, encodePair } from "../encode.ts";
import { checkText, type DataFormat, kindOf } from "./format.ts";

/**
 * Instructions in Stanford Alpaca's keys. A model with a chat template is taught conversations, the input on a line below
 * the instruction; any other the prompt that Alpaca was trained with (Taori et al. 2023).
 */
export const alpaca: DataFormat = {
  name: "alpaca",
  keys: ["instruction", "output"],
  optionalKeys: ["input", "system", "history", "text"],
  example: '{"instruction": "…", "input": "…", "output": "…"}',
  check: (row) => {
    for (const key of ["input", "system"]) {
      const value = row[key];
      if (value !== undefined && value !== null && typeof value !== "string")
        return `"${key}" is ${kindOf(value)}, not text`;
    }
    return checkText(row, "instruction") ?? checkText(row, "output") ?? checkHistory(row["history"]);
  },
  encoder: (context) => {
    if (!context.tokenizer.chatTemplates.has("default")) {
      return (row) => encodePair({ prompt: alpacaPrompt(row), completion: String(row["output"]) }, context);
    }
    const template = chatTemplateOf(context.tokenizer);
    return (row) => {
      const { system, instruction, input, output, history } = row;
      const turns = (history ?? []) as readonly (readonly [string, string])[]; // as `check` has found
      const messages = [
        ...(system ? [{ role: "system", content: String(system) }] : []),
        ...turns.flatMap(([asked, answered]) => [
          { role: "user", content: asked },
          { role: "assistant", content: answered },
        ]),
        { role: "user", content: input ? `${String(instruction)}\n${String(input)}` : String(instruction) },
        { role: "assistant", content: String(output) },
      ];
      return encodeConversation({ messages }, template, context);
    };
  },
};

function checkHistory(history: unknown): string | undefined {
  if (history === undefined || history === null) return undefined;
  const isTurn = (turn: unknown): boolean =>
    Array.isArray(turn) && turn.length === 2 && turn.every((part) => typeof part === "string");
  return Array.isArray(history) && history.every(isTurn)
    ? undefined
    : '"history" is not a list of pairs of a question and an answer';
}

function alpacaPrompt({ instruction, input }: JsonObject): string {
  const task = "Below is an instruction that describes a task";
  const ask = "Write a response that appropriately completes the request.";
  return input
    ? `${task}, paired with an input that provides further context. ${ask}\n\n### Instruction:\n${String(instruction)}\n\n### Input:\n${String(input)}\n\n### Response:\n`
    : `${task}. ${ask}\n\n### Instruction:\n${String(instruction)}\n\n### Response:\n`;
}
