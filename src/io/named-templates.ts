import { nearest, TuneError } from "../errors.ts";
import type { TextTokenizer } from "./tokenizer.ts";

/** A well-known way of writing conversations, for models that came without a template of their own. */
export interface NamedTemplate {
  readonly source: string;
  /** What it writes that must be single tokens of the vocabulary. */
  readonly needs: readonly string[];
  /** The token that ends an answer; EOS unless given. */
  readonly end?: string;
}

/** A first system message is put at the front of the first user's, for formats that have no such role. */
const mergedSystem =
  "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] | trim + '\\n\\n' -%}{%- set turns = messages[1:] -%}" +
  "{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}";

/** Roles of the two who speak; others are refused. */
const onlyTwo = "{{- raise_exception('the roles are user and assistant, with a system message first') -}}";

function byRole(user: string, assistant: string): string {
  return `{%- for message in turns -%}{%- if message['role'] == 'user' -%}${user}{%- elif message['role'] == 'assistant' -%}${assistant}{%- else -%}${onlyTwo}{%- endif -%}{%- endfor -%}`;
}

const opened = (text: string): string => `{%- if add_generation_prompt -%}{{- ${text} -}}{%- endif -%}`;
const firstSystem = "(system if loop.first else '')";

/** Templates by name: the formats in words of our own, each as its models were trained with it. */
export const namedTemplates: ReadonlyMap<string, NamedTemplate> = new Map<string, NamedTemplate>([
  [
    "chatml",
    {
      source: `{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}${opened("'<|im_start|>assistant\\n'")}`,
      needs: ["<|im_start|>", "<|im_end|>"],
      end: "<|im_end|>",
    },
  ],
  [
    "llama-3",
    {
      source: `{{- bos_token -}}{%- for message in messages -%}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}{%- endfor -%}${opened("'<|start_header_id|>assistant<|end_header_id|>\\n\\n'")}`,
      needs: ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
      end: "<|eot_id|>",
    },
  ],
  [
    "llama-2",
    {
      source:
        "{%- if messages[0]['role'] == 'system' -%}{%- set system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' -%}{%- set turns = messages[1:] -%}{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}" +
        byRole(
          `{{- bos_token + '[INST] ' + ${firstSystem} + message['content'] | trim + ' [/INST]' -}}`,
          "{{- ' ' + message['content'] | trim + ' ' + eos_token -}}",
        ),
      needs: [],
    },
  ],
  [
    "mistral",
    {
      source:
        mergedSystem +
        "{{- bos_token -}}" +
        byRole(
          `{{- '[INST] ' + ${firstSystem} + message['content'] + '[/INST]' -}}`,
          "{{- ' ' + message['content'] + eos_token -}}",
        ),
      needs: [],
    },
  ],
  [
    "gemma",
    {
      source:
        mergedSystem +
        "{{- bos_token -}}" +
        byRole(
          `{{- '<start_of_turn>user\\n' + ${firstSystem} + message['content'] | trim + '<end_of_turn>\\n' -}}`,
          "{{- '<start_of_turn>model\\n' + message['content'] | trim + '<end_of_turn>\\n' -}}",
        ) +
        opened("'<start_of_turn>model\\n'"),
      needs: ["<start_of_turn>", "<end_of_turn>"],
      end: "<end_of_turn>",
    },
  ],
  [
    "phi-3",
    {
      source: `{%- for message in messages -%}{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}{%- endfor -%}${opened("'<|assistant|>\\n'")}`,
      needs: ["<|user|>", "<|assistant|>", "<|end|>"],
      end: "<|end|>",
    },
  ],
  [
    "zephyr",
    {
      source: `{%- for message in messages -%}{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' -}}{%- endfor -%}${opened("'<|assistant|>\\n'")}`,
      needs: [],
    },
  ],
  [
    "alpaca",
    {
      source:
        mergedSystem +
        "{{- bos_token -}}{{- system -}}" +
        byRole(
          "{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}",
          "{{- '### Response:\\n' + message['content'] + eos_token + '\\n\\n' -}}",
        ) +
        opened("'### Response:\\n'"),
      needs: [],
    },
  ],
  [
    "vicuna",
    {
      source:
        mergedSystem +
        "{{- bos_token -}}{{- system -}}" +
        byRole(
          "{{- 'USER: ' + message['content'] + ' ' -}}",
          "{{- 'ASSISTANT: ' + message['content'] + eos_token -}}",
        ) +
        opened("'ASSISTANT:'"),
      needs: [],
    },
  ],
]);

/**
 * The template that a name, or a text of its own, stands for.
 * @throws {TuneError} `bad-option` for a word that is neither, naming the nearest.
 */
export function chooseTemplate(given: string): NamedTemplate & { readonly name?: string } {
  const known = namedTemplates.get(given);
  if (known) return { ...known, name: given };
  if (/\{[{%]/.test(given)) return { source: given, needs: [] };
  const [near] = nearest(given, namedTemplates.keys(), 1);
  throw new TuneError("bad-option", `There is no chat template "${given}"${near ? ` (nearest: ${near})` : ""}.`, {
    at: "chat template",
    fix: `use ${[...namedTemplates.keys()].join(", ")}, or the file of a Jinja template`,
  });
}

/**
 * Check that a vocabulary has what a template writes.
 * @throws {TuneError} `bad-option` naming the tokens, and how to add them.
 */
export function checkTemplate(
  { name, source, needs }: ReturnType<typeof chooseTemplate>,
  tokenizer: TextTokenizer,
): void {
  if (name === undefined) return;
  const missing = needs.filter((token) => tokenizer.idOf(token) === undefined);
  if (missing.length > 0) {
    throw new TuneError(
      "bad-option",
      `The chat template ${name} writes ${missing.join(", ")}, which are no tokens of this model.`,
      {
        at: "chat template",
        fix: `add them: --new-tokens "${missing.join(",")}" (newTokens in code), or choose a template without them: alpaca, vicuna, zephyr`,
      },
    );
  }
  if (source.includes("eos_token") && tokenizer.specialTokens["eos_token"] === undefined) {
    throw new TuneError(
      "bad-option",
      `The chat template ${name} ends answers with EOS, which this model's tokenizer does not name.`,
      {
        at: "chat template",
        fix: 'name it in tokenizer_config.json: "eos_token": "…"',
      },
    );
  }
}
