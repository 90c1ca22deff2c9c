import { TuneError } from "../errors.ts";
import {
  argumentsOf,
  Callable,
  Namespace,
  parseTemplate,
  type Rendered,
  roomForItems,
  run,
  str,
  TemplateError,
  toValue,
  type Value,
  View,
} from "./jinja/index.ts";
import type { JsonObject } from "./json.ts";

/** One message of a conversation. Templates may read further fields (`tool_calls`, `name`, `reasoning_content`, …). */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** What a rendering depends on, besides the messages. */
export interface RenderOptions {
  /** End with the words that open an assistant's turn, so that the model goes on from there. */
  readonly addGenerationPrompt: boolean;
  /** JSON schemas of the functions that the assistant may call. */
  readonly tools?: readonly unknown[];
  /**
   * The moment that `strftime_now` tells, in UTC. Without it the function is undefined, so templates that ask whether
   * it is defined write their fixed date: the same text on every day.
   */
  readonly now?: Date;
  /** Further variables of the template, such as `enable_thinking`. */
  readonly variables?: JsonObject;
}

/** A parsed chat template. */
export interface ChatTemplate {
  /**
   * The conversation as the text that the model reads; special tokens are part of it.
   * @throws {TuneError} `chat-template-failed` when the template refuses the messages, runs too long or writes too much.
   */
  render(messages: readonly ChatMessage[], options: RenderOptions): string;
  /**
   * The same, with the places of the text that `{% generation %}` marks, in order; undefined where the template marks none.
   * @throws {TuneError} as `render`.
   */
  renderMarked(
    messages: readonly ChatMessage[],
    options: RenderOptions,
  ): { readonly text: string; readonly generated: Rendered["generated"] | undefined };
}

/** Limits on what a template may do, because templates arrive with models from strangers. */
const limits = { sourceChars: 2 ** 18, steps: 400_000, outputChars: 2 ** 24, rangeItems: 100_000, milliseconds: 2000 };

/**
 * Parse a Jinja chat template. `specialTokens` are the variables that it may name, such as `bos_token`.
 * @throws {TuneError} `malformed-chat-template` with the parser's reason.
 */
