import { describe, expect, test } from "vitest";
import { TuneError } from "../errors.ts";
import { type ChatMessage, compileChatTemplate, type RenderOptions } from "./chat-template.ts";

const tokens = { bos_token: "<s>", eos_token: "</s>" };
const conversation: ChatMessage[] = [
  { role: "user", content: " Hi é " },
  { role: "assistant", content: "Yo <b>" },
  { role: "user", content: "More" },
];
const render = (source: string, messages = conversation, options?: Partial<RenderOptions>): string =>
  compileChatTemplate(source, tokens).render(messages, { addGenerationPrompt: true, ...options });
const failure = (source: string, messages?: ChatMessage[]): TuneError => {
  try {
    render(source, messages);
  } catch (error) {
    if (error instanceof TuneError) return error;
  }
  throw new Error("expected a TuneError");
};

// Expected texts are those of transformers 5.18 (render_jinja_template) for the same template and messages.
describe("renders as transformers does", () => {
  test("ChatML with generation markers on lines of their own", () => {
    const source = `{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {% generation %}
        {{- message.content + '<|im_end|>' }}
        {% endgeneration %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;
    expect(render(source)).toBe(
      "<|im_start|>user\n Hi é <|im_end|><|im_start|>assistant\n\nYo <b><|im_end|>\n" +
        "<|im_start|>user\nMore<|im_end|><|im_start|>assistant\n",
    );
    expect(render(source, conversation.slice(0, 1), { addGenerationPrompt: false })).toBe(
      "<|im_start|>user\n Hi é <|im_end|>",
    );
  });

  test("generation markers that trim, special tokens, filters", () => {
    const source =
      "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]" +
      "{% elif m['role'] == 'assistant' %}{%- generation -%} {{ m['content'] }}{{ eos_token }} {%- endgeneration -%}" +
      "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";
    expect(render(source)).toBe("<s>[INST] Hi é [/INST]Yo <b></s>[INST] More [/INST]");
    const error = failure(source, [{ role: "system", content: "x" }]);
    expect(error.code).toBe("chat-template-failed");
    expect(error.message).toContain("Only user and assistant roles are supported!");
  });

  test("white space around generation markers", () => {
    expect(
      render("{% generation %}\n  a\n{% endgeneration %}\nb\n  {% generation %}  c  {% endgeneration %}  d\n"),
    ).toBe("  a\nb\n  c    d");
  });

  test("tools as JSON", () => {
    const source =
      "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ loop.index0 }}{{ m.role | upper }}:" +
      "{{ m.content }}{% if not loop.last %};{% endif %}{% endfor %}";
    const parameters = { type: "object", properties: {} };
    const tools = [{ type: "function", function: { name: "f", description: "é <x> 'q'", parameters } }];
    const turns = "0USER: Hi é ;1ASSISTANT:Yo <b>;2USER:More";
    expect(render(source, conversation, { tools })).toBe(
      '[{"type": "function", "function": {"name": "f", "description": "é <x> \'q\'", ' +
        `"parameters": {"type": "object", "properties": {}}}}]${turns}`,
    );
    expect(render(source)).toBe(turns);
  });
});

test("today's date is what the caller says, and templates can see that nobody said it", () => {
  const dated = "{{ strftime_now('%d %b %Y, %A %H:%M %%') }}";
  expect(render(dated, [], { now: new Date("2024-07-26T05:06:00Z") })).toBe("26 Jul 2024, Friday 05:06 %");
  const guarded = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}26 Jul 2024{% endif %}";
  expect(render(guarded)).toBe("26 Jul 2024");
  expect(failure(dated).message).toContain("pass `now`");
});

test("further variables reach the template", () => {
  expect(render("{{ enable_thinking }}", [], { variables: { enable_thinking: false } })).toBe("False");
});

test("names the reason why a template does not parse", () => {
  const error = failure("{% for m in messages %}");
  expect(error.code).toBe("malformed-chat-template");
});

test("stops templates that run or write without end", () => {
  const nested = "{% for a in range(90000) %}{% for b in range(90000) %}{{ b }}{% endfor %}{% endfor %}";
  expect(failure(nested).message).toMatch(/it ran for more than .* (steps|seconds)/);
  expect(failure("{% for a in range(1000000000) %}{% endfor %}").message).toContain("range()");
  const doubling = `{% set ns = namespace(s='x') %}{% for i in range(200) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`;
  expect(failure(doubling).message).toContain("characters");
  expect(failure("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").code).toBe("chat-template-failed");
  expect(failure("x".repeat(2 ** 18 + 1)).code).toBe("malformed-chat-template");
});
