"""Writes jinja.json: what templates become in the environment that transformers 5.18 renders chat templates in (Jinja 3.1.6)."""

import json
import sys
from pathlib import Path

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

assert transformers.__version__.startswith("5.18") and jinja2.__version__ == "3.1.6", (transformers.__version__, jinja2.__version__)

MESSAGES = """[{"role": "system", "content": "  Be brief\\n"}, {"role": "user", "content": "Hi é 😀 'x' \\"y\\" <b>&\\n\\tz"},
 {"role": "assistant", "content": null, "tool_calls": [{"id": 12, "function": {"name": "f", "arguments":
   {"id": 2512292042121000001, "x": 20.0, "y": 1e-05, "z": 1e16, "s": "a/b\\u007f\\u2028", "n": null, "t": true, "l": [], "d": {}}}}]},
 {"role": "tool", "content": "4"}, {"role": "assistant", "content": "<think>\\nno\\n</think>\\n\\nYes"}]"""

EXPRESSIONS = r"""
None
none
true
[none, true, 1, 1.0, 'a', "it's", 'q"', [], {}, ()]
(1,)
{'a': 1, 'b': [2.5, none], 3: 'c'}
{'a': 1}.items()
{'a': 1}.keys()
{'a': 1}.values() | list
range(3)
range(3) | list
range(5, 1, -2) | list
1.0
20.0
1e5
1e16
1e15
123456789012345680.0
0.0001
0.00001
1e-7
-0.0
1.5e300
2512292042121000001
2512292042121000001 + 1
2 ** 70
7 // 2
-7 // 2
7 % 3
-7 % 3
7.5 % 2
-7.5 // 2
7 / 2
6 / 2
1 / 0
2 ** 3 ** 2
2 ** -1
-2 ** 2
-1 | abs
true + 1
'a' + 'b'
'a' + 1
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x']
'ab' * 3
[1] * 2
[1] + [2]
[1] + (2,)
'%s is %d and %5.2f%%' % ('x', 3, 2.5)
'%s' % 5
'%05d|%-5d|%+d' % (42, 42, 42)
'{} {1}'.format(1, 2)
'{0} {b}'.format('a', b='c')
1 < 2 < 3
1 < 3 < 2
3 > 2 > 1
'a' in 'abc' == true
(1 == 1) == true
1 == 1.0
1 == true
'1' == 1
none == false
undefined_name == other_name
undefined_name == none
[1, 2] == [1, 2]
(1, 2) == [1, 2]
{'a': 1} == {'a': 1.0}
'a' < 'B'
[1, 2] < [1, 3]
1 < 'a'
none < 1
'a' in {'a': 1}
1 in [1.0]
1 in 'a1'
'x' in undefined_name
undefined_name in ['x']
'x' not in ['x']
not 'x' in ['x']
not not 1
1 and 0 or 'c'
'' or none
1 if true
1 if false
(1 if false) is defined
1 if false else 2 if false else 3
undefined_name
undefined_name.x
undefined_name['x']
undefined_name + 'a'
undefined_name ~ 'a'
undefined_name | length
undefined_name is defined
undefined_name | tojson
undefined_name()
undefined_name[1:]
for_ | default('d')
'' | default('d')
'' | default('d', true)
none | default('d')
none | d('x', boolean=true)
m0.content.missing
m0.missing.deeper
m0.role
m0['role']
m0.items() | list
m0.keys() | list
m0.get('role')
m0.get('nope')
m0.get('nope', 'x')
m0.copy()
m0.pop('role')
m0.update({})
messages.append(1)
messages | length
messages | count
messages[0].role
messages[-1].role
messages[99]
messages[99].role
messages[-1]['content'][-3:]
messages[1:3] | map(attribute='role') | list
messages[::-1] | map(attribute='role') | join(',')
messages[::2] | length
messages[:-1] | length
'hello'[1:3]
'hello'[::-1]
'hello'[-2]
'hello'[9]
'a😀b'[1]
'a😀b' | length
'a😀b' | reverse
'a😀b' | list
messages[1].content
messages[1].content | string
messages[1].content | tojson
messages[2].tool_calls | tojson
messages[2].tool_calls[0].function.arguments | tojson
messages[2].tool_calls[0].function.arguments | tojson(indent=4)
messages[2].tool_calls[0].function.arguments | tojson(indent=0)
messages[2].tool_calls[0].function.arguments | tojson(ensure_ascii=true)
messages[2].tool_calls[0].function.arguments | tojson(sort_keys=true)
messages[2].tool_calls[0].function.arguments | tojson(separators=(',', ':'))
messages[2].tool_calls[0].function.arguments | string
messages[2].tool_calls[0].function.arguments
messages[2].tool_calls[0].function.arguments.items() | tojson
messages[2].content
messages[2].content ~ 'x'
messages[2].content + 'x'
messages[2].content is none
messages[2].content | trim
messages | map(attribute='content') | map('string') | join('|')
messages | selectattr('role', 'equalto', 'assistant') | list | length
messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | list
messages | selectattr('tool_calls') | list | length
messages | selectattr('tool_calls', 'defined') | list | length
messages | rejectattr('role', 'eq', 'system') | map(attribute='role') | join(', ')
messages | map(attribute='tool_calls', default='-') | list | string | length
messages | map(attribute='role') | unique | list
messages | map(attribute='role') | map('upper') | list
messages | map('length') | list
messages | map(attribute='role') | sort
messages | sort(attribute='role') | map(attribute='role') | list
['b', 'A', 'c'] | sort
['b', 'A', 'c'] | sort(case_sensitive=true)
['b', 'A', 'c'] | sort(reverse=true)
[3, 1, 2.5] | sort
[1, 'a'] | sort
[1, 2, 3] | sum
[1, 2.5] | sum
[3, 1, 2] | max
[] | max
[3, 1, 2] | min
['b', 'A'] | min
[1, 2, 3] | first
[] | first
[1, 2, 3] | last
[1, 2, 3] | reverse | list
[1, 2, 3] | select('odd') | list
[1, 2, 3] | reject('odd') | list
[1, 2, 3] | select | list
[1, 2, 3] | join
[1, none, 'a', 2.0, true] | join(', ')
['a', 'b'] | join('-', attribute=none)
'abc' | join(',')
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3] | batch(2, 0) | list
[['a', 1], ['b', 2]] | map('first') | list
{'b': 1, 'A': 2} | dictsort
{'b': 1, 'A': 2} | dictsort(true)
{'b': 1, 'A': 2} | dictsort(by='value')
{'b': 1, 'a': 2} | dictsort(reverse=true)
{'b': 1} | items | list
{'b': 1} | list
{'b': 1} | length
{'b': 1} | first
'  a b  ' | trim
'xxaxx' | trim('x')
'  a b  '.strip()
'xxaxyx'.strip('xy')
'\n    return\n'.lstrip('\n')
'\n    return\n\n'.rstrip('\n')
'abc'.lstrip('abcd')
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
'a,b,,c'.rsplit(',', 1)
' a  b c '.split()
' a  b c '.split(none, 1)
' a  b c '.rsplit(none, 1)
' a  b c '.split(maxsplit=1)
'a</think>b'.split('</think>')[-1].lstrip('\n')
'abc'.split('')
'a\nb\r\nc\n'.splitlines()
'a\nb'.splitlines(true)
'Hello'.startswith('He')
'Hello'.startswith(('x', 'H'))
'Hello'.startswith(['x', 'H'])
'Hello'.endswith('lo')
'hello world'.title()
"it's o'clock hello-world" | title
"it's o'clock".title()
'hELLO wORLD'.capitalize()
'hELLO wORLD' | capitalize
'Straße'.upper()
'ABC' | lower
5 | upper
none | lower
'aXbX'.replace('X', 'y')
'aXbX'.replace('X', 'y', 1)
'aXbX' | replace('X', 'y')
'aXbX' | replace('X', 'y', 1)
5 | replace('5', '6')
'abc'.replace('', '-')
'abc'.replace('', '-', 2)
{'a': none}.get('a', 'x')
[none] | first is none
[none, 1] | last
{'a': none}.a is none
{'a': none}['a'] is defined
{'b': 1, 'a': none} | items | list
{1: 2, 1.0: 3}[true]
'{} {}'.format(1, 2)
'aaa'.count('a')
'abc'.find('c')
'abc'.find('z')
'abc'.rfind('c')
'abc'.index('z')
', '.join(['a', 'b'])
', '.join([1])
''.join(messages | map(attribute='role'))
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'12'.isdigit()
'1a'.isdigit()
''.isdigit()
'ab'.isalpha()
'a1'.isalnum()
' \n'.isspace()
'AB'.isupper()
'Ab'.islower()
'7'.zfill(3)
'-7'.zfill(3)
'ab'.ljust(4) ~ '|'
'ab'.rjust(4, '.')
'ab'.center(5, '*')
'abc'.center(6, '*')
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
'aBc'.swapcase()
'abc'.nope
'abc'.nope()
'abc' | nope
1 is nope
'42' | int
'4.9' | int
'abc' | int
'abc' | int(7)
'0x1f' | int(0, 16)
4.9 | int
-4.9 | int
true | int
none | int
'1.5' | float
'x' | float
'x' | float(2.5)
3 | float
2.5 | round
3.5 | round
2.675 | round(2)
2.1 | round(0, 'ceil')
2.9 | round(method='floor')
7 | round
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(width=2, blank=true)
'a\nb' | indent('>> ')
'a\nb\n' | indent
'a b c' | wordcount
'<b>' | safe
('<b>' | safe) ~ '<'
'<b>' | escape
'<b>' | e
1 is number
true is number
1.0 is float
1 is integer
true is integer
true is boolean
'a' is string
1 is string
[] is iterable
'a' is iterable
1 is iterable
{} is mapping
[] is mapping
'a' is sequence
[] is sequence
{} is sequence
1 is sequence
(1,) is sequence
range(2) is sequence
[1] | map('string') is iterable
raise_exception is callable
1 is callable
3 is odd
-3 is odd
4 is even
'a' is odd
6 is divisibleby 3
6 is divisibleby(4)
1 is eq 1
1 is equalto(2)
1 is ne 2
2 is gt 1
2 is ge 2
1 is lt 2
1 is sameas 1
true is true
1 is true
false is false
none is none
'a' is in ['a']
'a' is in 'abc'
'abc' is lower
'ABC' is upper
'aBc' is lower
1 is not none
x is not defined
loop is defined
raise_exception('no')
namespace(a=1).a
namespace(a=1).b is defined
namespace({'a': 2}).a
dict(a=1, b=2)
messages | tojson | length
'é😀' | tojson
'é😀' | tojson(ensure_ascii=true)
{'a': {'b': [1, {'c': none}]}, 'd': []} | tojson(indent=2)
{1: 'a', none: 'b', true: 'c'} | tojson
[1.0, 1e100, -0.0, 0.1] | tojson
(1, 'a') | tojson
none | tojson
1.0 | tojson
'"\\/\n\t\r\b\f\x01' | tojson
'\\n\u00e9\x41\q\'' ~ "\""
'a' 'b'
'a' 'b' | upper
-1
- 1
+1
--1
1 - -1
1-1
'a'.upper() | lower
('a' ~ 'b') | upper
'a' ~ 'b' | upper
[1, 2, 3][1]
{'a': {'b': 1}}.a.b
{'a': {'b': 1}}['a']['b']
{'items': 1}.items
{'items': 1}['items']
{'keys': 1, 'x': 2}.x
(1, 2).0
[[1, 2]].0.1
[1, 2, 3] | length > 2 and true
1_000
0x1f
0b11
0o17
[1, 2,]
{'a': 1,}
'a' if messages | length > 1 else 'b'
messages | first | attr('role')
'a' is string and 1 is number
not messages is none
messages is not none and messages | length
{'a': 1} | tojson | string | length
{} or 'empty'
[] or 'empty'
0.0 or 'zero'
cycler(1, 2)
joiner(', ')
[1, 2] | tojson ~ 'x'
'abc'[1:] ~ 'abc'[:1]
'a\tb' | tojson
"a
b"
'\x1b[0m' | string | length
[ '\x1b\n\\ \u00a0é' ]
""".strip("\n")