export function compileChatTemplate(
  source: string,
  specialTokens: Readonly<Record<string, string>>,
  at = "chat template",
): ChatTemplate {
  const program = parsed(source, at);
  const marks = /\{%[-+]?\s*generation\b/.test(source);
  const renderMarked: ChatTemplate["renderMarked"] = (messages, options) => {
    const { now } = options;
    try {
      const variables = Object.entries({
        ...specialTokens,
        tools: options.tools ?? null,
        documents: null,
        ...options.variables,
        messages,
        add_generation_prompt: options.addGenerationPrompt,
      }).map(([name, value]): [string, Value] => [name, toValue(value)]);
      const dated: readonly [string, Value][] = now === undefined ? [] : [["strftime_now", dateFunction(now)]];
      const { text, generated } = run(program, new Map([...globals, ...dated, ...variables]), limits);
      return { text, generated: marks ? generated : undefined };
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new TuneError("chat-template-failed", `The chat template cannot render this conversation: ${reason}`, {
        at,
        fix:
          now === undefined && source.includes("strftime_now")
            ? "the template asks for today's date: pass `now`"
            : fixFor(messages),
        cause,
      });
    }
  };
  return { render: (messages, options) => renderMarked(messages, options).text, renderMarked };
}

function fixFor(messages: readonly ChatMessage[]): string {
  const advice = "check the roles and their order against what the model's template accepts";
  return messages.some(({ role }) => role === "system")
    ? `${advice}; one that takes no system message wants its text at the front of the first user's`
    : advice;
}

function parsed(source: string, at: string): ReturnType<typeof parseTemplate> {
  try {
    if (source.length > limits.sourceChars) throw new Error(`it is longer than ${limits.sourceChars} characters`);
    return parseTemplate(source);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TuneError("malformed-chat-template", `The chat template does not parse: ${reason}`, {
      at,
      fix: "use the template that the model was published with",
      cause,
    });
  }
}

/** Names that templates expect everywhere, as Python's Jinja and transformers give them. */
const globals: ReadonlyMap<string, Value> = new Map<string, Value>([
  [
    "raise_exception",
    new Callable("raise_exception", ([message = ""]) => {
      throw new TemplateError(str(message));
    }),
  ],
  [
    "range",
    new Callable("range", (given) => {
      const numbers = given.map((value) => {
        if (typeof value !== "bigint") throw new TemplateError("range() takes whole numbers");
        return Number(value);
      });
      const [start = 0, stop = 0, step = 1] = numbers.length === 1 ? [0, ...numbers] : numbers;
      if (numbers.length === 0 || numbers.length > 3 || step === 0)
        throw new TemplateError("range() takes 1 to 3 numbers, and no step of 0");
      const count = Math.max(0, Math.ceil((stop - start) / step));
      if (!(count <= limits.rangeItems)) throw new TemplateError(`range() has more than ${limits.rangeItems} items`);
      roomForItems(count);
      return new View(
        "range",
        Array.from({ length: count }, (_, i) => BigInt(start + i * step)),
      );
    }),
  ],
  [
    "namespace",
    new Callable("namespace", ([given], named) => {
      const fields = given instanceof Map ? [...given].map(([name, value]): [string, Value] => [str(name), value]) : [];
      if (given !== undefined && !(given instanceof Map)) throw new TemplateError("namespace() takes a mapping");
      return new Namespace(new Map([...fields, ...named]));
    }),
  ],
  [
    "dict",
    new Callable("dict", ([given], named) => {
      if (given !== undefined && !(given instanceof Map)) throw new TemplateError("dict() takes a mapping here");
      return new Map<Value, Value>([...(given ?? []), ...named]);
    }),
  ],
  [
    "joiner",
    new Callable("joiner", (positional, named) => {
      const [separator = ", "] = argumentsOf("joiner", ["sep"], positional, named);
      let used = false;
      return new Callable("joiner", () => {
        const text = used ? separator : "";
        used = true;
        return text;
      });
    }),
  ],
  ...["cycler", "lipsum"].map((name): [string, Value] => [
    name,
    new Callable(name, () => {
      throw new TemplateError(`${name}() is not supported`);
    }),
  ]),
]);

function dateFunction(now: Date): Callable {
  return new Callable("strftime_now", ([format]) => {
    if (typeof format !== "string") throw new TemplateError("strftime_now takes text");
    return formatDate(now, format);
  });
}

const months = "January February March April May June July August September October November December".split(" ");
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's `strftime` for the codes that chat templates use, in English and UTC. */
function formatDate(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const month = months[date.getUTCMonth()] ?? "";
  const day = days[date.getUTCDay()] ?? "";
  const codes: Readonly<Record<string, string>> = {
    Y: String(date.getUTCFullYear()).padStart(4, "0"),
    y: two(date.getUTCFullYear() % 100),
    m: two(date.getUTCMonth() + 1),
    B: month,
    b: month.slice(0, 3),
    d: two(date.getUTCDate()),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getUTCHours()),
    M: two(date.getUTCMinutes()),
    S: two(date.getUTCSeconds()),
    I: two(date.getUTCHours() % 12 || 12),
    p: date.getUTCHours() < 12 ? "AM" : "PM",
    e: String(date.getUTCDate()).padStart(2, " "),
    F: date.toISOString().slice(0, 10),
    T: date.toISOString().slice(11, 19),
    Z: "",
    z: "",
    "%": "%",
  };
  return format.replace(/%(-?)(.)/gs, (all, plain: string, code: string) => {
    const written = codes[code];
    if (written === undefined) throw new TemplateError(`strftime_now does not know ${all}`);
    return plain === "" ? written : written.replace(/^[0 ](?=\d)/, "");
  });
}
