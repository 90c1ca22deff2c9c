import { TuneError } from "../../errors.ts";
import type { ChatMessage, ChatTemplate } from "../../io/chat-template.ts";
import { isJsonObject, type JsonObject } from "../../io/json.ts";
import { chatTemplateOf } from "../../io/tokenizer.ts";
import { type EncodeContext, type EncodedRow, encodeConversation, encodePair, encodeText } from "./encode.ts";
import type { LineProblem } from "./problems.ts";
import { throwProblems } from "./problems.ts";

/** One object of a data file. */
export interface DataRow {
  /** 1-based line where it stands (for plain text, where it starts). */
  readonly line: number;
  readonly value: JsonObject;
}

/** A shape that training rows may have, recognised by its keys. */
export interface DataFormat {
  readonly name: string;
  /** Keys that every row has; no other format has all of them. */
  readonly keys: readonly string[];
  /** Further keys that mean something; all others are ignored. */
  readonly optionalKeys: readonly string[];
  /** A row as it stands in a file. */
  readonly example: string;
  /** What is wrong with the fields of a row; undefined when it can be used. */
  check(row: JsonObject): string | undefined;
  /**
   * Get ready to turn rows that passed `check` into tokens.
   * @throws {TuneError} `no-chat-template`, `malformed-chat-template`; the function it returns throws
   *   `text-not-encodable`, `chat-template-failed` and `untrainable-conversation`.
   */
  encoder(context: EncodeContext): (row: JsonObject) => EncodedRow;
}

const messages: DataFormat = {
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

const promptCompletion: DataFormat = {
  name: "prompt/completion",
  keys: ["prompt", "completion"],
  optionalKeys: [],
  example: '{"prompt": "…", "completion": "…"}',
  check: (row) => checkText(row, "prompt") ?? checkText(row, "completion"),
  encoder: (context) => (row) =>
    encodePair({ prompt: String(row["prompt"]), completion: String(row["completion"]) }, context),
};

const text: DataFormat = {
  name: "text",
  keys: ["text"],
  optionalKeys: [],
  example: '{"text": "…"}',
  check: (row) => checkText(row, "text"),
  encoder: (context) => (row) => encodeText(String(row["text"]), context),
};

/** Every format that training data may have. A new one is a record here; reading, training and help follow from it. */
export const dataFormats: readonly DataFormat[] = [messages, promptCompletion, text];

/** The format of plain text files, whose documents are rows. */
export const textFormat: DataFormat = text;

/** What the keys of some rows say about their format. */
export interface KeyReport {
  /** The format of most rows; undefined when no row has one. */
  readonly format: DataFormat | undefined;
  /** Keys that the format does not know, which are ignored. */
  readonly ignoredKeys: readonly string[];
  /** Rows of another format, or of none. */
  readonly problems: readonly LineProblem[];
  /** `mixed-data-formats`, `unknown-data-format`, or `malformed-data` when rows lack keys of the others' format. */
  readonly code: string;
}

/** Look at the keys of every row. */
export function inspectKeys(rows: readonly DataRow[]): KeyReport {
  const found = rows.map(({ value }) =>
    dataFormats.filter(({ keys }) => keys.every((key) => Object.hasOwn(value, key))),
  );
  const countOf = (format: DataFormat): number =>
    found.filter((fits) => fits.length === 1 && fits[0] === format).length;
  const used = dataFormats.filter((format) => countOf(format) > 0).sort((a, b) => countOf(b) - countOf(a));
  const format = used[0];

  const problems: LineProblem[] = [];
  const ignored = new Set<string>();
  for (const [i, { line, value }] of rows.entries()) {
    const fits = found[i] ?? [];
    const keys = Object.keys(value);
    if (fits.length > 1) {
      const names = fits.map(({ name }) => name).join(" and ");
      problems.push({ line, what: `has the keys of ${names} at once; keep those of one` });
    } else if (fits[0] === undefined) {
      const missing = format?.keys.filter((key) => !keys.includes(key)) ?? [];
      const has = keys.length === 0 ? "has no keys" : `has the keys ${keys.map((key) => `"${key}"`).join(", ")}`;
      problems.push({ line, what: missing.length > 0 ? `lacks ${quoted(missing)} (it ${has})` : has });
    } else if (fits[0] !== format) {
      problems.push({ line, what: `is a ${fits[0].name} row among ${format?.name} rows` });
    } else {
      for (const key of keys) if (!format.keys.includes(key) && !format.optionalKeys.includes(key)) ignored.add(key);
    }
  }
  const code = format === undefined ? "unknown-data-format" : used.length > 1 ? "mixed-data-formats" : "malformed-data";
  return { format, ignoredKeys: [...ignored], problems, code };
}

/**
 * The format that all rows have.
 * @throws {TuneError} `unknown-data-format`, `mixed-data-formats` or `malformed-data`, naming the lines that do not fit
 *   and what is accepted; `empty-data` without rows.
 */
export function detectFormat(rows: readonly DataRow[], at = "data"): DataFormat {
  if (rows.length === 0) throw emptyData(at);
  const { format, problems, code } = inspectKeys(rows);
  if (format !== undefined && problems.length === 0) return format;
  return throwProblems(code, problems, { at, fix: acceptedFormats() });
}

/** The formats as help for people who wrote something else. */
export function acceptedFormats(): string {
  return `write every row in one of these forms:\n${dataFormats.map(({ example }) => `    ${example}`).join("\n")}`;
}

/** The error for data without a row. */
export function emptyData(at: string): TuneError {
  return new TuneError("empty-data", "There is no row in the data.", { at, fix: acceptedFormats() });
}

function checkText(row: JsonObject, key: string): string | undefined {
  const value = row[key];
  if (typeof value !== "string") return `"${key}" is ${kindOf(value)}, not text`;
  return value.trim() === "" ? `"${key}" is empty` : undefined;
}

function checkMessages(list: unknown): string | undefined {
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

function kindOf(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function quoted(names: readonly string[]): string {
  return names.map((name) => `"${name}"`).join(" and ");
}