TEMPLATES = [
    "a\n",
    "a\n\n",
    "\n{{ 1 }}\n{{ 2 }}\n",
    "{% if true %}\n  x\n{% endif %}\ny\n",
    "  {% if true %}\n  x\n  {% endif %}\ny\n",
    "  {%+ if true %}\n  x\n  {%+ endif +%}\ny\n",
    "a  {%- if true -%}  \n x \n {%- endif -%} \n b",
    "a {{- 1 -}} b {{- ' c ' -}}\n d",
    "a {# c #}\nb {#- c -#} \n c",
    "  {# c #}\n  b",
    "{% raw %}{{ x }}{% endraw %}\ny",
    "x\n   {%- raw -%}  {{ y }} {% endraw -%}  z",
    "{ {% if true %}}{% endif %} }} %} #}",
    '  {"a": 1}\n  {- b',
    "{{ '{% if %}' }}{{ \"}}\" }}{{ {'a': {'b': 1}} }}",
    "{% for i in [1, 2, 3] %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for i in [1, 2, 3] %}[{{ loop.previtem }}|{{ loop.nextitem }}|{{ loop.previtem is defined }}]{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{{ loop.changed(i // 2) }}{% endfor %}",
    "{% for i in [1, 2, 3, 4] if i is odd %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% for i in [] %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in [1] %}{% continue %}{% else %}none{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for c in 'aé😀' %}{{ c }};{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in missing %}{{ x }}{% else %}none{% endfor %}",
    "{% for a in [1, 2] %}{% for b in [3, 4] %}{{ loop.index }}{{ a }}{{ b }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for a in [1, 2] recursive %}{{ a }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{{ y is defined }}{% set y = i %}{{ y }}{% endfor %}{{ y is defined }}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}",
    "{% set x = 1, 2 %}{{ x }}",
    "{% set x %}  a {{ 1 }} {% endset %}[{{ x }}]{{ x is string }}",
    "{% set x | upper | trim %}  abc  {% endset %}[{{ x }}]",
    "{% set ns = namespace(found=false, n=0) %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.found = true %}{% endfor %}{{ ns.n }}{{ ns.found }}",
    "{% set d = {'a': 1} %}{% set d.a = 2 %}{{ d }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }}|{{ f(1, 3) }}|{{ f(b=5, a=4) }}|{{ f() }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(x=2) }}",
    "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}",
    "{% macro f() %}{{ y }}{% endmacro %}{% for y in [1, 2] %}[{{ f() }}]{% endfor %}",
    "{% macro f() %}{% set z = 3 %}{% endmacro %}{{ f() }}{{ z is defined }}",
    "{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f(1) %}in {{ y }}{% endcall %}",
    "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}",
    "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}",
    "{% macro f() %}  a  {% endmacro %}{{ f() | trim }}{{ f() is string }}{{ f() ~ 'x' }}",
    "{% filter upper %}abc {{ 'd' }}{% endfilter %}",
    "{% filter indent(2) | trim %}\na\nb{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% generation %}a{% endgeneration %}",
    "x\n  {%- generation -%}\n  a {% endgeneration %}\n  b",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 %}{{ system | trim }}{% endif %}{{ message.role }}{% endfor %}",
    "{% if (messages[0]['role'] == 'user') != (0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}ok",
    "{%- for message in messages %}\n    {%- if message.content is string %}\n        {{- message.role + ':' }}{{ message.content }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- 'go' }}\n{%- endif %}\n",
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + (message['content'] or '') | trim + '\n' }}{% endfor %}",
    "{%- set ns = namespace(last=-1) %}{%- for m in messages[::-1] %}{%- set index = (messages | length - 1) - loop.index0 %}{%- if m.role == 'user' and ns.last < 0 %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}",
    "{%- for m in messages %}{%- if '</think>' in (m.content or '') %}{{- m.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}|{{- m.content.split('</think>')[-1].lstrip('\\n') }}{%- endif %}{%- endfor %}",
    "{{ tools | tojson(indent=4) }}",
    "{% for t in tools %}{{ t.function.name }}({% for n, p in t.function.parameters.properties.items() %}{{ n }}: {{ p.type }}{% if not loop.last %}, {% endif %}{% endfor %}){% endfor %}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}",
    "{% if tools is not none and tools | length > 0 %}{{ tools[0] }}{% endif %}",
    "{% if x is defined and x %}a{% elif y is defined %}b{% else %}c{% endif %}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% block a %}x{% endblock %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% do messages.append(1) %}",
    "{% nope %}",
    "{{ 1 + }}",
    "{% for i in [none, 1] %}{{ loop.previtem is none }}{% endfor %}",
    "{% macro f(a=1) %}{{ a }}{% endmacro %}{{ f(none) }}{{ f(a=none) }}",
    "{{ 'a }}",
    "{% if true %}",
    "{{ (1 }}",
    "{{ 1 }",
    "{% endif %}",
    "{{ a b }}",
    "{{ 1 == 1 == 1 }}{{ 2 > 1 == 1 }}",
    "a\r\nb\rc{{ 'x\r\ny' }}",
    "{{ [1, 2] | map('nope') | list }}",
    "{{ joiner()() }}{% set j = joiner('; ') %}{{ j() }}a{{ j() }}b",
    "{%- if true %} a {% endif -%}\n\n  b",
    "{% set x = messages | selectattr('role', 'equalto', 'user') | list %}{{ x | length }}{{ x[0].content[:2] }}",
    "\ufeff{{ 1 }}\xa0{%- if true %}\x1f{%- endif %}",
    "{{ '\\u00a0 x \\ufeff' | trim | length }}",
    "{{ messages[2].tool_calls[0].id ~ '/' ~ messages[2].tool_calls[0].function.arguments.x }}",
    "{{ messages[2].tool_calls[0].function.arguments.y }} {{ messages[2].tool_calls[0].function.arguments.z }}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments | items %}{{ k }}: {{ v | tojson if v is not string else v }}\n{% endfor %}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments | dictsort %}{{ k }}{% endfor %}",
    "{{ messages[0] }}",
]

