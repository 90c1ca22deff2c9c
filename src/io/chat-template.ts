import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { TuneError } from "../errors.ts";
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
}

/** Limits on what a template may do, because templates arrive with models from strangers. */
const limits = { sourceChars: 2 ** 18, steps: 400_000, outputChars: 2 ** 24, rangeItems: 100_000 } as const;

/**
 * Parse a Jinja chat template. `specialTokens` are the variables that it may name, such as `bos_token`.
 * `{% generation %}` markers, which only transformers' Python knows, have no effect.
 * @throws {TuneError} `malformed-chat-template` with the parser's reason.
 */
export function compileChatTemplate(
  source: string,
  specialTokens: Readonly<Record<string, string>>,
  at = "chat template",
): ChatTemplate {
  const program = parseTemplate(source, at);
  return {
    render: (messages, options) => {
      const environment = new Environment();
      const variables: Record<string, unknown> = {
        ...globals,
        ...specialTokens,
        tools: null,
        documents: null,
        ...options.variables,
        messages,
        add_generation_prompt: options.addGenerationPrompt,
      };
      if (options.tools !== undefined) variables["tools"] = options.tools;
      const { now } = options;
      if (now !== undefined) variables["strftime_now"] = (format: string) => formatDate(now, format);
      try {
        for (const [name, value] of Object.entries(variables)) environment.set(name, value);
        return runBounded(program, environment);
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause);
        throw new TuneError("chat-template-failed", `The chat template cannot render this conversation: ${reason}`, {
          at,
          fix:
            now === undefined && source.includes("strftime_now")
              ? "the template asks for today's date: pass `now`"
              : "check the roles and their order against what the model's template accepts",
          cause,
        });
      }
    },
  };
}

function parseTemplate(source: string, at: string): unknown {
  try {
    if (source.length > limits.sourceChars) throw new Error(`it is longer than ${limits.sourceChars} characters`);
    // transformers compiles templates with these two options.
    return parse(tokenize(neutraliseGeneration(source), { lstrip_blocks: true, trim_blocks: true }));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TuneError("malformed-chat-template", `The chat template does not parse: ${reason}`, {
      at,
      fix: "use the template that the model was published with",
      cause,
    });
  }
}

/**
 * Put `{% if true %}` … `{% endif %}` in place of generation markers. The library would delete them, and a `{{-` behind
 * a deleted marker then strips white space that stands before it, which transformers keeps.
 */
function neutraliseGeneration(source: string): string {
  return source.replace(
    /\{%(-?)\s*(end)?generation\s*(-?)%\}/g,
    (_, left: string, end: string | undefined, right: string) =>
      end === undefined ? `{%${left} if true ${right}%}` : `{%${left} endif ${right}%}`,
  );
}

/** Run a template, counting every expression that the interpreter evaluates: the library itself knows no limit. */
function runBounded(program: unknown, environment: unknown): string {
  const interpreter = new Interpreter(environment);
  // The library's declarations do not resolve under Node's module rules, so the part of it used here is declared.
  const evaluate: (node: unknown, scope: unknown) => { readonly value: unknown } =
    interpreter.evaluate.bind(interpreter);
  let steps = 0;
  interpreter.evaluate = (node: unknown, scope: unknown) => {
    if (++steps > limits.steps) throw new Error(`it ran for more than ${limits.steps} steps`);
    const result = evaluate(node, scope);
    if (typeof result.value === "string" && result.value.length > limits.outputChars) {
      throw new Error(`it wrote more than ${limits.outputChars} characters`);
    }
    return result;
  };
  return String(interpreter.run(program).value);
}

/** Names that templates expect everywhere, as Python's Jinja and transformers give them. */
const globals: Readonly<Record<string, unknown>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
  raise_exception: (message: string): never => {
    throw new Error(message);
  },
  range: (first: number, second?: number, step = 1): number[] => {
    const [start, stop] = second === undefined ? [0, first] : [first, second];
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (!(count <= limits.rangeItems)) throw new Error(`range() has more than ${limits.rangeItems} items`);
    return Array.from({ length: count }, (_, i) => start + i * step);
  },
};

const months = "January February March April May June July August September October November December".split(" ");
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's `strftime` for the codes that chat templates use, in English and UTC. */
function formatDate(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const month = months[date.getUTCMonth()] ?? "";
  const day = days[date.getUTCDay()] ?? "";
  const codes: Readonly<Record<string, string>> = {
    Y: String(date.getUTCFullYear()),
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
    "%": "%",
  };
  return format.replace(/%(.)/gs, (all, code: string) => codes[code] ?? all);
}
