import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { compileChatTemplate } from "../src/io/chat-template.ts";

/* Chat templates of strangers that would hang, or take gigabytes: each ends within two seconds, in little memory, with a code. */

const doubled = (start: string, step: string, rounds: number): string =>
  `{% set ns = namespace(x=${start}) %}{% for i in range(${rounds}) %}{% set ns.x = ${step} %}{% endfor %}`;
const deepList = doubled("[1]", "[ns.x, ns.x]", 60);
const longText = doubled('"ab"', "ns.x ~ ns.x", 22);
const longList = "{% set r = range(100000) | list %}";

const bombs: Readonly<Record<string, string>> = {
  "membership in a long list":
    "{% set r = range(100000) %}{% for i in range(60000) %}{% set x = -1 in r %}{% endfor %}",
  "many long ranges": "{% for i in range(90000) %}{% set x = range(100000) %}{% endfor %}",
  "a repeated text": '{{ "a" * 10**9 }}',
  "a repeated list": "{{ [1] * 10**9 }}",
  "an empty list, often": "{{ [] * 10**12 }}{{ raise_exception('it is empty') }}",
  "loops in loops": `{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}`,
  "membership in loops": `${longList}{% for i in r if i in r %}{% for j in r if j not in r %}{% endfor %}{% endfor %}`,
  "a list that doubles": doubled("[1]", "ns.x + ns.x", 60),
  "a text that doubles": doubled('"a"', "ns.x ~ ns.x", 60),
  "a list in itself, written": `${deepList}{{ ns.x }}`,
  "a list in itself, as JSON": `${deepList}{{ ns.x | tojson }}`,
  "a list in itself, as text": `${deepList}{{ ns.x | string }}`,
  "a list in itself, compared": `${deepList}{% set a = ns.x %}${deepList}{{ a == ns.x }}`,
  "a list in itself, joined": `${deepList}{{ ns.x | join(",") }}`,
  "a join with a long text": `${longText}${longList}{{ r | join(ns.x) }}`,
  "a join by a method": `${longText}{{ ns.x.join(ns.x) }}`,
  "a replacement that grows": `${longText}{{ ns.x | replace("a", ns.x) }}`,
  "a replacement by a method": `${longText}{{ ns.x.replace("", ns.x) }}`,
  "a replacement a count at a time": `${longText}{{ ns.x.replace("a", ns.x, 4000000) }}`,
  "a format that grows": `${longText}{{ ("%s" * 1000) % ([ns.x] * 1000) }}`,
  "an indent of many lines": `${doubled('"\\n"', "ns.x ~ ns.x", 22)}{{ ns.x | indent(1000, true, true) }}`,
  "an indent without end": '{{ "a\\nb" | indent(10**9) }}{{ raise_exception("capped") }}',
  "unique of many": `${longList}{{ r | unique | list | length }}`,
  "a sort of long texts": `${longText}{{ [ns.x, ns.x ~ "a", ns.x ~ "b"] * 1000 | sort | length }}{{ ([ns.x, ns.x ~ "a"] * 50000) | sort | length }}`,
  "a power": "{{ (10**4000)**9999 }}",
  "a shift of powers": doubled("10**1000", "ns.x * ns.x", 60),
  "a macro that calls itself": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
  "macros that call each other":
    "{% macro a() %}{{ b() }}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
  "a tree of macros": "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
  "words of a long text": `${doubled('"a "', "ns.x ~ ns.x", 23)}{% for i in range(100) %}{% set x = ns.x.split() %}{% endfor %}`,
  "words from the right": `${doubled('"a "', "ns.x ~ ns.x", 23)}{% for i in range(100) %}{% set x = ns.x.rsplit(None, 5) %}{% endfor %}`,
  "characters of a long text": `${longText}{% for i in range(1000) %}{% set x = ns.x | list %}{% endfor %}`,
  "an index in a long text": `${longText}{% for i in range(1000) %}{% set x = ns.x[i] %}{% endfor %}`,
  "a slice of a long list": `${longList}{% for i in range(1000) %}{% set x = r[::-1] %}{% endfor %}`,
  "a dictionary that nests": doubled("{}", '{"a": ns.x, "b": ns.x}', 60) + "{{ ns.x | tojson(indent=100) }}",
  "brackets without end": `{{ ${"(".repeat(100_000)} }}`,
  "ors without end": `{{ ${"not ".repeat(60_000)}x }}`,
  "a filter chain": `{{ x${" | trim".repeat(30_000)} }}${"{% if x %}".repeat(5000)}`,
  "white space before a tag": `x${" ".repeat(262_000)}y{{- 1 }}{{ raise_exception("read") }}`,
  "white space in a tag": `{%${" ".repeat(262_000)}`,
  "a template that is too long": "a".repeat(300_000),
  "quotes that stay open": "{{ ' ".repeat(50_000),
};

it.each(Object.entries(bombs))("%s", (_name, source) => {
  const before = process.memoryUsage().rss;
  const start = process.cpuUsage();
  const render = (): string =>
    compileChatTemplate(source, {}).render([{ role: "user", content: "hello" }], { addGenerationPrompt: true });
  expect(render).toThrow(
    expect.objectContaining({ code: expect.stringMatching(/^(chat-template-failed|malformed-chat-template)$/) }),
  );
  const { user, system } = process.cpuUsage(start); // the machine may have other things to do
  expect((user + system) / 1e6).toBeLessThan(2);
  expect(process.memoryUsage().rss - before).toBeLessThan(200e6);
});

const cases = fileURLToPath(new URL("../../shared/cases/faults/templates", import.meta.url));
it.skipIf(!existsSync(cases))("templates that hung are stopped (shared/cases)", () => {
  for (const name of ["in_list.jinja", "range_alloc.jinja"]) {
    const start = performance.now();
    const template = compileChatTemplate(readFileSync(`${cases}/${name}`, "utf8"), {});
    expect(() => template.render([], { addGenerationPrompt: false })).toThrow("The chat template cannot render");
    expect(performance.now() - start).toBeLessThan(4000);
  }
});

it("a long conversation is none", () => {
  const source =
    "{% for m in messages %}<{{ m.role }}>{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] | trim }}" +
    "{% else %}{{ m['content'] | trim }}{% endif %}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}";
  const messages = Array.from({ length: 400 }, (_, i) => ({
    role: i % 2 === 0 ? "user" : "assistant",
    content: `${"word and word, ".repeat(600)}${i}`,
    tool_calls: [{ function: { name: "f", arguments: { text: "x".repeat(500) } } }],
  }));
  expect(compileChatTemplate(source, {}).render(messages, { addGenerationPrompt: true }).length).toBeGreaterThan(3.6e6);
});
