import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { golden } from "../../../tests/helpers/golden.ts";
import { TuneError } from "../../errors.ts";
import { compileChatTemplate } from "../chat-template.ts";
import { parseExactJson } from "../exact-json.ts";
import { isJsonObject } from "../json.ts";

interface Case {
  readonly template: string;
  readonly text?: string;
  readonly error?: string;
}

const { messages, tools, cases } = JSON.parse(readFileSync(golden("jinja.json"), "utf8")) as {
  readonly messages: string;
  readonly tools: string;
  readonly cases: readonly Case[];
};

/** What Python renders and Scion refuses, each by its name: nothing is rendered otherwise than Python renders it. */
const refused: readonly string[] = [
  "{{ range(3) }}",
  "{{ ('<b>' | safe) ~ '<' }}",
  "{{ '<b>' | escape }}",
  "{{ '<b>' | e }}",
  "{{ messages | first | attr('role') }}",
  "{{ cycler(1, 2) }}",
  "{{ joiner(', ') }}",
  "{% for a in [1, 2] recursive %}{{ a }}{% endfor %}",
  "{% block a %}x{% endblock %}",
  "{% autoescape true %}{{ '<' }}{% endautoescape %}",
];

const given = parseExactJson(messages) as never;
const render = (source: string): string =>
  compileChatTemplate(source, { bos_token: "<s>", eos_token: "</s>" }).render(given, {
    addGenerationPrompt: true,
    tools: parseExactJson(tools) as never,
    variables: { m0: (given as readonly unknown[])[0], documents: null },
  });

describe("templates are rendered as Python's Jinja renders them for transformers 5.18", () => {
  const written = cases.filter(({ template, text }) => text !== undefined && !refused.includes(template));
  it.each(
    written.filter(({ text }) => !/ object at 0x/.test(text ?? "")).map(({ template, text }) => [template, text]),
  )("%s", (template, text) => expect(render(template)).toBe(text));

  it.each(
    cases
      .filter(({ error, text }) => error !== undefined || / object at 0x/.test(text ?? ""))
      .map(({ template }) => template),
  )("refused there and here: %s", (template) => expect(() => render(template)).toThrow(TuneError));

  it.each(refused)("refused by name: %s", (template) => {
    expect(cases.find((one) => one.template === template)?.text).toBeDefined();
    expect(() => render(template)).toThrow(/not supported|can only be written|cannot be written|is refused/);
  });

  it("numbers of a conversation reach it as they were spelt", () => {
    const parsed: unknown = parseExactJson('{"a": 2512292042121000001, "b": 20.0}');
    const call = [{ role: "assistant", tool_calls: [{ function: { arguments: isJsonObject(parsed) ? parsed : {} } }] }];
    const text = compileChatTemplate("{{ messages[0].tool_calls[0].function.arguments | tojson }}", {}).render(call, {
      addGenerationPrompt: false,
    });
    expect(text).toBe('{"a": 2512292042121000001, "b": 20.0}');
  });

  it("says where generation is marked", () => {
    const source =
      "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}.{% endgeneration %}{% endif %}{% endfor %}";
    const { text, generated } = compileChatTemplate(source, {}).renderMarked(
      [
        { role: "assistant", content: "a" },
        { role: "user", content: "b" },
        { role: "assistant", content: "😀" },
      ],
      { addGenerationPrompt: false },
    );
    expect(generated?.map(([start, end]) => text.slice(start, end))).toEqual(["a.", "😀."]);
  });
});