TOOLS = """[{"type": "function", "function": {"name": "f", "description": "é", "parameters": {"type": "object",
 "properties": {"a": {"type": "string"}, "b": {"type": "integer", "minimum": 1.0}}, "required": ["a"]}}}]"""


def main() -> None:
    variables = {"messages": json.loads(MESSAGES), "tools": json.loads(TOOLS), "bos_token": "<s>", "eos_token": "</s>"}
    variables["m0"] = variables["messages"][0]
    cases = []
    expressions = [line for line in EXPRESSIONS.replace('"a\nb"', "").split("\n") if line]
    for source in [f"{{{{ {line} }}}}" for line in expressions] + TEMPLATES:
        try:
            text = _compile_jinja_template(source).render(**variables, documents=None, add_generation_prompt=True)
            cases.append({"template": source, "text": text})
        except Exception as error:  # noqa: BLE001 (whatever Python raises is a refusal)
            cases.append({"template": source, "error": f"{type(error).__name__}: {error}"[:200]})
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "jinja.json")
    path.write_text(json.dumps({"messages": MESSAGES, "tools": TOOLS, "cases": cases}, ensure_ascii=True, indent=1) + "\n")
    print(f"{len(cases)} cases, {sum('error' in case for case in cases)} of them refused")


if __name__ == "__main__":
    main()
